"""Which of many modules do something for these examples, each measured alone.

The losses are kept by example, so that a ranking for any part of the examples costs nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.blocks import count
from composer.engine.chunk import Chunk, bounded
from composer.engine.compose import Factors
from composer.engine.errors import BadAdapter, IncompatibleModules
from composer.engine.loss import answer_losses, check_length, default_chunk, parts
from composer.engine.objective import Objective
from composer.engine.stack import Stack

Array = NDArray[np.float64]
Rows = NDArray[np.int64] | Sequence[int]
Progress = Callable[[int, int], None]  # modules done, modules in all; what it raises ends it


@dataclass(frozen=True)
class Screening:
    """N modules at weight 1 on B examples.

    losses   (N, B): each module's loss on each example, as `Objective.example_losses` has it: for
             cross-entropies the mean over the answer's tokens; inf where it could not be loaded
    counts   (B,): what each example counts for in a mean over some of them
    refused  by name, why a module could not be loaded
    """

    names: tuple[str, ...]
    losses: Array
    counts: Array
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def cost(self) -> int:
        """Forward-equivalents: each module is one candidate on all examples."""
        return len(self.names) - len(self.refused)

    def loss(self, rows: Rows | None = None) -> Array:
        """(N,): Σ_b c_b l_b / Σ_b c_b over all examples, or over these alone."""
        some = slice(None) if rows is None else np.asarray(rows, dtype=np.int64)
        counts = self.counts[some]
        with np.errstate(invalid="ignore"):
            found = (self.losses[:, some] * counts).sum(axis=1) / counts.sum()
        return np.where(np.isfinite(found), found, np.inf)

    def ranking(self, rows: Rows | None = None) -> list[int]:
        """Numbers of the modules, lowest loss first, ties by number. Those whose loss is not
        finite are left out."""
        loss = self.loss(rows)
        return [int(n) for n in np.argsort(loss, kind="stable") if np.isfinite(loss[n])]

    def top(self, k: int, rows: Rows | None = None) -> list[int]:
        """The k first of the ranking, in the order of the modules, as `Stack.subset` takes them."""
        return sorted(self.ranking(rows)[:k])


def screen(objective: Objective, progress: Progress | None = None) -> Screening:
    """Every module of the objective's stack alone, on its examples, in its reduction.

    At weight 1 a module is itself in every combination. Costs N forward-equivalents.
    """
    if objective.config.objective not in ("paper", "reference"):
        return _screen_otherwise(objective, progress)
    return screen_stack(
        objective.base,
        objective.stack,
        objective.batch,
        reduction=objective.config.reduction,
        chunk=objective.chunk,
        progress=progress,
    )


def screen_stack(
    base: BaseModel,
    stack: Stack,
    batch: Batch,
    *,
    reduction: str = "token",
    chunk: Chunk | None = None,
    progress: Progress | None = None,
) -> Screening:
    check_length(base, batch)
    batch = batch.to(base.device)
    chunk = chunk or default_chunk(base, batch)
    losses = np.empty((len(stack), len(batch)))
    with torch.inference_mode(), bounded(chunk):
        for first in range(0, len(stack), chunk.candidates):
            some = slice(first, min(first + chunk.candidates, len(stack)))
            factors = single_factors(stack, some)
            for start, rows in parts(batch, chunk.examples):
                found = answer_losses(base, factors, rows)
                losses[some, start : start + len(rows)] = found.cpu().numpy()
            if progress is not None:
                progress(some.stop, len(stack))
    tokens = batch.answer_tokens.cpu().numpy().astype(np.float64)
    return Screening(stack.names, losses / tokens, _counts(tokens, reduction))


def _screen_otherwise(objective: Objective, progress: Progress | None) -> Screening:
    """By an objective that counts examples and not tokens, through its own forwards."""
    N, at_once = len(objective.stack), objective.chunk.candidates
    singles = np.tile(np.eye(N), count(objective.config.blocks))
    losses = np.empty((N, objective.examples))
    for first in range(0, N, at_once):
        losses[first : first + at_once] = objective.example_losses(singles[first : first + at_once])
        if progress is not None:
            progress(min(first + at_once, N), N)
    return Screening(objective.stack.names, losses, np.ones(objective.examples))


def screen_folders(
    folders: Sequence[Path | str],
    base: BaseModel,
    batch: Batch,
    *,
    names: Sequence[str] | None = None,
    at_once: int = 64,
    reduction: str = "token",
    chunk: Chunk | None = None,
    progress: Progress | None = None,
) -> Screening:
    """As many modules as there are: only `at_once` of them are in memory together.

    A module that cannot be loaded is noted in `refused` with the reason, and the rest goes on.
    """
    paths = [Path(folder) for folder in folders]
    names = tuple(names) if names is not None else tuple(path.name for path in paths)
    losses = np.full((len(paths), len(batch)), np.inf)
    refused: dict[str, str] = {}
    for start in range(0, len(paths), at_once):
        some = range(start, min(start + at_once, len(paths)))
        stack, loaded = _load(paths, names, some, base, refused)

        def told(done: int, _: int, start: int = start) -> None:
            if progress is not None:
                progress(start + done, len(paths))

        if stack is not None:
            found = screen_stack(
                base, stack, batch, reduction=reduction, chunk=chunk, progress=told
            )
            losses[loaded] = found.losses
        if len(loaded) < len(some):
            told(len(some), 0)
    tokens = batch.answer_tokens.cpu().numpy().astype(np.float64)
    return Screening(names, losses, _counts(tokens, reduction), refused)


def _counts(tokens: Array, reduction: str) -> Array:
    """Pooled over tokens, an example counts for as many as its answer has."""
    return np.ones_like(tokens) if reduction == "example" else tokens


def single_factors(stack: Stack, modules: slice) -> Factors:
    """The modules as candidates of their own, ΔW[p] = s_p B_p A_p: nothing is mixed, and each is
    multiplied with its own R directions alone instead of with all N·R of `sum`."""
    A = {layer: factor[modules] for layer, factor in stack.A.items()}
    Bt = {layer: factor[modules] for layer, factor in stack.Bt.items()}
    return Factors(A=A, Bt=Bt, scale=None, candidates=len(range(*modules.indices(len(stack)))))


def _load(
    paths: Sequence[Path],
    names: Sequence[str],
    some: Sequence[int],
    base: BaseModel,
    refused: dict[str, str],
) -> tuple[Stack | None, list[int]]:
    """These modules in one stack; where that fails, those that can be loaded alone."""
    try:
        chosen = list(some)
        return _stack(paths, names, chosen, base), chosen
    except (BadAdapter, IncompatibleModules):
        chosen = []
        for n in some:
            try:
                _stack(paths, names, [n], base)
            except (BadAdapter, IncompatibleModules) as error:
                refused[names[n]] = error.user_message
            else:
                chosen.append(n)
    return (_stack(paths, names, chosen, base) if chosen else None), chosen


def _stack(
    paths: Sequence[Path], names: Sequence[str], some: Sequence[int], base: BaseModel
) -> Stack:
    return stacks.load([paths[n] for n in some], base, names=[names[n] for n in some])
