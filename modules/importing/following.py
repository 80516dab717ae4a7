"""Modules that follow their repo on the Hub: once a day somebody looks whether it has moved on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from composer.engine.errors import CommonsError
from hub_site.accounts.models import Namespace
from modules.importing import asking
from modules.models import HubOrigin, Import
from modules.on_hub.accounts import token_for
from modules.storage.hub import Hub, HubFault, NotOnHub

EVERY = timedelta(days=1)
MOST = 50  # a run; the next one goes on with those not looked at for longest
KEPT = timedelta(days=90)


class AnotherRepo(CommonsError):
    code = "another_repo"
    status = 409


def look_for_newer(keep_on: Callable[[], None], most: int = MOST) -> dict[str, int]:
    """Ask for what moved on; faults are noted. A Hub that is down is left alone until next time."""
    looked = moved = 0
    for origin in _due()[:most]:
        keep_on()
        try:
            moved += _look(origin)
        except CommonsError as error:
            if isinstance(error, HubFault) and error.helps:
                break
            _note(origin, error.user_message)
        looked += 1
    return {"looked": looked, "moved": moved}


def forget_old_imports() -> int:
    """What was asked for long ago; the modules themselves remember where they came from."""
    old = Import.objects.filter(finished_at__lt=timezone.now() - KEPT)
    return old.exclude(state__in=Import.OPEN).delete()[0]


def _due() -> QuerySet[HubOrigin]:
    """Not those of people who left: nobody could switch it off."""
    return (
        HubOrigin.objects.filter(
            follows=True, endpoint=settings.HUB_ENDPOINT, checked_at__lt=timezone.now() - EVERY
        )
        .exclude(repo__owner__kind=Namespace.FORMER)
        .select_related("repo__owner__user")
        .order_by("checked_at")
    )


def _look(origin: HubOrigin) -> bool:
    user = origin.repo.owner.user
    hub = Hub(token_for(user))
    facts = hub.facts(origin.hub_id, origin.revision or None)
    if facts.sha != origin.hub_sha:
        _refuse_another(hub, origin)
    _note(origin, "")
    if facts.sha == origin.hub_sha:
        return False
    try:
        asking.ask_for_newer(origin, user, priority=asking.FOLLOWING)
    except asking.AlreadyComing:
        return False
    return True


def _refuse_another(hub: Hub, origin: HubOrigin) -> None:
    """A name that its owner gave up on the Hub is anybody's: a stranger's files would become the
    newest version of a module that people trust."""
    try:
        hub.facts(origin.hub_id, origin.hub_sha)
    except NotOnHub as error:
        raise AnotherRepo(
            f"{origin.hub_id} no longer has the commit {origin.hub_sha[:10]} that was imported: "
            "its history was rewritten, or it is another repo by now. Look at it, then import the "
            "newer version yourself."
        ) from error


def _note(origin: HubOrigin, trouble: str) -> None:
    HubOrigin.objects.filter(pk=origin.pk).update(checked_at=timezone.now(), trouble=trouble[:500])
