"""Where a module's files are kept: in the site's store alone, or in a repo on the Hub.

Nothing is pushed here. What changes asks for a job, which makes the Hub equal to what is here at
that time, however often it is asked: see `pushing.py`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from composer.engine.errors import CommonsError
from hub_site.jobs import queue
from modules.locks import hold_repo
from modules.models import BlobOnHub, HubAccount, HubHome, ModuleOnHub, Repo
from modules.on_hub import accounts
from modules.storage import bytes_back

if TYPE_CHECKING:
    from hub_site.accounts.models import User
    from modules.querysets import Visitor

PRIORITY = -1  # behind what people wait for
MOST_AT_ONCE = 500
FIRST, LONGEST, SELDOM = timedelta(minutes=1), timedelta(hours=1), timedelta(hours=6)

HERE = HubHome.HERE
PLACES = (HERE, HubHome.SITE, HubHome.OWN)


class NoSuchPlace(CommonsError):
    code = "no_such_place"


def places(user: User) -> list[str]:
    """Where this user may have files kept. With one place there is nothing to ask."""
    found = [HERE]
    if accounts.site_may():
        found.append(HubHome.SITE)
    if HubAccount.objects.filter(user=user).exists():
        found.append(HubHome.OWN)
    return found


def default_place() -> str:
    return HubHome.SITE if settings.MODULES_LIVE_ON == "hub" else HERE


def place_of(repo: Repo) -> str:
    home = ModuleOnHub.objects.filter(repo=repo).first()
    return (home.move_to or home.place) if home else HERE


def shown_to(repo: Repo, user: Visitor) -> ModuleOnHub | None:
    """Where else it lives, as far as that is this visitor's business."""
    home = ModuleOnHub.objects.filter(repo=repo).first()
    is_owner = user.is_authenticated and repo.owner.user_id == user.pk
    if home is None or is_owner or user.is_authenticated and user.is_staff:
        return home
    home.reason = ""
    return home if home.sha and not home.is_private else None


@transaction.atomic
def choose(repo: Repo, place: str) -> None:
    """Keep this module's files there from now on. Moving takes a job; nothing is lost meanwhile."""
    owner = repo.owner.user
    mine = places(owner) if owner else [HERE, HubHome.SITE]
    if place not in (*mine, place_of(repo)):
        raise NoSuchPlace(
            f"Files of {repo} cannot be kept at {place!r}, but at: {', '.join(mine)}. An account "
            "on the Hub is connected in your settings."
        )
    hold_repo(repo)
    home = ModuleOnHub.objects.select_for_update(of=("self",)).filter(repo=repo).first()
    if home is not None and not home.is_made:  # nothing of it is there yet
        home.delete()
        home = None
    if home is not None:
        home.move_to = "" if place == home.place else place
        home.save(update_fields=["move_to"])
    elif place != HERE:
        ModuleOnHub.objects.create(repo=repo, place=place)
    ask(repo)


def ask(repo: Repo) -> None:
    """Make the Hub equal to this repo, soon. Call it in the transaction of what changed."""
    with transaction.atomic():
        homes = ModuleOnHub.objects.select_for_update(of=("self",))
        for home in homes.filter(repo=repo).select_related("job"):
            ask_for(home)


def ask_to_close(repo: Repo) -> None:
    """The same where nothing can be pushed now: what is seen there may be for nobody any more."""
    if ModuleOnHub.objects.filter(repo=repo, is_made=True, is_private=False).exists():
        ask(repo)


def ask_for(home: HubHome) -> None:
    """A job for this home, whose row is held; one that runs already goes on to another."""
    if home.job is not None and not home.job.is_over:
        home.again = home.job.state == "running"
    else:
        home.job = queue.submit(home.KIND, params={"home": home.pk}, priority=PRIORITY)
        home.again = False
    if home.state != HubHome.TROUBLE:
        home.state = HubHome.WAITING
    home.retry_at = None
    home.save(update_fields=["job", "again", "state", "retry_at"])


@transaction.atomic
def try_again(repo: Repo) -> None:
    """Its owner says that it should work now. What was deleted on the Hub is made anew."""
    home = ModuleOnHub.objects.select_for_update(of=("self",)).filter(repo=repo).first()
    if home is None:
        return
    start_over(home)
    ask(repo)


def start_over(home: HubHome) -> None:
    """After trouble that waiting does not mend: what is found to be gone may be made anew."""
    home.tries = 0
    home.save(update_fields=["tries"])


def may_be_made_anew(home: HubHome) -> bool:
    """Its owner has said so since it was missed. Not while bytes are only there: the Hub says "not
    found" to a wrong token, too, and whoever forgets the place does not find them again."""
    if home.code != "not_on_hub" or home.tries:
        return False
    needed = home.needed_blobs() if isinstance(home, ModuleOnHub) else BlobOnHub.objects.none()
    return all(map(bytes_back.is_here, needed.values_list("blob_id", flat=True)))


def retry_due() -> int:
    """Ask anew for what is due after trouble, and for what deleted modules left behind; returns for
    how many."""
    due = ModuleOnHub.objects.due() | ModuleOnHub.objects.filter(repo=None, retry_at=None)
    found = list(due.values_list("pk", flat=True)[:MOST_AT_ONCE])
    for pk in found:
        with transaction.atomic():
            rows = ModuleOnHub.objects.select_for_update(of=("self",)).select_related("job")
            for home in rows.filter(pk=pk):
                ask_for(home)
    return len(found)


def retry_of_user(user: User) -> None:
    """The account is connected anew: what waited for that may go on."""
    homes = ModuleOnHub.objects.filter(place=HubHome.OWN, repo__owner__user=user)
    homes.filter(state=HubHome.TROUBLE).update(retry_at=Now())
    retry_due()


def wait_after(tries: int, *, helps: bool, asked: float | None) -> timedelta:
    """How long until the next try: soon and then seldom, or as long as the Hub asked for."""
    if not helps:
        return SELDOM
    wait = min(FIRST * 2 ** min(tries, 10), LONGEST)
    return max(wait, timedelta(seconds=asked)) if asked else wait
