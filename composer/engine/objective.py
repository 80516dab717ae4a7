"""The number a search makes small, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch, encode
from composer.engine.chunk import Chunk, bounded, default_chunk
from composer.engine.compose import Factors, Weights, compose
from composer.engine.config import SearchConfig
from composer.engine.errors import BadConfig, BadExamples
from composer.engine.examples import Example
from composer.engine.forward import Prepared, prepare
from composer.engine.generate import answer_room, generate
from composer.engine.gradient import loss_and_gradient
from composer.engine.loss import check_length
from composer.engine.prompt import Template, normalise_answer
from composer.engine.stack import Stack

Array = NDArray[np.float64]
Hits = NDArray[np.bool_]
Rows = NDArray[np.int64] | Sequence[int]
# P candidates' factors, and which examples -> (P, b)
Measure = Callable[[Factors, slice], Tensor]


@dataclass(frozen=True)
class Task:
    """What the objectives beyond the cross-entropy must know: the examples as texts."""

    examples: Sequence[Example]
    template: Template
    options: Sequence[str] = ()


class Objective:
    """Loss of P candidates on B examples; call it with weights (P, N), get losses (P,). Weights are
    (P, K·N) where the config has K blocks.

    Each is task loss + penalty, and the task loss is a weighted mean of losses by example l_b:

    paper:        l_b = -log p(answer) / its tokens        (arXiv 2307.13269, section 3.3)
                  reduction `token`: over all label tokens, so l_b weighs as much as it has tokens
                  reduction `example`: the plain mean
    reference:    `paper`'s task loss by `token`, divided by B again     (the released code)
    options:      l_b = -log( p(answer) / Σ_o p(o) ), the plain mean; o goes over the answer options
    exact_match:  l_b = 0 where what is written is the answer after normalise_answer, else 1; the
                  plain mean. It has no gradient.

    penalty: penalty · Σ_i |w_i|, but for `reference` penalty · mean_i |w_i|. Of K weights a module
    (blocks) the mean size counts, so that K equal weights cost what one does.

    A task loss that is not finite counts as infinitely bad and is counted in `not_finite`.
    """

    def __init__(
        self,
        base: BaseModel,
        stack: Stack,
        batch: Batch,
        config: SearchConfig,
        *,
        task: Task | None = None,
        chunk: Chunk | None = None,
    ) -> None:
        """task is needed by `options` and `exact_match` alone."""
        stack.check(config.combination)
        self.base = base
        self.stack = stack
        self.batch = batch.to(base.device)
        self.config = config
        self.not_finite = 0
        self._answer_tokens: Array = self.batch.answer_tokens.cpu().numpy().astype(np.float64)
        if len(batch) == 0 or not self._answer_tokens.all():
            raise BadExamples("An example has no answer token to learn from. Fill in its target.")
        check_length(base, batch)
        self._measure, default = _measure(base, self.batch, config, task)
        self.chunk = chunk or default

    @classmethod
    def of(
        cls,
        base: BaseModel,
        stack: Stack,
        examples: Sequence[Example],
        template: Template,
        config: SearchConfig,
        *,
        options: Sequence[str] | None = None,
        chunk: Chunk | None = None,
    ) -> Objective:
        """The same from examples as texts, for every objective."""
        batch = encode(
            examples, template, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder
        )
        task = Task(examples, template, options or ())
        return cls(base, stack, batch, config, task=task, chunk=chunk)

    def with_chunk(self, chunk: Chunk) -> Objective:
        """The same in other pieces, with nothing counted yet: its last bits may differ."""
        again = copy(self)
        again.chunk, again.not_finite = chunk, 0
        return again

    def over(self, stack: Stack) -> Objective:
        """The same over other modules."""
        again = copy(self)
        again.stack, again.not_finite = stack, 0
        return again

    @property
    def examples(self) -> int:
        """B"""
        return len(self.batch)

    def __call__(self, weights: Array) -> Array:
        """(P, N) -> (P,): task loss and penalty."""
        return self.task_loss(weights) + self.penalty(weights)

    def penalty(self, weights: Array) -> Array:
        """(P, N·K) -> (P,)"""
        mean = np.abs(np.asarray(weights, dtype=np.float64)).mean(axis=1)
        modules = 1 if self.config.objective == "reference" else len(self.stack)
        return self.config.penalty * modules * mean  # type: ignore[no-any-return]

    def task_loss(self, weights: Array) -> Array:
        """(P, N) -> (P,): without the penalty."""
        losses = self.reduce(self.example_losses(weights))
        self.not_finite += int((~np.isfinite(losses)).sum())
        return losses

    def example_losses(self, weights: Array) -> Array:
        """(P, N) -> (P, B): l_b of each candidate, not finite where the model's output is not."""
        weights = np.atleast_2d(np.asarray(weights, dtype=np.float64))
        found = np.empty((len(weights), self.examples))
        with torch.inference_mode(), bounded(self.chunk):
            for first in range(0, len(weights), self.chunk.candidates):
                some = slice(first, first + self.chunk.candidates)
                factors = self.compose(weights[some])
                for rows in self.parts():
                    found[some, rows] = self.losses_of(factors, rows).cpu().numpy()
        return found

    def example_answers(self, weights: Array) -> tuple[Array, Hits]:
        """The same, and whether greedy writing would give exactly the answer, both (P, B); for the
        cross-entropies alone."""
        if self.config.objective not in ("paper", "reference"):
            raise ValueError(f"the objective {self.config.objective!r} does not compute this")
        weights = np.atleast_2d(np.asarray(weights, dtype=np.float64))
        losses = np.empty((len(weights), self.examples))
        exact = np.empty((len(weights), self.examples), dtype=np.bool_)
        prepared = _prepared(self.base, self.batch)
        with torch.inference_mode(), bounded(self.chunk):
            for first in range(0, len(weights), self.chunk.candidates):
                some = slice(first, first + self.chunk.candidates)
                factors = self.compose(weights[some])
                for rows in self.parts():
                    found, hits = prepared(rows.start, rows.stop).answers(factors)
                    losses[some, rows] = found.cpu().numpy()
                    exact[some, rows] = hits.cpu().numpy()
        return losses / self._answer_tokens, exact

    def compose(self, weights: Weights) -> Factors:
        """The candidates' low-rank terms, in the config's combination and blocks."""
        return compose(weights, self.stack, self.config.combination, self.config.blocks)

    def reduce(self, example_losses: Array, rows: Rows | None = None) -> Array:
        """(P, B) -> (P,): the task loss over all examples, or over these rows alone.

        Linear in the losses by example; infinite where one of them is not finite.
        """
        if rows is not None:
            example_losses = example_losses[:, rows]
        with np.errstate(invalid="ignore"):
            losses = (example_losses * self.shares(rows)).sum(axis=1)
        return np.where(np.isfinite(losses), losses, np.inf)

    def shares(self, rows: Rows | None = None) -> Array:
        """What each example's loss counts for in the task loss over these rows, (b,)."""
        tokens = self._answer_tokens if rows is None else self._answer_tokens[rows]
        kind, count = self.config.objective, len(tokens)
        if kind not in ("paper", "reference") or self.config.reduction == "example":
            return np.full(count, 1.0 / count)
        shares: Array = tokens / tokens.sum()
        return shares / count if kind == "reference" else shares

    def loss_and_gradient(
        self, weights: Array, rows: NDArray[np.int64] | None = None
    ) -> tuple[Array, Array]:
        """(1, n) -> losses by example (1, B), gradient (1, n) of reduce(·, rows) + penalty."""
        return loss_and_gradient(self, weights, rows)

    def answer_losses(self, weights: Array) -> Array:
        """(P, N) -> (P, B): -log p(answer), summed over its tokens, for every objective but those
        that do not ask for it."""
        if self.config.objective not in ("paper", "reference"):
            raise ValueError(f"the objective {self.config.objective!r} does not compute this")
        return self.example_losses(weights) * self._answer_tokens

    def losses_of(self, factors: Factors, rows: slice) -> Tensor:
        """(P, b) in float64: l_b of some examples, for as many as fit into one forward; with a
        gradient where torch keeps one (but for exact matches)."""
        return self._measure(factors, rows)

    def parts(self) -> Iterator[slice]:
        """The examples, as many at a time as go into one forward."""
        for start in range(0, self.examples, self.chunk.examples):
            yield slice(start, min(start + self.chunk.examples, self.examples))


def _measure(
    base: BaseModel, batch: Batch, config: SearchConfig, task: Task | None
) -> tuple[Measure, Chunk]:
    """How the config's objective measures some examples, and how much at once."""
    if config.objective in ("paper", "reference"):
        return _likelihood(base, batch), default_chunk(base, batch)
    if task is None or len(task.examples) != len(batch):
        raise ValueError(f"the objective {config.objective!r} needs the examples as texts")
    if config.objective == "exact_match":
        return _exact_match(base, task), default_chunk(base, batch)
    return _options(base, task)


def _likelihood(base: BaseModel, batch: Batch) -> Measure:
    tokens = batch.answer_tokens
    prepared = _prepared(base, batch)

    def measure(factors: Factors, rows: slice) -> Tensor:
        sums = prepared(rows.start, rows.stop).losses(factors)
        return sums / tokens[rows].to(sums.device)

    return measure


def _prepared(base: BaseModel, batch: Batch) -> Callable[[int, int], Prepared]:
    """Some rows of a batch, prepared at their first use and kept."""
    kept: dict[tuple[int, int], Prepared] = {}

    def rows(start: int, stop: int) -> Prepared:
        if (start, stop) not in kept:
            kept[start, stop] = prepare(base, batch.rows(start, stop))
        return kept[start, stop]

    return rows


def _options(base: BaseModel, task: Task) -> tuple[Measure, Chunk]:
    """-log softmax over the options' log p, at the right one. Every option is a row of its own."""
    options = list(task.options)
    if len(options) < 2:
        raise BadConfig(
            "The objective 'options' needs answer options to choose from; there are "
            f"{len(options)}. Give two or more, or choose another objective.",
            fields={"objective": ["It needs answer options."]},
        )
    if len(set(options)) < len(options):
        raise BadExamples("An answer option is given twice.", part="answer_options")
    right = [_place(each.target, options, line) for line, each in enumerate(task.examples, 1)]
    pairs = [Example(each.input, option) for each in task.examples for option in options]
    batch = encode(
        pairs, task.template, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder
    ).to(base.device)
    check_length(base, batch)
    O = len(options)  # noqa: E741 (as P, N, B)
    places = torch.tensor(right, device=base.device)
    prepared = _prepared(base, batch)

    def measure(factors: Factors, rows: slice) -> Tensor:
        losses = prepared(rows.start * O, rows.stop * O).losses(factors)
        logp = torch.log_softmax(-losses.view(factors.candidates, -1, O), dim=2)
        chosen = places[rows].to(logp.device).expand(len(logp), -1)
        return -logp.gather(2, chosen[:, :, None])[:, :, 0]

    chunk = default_chunk(base, batch)
    rows = chunk.candidates * chunk.examples
    examples = max(1, min(len(task.examples), rows // O))
    return measure, Chunk(candidates=max(1, rows // (examples * O)), examples=examples)


def _place(target: str, options: list[str], line: int) -> int:
    if target in options:
        return options.index(target)
    raise BadExamples(
        f"The answer {target!r} in line {line} is no answer option. Add it to the options, or "
        "correct it.",
        line=line,
        field="target",
    )


def _exact_match(base: BaseModel, task: Task) -> Measure:
    """0 or 1 by what is written. Twice the longest answer's tokens are room enough: a model may
    write the same text in other pieces, and what goes on for longer is another text."""
    longest = max(len(base.tokenizer(each.target).input_ids) for each in task.examples)
    room = min(answer_room(base, task.examples), 2 * longest + 4)
    wanted = [normalise_answer(each.target) for each in task.examples]

    def measure(factors: Factors, rows: slice) -> Tensor:
        inputs = [each.input for each in task.examples[rows]]
        size = factors.candidates * len(inputs)
        written = generate(
            base, factors, inputs, task.template, batch_size=size, max_new_tokens=room
        )
        return torch.tensor(
            [
                [float(normalise_answer(a) != b) for a, b in zip(row, wanted[rows], strict=True)]
                for row in written
            ],
            dtype=torch.float64,
        )

    return measure
