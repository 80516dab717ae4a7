"""compose: search for weights, and save what is found."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from composer.cli import options as shared
from composer.cli.shown import SearchBar, answer, say, score_line
from composer.engine import config, examples
from composer.engine.config import SearchConfig

if TYPE_CHECKING:
    from composer.engine.examples import Example
    from composer.workbench import Composed, Workbench

# Settings by name, and how argparse reads each; what is left out stays as the preset says.
SETTINGS: dict[str, dict[str, Any]] = {
    "combination": {"choices": config.COMBINATIONS},
    "budget": {"type": int, "help": "evaluations to spend"},
    "optimiser": {"choices": config.OPTIMISERS},
    "objective": {"choices": config.OBJECTIVES},
    "reduction": {"choices": config.REDUCTIONS},
    "penalty": {"type": float, "help": "α: what a weight's size costs"},
    "x0": {"type": float, "help": "every weight's start"},
    "sigma": {"type": float, "help": "the first step"},
    "bound": {"type": float, "help": "no weight grows larger"},
    "population": {"type": int, "help": "candidates a generation"},
    "restarts": {"type": int, "help": "how often a search that has settled begins anew"},
    "blocks": {"help": "all, sides (encoder and decoder), or layers:K"},
    "selection": {"choices": config.SELECTIONS, "help": "what the best is chosen on"},
    "folds": {"type": int, "help": "parts that the examples are cut into for that"},
    "patience": {"type": int, "help": "generations without a better candidate before it ends"},
    "rank": {"type": int, "help": "cut the adapter down to this rank (servers often take 16)"},
}


def add_to(commands: Any) -> None:
    parser = shared.command(
        commands,
        "compose",
        "search for weights that fit the examples, and save the adapter with its recipe",
        "python -m composer.cli compose --base google/flan-t5-large --modules 'lorahub/*' \\\n"
        "      --top 20 --examples examples.jsonl --held-out more.jsonl --out my-adapter",
    )
    shared.add_base(parser)
    shared.add_modules(parser)
    shared.add_examples(parser)
    shared.add_template(parser)
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="where to write the adapter and recipe.json")
    add("--held-out", metavar="FILE.jsonl", help="examples to score the result on")
    add("--options", nargs="+", metavar="ANSWER", default=[], help="the answers that are possible")
    add(
        "--top",
        type=shared.at_least_one,
        metavar="K",
        help="mix only the K modules that do best alone",
    )
    add("--preset", choices=sorted(config.PRESETS), default="recommended")
    add("--seed", type=int, default=0)
    group = parser.add_argument_group("settings in place of the preset's")
    for name, how in SETTINGS.items():
        group.add_argument(f"--{name}", **how)
    shared.add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    settings = _settings(options)
    out = shared.writable(options.out)
    template = shared.template_of(options)
    shots = shared.read_examples(options.examples, "examples")
    held_out = shared.read_examples(options.held_out, "held_out")
    examples.check(shots, held_out, template=template)
    base, modules = shared.sources(options)
    bench = shared.bench_of(options, base, modules)
    if options.top is not None and options.top < len(bench):
        bench = _best(bench, shots, options)
    bar = SearchBar()
    found = bench.compose_with(settings, shots, template, options.options, bar)
    bar.end()
    found = _scored(found, held_out)
    found.save(out)
    _show(found, options)
    return 0


def _settings(options: argparse.Namespace) -> SearchConfig:
    given = {name: getattr(options, name) for name in SETTINGS}
    return config.preset_with(options.preset, {**given, "seed": options.seed})


def _best(bench: Workbench, shots: Sequence[Example], options: argparse.Namespace) -> Workbench:
    ranked = shared.ranked(bench, shots, shared.template_of(options), options.top)
    chosen = ranked.top(options.top)
    say(f"Mixing the best {len(chosen)}: {', '.join(bench.stack.names[n] for n in chosen)}")
    return bench.only(sorted(chosen))


def _scored(found: Composed, held_out: Sequence[Example]) -> Composed:
    if not held_out:
        return found
    say(f"Measuring on {len(held_out)} held-out examples …")
    return found.with_scores(held_out)


def _show(found: Composed, options: argparse.Namespace) -> None:
    evidence = found.recipe.evidence
    if options.json:
        answer(
            {
                "out": options.out,
                "recipe": found.recipe.id,
                "weights": found.weights,
                "evidence": evidence,
            }
        )
        return
    print("Weights (largest first):")
    for name, weight in list(found.weights.items())[:10]:
        print(f"  {weight:+.3f}  {name}")
    for name in ("zero_shot", "composed"):
        if name in evidence:
            print(f"Held out, {name.replace('_', '-')}: {score_line(evidence[name])}")
    print(f"Adapter and recipe {found.recipe.id[:12]} written to {options.out}")
