"""Likes of recipes: one a user and recipe, and a count that stays exact, as modules have them."""

from typing import TYPE_CHECKING

from django.db import transaction
from django.db.models import F

from composer.models import Recipe, RecipeLike
from hub_site.accounts.models import User

if TYPE_CHECKING:
    from composer.querysets import Visitor


@transaction.atomic
def set_like(recipe: Recipe, user: User, wanted: bool) -> bool:
    """Make it liked or not, whatever it was; returns whether that changed anything."""
    Recipe.objects.select_for_update(no_key=True).get(pk=recipe.pk)
    if wanted:
        _, changed = RecipeLike.objects.get_or_create(user=user, recipe=recipe)
    else:
        changed = bool(RecipeLike.objects.filter(user=user, recipe=recipe).delete()[0])
    if changed:
        Recipe.objects.filter(pk=recipe.pk).update(likes=F("likes") + (1 if wanted else -1))
        recipe.refresh_from_db(fields=["likes"])
    return changed


def likes(recipe: Recipe, user: "Visitor") -> bool:
    return user.is_authenticated and RecipeLike.objects.filter(user=user, recipe=recipe).exists()


@transaction.atomic
def take_back_all(user: User) -> None:
    """Before an account goes: its likes go with it, and the counts must not stay behind."""
    liked = Recipe.objects.filter(liked__user=user).order_by("pk")
    ids = [row.pk for row in liked.select_for_update(of=("self",), no_key=True)]
    Recipe.objects.filter(pk__in=ids).update(likes=F("likes") - 1)
    RecipeLike.objects.filter(user=user, recipe__in=ids).delete()
