"""What the commands print: results to the standard output, everything else beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer.engine.evaluate import Score
    from composer.engine.search import Generation


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def answer(document: Mapping[str, Any]) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


class Bar:
    """A bar that redraws itself on a terminal, one line a step elsewhere."""

    def __init__(self) -> None:
        self.is_terminal = sys.stderr.isatty()

    def show(self, done: int, total: int, words: str) -> None:
        bar = "#" * round(30 * done / max(total, 1))
        line = f"[{bar:<30}] {done}/{total}  {words}"
        if self.is_terminal:
            print(f"\r{line}  ", end="", file=sys.stderr, flush=True)
        else:
            say(line)

    def end(self) -> None:
        if self.is_terminal:
            print(file=sys.stderr)


class SearchBar(Bar):
    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __call__(self, generation: Generation) -> None:
        self.seconds += generation.seconds
        rate = generation.evaluations / max(self.seconds, 1e-9)
        self.show(
            generation.evaluations,
            generation.budget,
            f"loss {generation.best_loss:.4f}  {rate:.0f} evaluations/s",
        )


def score_line(found: Score | Mapping[str, Any]) -> str:
    """3 of 4 (0.75, 95% 0.30–0.95)"""
    row = found if isinstance(found, Mapping) else found.to_json()
    return (
        f"{row['correct']} of {row['total']} "
        f"({row['value']:.2f}, 95% {row['low']:.2f}–{row['high']:.2f})"
    )
