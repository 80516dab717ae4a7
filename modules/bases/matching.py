"""Which base model a module was trained on: by name or alias; by shapes only as a suggestion."""

from __future__ import annotations

from collections.abc import Mapping

from django.db.models import Q

from composer.engine.adapter_file import CONFIG_NAME, LayerShape
from composer.engine.errors import BadAdapter
from modules.bases.shapes import BaseShapes
from modules.checks.quick import Reading
from modules.models import BaseModel

MOST = 3
LONGEST = 200


def match(reading: Reading) -> tuple[BaseModel | None, str]:
    """The base model, when this site knows it, and its name; BadAdapter when none is named."""
    if not reading.base_model:
        said = reading.config.base_model
        raise BadAdapter(
            (
                f"base_model_name_or_path in {CONFIG_NAME} is {said[:200]!r}, a folder on one "
                "machine. "
                if said
                else f"{CONFIG_NAME} does not name the base model. "
            )
            + "Write the model's public name there, such as google/flan-t5-large."
            + suggestion(reading.facts.layers)
        )
    if not reading.base_model.isprintable():
        raise BadAdapter(
            f"base_model_name_or_path in {CONFIG_NAME} is {reading.base_model[:LONGEST]!a}, with "
            "characters that nobody sees. Write the model's public name there."
        )
    if len(reading.base_model) > LONGEST:
        raise BadAdapter(
            f"base_model_name_or_path in {CONFIG_NAME} has {len(reading.base_model):,} characters; "
            f"{LONGEST} are the most for a name. Write the model's public name there, such as "
            "google/flan-t5-large."
        )
    known = BaseModel.objects.find_by_name(reading.base_model)
    return known, known.name if known else reading.base_model


def suggestion(layers: Mapping[str, LayerShape]) -> str:
    """A sentence that names the base models here that these layers fit; empty when none does."""
    names = [base.name for base in fitting(layers)]
    if not names:
        return ""
    if len(names) == 1:
        return f" Every layer has the shape it has in {names[0]}: was it trained on that?"
    return (
        f" Every layer has the shape it has in {', '.join(names)}: was it trained on one of them?"
    )


def fitting(layers: Mapping[str, LayerShape]) -> list[BaseModel]:
    """The base models here that have every one of these layers, with its shape.

    The database compares one layer, so that only likely ones are read.
    """
    if not layers:
        return []
    name, shape = max(layers.items())
    likely = Q()
    for spelt in (name, name.partition(".")[2]):
        for size in ([shape.d_out, shape.d_in], [shape.d_in, shape.d_out]):
            likely |= Q(layers__contains={spelt: size})
    found = BaseModel.objects.filter(likely).order_by("name")
    return [base for base in found if BaseShapes.of(base).misfits(layers) == {}][:MOST]
