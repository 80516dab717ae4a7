"""The stage after a search: what the mixture is worth on examples it has not seen, and everything
simpler beside it. Only workers import this."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from composer import artifacts
from composer.engine import ablation, comparator, compare, evaluate, metrics
from composer.engine.batch import encode, encode_prompts
from composer.engine.chunk import Chunk, OutOfMemory, bounded
from composer.engine.contenders import Contender
from composer.engine.examples import Example
from composer.engine.export import handed_out
from composer.engine.in_context import KShot, k_shot
from composer.engine.objective import Objective
from composer.engine.prompt import Template, normalise_answer
from composer.engine.search import Generation
from composer.engine.stack import Stack
from composer.running import LARGEST_LOSS, Given, Round, Run, storable
from composer.verdict import NAMES

Array = NDArray[np.float64]
T = TypeVar("T")
U = TypeVar("U")

HELD_OUT_AT_ONCE = 64
# In-context learning depends on the order of its examples, so it is asked in several.
ORDERS = 3


@dataclass(frozen=True)
class Way:
    """One way to answer: mixed modules, prompts that hold the examples, or the base model alone."""

    contender: Contender | None = None
    prompts: tuple[KShot, ...] = ()

    @property
    def cost(self) -> int:
        return self.contender.cost if self.contender else 0


@dataclass
class Measuring:
    """Each way's answers and score are kept as soon as they are there."""

    run: Run
    round: Round
    answer_room: int
    find_control: Callable[[Round, Objective], Generation]

    def __post_init__(self) -> None:
        self.objective = self.round.objective

    @property
    def given(self) -> Given:
        return self.round.given

    @property
    def stack(self) -> Stack:
        return self.objective.stack

    @property
    def noted(self) -> dict[str, Any]:
        return self.run.noted(self.round)

    def measure(self, best: Generation) -> None:
        while True:
            try:
                return self._measure(best)
            except OutOfMemory as error:  # what was measured is kept
                if error.smaller is None or error.chunk != self.objective.chunk:
                    raise
                self.objective = self.objective.with_chunk(error.smaller)

    def _measure(self, best: Generation) -> None:
        if not self.round.name and "search" not in self.noted:
            self.run.note(search=self._search_facts(best))
        if not self.round.name and "ablation" not in self.noted:
            self.run.note(ablation=self._ablation(best))
        if not self.given.held_out:
            return
        self._choose_comparator()
        for key, make in self._ways(best):
            if self._is_done(key):
                continue
            self._show(NAMES[key])
            try:
                self._measure_one(key, make)
            except OutOfMemory as error:
                if error.smaller is not None and error.chunk == self.objective.chunk:
                    raise
                missing = self.noted.get("missing", {})
                self.run.note_in(self.round, missing={**missing, key: error.user_message})
            self.run.lease.give_way()

    def _is_done(self, key: str) -> bool:
        measured = any(row["key"] == key for row in self.noted.get("methods", []))
        return measured or key in self.noted.get("missing", {})

    def _show(self, what: str) -> None:
        fold = f"fold {self.round.name}: " if self.round.name else ""
        self.run.show(stage_detail=f"{fold}{what}")

    def _ways(self, best: Generation) -> list[tuple[str, Callable[[], Way]]]:
        config, weights = self.given.config, best.best_weights
        # Where modules were ranked first, each was a forward as well.
        ranked = self.run.search.evidence.get("screening", {})
        cost = best.evaluations + ranked.get("forwards", len(ranked.get("modules", [])))
        mixed = (self.stack, weights, config.combination, config.blocks)
        handed = handed_out(
            weights, self.stack, config.combination, blocks=config.blocks, rank=config.rank
        )
        ways: list[tuple[str, Callable[[], Way]]] = [
            ("composed", lambda: Way(_contender("composed", handed, cost))),
        ]
        if handed[0] is not self.stack:
            ways.append(("exact", lambda: Way(_contender("exact", mixed, cost))))
        return [
            *ways,
            ("zero_shot", Way),
            ("in_context", self._in_context),
            ("best_single", lambda: Way(evaluate.best_single_scaled(self.objective))),
            ("uniform", lambda: Way(evaluate.uniform(self.stack))),
            ("uniform_scaled", lambda: Way(evaluate.uniform_scaled(self.objective))),
            ("fresh_lora", lambda: Way(self._fresh_lora())),
            ("control", lambda: Way(self._control())),
        ]

    def _choose_comparator(self) -> None:
        """The rival of the comparison that decides, before any test example is seen."""
        if "comparator" in self.noted or len(self.given.shots) < 2:
            return
        self._show("the strongest simpler way, by your examples alone")
        asking = comparator.Asking(
            self.objective, self.given.shots, self.given.template, self.given.options or ()
        )
        chosen = comparator.choose(
            asking, seed=self.given.config.seed, after_step=self.run.lease.check
        )
        self.run.note_in(
            self.round,
            comparator={
                "key": chosen.key,
                "parts": min(comparator.PARTS, len(self.given.shots)),
                "forwards": chosen.cost,
                "ways": {
                    key: {"loss": way.loss, "exact": None if way.exact is None else way.hits}
                    for key, way in chosen.ways.items()
                },
            },
        )
        self.run.lease.give_way()

    # --- about the search ----------------------------------------------------------------------

    def _search_facts(self, best: Generation) -> dict[str, Any]:
        rows = list(self.run.search.generations.filter(round="").order_by("number"))
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

    def _ablation(self, best: Generation) -> dict[str, Any]:
        """What each module does in the mixture, on the examples that it was searched with."""
        given, names = self.given, self.stack.names
        objective = ablation.by_loss(self.objective, given.shots, given.template)
        found = ablation.ablate(objective, best.best_weights)
        return {
            "whole": vars(found.whole),
            "without": {names[n]: vars(variant) for n, variant in found.without.items()},
            "strongest": [
                {"names": [names[n] for n in some], **vars(variant)}
                for some, variant in found.strongest.values()
            ],
            "examples": found.examples,
            "forwards": found.cost,
        }

    # --- one way -------------------------------------------------------------------------------

    def _fresh_lora(self) -> Contender:
        return evaluate.fresh_lora(
            self.given.base,
            self.given.shots,
            self.given.template,
            seed=self.given.config.seed,
            layers=sorted(self.stack.A),
            after_step=self.run.lease.check,
        )

    def _control(self) -> Contender:
        """What the same search makes of modules that have learnt nothing: what is as good as that
        does not come of the modules."""
        turned = evaluate.randomised_stack(self.stack, self.given.config.seed)
        objective = self.objective.over(turned)
        config, best = self.given.config, self.find_control(self.round, objective)
        mixed = (turned, best.best_weights, config.combination, config.blocks)
        return _contender("control", mixed, best.evaluations)

    def _in_context(self) -> Way:
        """The examples before each input, in several orders; fewer of them where the model reads
        no more."""
        generator = np.random.Generator(np.random.PCG64(self.given.config.seed))
        shots, inputs = self.given.shots, [example.input for example in self.given.held_out]
        orders = [list(range(len(shots)))]
        orders += [generator.permutation(len(shots)).tolist() for _ in range(ORDERS - 1)]
        return Way(
            prompts=tuple(
                k_shot(self.given.base, [shots[i] for i in order], inputs, self.given.template)
                for order in orders
            )
        )

    def _measure_one(self, key: str, make: Callable[[], Way]) -> None:
        start = time.perf_counter()
        way = make()
        made = time.perf_counter() - start
        asked = self._asked(way)
        answers = [self._answers(way, texts, template) for texts, template in asked]
        answered = time.perf_counter() - start - made
        row = {
            "key": key,
            **self._scored(answers),
            "losses": self._losses(way, asked),
            "metrics": metrics.measure(
                answers[0], [example.target for example in self.given.held_out]
            ),
            "detail": self._detail_of(key, way, answers),
            "forwards": way.cost,
            **self._tokens(way),
            "size": evaluate.size_of(way.contender) if way.contender else 0,
            "seconds": round(made + answered, 3),
            "seconds_to_train": round(made, 3),
        }
        noted = self.noted
        self.run.note_in(
            self.round,
            methods=[*noted.get("methods", []), row],
            answers={**noted.get("answers", {}), key: answers[0]},
        )

    def _asked(self, way: Way) -> list[tuple[list[str], Template]]:
        """The prompts, once or in several orders."""
        if way.prompts:
            return [(list(each.prompts), each.template) for each in way.prompts]
        return [([example.input for example in self.given.held_out], self.given.template)]

    def _scored(self, answers: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Right answers with their interval; the mean over orders where there are several."""
        wanted = [normalise_answer(example.target) for example in self.given.held_out]
        hits = [
            [normalise_answer(a) == w for a, w in zip(col, wanted, strict=True)] for col in answers
        ]
        scores, total = np.mean(hits, axis=0), len(wanted)
        correct = float(scores.sum())
        found = compare.interval(scores, seed=self.given.config.seed)
        value: dict[str, Any] = {"correct": round(correct, 6), "scores": scores.round(6).tolist()}
        if len(hits) == 1:
            value = {"correct": int(correct), "hits": "".join("01"[hit] for hit in hits[0])}
        return {
            **value,
            "total": total,
            "value": correct / total,
            "low": found.low,
            "high": found.high,
        }

    def _losses(self, way: Way, asked: Sequence[tuple[list[str], Template]]) -> list[float]:
        """By example, in nats a token; the mean over orders. Infinite ones, which JSON cannot say,
        count as very many."""
        targets = [example.target for example in self.given.held_out]
        columns = []
        for texts, template in asked:
            some = [Example(text, wanted) for text, wanted in zip(texts, targets, strict=True)]
            columns.append(self._in_parts(some, partial(self._losses_of, way, template)))
        found = np.mean(columns, axis=0)
        return np.where(np.isfinite(found), found, LARGEST_LOSS).round(6).tolist()

    def _losses_of(self, way: Way, template: Template, some: list[Example], n: int) -> list[float]:
        mixed = way.contender
        return evaluate.losses(
            self.given.base,
            mixed.stack if mixed else None,
            mixed.weights if mixed else None,
            some,
            template,
            mixed.combination if mixed else "sum",
            blocks=mixed.blocks if mixed else "all",
        ).tolist()

    def _answers(self, way: Way, texts: list[str], template: Template) -> list[str]:
        def predict(some: list[str], n: int) -> list[str]:
            return list(map(storable, self._predict(way.contender, template, some, n)))

        return self._in_parts(texts, predict)

    def _in_parts(self, rows: list[T], measure: Callable[[list[T], int], list[U]]) -> list[U]:
        """All rows, so many at once; fewer where the memory is not enough for so many."""
        found: list[U] = []
        at_once = HELD_OUT_AT_ONCE
        while len(found) < len(rows):
            self.run.lease.check()
            some = rows[len(found) : len(found) + at_once]
            try:
                with bounded(Chunk(candidates=1, examples=at_once)):
                    found += measure(some, at_once)
            except OutOfMemory as error:
                if error.smaller is None:
                    raise
                at_once = error.smaller.examples
        return found

    def _predict(
        self, mixed: Contender | None, template: Template, inputs: list[str], batch_size: int
    ) -> list[str]:
        return evaluate.predict(
            self.given.base,
            mixed.stack if mixed else None,
            mixed.weights if mixed else None,
            inputs,
            template,
            mixed.combination if mixed else "sum",
            blocks=mixed.blocks if mixed else "all",
            answer_options=self.given.options,
            batch_size=batch_size,
            max_new_tokens=self.answer_room,
        )

    def _detail_of(self, key: str, way: Way, answers: Sequence[Sequence[str]]) -> str:
        if key == "best_single" and way.contender:
            return self.stack.names[int(np.argmax(way.contender.weights))]
        if not way.prompts:
            return ""
        each = [self._scored([column])["correct"] for column in answers]
        least = min(min(prompts.shots) for prompts in way.prompts)
        return f"{len(each)} orders of {least} examples: {', '.join(map(str, each))} right"

    def _tokens(self, way: Way) -> dict[str, float]:
        """What is read for one question; apart from it, what all questions begin with, which a
        server can keep."""
        if way.prompts:
            each = [prompts.tokens_per_input for prompts in way.prompts]
            return {"tokens": round(float(np.mean(each)), 1), "prefix_tokens": self._prefix(way)}
        inputs = [example.input for example in self.given.held_out]
        _, mask = encode_prompts(
            inputs,
            self.given.template,
            self.given.base.tokenizer,
            is_encoder_decoder=self.given.base.is_encoder_decoder,
        )
        return {"tokens": round(int(mask.sum()) / len(inputs), 1), "prefix_tokens": 0}

    def _prefix(self, way: Way) -> float:
        base, asked = self.given.base, way.prompts[0]
        if base.is_encoder_decoder:
            return 0  # an encoder reads all of it anew for each question
        pairs = [
            Example(text, example.target)
            for text, example in zip(asked.prompts, self.given.held_out, strict=True)
        ]
        return encode(pairs, asked.template, base.tokenizer, is_encoder_decoder=False).prefix


def _contender(name: str, mixed: tuple[Stack, Array, str, str], cost: int) -> Contender:
    stack, weights, combination, blocks = mixed
    return Contender(name, stack, weights, combination, cost, blocks=blocks)
