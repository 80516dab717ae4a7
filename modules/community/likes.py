"""Likes: one a user and thing, and a count on the thing that stays exact."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import models, transaction
from django.db.models import F

from hub_site.accounts.models import User
from modules.locks import Gone
from modules.models import Like, LoraModule

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser


@dataclass(frozen=True)
class Likes:
    """Of all things of one model, which counts them in `likes`.

    like   the model of one user's like of one thing: `user`, and the thing in the field `field`
    """

    things: type[models.Model]
    like: type[models.Model]
    field: str

    @transaction.atomic
    def set(self, thing: Any, user: User, wanted: bool) -> bool:
        """Make it liked or not, whatever it was; returns whether that changed anything.

        The thing's row is locked first: of two presses at once, the second finds what the first
        did.
        """
        if not self._held(pk=thing.pk):
            raise Gone(f"{thing} was deleted meanwhile.")
        likes, who = self.like._default_manager, {"user": user, self.field: thing}
        if wanted:
            _, changed = likes.get_or_create(**who)
        else:
            changed = bool(likes.filter(**who).delete()[0])
        if changed:
            self._count([thing.pk], 1 if wanted else -1)
            thing.refresh_from_db(fields=["likes"])
        return changed

    def toggle(self, thing: Any, user: User) -> None:
        if not self.set(thing, user, True):
            self.set(thing, user, False)

    def has(self, thing: Any, user: "User | AnonymousUser") -> bool:
        who = {"user": user, self.field: thing}
        return user.is_authenticated and self.like._default_manager.filter(**who).exists()

    @transaction.atomic
    def take_back_all(self, user: User) -> None:
        """Before an account goes: its likes go with it, and the counts must not stay behind."""
        ids = self._held(liked__user=user)
        self._count(ids, -1)
        self.like._default_manager.filter(user=user, **{f"{self.field}__in": ids}).delete()

    def _held(self, **which: Any) -> list[Any]:
        rows = self.things._default_manager.filter(**which).order_by("pk")
        locked = rows.select_for_update(of=("self",), no_key=True)
        return list(locked.values_list("pk", flat=True))

    def _count(self, ids: list[Any], step: int) -> None:
        self.things._default_manager.filter(pk__in=ids).update(likes=F("likes") + step)


of_modules = Likes(LoraModule, Like, "lora_module")
