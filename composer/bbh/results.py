"""Shares of exact matches from the rows, with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from composer.bbh.methods import METHODS, Readable
from composer.bbh.protocol import Protocol
from composer.bbh.rows import Row, Rows
from composer.engine.compare import hierarchical

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """Shares of exact matches: over all draws with the 95% interval, and in the best draw."""

    mean: float
    low: float
    high: float
    best: float

    @classmethod
    def of(cls, draws: Sequence[Array]) -> Cell:
        """From one value a test example, for each draw."""
        means = [float(each.mean()) for each in draws]
        interval = hierarchical(draws)
        return cls(float(np.mean(means)), interval.low, interval.high, max(means))


@dataclass(frozen=True)
class Results:
    """Tasks × methods, every draw of them measured.

    library  how many modules there were to draw and to rank
    refused  by name, why a task was not measured
    """

    tasks: Sequence[Readable]
    methods: Sequence[str]
    protocol: Protocol
    rows: Rows
    library: int
    refused: Mapping[str, str]
    _cells: dict[str, Cell] = field(default_factory=dict)

    def found(self, task: Readable, method: str) -> list[Row]:
        numbers = range(self.protocol.draws) if METHODS[method].is_drawn else [None]
        return [self._by_key[task.name, task.task.digest, number, method] for number in numbers]

    @cached_property
    def _by_key(self) -> dict[tuple[str, str, int | None, str], Row]:
        return {row.key: row for row in self.rows}

    def values(self, task: Readable, method: str) -> list[Array]:
        return [np.array(row.values) for row in self.found(task, method)]

    def cell(self, task: Readable, method: str) -> Cell:
        return self._kept(f"{method} {task.name}", lambda: Cell.of(self.values(task, method)))

    def mean(self, method: str) -> Cell:
        """Of all tasks, each counting the same. The tasks are given and not drawn: the interval is
        that of other draws and other test examples of the same tasks."""
        return self._kept(method, lambda: self._mean(method))

    def _mean(self, method: str) -> Cell:
        found = Cell.of(over_tasks([self.values(task, method) for task in self.tasks]))
        best = np.mean([self.cell(task, method).best for task in self.tasks])
        return Cell(found.mean, found.low, found.high, float(best))

    def _kept(self, key: str, made: Callable[[], Cell]) -> Cell:
        """An interval takes ten thousand draws: once is enough."""
        if key not in self._cells:
            self._cells[key] = made()
        return self._cells[key]

    def shots(self, task: Readable, method: str) -> float | None:
        """How many examples a prompt holds on average, where a method shows them there."""
        known = [row.detail["shots"] for row in self.found(task, method) if "shots" in row.detail]
        return sum(known) / len(known) if known else None


def over_tasks(by_task: Sequence[Sequence[Array]]) -> list[Array]:
    """Per task and draw one value a test example -> per draw the values of all tasks, scaled so
    that their mean is the mean of the tasks' means."""
    T, total = len(by_task), sum(len(draws[0]) for draws in by_task)
    return [
        np.concatenate([each * total / (T * len(each)) for each in draw])
        for draw in zip(*by_task, strict=True)
    ]


def left_out(task: Readable) -> tuple[int, int]:
    """How many of the pool and of the test are too long for the base model."""
    pool = sum(each in task.too_long for each in task.task.pool)
    return pool, len(task.task.test) - len(task.test)
