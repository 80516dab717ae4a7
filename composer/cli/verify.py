"""verify: a recipe's search run again, and what comes of it compared."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from composer.cli import options as shared
from composer.cli.shown import SearchBar, answer, say
from composer.engine import examples, recipe
from composer.engine.adapter_file import WEIGHTS_NAME
from composer.engine.prompt import Template
from composer.engine.recipe import Recipe
from composer.fetched import LOCAL, Source

if TYPE_CHECKING:
    from composer.workbench import Workbench


def add_to(commands: Any) -> None:
    parser = shared.command(
        commands,
        "verify",
        "run a recipe's search again and compare what it finds",
        "python -m composer.cli verify recipe.json --base google/flan-t5-large \\\n"
        "      --modules 'lorahub/*' --examples examples.jsonl",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="recipe.json, or an adapter's folder")
    shared.add_base(parser)
    shared.add_modules(parser)
    shared.add_examples(parser)
    shared.add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """3 when it is not matched."""
    stated = shared.read_recipe(options.recipe)
    settings, spec = recipe.config_of(stated.spec), stated.spec
    template = Template(spec["template"], bool(spec.get("chat_template")))
    shots = shared.read_examples(options.examples, "examples")
    examples.check(shots, template=template)
    if not _are_its_examples(shots, stated):
        return _not_matched(options, "these are not the examples_hash that the recipe names.")
    bench = bench_of_recipe(options, stated)
    if bench is None:
        return 3
    bar = SearchBar()
    found = bench.compose_with(settings, shots, template, spec.get("answer_options", ()), bar)
    bar.end()
    again = recipe.build(spec, found.recipe.weights)
    if again.id == stated.id:
        if options.json:
            answer({"matched": True, "recipe": again.id})
        else:
            print(f"Matched: {again.id}")
        return 0
    furthest = max(abs(a - b) for a, b in zip(again.weights, stated.weights, strict=True))
    return _not_matched(
        options,
        f"the weights differ by up to {furthest:.3g}. Other processors and versions round "
        "differently; the recipe's evidence names its own.",
    )


def bench_of_recipe(options: argparse.Namespace, stated: Recipe) -> Workbench | None:
    """The recipe's base model and modules, in its order; None, said so, when they are others.

    A site does not hash its base models, so there only the weights can tell.
    """
    from composer.workbench import content_hash

    base, modules = shared.sources(options)
    wanted = stated.spec["base_model"].get("sha256")
    if wanted is not None and content_hash(base.folder) != wanted:
        _not_matched(options, "these are not the base_model that the recipe names.")
        return None
    chosen = _in_order_of(stated, modules)
    if chosen is None:
        _not_matched(options, "these are not the ingredients that the recipe names.")
        return None
    return shared.bench_of(options, base, chosen)


def _in_order_of(stated: Recipe, modules: Sequence[Source]) -> list[Source] | None:
    """The modules that are the recipe's ingredients, in its order; more may be there.

    Where some have the same weights, and perhaps other configs, those of the recipe's names are
    meant.
    """
    from composer.workbench import file_hash

    found: dict[str, dict[str, Source]] = {}
    for each in modules:
        found.setdefault(file_hash(each.folder / WEIGHTS_NAME), {})[each.name] = each
    chosen = []
    for wanted in stated.spec["ingredients"]:
        named = found.get(wanted["sha256"])
        if named is None:
            return None
        chosen.append(named.get(wanted["repo"]) or next(iter(named.values())))
    return chosen


def _are_its_examples(shots: Sequence[Any], stated: Recipe) -> bool:
    if recipe.examples_hash(shots) == stated.spec["examples_hash"]:
        return True
    if stated.spec["base_model"]["revision"] == LOCAL:
        return False
    say("The recipe's hash of its examples is salted: only the weights can tell if they match.")
    return True


def _not_matched(options: argparse.Namespace, why: str) -> int:
    if options.json:
        document: Mapping[str, Any] = {"matched": False, "why": why}
        answer(document)
    else:
        print(f"Not matched: {why}")
    return 3
