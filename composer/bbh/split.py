"""BIG-Bench Hard files and our own split of each: a pool that examples are drawn from, and a test.

The split follows from the file and the seed alone, and a draw from its number: neither knows the
base model, the modules or the other draws.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from composer.engine.errors import CommonsError
from composer.engine.examples import Example
from composer.engine.prompt import is_text

POOL = 100
# What each generator is for; the numbers keep them apart.
SHOTS, MODULES, ORDERS = 1, 2, 3


class BadBenchmark(CommonsError):
    """A folder or file that the benchmark cannot be made of."""

    code = "bad_benchmark"


@dataclass(frozen=True)
class BenchTask:
    """digest is the file's; `repeated` examples were left out because their input stands before."""

    name: str
    digest: str
    pool: tuple[Example, ...]
    test: tuple[Example, ...]
    repeated: int = 0


def read_folder(
    folder: Path, *, test: int, seed: int, names: Sequence[str] | None = None
) -> list[BenchTask]:
    """One task a .json file, in order of name; `names` are files' names without .json."""
    if not folder.is_dir():
        raise BadBenchmark(f"There is no folder {str(folder)!r}. Name one with --data.")
    files = {path.stem: path for path in sorted(folder.glob("*.json"))}
    if not files:
        raise BadBenchmark(
            f"There is no .json file in {str(folder)!r}. Put BIG-Bench Hard's task files there, or "
            "name another folder."
        )
    for name in names or ():
        if name not in files:
            raise BadBenchmark(
                f"There is no {name}.json in {str(folder)!r}. Tasks there: {', '.join(files)}."
            )
    chosen = [path for name, path in files.items() if names is None or name in names]
    return [read(path, test=test, seed=seed) for path in chosen]


def read(path: Path, *, test: int, seed: int) -> BenchTask:
    try:
        content = path.read_bytes()
        document = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise BadBenchmark(f"{path.name} cannot be read as JSON: {error}.") from error
    every = _examples(document, path.name)
    once = {" ".join(each.input.split()): each for each in reversed(every)}
    kept = list(reversed(once.values()))
    if len(kept) <= POOL:
        raise BadBenchmark(
            f"{path.name} has {len(kept)} different examples. {POOL} are the pool and the rest is "
            f"the test, so it needs {POOL + 1} or more."
        )
    order = generator(seed).permutation(len(kept))
    shuffled = [kept[place] for place in order]
    return BenchTask(
        name=path.stem,
        digest=hashlib.sha256(content).hexdigest(),
        pool=tuple(shuffled[:POOL]),
        test=tuple(shuffled[POOL : POOL + test]),
        repeated=len(every) - len(kept),
    )


def _examples(document: Any, name: str) -> list[Example]:
    rows = document.get("examples") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise BadBenchmark(f'{name} has no list "examples". It is no BIG-Bench Hard task file.')
    return [_example(row, number, name) for number, row in enumerate(rows, 1)]


def _example(row: Any, number: int, name: str) -> Example:
    given = row if isinstance(row, dict) else {}
    texts = [given.get("input"), given.get("target")]
    for field, text in zip(("input", "target"), texts, strict=True):
        if not isinstance(text, str) or not text.strip() or not is_text(text):
            raise BadBenchmark(f'Example {number} of {name} has no text in "{field}".')
    return Example(*map(str, texts))


# --- draws ---------------------------------------------------------------------------------------


def generator(seed: int, *what: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, *what] if what else seed))


def drawn_examples(
    pool: Sequence[Example], count: int, *, seed: int, draw: int, without: frozenset[Example]
) -> list[Example]:
    """The first `count` of a shuffled pool; what must be left out makes room for the next."""
    order = generator(seed, SHOTS, draw).permutation(len(pool))
    return [pool[place] for place in order if pool[place] not in without][:count]


def drawn_modules(total: int, count: int, *, seed: int, draw: int) -> list[int]:
    """Places of `count` random modules, in their order; all where there are no more."""
    return sorted(generator(seed, MODULES, draw).permutation(total)[:count].tolist())


def orders(examples: Sequence[Example], count: int, *, seed: int, draw: int) -> list[list[Example]]:
    """The examples as drawn, and shuffled anew for each further order."""
    shuffled = [generator(seed, ORDERS, draw, each).permutation(len(examples)) for each in
                range(1, count)]  # fmt: skip
    return [list(examples), *([examples[place] for place in order] for order in shuffled)]
