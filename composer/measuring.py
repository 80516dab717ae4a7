"""The stage after a search: what the mixture is worth on examples it has not seen, and everything
simpler beside it. Only workers import this."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer import artifacts
from composer.engine import evaluate
from composer.engine.batch import encode_prompts
from composer.engine.chunk import Chunk, OutOfMemory, bounded
from composer.engine.contenders import Contender
from composer.engine.export import handed_out
from composer.engine.objective import Objective
from composer.engine.prompt import normalise_answer
from composer.engine.search import Generation
from composer.engine.stack import Stack
from composer.running import Given, Run, storable
from composer.verdict import NAMES

Array = NDArray[np.float64]

HELD_OUT_AT_ONCE = 64


@dataclass
class Measuring:
    """Each method's answers and score are kept as soon as they are there."""

    run: Run
    given: Given
    objective: Objective
    answer_room: int

    @property
    def stack(self) -> Stack:
        return self.objective.stack

    def measure(self, best: Generation) -> None:
        while True:
            try:
                return self._measure(best)
            except OutOfMemory as error:  # what was measured is kept
                if error.smaller is None or error.chunk != self.objective.chunk:
                    raise
                self.objective = self.objective.with_chunk(error.smaller)

    def _measure(self, best: Generation) -> None:
        evidence = self.run.search.evidence
        if "search" not in evidence:
            self.run.note(search=self._search_facts(best))
        if not self.given.held_out:
            return
        for key, contender in self._methods(best):
            done = self.run.search.evidence.get("methods", [])
            if not any(row["key"] == key for row in done):
                self.run.show(stage_detail=NAMES[key])
                self._measure_one(key, contender)
                self.run.lease.give_way()

    def _methods(self, best: Generation) -> list[tuple[str, Callable[[], Contender | None]]]:
        config, weights = self.given.config, best.best_weights
        # Where modules were ranked first, each was a forward as well.
        ranked = self.run.search.evidence.get("screening", {})
        cost = best.evaluations + ranked.get("forwards", len(ranked.get("modules", [])))
        mixed = (self.stack, weights, config.combination, config.blocks)
        handed = handed_out(
            weights, self.stack, config.combination, blocks=config.blocks, rank=config.rank
        )
        methods: list[tuple[str, Callable[[], Contender | None]]] = [
            ("composed", lambda: _contender("composed", handed, cost)),
        ]
        if handed[0] is not self.stack:
            methods.append(("exact", lambda: _contender("exact", mixed, cost)))
        return [
            *methods,
            ("zero_shot", lambda: None),
            ("best_single", lambda: evaluate.best_single(self.objective)),
            ("uniform", lambda: evaluate.uniform(self.stack)),
            ("fresh_lora", self._fresh_lora),
        ]

    # --- about the search ----------------------------------------------------------------------

    def _search_facts(self, best: Generation) -> dict[str, Any]:
        rows = list(self.run.search.generations.order_by("number"))
        zero = np.zeros_like(best.best_weights)
        before, after = self.objective.task_loss(np.stack([zero, best.best_weights]))
        digests = [row.record["digest"] for row in rows]
        return {
            "loss_before": float(before),
            "loss_after": float(after),
            "best_loss": best.best_loss,
            "generations": len(rows),
            "evaluations": best.evaluations,
            "seconds": sum(row.seconds for row in rows),
            "not_finite": sum(row.record["losses"].count("inf") for row in rows),
            "trace": artifacts.digest_of(digests),
            "singles": self._singles(Generation.from_json(rows[0].record)),
        }

    def _singles(self, first: Generation) -> list[dict[str, Any]]:
        """The modules ranked by what each does alone, where generation 0 tried them."""
        found = []
        for label, loss in zip(first.labels, first.losses.tolist(), strict=True):
            kind, _, place = label.partition(":")
            if kind == "single" and np.isfinite(loss):
                found.append({"name": self.stack.names[int(place)], "loss": loss})
        return sorted(found, key=lambda each: each["loss"])

    # --- one method ----------------------------------------------------------------------------

    def _fresh_lora(self) -> Contender:
        return evaluate.fresh_lora(
            self.given.base,
            self.given.shots,
            self.given.template,
            seed=self.given.config.seed,
            layers=sorted(self.stack.A),
            after_step=self.run.lease.check,
        )

    def _measure_one(self, key: str, contender: Callable[[], Contender | None]) -> None:
        start = time.perf_counter()
        method = contender()
        trained = time.perf_counter() - start
        answers = self._answers(method)
        targets = [example.target for example in self.given.held_out]
        row = {
            "key": key,
            **evaluate.score(answers, targets).to_json(),
            "hits": "".join(
                "01"[normalise_answer(a) == normalise_answer(t)]
                for a, t in zip(answers, targets, strict=True)
            ),
            "detail": self._detail_of(key, method),
            "forwards": method.cost if method else 0,
            "tokens": self._tokens_per_example(),
            "seconds": round(time.perf_counter() - start, 3),
            "seconds_to_train": round(trained, 3),
        }
        evidence = self.run.search.evidence
        self.run.note(
            methods=[*evidence.get("methods", []), row],
            answers={**evidence.get("answers", {}), key: answers},
        )

    def _answers(self, method: Contender | None) -> list[str]:
        """On all held-out inputs; fewer at once where the memory is not enough for so many."""
        inputs = [example.input for example in self.given.held_out]
        answers: list[str] = []
        at_once = HELD_OUT_AT_ONCE
        while len(answers) < len(inputs):
            self.run.lease.check()
            some = inputs[len(answers) : len(answers) + at_once]
            try:
                with bounded(Chunk(candidates=1, examples=at_once)):
                    answers += map(storable, self._predict(method, some, at_once))
            except OutOfMemory as error:
                if error.smaller is None:
                    raise
                at_once = error.smaller.examples
        return answers

    def _predict(self, method: Contender | None, inputs: list[str], batch_size: int) -> list[str]:
        return evaluate.predict(
            self.given.base,
            method.stack if method else None,
            method.weights if method else None,
            inputs,
            self.given.template,
            method.combination if method else "sum",
            blocks=method.blocks if method else "all",
            answer_options=self.given.options,
            batch_size=batch_size,
            max_new_tokens=self.answer_room,
        )

    def _detail_of(self, key: str, method: Contender | None) -> str:
        if key != "best_single" or method is None:
            return ""
        return self.stack.names[int(np.argmax(method.weights))]

    def _tokens_per_example(self) -> float:
        inputs = [example.input for example in self.given.held_out]
        _, mask = encode_prompts(
            inputs,
            self.given.template,
            self.given.base.tokenizer,
            is_encoder_decoder=self.given.base.is_encoder_decoder,
        )
        return round(int(mask.sum()) / len(inputs), 1)


def _contender(name: str, mixed: tuple[Stack, Array, str, str], cost: int) -> Contender:
    stack, weights, combination, blocks = mixed
    return Contender(name, stack, weights, combination, cost, blocks=blocks)
