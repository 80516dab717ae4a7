"""A module's own colour: its name decides the hue, and the stylesheet the rest (see tokens.css)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

HUES = 36
# Any text would do; with this one the twenty modules of the demo's T5 have twenty hues.
SALT = "pigment 2268:"


def hue(name: str) -> int:
    """One of 36 hues, the same for this name for ever, whatever its capitals."""
    return int.from_bytes(sha256((SALT + name.lower()).encode()).digest()[:4], "big") % HUES


def hue_class(name: str) -> str:
    return f"hue-{hue(name)}"


@dataclass(frozen=True)
class Pigment:
    """An ingredient as it is drawn: a name, a signed weight, a hue and where it leads."""

    name: str
    weight: float
    url: str = ""

    @property
    def hue_class(self) -> str:
        return hue_class(self.name)

    @property
    def short(self) -> str:
        return self.name.rsplit("/", 1)[-1]

    @property
    def is_negative(self) -> bool:
        return self.weight < 0


def pigments(ingredients: Iterable[Any]) -> list[Pigment]:
    """Read ingredients as they come: rows of the database, mappings, or (name, weight) pairs."""
    return [_pigment(ingredient) for ingredient in ingredients]


def _pigment(ingredient: Any) -> Pigment:
    if isinstance(ingredient, Pigment):
        return ingredient
    if isinstance(ingredient, Mapping):
        name = ingredient.get("name") or ingredient["repo"]
        return Pigment(str(name), float(ingredient["weight"]), str(ingredient.get("url") or ""))
    if isinstance(ingredient, tuple | list):
        name, weight, *rest = ingredient
        return Pigment(str(name), float(weight), str(rest[0]) if rest else "")
    # The pinned name is the address; asking the live module for it would be a query a row.
    gone = getattr(ingredient, "lora_module_id", None) is None
    return Pigment(ingredient.name, ingredient.weight, "" if gone else f"/{ingredient.name}")
