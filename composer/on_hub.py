"""A recipe's adapter in a repo on the Hub, as its publisher or anybody with an account there asks.

Nothing is pushed here: see `pushing.py`, and `modules/on_hub/` for how homes are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction
from django.db.models import QuerySet

from composer import publishing
from composer.errors import NotAllowed, NotReady
from composer.models import Recipe, RecipeOnHub
from modules.on_hub import keeping

if TYPE_CHECKING:
    from composer.querysets import Visitor
    from hub_site.accounts.models import User

MOST_AT_ONCE = 200


def places(recipe: Recipe, user: Visitor) -> list[str]:
    """Where this user may put it: the site's organisation is for what they published here."""
    if not user.is_authenticated or recipe.adapter_id is None:
        return []
    found = keeping.places(user)
    found.remove(keeping.HERE)
    if recipe.published_by_id != user.pk and RecipeOnHub.SITE in found:
        found.remove(RecipeOnHub.SITE)
    return found


def shown_to(recipe: Recipe, user: Visitor) -> QuerySet[RecipeOnHub]:
    """Repos that everybody may open, and one's own."""
    rows = RecipeOnHub.objects.filter(recipe=recipe).select_related("user")
    open_to_all = rows.exclude(sha="").filter(is_private=False)
    return (rows.filter(user=user) | open_to_all) if user.is_authenticated else open_to_all


@transaction.atomic
def put(recipe: Recipe, user: User, place: str) -> RecipeOnHub:
    """Make a repo with the adapter, its card and the recipe; private until the recipe is public."""
    if recipe.adapter_id is None:
        raise NotReady("This recipe's adapter has not been built yet.")
    if place not in places(recipe, user):
        raise NotAllowed(
            "Connect your Hugging Face account in your settings first: the repo stands under it."
        )
    publishing.refuse_withdrawn(recipe, user)
    publishing.refuse_closed(recipe, user)
    home, _ = RecipeOnHub.objects.get_or_create(recipe=recipe, user=user, place=place)
    home = RecipeOnHub.objects.select_for_update(of=("self",)).get(pk=home.pk)
    keeping.start_over(home)
    keeping.ask_for(home)
    return home


def retry_due() -> int:
    """Ask anew for what is due after trouble, and for what was withdrawn since it was pushed."""
    withdrawn = RecipeOnHub.objects.filter(
        is_private=False,
        state=RecipeOnHub.KEPT,
        recipe__adapter_allowed=False,
        recipe__ingredients__lora_module__repo__hidden_at__isnull=False,
    )
    found = {
        *RecipeOnHub.objects.due().values_list("pk", flat=True)[:MOST_AT_ONCE],
        *withdrawn.values_list("pk", flat=True)[:MOST_AT_ONCE],
    }
    for pk in found:
        with transaction.atomic():
            for home in RecipeOnHub.objects.select_for_update(of=("self",)).filter(pk=pk):
                keeping.ask_for(home)
    return len(found)
