"""Reports, and what moderators do about them. Every act leaves a line in the audit trail.

A moderator is a user whom an operator lets into the admin (`is_staff`), usually as one of the
group that `prepare_group` makes; docs/moderation.md tells operators how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth.models import Group, Permission
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from composer.engine.errors import CommonsError
from hub_site.accounts.models import User
from hub_site.accounts.notices import notify
from hub_site.addresses import visitor_hash
from modules import services
from modules.locks import hold_repo
from modules.models import Collection, LoraModule, ModerationEvent, Repo, Report
from modules.repos import ownership

if TYPE_CHECKING:
    from modules.querysets import Visitor

REPORTS_A_DAY = 10
GROUP = "Moderators"
# Who may change an account could make themselves an administrator: bans go through its repos.
GROUP_MAY = {
    "modules": [
        *("change_report", "change_repo", "change_collection", "change_tag"),
        *("view_tagalias", "view_moderationevent"),
    ],
    "composer": ["change_fewshottask", "change_recipe"],
}


class TooManyReports(CommonsError):
    code = "too_many_reports"
    status = 429


class ReasonMissing(CommonsError):
    code = "reason_missing"


class BaseModelInUse(CommonsError):
    code = "base_model_in_use"


def report(
    repo: Repo | None,
    *,
    user: Visitor,
    address: str,
    reason: str,
    text: str = "",
    name: str = "",
    path: str = "",
) -> tuple[Report, bool]:
    """Call a moderator; also says whether the report is new. One is open a visitor and repo.

    What is no repo is reported by its name and its path on this site.

    Guests count as the address they come from: a new guest is one click away.
    """
    reporter = user if user.is_authenticated and not user.is_guest else None
    visitor = visitor_hash("modules.report", reporter, address, timezone.now().date())
    mine = Q(reporter=reporter) if reporter else Q(reporter=None, visitor=visitor)
    still_open = Report.objects.filter(mine, repo=repo, path=path, closed_at=None)
    if found := still_open.first():
        return found, False
    if Report.objects.filter(visitor=visitor).count() >= REPORTS_A_DAY:
        raise TooManyReports(
            f"You have sent {REPORTS_A_DAY} reports today, which is the most. Moderators will look "
            "at them; come back tomorrow, or write to the people who run this site."
        )
    try:
        with transaction.atomic():
            made = Report.objects.create(
                repo=repo,
                repo_name=str(repo) if repo else name,
                path=path,
                reporter=reporter,
                visitor=visitor,
                reason=reason,
                text=text,
            )
    except IntegrityError:  # pressed twice at once
        return still_open.get(), False
    return made, True


@transaction.atomic
def close_report(found: Report, *, moderator: User, outcome: str) -> None:
    """The reporter hears what came of it. Closing twice changes nothing."""
    row = Report.objects.filter(pk=found.pk, closed_at=None)
    if not row.update(closed_at=timezone.now(), closed_by=moderator, outcome=outcome[:300]):
        return
    record(moderator, "close report", found.repo_name, outcome)
    address = found.repo.get_absolute_url() if found.repo and not found.repo.is_hidden else ""
    notify(
        found.reporter,
        f"A moderator looked at your report of {found.repo_name}: {outcome}",
        address,
    )


@transaction.atomic
def hide(repo: Repo, *, moderator: User, reason: str) -> None:
    """Out of everybody's sight but the owner's and the moderators', at once; reports are closed."""
    reason = needed(reason)
    repo = hold_repo(repo)
    Repo.objects.filter(pk=repo.pk).update(hidden_at=timezone.now(), hidden_reason=reason)
    repo.refresh_from_db(fields=["hidden_at", "hidden_reason"])
    _update_listed(repo)
    record(moderator, "hide", str(repo), reason)
    notify(
        repo.owner.user, f"A moderator has hidden {repo}. Reason: {reason}", repo.get_absolute_url()
    )
    for each in repo.reports.filter(closed_at=None):
        close_report(each, moderator=moderator, outcome="It was hidden.")


@transaction.atomic
def restore(repo: Repo, *, moderator: User, reason: str = "") -> None:
    row = Repo.objects.filter(pk=repo.pk).exclude(hidden_at=None)
    if not row.update(hidden_at=None, hidden_reason=""):
        return
    repo = Repo.objects.select_related("owner__user").get(pk=repo.pk)
    _update_listed(repo)
    record(moderator, "restore", str(repo), reason)
    notify(
        repo.owner.user, f"{repo} is no longer hidden. {reason}".strip(), repo.get_absolute_url()
    )


@transaction.atomic
def take_down(repo: Repo, *, moderator: User, reason: str) -> None:
    """Delete it for good, as its owner could. Recipes keep its name and hash."""
    reason = needed(reason)
    if repo.kind != Repo.LORA:
        raise BaseModelInUse(
            f"{repo} is a base model, which modules and recipes are made for. Hide it instead."
        )
    for each in repo.reports.filter(closed_at=None):
        close_report(each, moderator=moderator, outcome="It was taken down.")
    owner, name = repo.owner, str(repo)
    ownership.delete(repo)
    record(moderator, "take down", name, reason)
    notify(owner.user, f"A moderator has deleted {name}. Reason: {reason}")


@transaction.atomic
def hide_collection(collection: Collection, *, moderator: User, reason: str) -> None:
    reason = needed(reason)
    Collection.objects.filter(pk=collection.pk).update(hidden_at=timezone.now())
    record(moderator, "hide collection", collection.get_absolute_url(), reason)
    notify(
        collection.owner.user,
        f"A moderator has hidden your collection “{collection}”. Reason: {reason}",
        collection.get_absolute_url(),
    )


@transaction.atomic
def restore_collection(collection: Collection, *, moderator: User, reason: str = "") -> None:
    row = Collection.objects.filter(pk=collection.pk).exclude(hidden_at=None)
    if not row.update(hidden_at=None):
        return
    record(moderator, "restore collection", collection.get_absolute_url(), reason)
    notify(
        collection.owner.user,
        f"Your collection “{collection}” is no longer hidden.",
        collection.get_absolute_url(),
    )


@transaction.atomic
def ban_uploads(user: User, *, moderator: User, reason: str) -> None:
    """The account may do everything but upload; what it has shared stays as it is."""
    reason = needed(reason)
    User.objects.filter(pk=user.pk).update(
        uploads_banned_at=timezone.now(), uploads_banned_reason=reason
    )
    record(moderator, "ban uploads", user.get_username(), reason)
    notify(user, f"A moderator has stopped your uploads. Reason: {reason}")


@transaction.atomic
def unban(user: User, *, moderator: User, reason: str = "") -> None:
    banned = User.objects.filter(pk=user.pk).exclude(uploads_banned_at=None)
    if not banned.update(uploads_banned_at=None, uploads_banned_reason=""):
        return
    record(moderator, "allow uploads", user.get_username(), reason)
    notify(user, f"You may upload again. {reason}".strip())


def prepare_group() -> None:
    """The group of moderators, with these permissions and no others, whatever it had before."""
    group, _ = Group.objects.get_or_create(name=GROUP)
    wanted = Q()
    for app, names in GROUP_MAY.items():
        wanted |= Q(content_type__app_label=app, codename__in=names)
    group.permissions.set(Permission.objects.filter(wanted))


def record(moderator: User, action: str, subject: str, reason: str = "") -> None:
    ModerationEvent.objects.create(
        actor=moderator, action=action, subject=subject[:200], reason=reason
    )


def needed(text: str) -> str:
    """A reason as it is kept and shown."""
    text = " ".join(text.split())
    if not text:
        raise ReasonMissing("Say why: the owner reads it, and so does the next moderator.")
    return text[:500]


def _update_listed(repo: Repo) -> None:
    for module in LoraModule.objects.filter(repo=repo):
        services.update_listed(module)
