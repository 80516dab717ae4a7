"""Task files of our own invention, in the layout of BIG-Bench Hard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from composer.engine.examples import Example
from tests.engine.conftest import WORDS

# 361 inputs that a tiny model's tokenizer knows.
INPUTS = [f"{first} {second}" for first, second in product(WORDS, repeat=2)]


def some_examples(count: int, first: int = 0) -> list[Example]:
    return [
        Example(each, WORDS[(first + place) % len(WORDS)])
        for place, each in enumerate(INPUTS[first : first + count])
    ]


def write(path: Path, examples: Sequence[Example]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"input": each.input, "target": each.target} for each in examples]
    path.write_text(json.dumps({"canary": "none", "examples": rows}), encoding="utf-8")
    return path
