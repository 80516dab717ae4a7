"""The gate of a repo: everybody sees it, and whoever was let in may have its files.

`auto` lets in whoever asks and keeps a list of them; at `manual` its owner answers every request.
A request stays when the gate is opened, so that closing it again finds everybody where they were.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from composer.engine.errors import CommonsError
from hub_site.accounts.models import User
from hub_site.accounts.notices import notify
from modules.locks import hold_repo
from modules.models import AccessRequest, Repo
from modules.on_hub import keeping

if TYPE_CHECKING:
    from modules.querysets import Visitor

OPEN, GATES = "", ("", Repo.AUTO, Repo.MANUAL)
MESSAGE_LENGTH, REASON_LENGTH = 300, 200
# Requests that one user may make, and people that one owner may let in unasked: each is a notice
# to somebody.
MOST_A_DAY = 50
SHOWN = 5
# What a page shows of a gated repo anyway: its card, and under which licence it stands.
OPEN_FILES = frozenset({"README.md", "LICENSE", "LICENSE.md", "LICENSE.txt"})

PENDING, ACCEPTED, REJECTED = (
    AccessRequest.PENDING,
    AccessRequest.ACCEPTED,
    AccessRequest.REJECTED,
)


class BadGate(CommonsError):
    code = "bad_gate"


class NotGated(CommonsError):
    code = "not_gated"
    status = 400


class HasAccess(CommonsError):
    code = "has_access"
    status = 400


class NoRequest(CommonsError):
    code = "no_request"
    status = 404


class NoSuchUser(CommonsError):
    code = "no_such_user"
    status = 404


class NoAccount(CommonsError):
    code = "no_account"
    status = 403


class TooManyToday(CommonsError):
    code = "too_many_requests"
    status = 429


# --- what is so --------------------------------------------------------------------------------


def may_read(repo: Repo, user: Visitor) -> bool:
    """Of a repo that this visitor sees."""
    return not repo.gated or Repo.objects.readable_by(user).filter(pk=repo.pk).exists()


def request_of(repo: Repo, user: Visitor) -> AccessRequest | None:
    if not user.is_authenticated:
        return None
    found: AccessRequest | None = repo.access_requests.filter(user=user).first()
    return found


def why_not(repo: Repo, user: Visitor, address: str) -> str:
    """What stands between a visitor and the files, and what to do; `address` is the page's."""
    owner, found = repo.owner.name, request_of(repo, user)
    if not user.is_authenticated:
        return (
            f"{repo} is gated: its files are for people whom {owner} has given access. "
            f"Sign in, and ask for it at {address}"
        )
    if found is None:
        at_once = ": you have it at once" if repo.gated == Repo.AUTO else ""
        return f"{repo} is gated, and you have no access. Ask {owner} for it at {address}{at_once}"
    if found.state == REJECTED:
        because = f" Reason: {found.reason}" if found.reason else ""
        return f"{repo} is gated, and {owner} has not given you access.{because}"
    return f"{repo} is gated. Your request for access waits for {owner}'s answer"


def waiting(repo: Repo) -> int:
    return repo.access_requests.in_state(PENDING).count()


def summary(repo: Repo) -> dict[str, Any]:
    """For its owner: how many asked, and who waits longest."""
    rows = repo.access_requests.select_related("user")
    return {
        "waiting": rows.in_state(PENDING).order_by("pk")[:SHOWN],
        "waiting_count": waiting(repo),
        "with_access": rows.in_state(ACCEPTED).count(),
        "turned_down": rows.in_state(REJECTED).count(),
    }


# --- its owner ---------------------------------------------------------------------------------


@transaction.atomic
def set_gate(repo: Repo, gated: str) -> None:
    if gated not in GATES:
        raise BadGate(f"A gate is auto, manual or none; {gated!r} is not one of them.")
    if repo.kind != Repo.LORA:
        raise BadGate(f"{repo} is a base model, which modules are mixed on for everybody.")
    hold_repo(repo)
    repo.gated = gated
    repo.save(update_fields=["gated", "updated_at"])
    keeping.ask(repo)  # where it is kept on the Hub, it is private there while it is gated


@transaction.atomic
def decide(found: AccessRequest, state: str, reason: str = "") -> AccessRequest:
    """Accept a request, turn it down, or (PENDING) take back what was decided; who asked hears it.

    Whatever it was before: an owner may take access away at any time, and give it again.
    """
    repo = _hold_gated(found.repo)
    held = repo.access_requests.filter(pk=found.pk).select_related("user").first()
    if held is None or held.state == state:
        raise NoRequest(
            f"This request for access to {repo} is {held.state} already."
            if held
            else f"This request for access to {repo} was taken back meanwhile."
        )
    before, held.state = held.state, state
    held.reason = " ".join(reason.split())[:REASON_LENGTH] if state == REJECTED else ""
    held.decided_at = None if state == PENDING else timezone.now()
    held.save(update_fields=["state", "reason", "decided_at"])
    _tell(repo, held, before)
    return held


@transaction.atomic
def grant(repo: Repo, name: str) -> AccessRequest:
    """Let somebody in by their user name, whether or not they asked."""
    repo = _hold_gated(repo)
    people = User.objects.filter(is_active=True, is_guest=False)
    user = None if "\0" in name else people.filter(username__iexact=name.strip()).first()
    if user is None:
        raise NoSuchUser(f"There is no user {name.strip()[:100]!r} here. Look at how it is spelt.")
    found = repo.access_requests.filter(user=user).select_related("user").first()
    if user == repo.owner.user or found is not None and found.state == ACCEPTED:
        raise HasAccess(f"{user.username} has access to {repo} already.")
    if found is not None:
        found.repo = repo
        return decide(found, ACCEPTED)
    theirs = AccessRequest.objects.filter(repo__owner=repo.owner_id, is_granted=True)
    if theirs.filter(created_at__gt=_a_day_ago()).count() >= MOST_A_DAY:
        raise TooManyToday(
            f"You have given {MOST_A_DAY} people access today without being asked, which is the "
            "most. Go on tomorrow, or let them ask."
        )
    made = AccessRequest.objects.create(
        repo=repo, user=user, state=ACCEPTED, is_granted=True, decided_at=timezone.now()
    )
    _tell(repo, made, "")
    return made


# --- whoever asks ------------------------------------------------------------------------------


@transaction.atomic
def ask(repo: Repo, user: User, message: str = "") -> AccessRequest:
    """Asking twice changes nothing: what was turned down waits for its owner to think again."""
    if user.is_guest:
        raise NoAccount("Access is given to a person by name: sign up first, then ask.")
    repo = _hold_gated(repo)
    if user == repo.owner.user:
        raise HasAccess(f"{repo} is yours: you have access.")
    if found := request_of(repo, user):
        return found
    asked = AccessRequest.objects.filter(user=user, is_granted=False)
    if asked.filter(created_at__gt=_a_day_ago()).count() >= MOST_A_DAY:
        raise TooManyToday(
            f"You have asked for access {MOST_A_DAY} times today, which is the most. Go on "
            "tomorrow."
        )
    at_once = repo.gated == Repo.AUTO
    made = AccessRequest.objects.create(
        repo=repo,
        user=user,
        state=ACCEPTED if at_once else PENDING,
        message=" ".join(message.replace("\0", "").split())[:MESSAGE_LENGTH],
        decided_at=timezone.now() if at_once else None,
    )
    if not at_once:
        text = f"{user.username} asks for access to {repo}."
        notify(repo.owner.user, text, _list_of(repo), once=True)
    return made


def withdraw(repo: Repo, user: User) -> None:
    """Take back a request that waits. What was decided stays: else whoever was turned down could
    ask again and again."""
    gone, _ = repo.access_requests.filter(user=user, state=PENDING).delete()
    if not gone:
        raise NoRequest(f"You have no request for access to {repo} that waits for an answer.")


# --- private -----------------------------------------------------------------------------------


def _hold_gated(repo: Repo) -> Repo:
    """One request of a user at a time, and none while the gate is opened."""
    held = hold_repo(repo)
    if not held.gated:
        raise NotGated(f"{held} is not gated: whoever sees it has access.")
    return held


def _tell(repo: Repo, found: AccessRequest, before: str) -> None:
    owner, text = repo.owner.name, ""
    because = f" Reason: {found.reason}" if found.reason else ""
    if found.state == ACCEPTED:
        text = f"{owner} has given you access to {repo}."
    elif before == ACCEPTED:
        text = f"{owner} has taken your access to {repo} away.{because}"
    elif found.state == REJECTED:
        text = f"{owner} has turned down your request for access to {repo}.{because}"
    if text:
        notify(found.user, text, repo.get_absolute_url(), once=True)


def _list_of(repo: Repo) -> str:
    return reverse("modules:access", args=[repo.owner.name, repo.name])


def _a_day_ago() -> datetime:
    return timezone.now() - timedelta(days=1)
