"""One of the demo's tasks with its draws of examples, and what a candidate is worth on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from composer.bbh.split import orders
from composer.demo import library, skills
from composer.demo.library import DemoTask
from composer.engine import base_model, evaluate, stack
from composer.engine.batch import Batch
from composer.engine.config import SearchConfig
from composer.engine.examples import Example, encode
from composer.engine.in_context import Layout, k_shot
from composer.engine.objective import Objective
from composer.engine.prompt import Template, normalise_answer
from composer.engine.search import search

ORDERS = 3
# How the demo's base model saw examples in a line when it was trained.
SHOWN = Layout(answer=" -> ", between=" ; ", end=" ->")


@cache
def opened(family: str) -> tuple[base_model.BaseModel, stack.Stack]:
    of = library.BASES[family]
    base = base_model.load(of.folder())
    return base, stack.load(of.module_folders(), base)


@cache
def bench(family: str, key: str, shots: int, test: int) -> FewShot:
    """Kept, because many variants are measured on one task after the other."""
    tasks = {task.key: task for task in library.tasks(base=library.BASES[family])}
    return FewShot(*opened(family), tasks[key], shots, test)


@dataclass(frozen=True)
class Worth:
    """Exact matches on the test inputs, and the mean loss of an answer's token there."""

    held_out: float
    held_out_loss: float


class FewShot:
    def __init__(
        self,
        base: base_model.BaseModel,
        modules: stack.Stack,
        task: DemoTask,
        shots: int,
        test: int,
    ) -> None:
        self.base, self.modules, self.task, self.shots = base, modules, task, shots
        self.template = Template(task.template)
        self.test = [Example(each.input, each.target) for each in task.test[:test]]
        self._test_batch = self.encode(self.test)
        self._known: dict[tuple[int, bytes, str], Worth] = {}

    def examples(self, draw: int) -> list[Example]:
        """`shots` of the pool, the same for every method; a larger draw holds the smaller one."""
        rng = skills.generator("draw", self.task.key, draw)
        pool = [Example(each.input, each.target) for each in self.task.pool]
        return rng.sample(pool, len(pool))[: self.shots]

    def encode(self, examples: Sequence[Example]) -> Batch:
        return encode(
            examples,
            self.template,
            self.base.tokenizer,
            is_encoder_decoder=self.base.is_encoder_decoder,
        )

    def objective(self, draw: int, config: SearchConfig, modules: stack.Stack) -> Objective:
        return Objective.of(self.base, modules, self.examples(draw), self.template, config)

    def searched(
        self, draw: int, config: SearchConfig, modules: stack.Stack | None = None
    ) -> np.ndarray:
        modules = modules or self.modules
        objective = self.objective(draw, config, modules)
        *_, last = search(objective, len(modules), config)
        return last.best_weights

    def worth(
        self, modules: stack.Stack | None, weights: np.ndarray | None, combination: str = "sum"
    ) -> Worth:
        """Measured once for equal weights of one stack."""
        key = (id(modules), b"" if weights is None else weights.tobytes(), combination)
        if modules is self.modules and key in self._known:
            return self._known[key]
        objective = Objective(
            self.base,
            modules or self.modules,
            self._test_batch,
            SearchConfig(combination=combination),
        )
        given = np.zeros(len(self.modules)) if weights is None else weights
        loss = float(objective.task_loss(given[None])[0])
        found = Worth(self.exact(modules, weights, combination), loss)
        if modules is self.modules:
            self._known[key] = found
        return found

    def exact(
        self, modules: stack.Stack | None, weights: np.ndarray | None, combination: str = "sum"
    ) -> float:
        hits = self.hits(modules, weights, combination)
        return hits.count("1") / len(hits)

    def hits(
        self,
        modules: stack.Stack | None,
        weights: np.ndarray | None,
        combination: str = "sum",
        *,
        inputs: Sequence[str] | None = None,
        template: Template | None = None,
    ) -> str:
        """ "1" for each test input that is answered exactly, "0" for each other."""
        answers = evaluate.predict(
            self.base,
            modules,
            weights,
            inputs or [each.input for each in self.test],
            template or self.template,
            combination,
            answer_options=self.task.answer_options or None,
            batch_size=120,
            max_new_tokens=8,
        )
        return "".join(
            "01"[normalise_answer(said) == normalise_answer(each.target)]
            for said, each in zip(answers, self.test, strict=True)
        )

    def in_context(self, draw: int) -> list[str]:
        """The hits of each of three orders of the examples."""
        examples = self.examples(draw)
        found = []
        for order in orders(examples, ORDERS, seed=0, draw=draw):
            inputs = [each.input for each in self.test]
            shown = k_shot(self.base, order, inputs, Template(), layout=SHOWN)
            found.append(self.hits(None, None, inputs=shown.prompts, template=shown.template))
        return found
