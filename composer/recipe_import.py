"""Recipe files from elsewhere: read strictly, their modules looked for, and nothing they say of
themselves believed."""

from __future__ import annotations

import json
import lzma
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from django.conf import settings
from django.db import transaction

from composer import proof, verifications
from composer.engine import recipe as engine_recipe
from composer.engine.errors import BadRecipe
from composer.engine.prompt import is_text
from composer.engine.safetensors_header import read_metadata_of
from composer.limits import OverLimit
from composer.models import Ingredient, Recipe, RecipeImport
from composer.verdict import NAMES
from hub_site.accounts.models import User
from modules.models import BaseModel, LoraModule

if TYPE_CHECKING:
    from composer.querysets import Visitor

MOST_BYTES = 4 << 20  # of a recipe as JSON
MOST_OF_A_FILE = 2 << 30  # of an adapter that carries one
MOST_INGREDIENTS = 1_000
MOST_IMPORTS = 200  # of one user
DEEPEST = 40
SHA256 = re.compile("[0-9a-f]{64}")
RECIPE_NAME = "recipe.json"
# What a damaged or odd zip may raise while it is opened and read.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(NotImplementedError, RuntimeError, OSError, EOFError, ValueError),
)


def read(stream: BinaryIO, name: str) -> dict[str, Any]:
    """The recipe in a file: JSON, an adapter's zip, or its safetensors."""
    head = stream.read(8)
    stream.seek(0)
    if head.startswith(b"PK"):
        return parse(_in_zip(stream, name))
    if name.endswith(".safetensors"):
        return parse(_in_weights(stream, name))
    return parse(stream.read(MOST_BYTES + 1))


def _in_zip(stream: BinaryIO, name: str) -> bytes:
    try:
        with zipfile.ZipFile(stream) as archive, archive.open(RECIPE_NAME) as file:
            return file.read(MOST_BYTES + 1)
    except KeyError as error:
        raise BadRecipe(f"There is no {RECIPE_NAME} in {name}.") from error
    except UNREADABLE as error:
        raise BadRecipe(f"{name} is not a zip that can be read: {error}.") from error


def _in_weights(stream: BinaryIO, name: str) -> bytes:
    text = read_metadata_of(stream).get(engine_recipe.RECIPE_KEY)
    if text is None:
        raise BadRecipe(f"{name} carries no recipe. Bring a recipe.json instead.")
    return text.encode()


def parse(text: bytes | str) -> dict[str, Any]:
    """A checked recipe file as JSON; raises BadRecipe with what is wrong in it."""
    if len(text) > MOST_BYTES:
        raise BadRecipe(f"A recipe file has at most {MOST_BYTES >> 20} MB.")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecipe(f"This is not JSON: {error}.") from error
    return checked(document)


def checked(document: Any) -> dict[str, Any]:
    _refuse_unstorable(document)
    try:
        plain = engine_recipe.check(document)
        _check_pins(plain.spec)
        return plain.to_json()
    except BadRecipe as error:
        raise _with_what_was_changed(document, error) from error
    except OverflowError as error:
        raise BadRecipe(f"A number in the recipe is too large: {error}.") from error


def _with_what_was_changed(document: Any, error: BadRecipe) -> BadRecipe:
    """A file whose parts do not fit its own digests says which were changed."""
    rows = proof.why_not_its_id(document) if isinstance(document, Mapping) else []
    if not rows:
        return error
    said = "; ".join(f"{each.what} ({each.stated})" for each in rows[:5])
    return BadRecipe(f"{error.user_message} Changed in it since it was written: {said}.")


def _refuse_unstorable(value: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise BadRecipe("The file is nested too deeply to be a recipe.")
    if isinstance(value, str) and not is_text(value):
        raise BadRecipe("The file holds characters that are not text.")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRecipe("The file holds a number that is infinite or none.")
    if isinstance(value, dict):
        for key, each in value.items():
            _refuse_unstorable(key, depth + 1)
            _refuse_unstorable(each, depth + 1)
    if isinstance(value, list):
        for each in value:
            _refuse_unstorable(each, depth + 1)


def _check_pins(spec: Mapping[str, Any]) -> None:
    pinned = spec["ingredients"]
    if len(pinned) > MOST_INGREDIENTS:
        raise BadRecipe(f"It has {len(pinned)} ingredients; {MOST_INGREDIENTS} are the most.")
    for place, each in enumerate(pinned, 1):
        if not SHA256.fullmatch(each["sha256"]):
            raise BadRecipe(f"The sha256 of ingredient {place} is not 64 hexadecimal digits.")
    for each in (*pinned, spec["base_model"]):
        if not 0 < len(each["repo"]) <= 200 or len(each["revision"]) > 40:
            raise BadRecipe(f"{proof.shown(each['repo'])!r} is no repo with a revision.")
    if not isinstance(spec["seed"], int) or abs(spec["seed"]) >= 1 << 63:
        raise BadRecipe("The recipe's seed must be a whole number.")


# --- bringing it here ----------------------------------------------------------------------------


@transaction.atomic
def bring(*, user: User, document: Mapping[str, Any], title: str = "") -> RecipeImport:
    """Keep a checked recipe for its importer alone; what the file states of itself, apart."""
    user = User.objects.select_for_update().get(pk=user.pk)
    brought = RecipeImport.objects.filter(user=user)
    known = brought.filter(recipe=document["id"]).first()
    if known is None and brought.count() >= MOST_IMPORTS:
        raise OverLimit(f"You have brought {MOST_IMPORTS} recipes, which is the most. Remove some.")
    if known is not None and known.evidence != document["evidence"]:
        verifications.forget_those_of(known)  # they were of other claims
    spec = document["spec"]
    title = title.strip()[:120] or f"Recipe {document['id'][:12]}"
    recipe, is_new = Recipe.objects.get_or_create(
        digest=document["id"],
        defaults={
            "document": {k: v for k, v in document.items() if k != "evidence"},
            "title": title,
            "base_model": base_model_named(spec["base_model"]["repo"]),
        },
    )
    if is_new:
        _write_ingredients(recipe, document, user)
    elif recipe.published_at is None and not recipe.searches.exists():
        _link_those_that_came(recipe, user)
    found, _ = RecipeImport.objects.update_or_create(
        recipe=recipe, user=user, defaults={"title": title, "evidence": document["evidence"]}
    )
    return found


@transaction.atomic
def remove(found: RecipeImport) -> None:
    """The recipe goes with its last importer, unless somebody found or published it."""
    recipe = found.recipe
    verifications.forget_those_of(found)
    found.delete()
    unused = Recipe.objects.filter(pk=recipe.pk, searches=None, imports=None, published_at=None)
    unused.delete()


def base_model_named(name: str) -> BaseModel | None:
    named = BaseModel.objects.filter(name=name).first()
    return named or BaseModel.objects.filter(aliases__contains=[name]).first()


def _write_ingredients(recipe: Recipe, document: Mapping[str, Any], user: User) -> None:
    spec = document["spec"]
    pins = verifications.pins(spec, user, is_imported=True)
    weights = engine_recipe.module_weights(spec, document["weights"])
    rows = zip(spec["ingredients"], weights, pins.commits, strict=True)
    here = LoraModule.objects.in_bulk(
        [commit.repo_id for commit in pins.commits if commit is not None], field_name="repo_id"
    )
    Ingredient.objects.bulk_create(
        Ingredient(
            recipe=recipe,
            position=place,
            lora_module=here.get(commit.repo_id) if commit is not None else None,
            name=each["repo"],
            revision=each["revision"],
            weights_sha256=each["sha256"],
            weight=weight,
        )
        for place, (each, weight, commit) in enumerate(rows)
    )


def _link_those_that_came(recipe: Recipe, user: User) -> None:
    """Modules that were not here when somebody brought the recipe first."""
    pins = verifications.pins(recipe.document["spec"], user, is_imported=True)
    for place, commit in enumerate(pins.commits):
        if commit is not None:
            lacking = recipe.ingredients.filter(position=place, lora_module=None)
            lacking.update(lora_module=LoraModule.objects.filter(repo=commit.repo_id).first())


def named_by(recipe: Recipe, user: Visitor) -> RecipeImport | None:
    """The file it came from, of a recipe that is here by that alone for this visitor. It then goes
    by the name that they gave it: whoever found it too keeps theirs to themselves."""
    if not user.is_authenticated or recipe.published_at is not None:
        return None
    if recipe.searches.filter(job__user=user).exists():
        return None
    found = recipe.imports.filter(user=user).select_related("recipe", "user").first()
    if found is not None:
        recipe.title, recipe.description = found.title, ""
    return found


# --- what is missing, and what the file says -----------------------------------------------------


@dataclass(frozen=True)
class Missing:
    """A module or base model that is not here, and where it might be had."""

    name: str
    sha256: str
    address: str


def missing(found: RecipeImport) -> list[Missing]:
    """As it is now: modules may have come since."""
    spec = found.recipe.document["spec"]
    pins = verifications.pins(spec, found.user, is_imported=True)
    rows = [
        Missing(each["repo"], each["sha256"], _address(each["repo"]))
        for each, commit in zip(spec["ingredients"], pins.commits, strict=True)
        if commit is None
    ]
    base = spec["base_model"]["repo"]
    if base_model_named(base) is None:
        rows.insert(0, Missing(base, "", _address(base)))
    return rows


def _address(name: str) -> str:
    """On the Hub, where the name could be one."""
    is_name = re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII) and ".." not in name
    return f"{settings.HUB_ENDPOINT}/{name}" if is_name else ""


def site_of(found: RecipeImport) -> str:
    """Which site wrote the file, as it says."""
    said = found.evidence.get("site")
    return said[:200] if isinstance(said, str) and re.match(r"https?://", said) else ""


def stated_scores(found: RecipeImport) -> list[dict[str, Any]]:
    """What the file says it scored, where that can be read: shown as stated, never as measured."""
    rows = found.evidence.get("methods")
    return [
        {
            "name": NAMES.get(row["key"], row["key"][:40]),
            "correct": row["correct"],
            "total": row["total"],
        }
        for row in (rows if isinstance(rows, list) else [])[:20]
        if isinstance(row, dict)
        and isinstance(row.get("key"), str)
        and all(isinstance(row.get(key), int) for key in ("correct", "total"))
    ]
