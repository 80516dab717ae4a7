"""inspect: what adapters are, read from their headers, without torch and without a base model."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from composer import fetched
from composer.cli import options as shared
from composer.cli.shown import answer, say
from composer.engine import adapter_file
from composer.engine.adapter_file import AdapterConfig, AdapterFacts
from composer.engine.errors import BadAdapter
from composer.fetched import Source

NOWHERE = Source("", Path())


def add_to(commands: Any) -> None:
    parser = shared.command(
        commands,
        "inspect",
        "say what adapters are, and whether they can be mixed exactly",
        "python -m composer.cli inspect my-adapter someone/other-adapter",
    )
    parser.add_argument("modules", nargs="+", metavar="MODULE", help="folder, or repo of the Hub")
    shared.add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """1 when one of them cannot be mixed."""
    found = fetched.modules(options.modules, NOWHERE, note=say)
    rows = [_row(source) for source in found]
    if options.json:
        answer({"modules": rows})
    else:
        for row in rows:
            _print(row)
    return int(any(row["reason"] for row in rows))


def _row(source: Source) -> dict[str, Any]:
    try:
        config = adapter_file.read_config(source.folder)
        facts = adapter_file.survey(config, adapter_file.read_header(source.folder))
    except BadAdapter as error:
        return {"module": source.name, "reason": error.user_message}
    return _facts(source.name, config, facts)


def _facts(name: str, config: AdapterConfig, facts: AdapterFacts) -> dict[str, Any]:
    shapes = facts.layers.values()
    endings = Counter(layer.rpartition(".")[2] for layer in facts.layers)
    return {
        "module": name,
        "reason": f"It {facts.not_composable}" if facts.obstacles else "",
        "base_model": config.base_model,
        "task_type": config.task_type,
        "ranks": sorted({shape.r for shape in shapes}),
        "scalings": sorted({round(shape.scaling, 6) for shape in shapes}),
        "layers": dict(sorted(endings.items())),
        "parameters": facts.parameters,
        "dtypes": list(facts.dtypes),
        "use_rslora": config.use_rslora,
    }


def _print(row: dict[str, Any]) -> None:
    print(row["module"])
    if "layers" in row:
        layers = ", ".join(f"{count} × {name}" for name, count in row["layers"].items())
        print(f"  made for   {row['base_model'] or 'a base model that it does not name'}")
        print(f"  layers     {layers}")
        print(f"  rank       {', '.join(map(str, row['ranks']))}")
        print(f"  scaling    {', '.join(f'{s:g}' for s in row['scalings'])}"
              f"{' (rsLoRA)' if row['use_rslora'] else ''}")  # fmt: skip
        print(f"  numbers    {row['parameters']:,} in {', '.join(row['dtypes'])}")
    print(f"  can be mixed exactly: {'no. ' + row['reason'] if row['reason'] else 'yes'}")
