"""Tasks made public, taken back, and hidden by moderators.

Whoever composed from a shared task, or copied it, keeps that: searches hold their own examples.
"""

from django.db import transaction
from django.utils import timezone

from composer.errors import NotAllowed, NotReady
from composer.models import FewShotTask
from hub_site.accounts.models import User
from hub_site.accounts.notices import notify
from modules.community import moderation
from modules.models import Report


@transaction.atomic
def share(task: FewShotTask, *, user: User) -> FewShotTask:
    """Show the task with all its examples to everybody, under its owner's name."""
    held = FewShotTask.objects.select_for_update().filter(pk=task.pk, owner=user).first()
    if held is None:
        raise NotReady("This task was deleted meanwhile. Write a new one.")
    if message := why_not(held, user):
        raise NotAllowed(message)
    if held.published_at is None:
        _set(held, published_at=timezone.now())
    return held


def why_not(task: FewShotTask, user: User) -> str:
    """What keeps this user from sharing the task, or nothing."""
    if user.is_guest:
        return "Sign up to share: a shared task carries its author's name."
    if user.uploads_banned_at is not None:
        why = f": {user.uploads_banned_reason}" if user.uploads_banned_reason else "."
        return f"A moderator has stopped uploads from your account, shared tasks included{why}"
    if task.is_hidden:
        return f"A moderator has hidden this task: {task.hidden_reason}"
    return ""


@transaction.atomic
def stop_sharing(task: FewShotTask) -> None:
    """Its owner's alone again. Hiding stays, so that sharing anew does not undo it."""
    for held in FewShotTask.objects.select_for_update().filter(pk=task.pk):
        _set(held, published_at=None)


@transaction.atomic
def hide(task: FewShotTask, *, moderator: User, reason: str) -> None:
    """Out of everybody's sight but the owner's and the moderators', at once; reports are closed."""
    reason = moderation.needed(reason)
    for held in FewShotTask.objects.select_for_update().filter(pk=task.pk):
        _set(held, hidden_at=timezone.now(), hidden_reason=reason)
    page = task.get_absolute_url()
    moderation.record(moderator, "hide task", page, reason)
    notify(task.owner, f"A moderator has hidden your task “{task}”. Reason: {reason}", page)
    for each in Report.objects.filter(path=page, closed_at=None):
        moderation.close_report(each, moderator=moderator, outcome="It was hidden.")


@transaction.atomic
def restore(task: FewShotTask, *, moderator: User, reason: str = "") -> None:
    row = FewShotTask.objects.filter(pk=task.pk).exclude(hidden_at=None)
    if not row.update(hidden_at=None, hidden_reason=""):
        return
    page = task.get_absolute_url()
    moderation.record(moderator, "restore task", page, reason)
    notify(task.owner, f"Your task “{task}” is no longer hidden. {reason}".strip(), page)


def _set(task: FewShotTask, **fields: object) -> None:
    FewShotTask.objects.filter(pk=task.pk).update(**fields)
    task.refresh_from_db(fields=list(fields))
