"""evaluate: how good an adapter, a recipe's result or the base model alone is."""

from __future__ import annotations

import argparse
from typing import Any

from composer import fetched
from composer.cli import options as shared
from composer.cli.shown import Bar, answer, score_line
from composer.engine import examples

AT_ONCE = 64


def add_to(commands: Any) -> None:
    parser = shared.command(
        commands,
        "evaluate",
        "score an adapter, or several, and the base model alone on held-out examples",
        "python -m composer.cli evaluate --base google/flan-t5-large --adapter my-adapter \\\n"
        "      --held-out more.jsonl",
    )
    shared.add_base(parser)
    shared.add_template(parser)
    add = parser.add_argument
    add("--adapter", nargs="+", required=True, metavar="MODULE", help="folder, or repo of the Hub")
    add("--held-out", required=True, metavar="FILE.jsonl", help="examples to answer")
    add("--options", nargs="+", metavar="ANSWER", default=[], help="the answers that are possible")
    shared.add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    held_out = shared.read_examples(options.held_out, "held_out")
    template = shared.template_of(options)
    examples.check(held_out[:1], held_out[1:], template=template)
    base = fetched.base(options.base)
    bench = shared.bench_of(options, base, fetched.modules(options.adapter, base))
    bar = Bar()
    found = bench.evaluate(
        held_out,
        template,
        options.options,
        on_progress=lambda done, total: bar.show(done, total, "examples answered"),
    )
    bar.end()
    if options.json:
        answer({"scores": {name: each.to_json() for name, each in found.items()}})
        return 0
    width = max(map(len, found))
    for name, each in found.items():
        print(f"{name:<{width}}  {score_line(each)}")
    return 0
