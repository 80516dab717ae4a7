"""A measurement's rows in a JSONL file, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "rows.jsonl"


@dataclass(frozen=True)
class Row:
    """What one method answered in one draw; draw is None where there is nothing to draw.

    hits    one text a run (an order of the examples, say) with "1" for each right answer, "0" for
            each wrong one, in the order of the test
    digest  of the task's file
    detail  what else is worth knowing, such as the module that was chosen
    """

    task: str
    digest: str
    draw: int | None
    method: str
    hits: tuple[str, ...]
    seconds: float
    detail: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, str, int | None, str]:
        return self.task, self.digest, self.draw, self.method

    @property
    def values(self) -> list[float]:
        """One number a test example: the share of runs that had it right."""
        return [sum(map(int, column)) / len(column) for column in zip(*self.hits, strict=True)]


class Rows:
    """The rows of one setting; those of others stay in the file, for whoever goes back to them."""

    def __init__(self, folder: Path, setting: Mapping[str, Any]) -> None:
        self.path = folder / FILE
        text = json.dumps(setting, sort_keys=True)
        self.setting = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._rows = {row.key: row for row in self._read()}

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def has(self, task: str, digest: str, draw: int | None, method: str) -> bool:
        return (task, digest, draw, method) in self._rows

    def add(self, row: Row) -> None:
        document = {"setting": self.setting, **vars(row)}
        # Whoever was killed may have left half a line: the next one begins on its own.
        broken = self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * broken + json.dumps(document, ensure_ascii=False) + "\n")
        self._rows[row.key] = row

    def _read(self) -> Iterator[Row]:
        if not self.path.exists():
            return
        for line in self.path.read_bytes().split(b"\n"):
            try:
                document = json.loads(line)
            except ValueError:  # an empty line, or one that was cut off, in a letter perhaps
                continue
            if document.pop("setting") == self.setting:
                yield Row(**{**document, "hits": tuple(document["hits"])})
