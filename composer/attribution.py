"""Whose modules a recipe is made of, and what their licences say of the blend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from composer.models import Ingredient, Recipe
from modules.licence_terms import ALIKE, FLAGGED, USES, Terms, terms

# Whose it is and what it allows is not told of what this visitor may not see.
CLOSED = "–"


@dataclass(frozen=True)
class Source:
    """An ingredient's author and licence; None of either where the module is not here."""

    name: str
    author: str
    terms: Terms | None


def sources(rows: Iterable[Ingredient]) -> list[Source]:
    return [_source(each) for each in rows]


def _source(ingredient: Ingredient) -> Source:
    module = ingredient.lora_module
    author = ingredient.name.partition("/")[0]
    if module is None:
        return Source(ingredient.name, author, None)
    return Source(ingredient.name, module.repo.owner.name, terms(module.licence))


def notices(found: Iterable[Source]) -> list[str]:
    """What has to be minded, the worst first, each with the modules it holds for."""
    found = list(found)
    lines = []
    for flag in (*FLAGGED, ALIKE, USES):
        names = [each.name for each in found if each.terms and flag in each.terms.says]
        if names:
            lines.append(f"The licence of {_listed(names)} {flag}.")
    gone = [each.name for each in found if each.terms is None]
    if gone:
        lines.append(f"The licence of {_listed(gone)} cannot be looked up: not here.")
    return lines


def _listed(names: list[str], shown: int = 5) -> str:
    more = len(names) - shown
    listed = ", ".join(names[:shown])
    return f"{listed} and {more} more" if more > 0 else listed


def of_recipe(recipe: Recipe) -> list[Source]:
    rows = recipe.ingredients.select_related("lora_module__repo__owner").order_by("position")
    return sources(rows)
