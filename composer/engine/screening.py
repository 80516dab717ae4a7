"""Which of many modules do something for these examples, each measured alone.

The losses are kept by example, so that a ranking for any part of the examples costs nothing more.
Who wants only the best few of many gets a first look in 8 bits where that is faster (`int8`), and
the best of it measured again until those few are known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from composer.engine import int8
from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.blocks import count
from composer.engine.chunk import Chunk, bounded
from composer.engine.compose import Factors
from composer.engine.errors import BadAdapter, IncompatibleModules
from composer.engine.loss import answers, check_length, default_chunk, parts
from composer.engine.objective import Objective
from composer.engine.stack import Stack

Array = NDArray[np.float64]
Hits = NDArray[np.bool_]
Rows = NDArray[np.int64] | Sequence[int]
Progress = Callable[[int, int], None]  # modules done, modules in all; what it raises ends it
# Places of modules -> losses (n, B) and exact answers (n, B), in the order of the places
Measure = Callable[[Sequence[int]], tuple[Array, Hits]]
# A first look pays where at least so many times the modules wanted are to be measured.
MANY = 4
# So many more than the modules wanted are measured again at once, to know how wrong a first look
# is, and so many times as wrong may it have been elsewhere. Simulated (normal errors a tenth to
# all of what modules differ by, 10 to 200 modules, 1 to 40 wanted, 1,000 draws each), a wrong one
# is then chosen in 0 to 1.1% of the rankings, instead of in 1.6 to 6.7% without either.
MORE, WARY = 4, 1.5


@dataclass(frozen=True)
class Screening:
    """N modules at weight 1 on B examples.

    losses   (N, B): each module's loss on each example, as `Objective.example_losses` has it: for
             cross-entropies the mean over the answer's tokens; inf where it could not be loaded
    exact    (N, B): whether greedy writing would give exactly the answer; None where the objective
             does not tell
    counts   (B,): what each example counts for in a mean over some of them
    refused  by name, why a module could not be loaded
    rough    the places of those measured in 8 bits alone, because they are not among the best
    again    how many were measured again after a first look
    """

    names: tuple[str, ...]
    losses: Array
    counts: Array
    exact: Hits | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    rough: frozenset[int] = frozenset()
    again: int = 0

    @property
    def cost(self) -> int:
        """Forward-equivalents: each module is one candidate on all examples, a first look too."""
        return len(self.names) - len(self.refused) + self.again

    def loss(self, rows: Rows | None = None) -> Array:
        """(N,): Σ_b c_b l_b / Σ_b c_b over all examples, or over these alone."""
        some = slice(None) if rows is None else np.asarray(rows, dtype=np.int64)
        return _mean(self.losses[:, some], self.counts[some])

    def ranking(self, rows: Rows | None = None) -> list[int]:
        """Numbers of the modules, lowest loss first, ties by number. Those whose loss is not
        finite are left out."""
        loss = self.loss(rows)
        return [int(n) for n in np.argsort(loss, kind="stable") if np.isfinite(loss[n])]

    def top(self, k: int, rows: Rows | None = None) -> list[int]:
        """The k first of the ranking, in the order of the modules, as `Stack.subset` takes them."""
        return sorted(self.ranking(rows)[:k])


def screen(
    objective: Objective, progress: Progress | None = None, *, best: int | None = None
) -> Screening:
    """Every module of the objective's stack alone, on its examples, in its reduction; `best` as in
    `screen_folders`.

    At weight 1 a module is itself in every combination. Costs N forward-equivalents.
    """
    if objective.config.objective not in ("paper", "reference"):
        return _screen_otherwise(objective, progress)
    return screen_stack(
        objective.base,
        objective.stack,
        objective.batch,
        best=best,
        reduction=objective.config.reduction,
        chunk=objective.chunk,
        progress=progress,
    )


def screen_stack(
    base: BaseModel,
    stack: Stack,
    batch: Batch,
    *,
    best: int | None = None,
    reduction: str = "token",
    chunk: Chunk | None = None,
    progress: Progress | None = None,
) -> Screening:
    check_length(base, batch)
    batch = batch.to(base.device)
    chunk = chunk or default_chunk(base, batch)
    told = _Told(len(stack), progress)

    def measure(places: Sequence[int]) -> tuple[Array, Hits]:
        whole = len(places) == len(stack)
        return _measured(base, stack if whole else stack.subset(places), batch, chunk, told.more)

    losses, exact, rough, again = _screened(measure, base, batch, len(stack), best, reduction)
    counts = counts_of(batch, reduction)
    return Screening(stack.names, losses, counts, exact, rough=rough, again=again)


def _measured(
    base: BaseModel, stack: Stack, batch: Batch, chunk: Chunk, more: Callable[[int], None]
) -> tuple[Array, Hits]:
    """(N, B): the mean loss of each answer's tokens by each module alone, and exact answers."""
    losses = np.empty((len(stack), len(batch)))
    exact = np.zeros((len(stack), len(batch)), dtype=np.bool_)
    with torch.inference_mode(), bounded(chunk):
        for first in range(0, len(stack), chunk.candidates):
            some = slice(first, min(first + chunk.candidates, len(stack)))
            factors = single_factors(stack, some)
            for start, rows in parts(batch, chunk.examples):
                found, hits = answers(base, factors, rows)
                losses[some, start : start + len(rows)] = found.cpu().numpy()
                exact[some, start : start + len(rows)] = hits.cpu().numpy()
            more(some.stop - some.start)
    return losses / _tokens(batch), exact


def _screen_otherwise(objective: Objective, progress: Progress | None) -> Screening:
    """By an objective that counts examples and not tokens, through its own forwards."""
    N, at_once = len(objective.stack), objective.chunk.candidates
    singles = np.tile(np.eye(N), count(objective.config.blocks))
    losses = np.empty((N, objective.examples))
    told = _Told(N, progress)
    for first in range(0, N, at_once):
        some = singles[first : first + at_once]
        losses[first : first + at_once] = objective.example_losses(some)
        told.more(len(some))
    return Screening(objective.stack.names, losses, np.ones(objective.examples))


def screen_folders(
    folders: Sequence[Path | str],
    base: BaseModel,
    batch: Batch,
    *,
    names: Sequence[str] | None = None,
    best: int | None = None,
    at_once: int = 64,
    reduction: str = "token",
    chunk: Chunk | None = None,
    progress: Progress | None = None,
) -> Screening:
    """As many modules as there are: only `at_once` of them are in memory together.

    best: only so many are wanted. Where there are many more, and 8 bits are faster here, all are
    looked at in 8 bits first, and the best of them measured as usual until no other could be among
    the best, had its first look been somewhat more wrong than the most wrong of those measured.

    A module that cannot be loaded is noted in `refused` with the reason, and the rest goes on.
    """
    check_length(base, batch)
    batch = batch.to(base.device)
    chunk = chunk or default_chunk(base, batch)
    paths = [Path(folder) for folder in folders]
    names = tuple(names) if names is not None else tuple(path.name for path in paths)
    refused: dict[str, str] = {}
    told = _Told(len(paths), progress)

    def measure(places: Sequence[int]) -> tuple[Array, Hits]:
        losses = np.full((len(places), len(batch)), np.inf)
        exact = np.zeros((len(places), len(batch)), dtype=np.bool_)
        for start in range(0, len(places), at_once):
            some = places[start : start + at_once]
            stack, loaded = _load(paths, names, some, base, refused)
            if stack is not None:
                found = [start + some.index(place) for place in loaded]
                losses[found], exact[found] = _measured(base, stack, batch, chunk, told.more)
            told.more(len(some) - len(loaded))
        return losses, exact

    losses, exact, rough, again = _screened(measure, base, batch, len(paths), best, reduction)
    return Screening(names, losses, counts_of(batch, reduction), exact, refused, rough, again)


def _screened(
    measure: Measure, base: BaseModel, batch: Batch, N: int, best: int | None, reduction: str
) -> tuple[Array, Hits, frozenset[int], int]:
    """Losses and exact answers by example, (N, B); which of them are of the first look; how many
    were looked at twice."""
    if best is not None and best < 1:
        raise ValueError(f"best is {best}; it must be 1 or more")
    if best is None or MANY * best > N or not int8.pays(base):
        return *measure(range(N)), frozenset(), 0
    with int8.in_8_bits(base):
        losses, exact = measure(range(N))
    counts = counts_of(batch, reduction)

    def again(places: Sequence[int]) -> Array:
        losses[places], exact[places] = measure(places)
        return _mean(losses[places], counts)

    first_look = _mean(losses, counts)
    known = ~np.isnan(settled(first_look, again, best))
    rough = frozenset(np.flatnonzero(~known & np.isfinite(first_look)).tolist())
    return losses, exact, rough, int(known.sum())


def settled(first_look: Array, again: Callable[[Sequence[int]], Array], best: int) -> Array:
    """Losses (N,) of those that had to be measured again to know the `best` lowest; NaN elsewhere.

    Nobody is left out who could be among the best, had the first look been WARY times as wrong
    there as the most wrong of those measured, of which there are a few more than `best`. What is
    infinite at the first look is so for good.
    """
    found, off = np.full(len(first_look), np.nan), 0.0
    wanted = best + MORE
    while True:
        known = ~np.isnan(found)
        could_be = np.where(known, found, first_look - WARY * off)
        first = np.argsort(could_be, kind="stable")[:wanted]
        todo = [int(n) for n in first if not known[n] and np.isfinite(first_look[n])]
        if not todo and wanted == best:
            return found
        if todo:
            found[todo] = again(todo)
            wrong = np.abs(found[todo] - first_look[todo])
            off = max([off, *wrong[np.isfinite(wrong)].tolist()])
        wanted = best


class _Told:
    """Counts what was measured for the first time, for whoever watches."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def more(self, count: int) -> None:
        self.done = min(self.done + count, self.total)
        if self.progress is not None and count:
            self.progress(self.done, self.total)


def _mean(losses: Array, counts: Array) -> Array:
    """(…, B), (B,) -> (…,): Σ_b c_b l_b / Σ_b c_b; inf where that is not finite."""
    with np.errstate(invalid="ignore"):
        found = (losses * counts).sum(axis=-1) / counts.sum()
    return np.where(np.isfinite(found), found, np.inf)


def _tokens(batch: Batch) -> Array:
    return batch.answer_tokens.cpu().numpy().astype(np.float64)  # type: ignore[no-any-return]


def counts_of(batch: Batch, reduction: str) -> Array:
    """Pooled over tokens, an example counts for as many as its answer has."""
    tokens = _tokens(batch)
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
