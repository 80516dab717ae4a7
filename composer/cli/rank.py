"""rank: each module alone on the examples."""

from __future__ import annotations

import argparse
from typing import Any

from composer.cli import options as shared
from composer.cli.shown import answer
from composer.engine import examples


def add_to(commands: Any) -> None:
    parser = shared.command(
        commands,
        "rank",
        "measure each module alone on the examples, and list them from the best on",
        "python -m composer.cli rank --base google/flan-t5-large --modules 'lorahub/*' \\\n"
        "      --examples examples.jsonl --top 10",
    )
    shared.add_base(parser)
    shared.add_modules(parser)
    shared.add_examples(parser)
    shared.add_template(parser)
    parser.add_argument(
        "--top",
        type=shared.at_least_one,
        metavar="K",
        help="list only the best K; of a large model, the others are looked at in 8 bits only",
    )
    shared.add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    shots = shared.read_examples(options.examples, "examples")
    template = shared.template_of(options)
    examples.check(shots, template=template)
    base, modules = shared.sources(options)
    bench = shared.bench_of(options, base, modules)
    found = shared.ranked(bench, shots, template, options.top)
    losses = found.loss()
    rows = [
        {
            "module": found.names[n],
            "loss": float(losses[n]),
            "by_example": found.losses[n].tolist(),
        }
        for n in found.ranking()[: options.top]
    ]
    if options.json:
        answer({"modules": rows})
        return 0
    print(f"{'loss':>9}  module")
    for row in rows:
        print(f"{row['loss']:9.4f}  {row['module']}")
    return 0
