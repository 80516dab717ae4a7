"""Likes: one a user and module, and a count that stays exact."""

from django.db import transaction
from django.db.models import F

from hub_site.accounts.models import User
from modules.locks import hold_module
from modules.models import Like, LoraModule


@transaction.atomic
def set_like(module: LoraModule, user: User, wanted: bool) -> bool:
    """Make it liked or not, whatever it was; returns whether that changed anything.

    The module's row is locked first: of two presses at once, the second finds what the first did.
    """
    hold_module(module)
    if wanted:
        _, changed = Like.objects.get_or_create(user=user, lora_module=module)
    else:
        changed = bool(Like.objects.filter(user=user, lora_module=module).delete()[0])
    if changed:
        LoraModule.objects.filter(pk=module.pk).update(likes=F("likes") + (1 if wanted else -1))
        module.refresh_from_db(fields=["likes"])
    return changed


def toggle(module: LoraModule, user: User) -> None:
    if not set_like(module, user, True):
        set_like(module, user, False)


def likes(module: LoraModule, user: User) -> bool:
    return user.is_authenticated and Like.objects.filter(user=user, lora_module=module).exists()


@transaction.atomic
def take_back_all(user: User) -> None:
    """Before an account goes: its likes go with it, and the counts must not stay behind."""
    liked = LoraModule.objects.filter(liked__user=user).order_by("pk")
    ids = [row.pk for row in liked.select_for_update(of=("self",), no_key=True)]
    LoraModule.objects.filter(pk__in=ids).update(likes=F("likes") - 1)
    Like.objects.filter(user=user, lora_module__in=ids).delete()
