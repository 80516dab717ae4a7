"""apply: a recipe becomes an adapter again, without a search."""

from __future__ import annotations

import argparse
from typing import Any

from composer.cli import options as shared
from composer.cli.shown import answer
from composer.cli.verify import bench_of_recipe


def add_to(commands: Any) -> None:
    parser = shared.command(
        commands,
        "apply",
        "build the adapter that a recipe describes from its modules, without a search",
        "python -m composer.cli apply recipe.json --base google/flan-t5-large \\\n"
        "      --modules 'lorahub/*' --out my-adapter",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="recipe.json, or an adapter's folder")
    shared.add_base(parser)
    shared.add_modules(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write the adapter")
    shared.add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """3 when these are not the files that the recipe names."""
    stated = shared.read_recipe(options.recipe)
    out = shared.writable(options.out)
    bench = bench_of_recipe(options, stated)
    if bench is None:
        return 3
    found = bench.composed_of(stated)
    found.save(out)
    if options.json:
        answer({"out": options.out, "recipe": stated.id, "weights": found.weights})
    else:
        print(f"Adapter of recipe {stated.id[:12]} written to {options.out}")
    return 0
