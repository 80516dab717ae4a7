"""What each method answers on a task's test examples, from one draw of examples and modules.

All see the same examples, and the base model and modules of one workbench.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from composer.bbh.protocol import Protocol
from composer.bbh.split import BenchTask, drawn_examples, drawn_modules, orders
from composer.engine import contenders, evaluate
from composer.engine.chunk import Chunk, OutOfMemory, bounded
from composer.engine.config import SearchConfig, as_in_the_paper, recommended
from composer.engine.contenders import Contender
from composer.engine.errors import CommonsError
from composer.engine.examples import Example
from composer.engine.fresh_lora import fresh_lora
from composer.engine.in_context import k_shot
from composer.engine.objective import Objective
from composer.engine.prompt import Template, normalise_answer
from composer.engine.screening import screen
from composer.engine.search import search
from composer.engine.stack import Stack
from composer.workbench import Workbench

Found = TypeVar("Found")


@dataclass(frozen=True)
class Answered:
    """hits and detail as `rows.Row` has them."""

    hits: tuple[str, ...]
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Readable:
    """A task as one base model can read it: `test` without what is too long for it."""

    task: BenchTask
    test: tuple[Example, ...]
    too_long: frozenset[Example]

    @property
    def name(self) -> str:
        return self.task.name


class Draw:
    """One task with the examples and modules of one draw."""

    def __init__(
        self,
        bench: Workbench,
        readable: Readable,
        template: Template,
        protocol: Protocol,
        number: int,
    ) -> None:
        self.bench, self.base, self.template = bench, bench.base, template
        self.readable, self.protocol, self.number = readable, protocol, number
        self.examples = drawn_examples(
            readable.task.pool,
            protocol.shots,
            seed=protocol.seed,
            draw=number,
            without=readable.too_long,
        )
        places = drawn_modules(len(bench), protocol.modules, seed=protocol.seed, draw=number)
        self.modules = bench.stack.subset(places)

    @cached_property
    def ranking(self) -> list[int]:
        """Places of the library's modules, the one of lowest loss on the examples first."""
        best = self.protocol.ranked
        found = self.measured(self.bench.stack, recommended(), lambda each: screen(each, best=best))
        if not found.ranking():
            raise CommonsError(
                f"No module has a finite loss on the examples of {self.readable.name}, draw "
                f"{self.number}. Leave the task out with --tasks, or choose other modules."
            )
        return found.ranking()

    def measured(
        self, modules: Stack, config: SearchConfig, work: Callable[[Objective], Found]
    ) -> Found:
        """What the work finds by the loss on the examples; in smaller pieces where it must be."""
        objective = Objective.of(self.base, modules, self.examples, self.template, config)
        while True:
            try:
                return work(objective)
            except OutOfMemory as error:
                if error.smaller is None:
                    raise
                objective = objective.with_chunk(error.smaller)

    def searched(self, modules: Stack, config: SearchConfig) -> Contender:
        def run(objective: Objective) -> Contender:
            *_, last = search(objective, len(modules), config)
            return Contender(
                name="search",
                stack=modules,
                weights=last.best_weights,
                combination=config.combination,
                cost=last.evaluations,
                loss=last.best_loss,
            )

        return self.measured(modules, config, run)

    # --- answers -----------------------------------------------------------------------------

    @cached_property
    def room(self) -> int:
        return evaluate.answer_room(self.base, [*self.readable.task.pool, *self.readable.test])

    def hits(
        self,
        contender: Contender | None,
        inputs: Sequence[str] | None = None,
        template: Template | None = None,
    ) -> str:
        """Exact matches on the test; fewer inputs at once where the memory is not enough."""
        asked = [each.input for each in self.readable.test] if inputs is None else list(inputs)
        answers: list[str] = []
        at_once = self.protocol.batch
        while len(answers) < len(asked):
            try:
                with bounded(Chunk(candidates=1, examples=at_once)):
                    some = asked[len(answers) : len(answers) + at_once]
                    answers += self._predict(contender, some, template or self.template, at_once)
            except OutOfMemory as error:
                if error.smaller is None:
                    raise
                at_once = error.smaller.examples
        return "".join(
            "01"[normalise_answer(said) == normalise_answer(each.target)]
            for said, each in zip(answers, self.readable.test, strict=True)
        )

    def _predict(
        self, contender: Contender | None, inputs: list[str], template: Template, at_once: int
    ) -> list[str]:
        return evaluate.predict(
            self.base,
            contender.stack if contender else None,
            contender.weights if contender else None,
            inputs,
            template,
            contender.combination if contender else "sum",
            batch_size=at_once,
            max_new_tokens=self.room,
        )

    def answered(self, found: Contender, **detail: Any) -> Answered:
        known = {"cost": found.cost, "loss": found.loss}
        return Answered((self.hits(found),), {**known, **detail})


# --- the methods ---------------------------------------------------------------------------------


def zero_shot(draw: Draw) -> Answered:
    return Answered((draw.hits(None),))


def in_context(draw: Draw) -> Answered:
    """As many of the examples in the prompt as fit, in several orders."""
    rules = draw.protocol
    hits: list[str] = []
    fitted: list[int] = []
    for order in orders(draw.examples, rules.orders, seed=rules.seed, draw=draw.number):
        shown = k_shot(draw.base, order, [each.input for each in draw.readable.test], draw.template)
        hits.append(draw.hits(None, shown.prompts, shown.template))
        fitted += shown.shots
    return Answered(tuple(hits), {"shots": sum(fitted) / len(fitted)})


def best_single(draw: Draw) -> Answered:
    """Of the whole library, at its best weight."""
    first = draw.ranking[0]
    alone = draw.bench.stack.subset([first])
    found = draw.measured(alone, recommended(), contenders.best_single_scaled)
    return draw.answered(found, module=alone.names[0], weight=float(found.weights[0]))


def uniform(draw: Draw) -> Answered:
    return draw.answered(contenders.uniform(draw.modules))


def uniform_scaled(draw: Draw) -> Answered:
    found = draw.measured(draw.modules, recommended(), contenders.uniform_scaled)
    return draw.answered(found, weight=float(found.weights[0]))


def new_lora(draw: Draw) -> Answered:
    """Of the layers that the modules adapt."""
    made = fresh_lora(
        draw.base,
        draw.examples,
        draw.template,
        seed=draw.number,
        layers=sorted(draw.modules.places),
    )
    return draw.answered(made)


def lorahub(draw: Draw) -> Answered:
    return draw.answered(draw.searched(draw.modules, as_in_the_paper(seed=draw.number)))


def randomised(draw: Draw) -> Answered:
    turned = contenders.randomised_stack(draw.modules, draw.number)
    return draw.answered(draw.searched(turned, as_in_the_paper(seed=draw.number)))


def ranked(draw: Draw) -> Answered:
    best = sorted(draw.ranking[: draw.protocol.ranked])
    modules = draw.bench.stack.subset(best)
    return draw.answered(draw.searched(modules, recommended(seed=draw.number)))


@dataclass(frozen=True)
class Method:
    name: str
    answer: Callable[[Draw], Answered]
    is_drawn: bool = True


# In the order of the table's columns.
METHODS = {
    "zero_shot": Method("zero-shot", zero_shot, is_drawn=False),
    "in_context": Method("in context", in_context),
    "best_single": Method("best single", best_single),
    "uniform": Method("uniform", uniform),
    "uniform_scaled": Method("uniform, scaled", uniform_scaled),
    "fresh_lora": Method("fresh LoRA", new_lora),
    "lorahub": Method("LoraHub", lorahub),
    "randomised": Method("randomised", randomised),
    "ranked": Method("ranked", ranked),
}
