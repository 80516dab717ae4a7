"""What a recipe's evidence measured, measured again, and what a difference there tells.

Only workers import this: verifying.py drives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from composer import artifacts
from composer.engine import evaluate
from composer.engine.base_model import BaseModel
from composer.engine.blocks import count as block_count
from composer.engine.chunk import Chunk, OutOfMemory, bounded
from composer.engine.config import COMBINATIONS, SearchConfig
from composer.engine.errors import CommonsError
from composer.engine.examples import Example
from composer.engine.export import handed_out
from composer.engine.objective import Objective
from composer.engine.prompt import Template, normalise_answer
from composer.engine.search import Generation
from composer.engine.search import search as run_search
from composer.engine.stack import Stack
from composer.models import Verification
from composer.proof import (
    COMBINATION,
    EXAMPLE,
    FILE,
    ORDER,
    SEED,
    SIGN,
    TEMPLATE,
    WEIGHT,
    Difference,
)
from composer.running import storable
from composer.verifications import Statement
from hub_site.jobs.models import Job

if TYPE_CHECKING:
    from hub_site.jobs.worker import Lease

Array = NDArray[np.float64]

# Other processors and versions round otherwise: losses may differ by so much of themselves, as
# PEFT's may from the engine's (see `finalise.TOLERANCE`).
TOLERANCE, TOLERANCE_IN_EPSILONS = 1e-3, 4
# A guess at what was changed must give the stated loss as closely as the same sum in other pieces.
GUESS = 1e-5
GUESSES = 400
SEEDS = 256
ANSWERS_AT_ONCE = 64
FLIPPED = 0.05  # of the held-out answers, where rounding may choose another token


class MeasuredAgain:
    """What differs, what was compared, and what could not be; loaded by `Verifying`."""

    base: BaseModel
    stack: Stack
    config: SearchConfig
    template: Template

    def __init__(self, job: Job, lease: Lease, row: Verification) -> None:
        self.job, self.lease, self.row = job, lease, row
        self.recipe = row.recipe
        self.says = Statement.of(row.recipe, row.search, row.imported)
        self.spec, self.evidence = self.says.spec, self.says.evidence
        self.weights = np.array(self.says.weights, dtype=np.float64)
        self.differs: list[Difference] = []
        self.checked: list[str] = []
        self.unchecked: list[dict[str, str]] = []
        self.is_exact = True
        self.fingerprint: dict[str, Any] = {}

    @property
    def is_imported(self) -> bool:
        return self.row.imported is not None

    @property
    def proof(self) -> Mapping[str, Any]:
        return mapping(self.evidence.get("proof"))

    def add(self, rows: Sequence[Difference]) -> None:
        self.differs += rows

    def names(self, parts: set[str]) -> bool:
        return any(each.what in parts for each in self.differs)

    def leave_out(self, what: str, why: str) -> None:
        self.unchecked.append({"what": what, "why": why})

    # --- measuring -----------------------------------------------------------------------------

    def measure(self) -> None:
        if self.says.examples is None:
            return
        self.shots = [Example(*pair) for pair in self.says.examples["shots"]]
        self.held_out = [Example(*pair) for pair in self.says.examples["held_out"]]
        stated = mapping(mapping(self.evidence.get("environment")).get("chunk"))
        chunk = self._not_too_large(Chunk.from_json(stated)) if _is_chunk(stated) else None
        differs, checked, unchecked = self.differs, self.checked, self.unchecked
        while True:
            self.differs, self.checked, self.unchecked = differs[:], checked[:], unchecked[:]
            try:
                self._choose(chunk)
                self._compare_first()
                self._compare_weights()
                self._compare_answers()
            except OutOfMemory as error:
                if error.smaller is None:
                    raise
                chunk = error.smaller
            else:
                return

    def _not_too_large(self, chunk: Chunk) -> Chunk | None:
        """A file may state more than fits; other pieces only give other last bits."""
        if not self.is_imported:
            return chunk
        own = self._objective(self.config, None).chunk
        fits = chunk.candidates * chunk.examples <= own.candidates * own.examples
        return chunk if fits else None

    def _choose(self, chunk: Chunk | None) -> None:
        self.objective = self._objective(self.config, chunk)
        self.fingerprint["chunk"] = self.objective.chunk.to_json()

    def _objective(self, config: Any, chunk: Chunk | None) -> Objective:
        return Objective.of(
            self.base, self.stack, self.shots, self.template, config,
            options=self.spec.get("answer_options") or None, chunk=chunk,
        )  # fmt: skip

    @property
    def is_same_machine(self) -> bool:
        return bool(self.evidence.get("environment") == self.fingerprint)

    @property
    def tolerance(self) -> float:
        epsilon = float(torch.finfo(self.base.model.dtype).eps)
        return max(TOLERANCE, TOLERANCE_IN_EPSILONS * epsilon)

    def same(self, stated: Any, found: float, tolerance: float | None = None) -> bool:
        """Equal, or within tolerance, which is noted."""
        if stated is None or not np.isfinite(found):
            return stated is None and not np.isfinite(found)
        if float(stated) == found:
            return True
        allowed = (tolerance or self.tolerance) * max(1.0, abs(float(stated)))
        if abs(float(stated) - found) <= allowed:
            self.is_exact = False
            return True
        return False

    def _compare_first(self) -> None:
        stated = mapping(self.proof.get("first"))
        found = next(self.generations(self.objective))
        alone = dict(zip(found.labels, found.losses.tolist(), strict=True))
        if "zero" not in stated:
            self.leave_out("generation 0", "Its evidence does not hold the first losses.")
            return
        if not self.same(stated["zero"], alone["zero"]):
            self._name_what_is_asked(stated["zero"], alone["zero"])
        elif self._compare_singles(stated, alone):
            self._compare_state(stated, found)
        self.checked.append("the losses of the base model and of each module alone")

    def _name_what_is_asked(self, stated: float | None, found: float) -> None:
        """Examples or template: by the loss of each example, where those are at hand."""
        if self.names({TEMPLATE, EXAMPLE}):
            return
        said = f"without any module the loss is {_loss(found)}; stated is {_loss(stated)}"
        kept = self.evidence.get("example_losses")
        if kept is None:
            kept = mapping(self.evidence.get("adapter")).get("example_losses")
        own = self._example_losses()
        if not isinstance(kept, list) or len(kept) != len(own):
            self.add([Difference("template or example", self.spec["template"], said)])
            return
        off = [n for n, (a, b) in enumerate(zip(kept, own, strict=True), 1) if not self.same(a, b)]
        if len(off) * 2 > len(own) or not off:
            self.add([Difference(TEMPLATE, self.spec["template"], said)])
        else:
            lines = ", ".join(map(str, off))
            self.add([Difference(EXAMPLE, f"example {lines}", f"{said}; the others fit")])

    def _example_losses(self) -> list[float]:
        return artifacts.example_losses(self.base, self.objective.batch)

    def _compare_singles(self, stated: Mapping[str, Any], alone: Mapping[str, float]) -> bool:
        """Whether each module alone does what it did."""
        rows = [row["loss"] for row in stated.get("singles") or []]
        found = [alone[f"single:{n}"] for n in range(len(rows)) if f"single:{n}" in alone]
        if len(rows) != len(self.stack) or len(found) != len(rows):
            return not rows
        off = [n for n, loss in enumerate(rows) if not self.same(loss, found[n])]
        if not off:
            return True
        if self.names({FILE, ORDER, COMBINATION}):
            return False
        stated_there = np.sort(np.array([rows[n] for n in off], dtype=np.float64))
        found_there = np.sort(np.array([found[n] for n in off]))
        names = [self.spec["ingredients"][n]["repo"] for n in off]
        shifts = np.array(found) - np.array(rows, dtype=np.float64)
        if len(off) > 1 and np.allclose(stated_there, found_there, rtol=self.tolerance):
            self.add([Difference(ORDER, ", ".join(names), "their losses stand in another order")])
        elif len(rows) > 1 and len(off) == len(rows) and np.ptp(shifts) <= GUESS:
            said = f"each module's loss is off by {shifts[0]:.6g}"
            self.add([Difference("objective", f"penalty {self.config.penalty:g}", said)])
        else:
            for n in off:
                said = f"alone its loss is {_loss(found[n])}; stated is {_loss(rows[n])}"
                self.add([Difference(FILE, self.spec["ingredients"][n]["repo"], said)])
        return False

    def _compare_state(self, stated: Mapping[str, Any], found: Generation) -> None:
        """The digest of generation 0 holds the losses, the settings, and the generator's state."""
        wanted = stated.get("digest")
        losses = [stated["zero"], *(row["loss"] for row in stated.get("singles") or [])]
        if found.digest == wanted:
            return
        if len(losses) != len(found.losses):
            self.leave_out(SEED, "Its evidence does not hold the loss of each module alone.")
            return
        if self.config.selection != "examples" or None in losses:
            if found.losses.tolist() == losses:
                self._say_seed(None)
            else:
                self.leave_out(SEED, "The losses differ in their last bits, and so do digests.")
            return
        if self._digest(losses, self.config.seed) == wanted:
            return
        seeds = (n for n in range(SEEDS) if self._digest(losses, n) == wanted)
        self._say_seed(next(seeds, None))

    def _digest(self, losses: Sequence[float], seed: int) -> str:
        """What the search would have had for a state after these losses."""

        def told(weights: Array) -> Array:
            return np.array(losses[: len(weights)])

        return next(self.generations(told, replace(self.config, seed=seed))).digest

    def _say_seed(self, seed: int | None) -> None:
        said = (
            f"the search that was measured began with seed {seed}"
            if seed is not None
            else "the search that was measured began with another one, or with other settings"
        )
        self.add([Difference(SEED, str(self.spec["seed"]), said)])

    def generations(
        self, objective: Any, config: Any = None, resume: Sequence[dict[str, Any]] = ()
    ) -> Iterator[Generation]:
        config = config or self.config
        N = len(self.stack)
        n = N * block_count(config.blocks)
        found = run_search(objective, n, config, modules=N, resume=resume)
        try:
            yield from found
        finally:
            found.close()  # type: ignore[attr-defined]

    # --- the weights ---------------------------------------------------------------------------

    def _compare_weights(self) -> None:
        stated = mapping(self.evidence.get("search"))
        if "loss_after" not in stated:
            self.leave_out(WEIGHT, "Its evidence does not hold the loss of its weights.")
            return
        both = np.stack([np.zeros_like(self.weights), self.weights])
        found = float(self.objective.task_loss(both)[1])
        if not self.same(stated["loss_after"], found) and not self.differs:
            self.add([self._name_what_is_mixed(stated, found)])
        self.checked.append("the loss of its weights on the examples")

    def _name_what_is_mixed(self, stated: Mapping[str, Any], found: float) -> Difference:
        """The rest is as stated, so it is the weights or how they are mixed: the change that gives
        the stated loss is the one that was made."""
        wanted = float(stated["loss_after"])
        if self._has_other_sizes(stated):
            said = (
                f"the sizes of the weights are not those that were found; {_losses(found, stated)}"
            )
            return Difference(WEIGHT, f"sum of sizes {np.abs(self.weights).sum():.6g}", said)
        for combination in COMBINATIONS:
            if combination != self.config.combination and self._gives(combination, wanted):
                said = f"mixed by “{combination}” the loss is as stated"
                return Difference(COMBINATION, self.config.combination, said)
        names = [each["repo"] for each in self.spec["ingredients"]]
        for what, said, weights in self._guesses(names):
            if self._is_near(self.objective.task_loss(weights[None])[0], wanted):
                return Difference(what, said, "turned about, the loss is as stated")
        return Difference(WEIGHT, "the weights", _losses(found, stated))

    def _has_other_sizes(self, stated: Mapping[str, Any]) -> bool:
        """What the penalty was, the best loss says beside the loss of the examples."""
        best, after = stated.get("best_loss"), stated.get("loss_after")
        if self.config.selection != "examples" or not self.config.penalty or best is None:
            return False
        own = float(self.objective.penalty(self.weights[None])[0])
        return abs(own - (float(best) - float(after or 0.0))) > GUESS * max(1.0, own)

    def _gives(self, combination: str, wanted: float) -> bool:
        try:
            other = self._objective(
                replace(self.config, combination=combination, rank=None), self.objective.chunk
            )
            losses = other.task_loss(np.stack([self.weights, -self.weights]))
        except CommonsError:
            return False  # these modules cannot be mixed so
        return any(self._is_near(loss, wanted) for loss in losses)

    def _is_near(self, found: float, wanted: float) -> bool:
        allowed = GUESS if self.is_same_machine else self.tolerance
        return abs(float(found) - wanted) <= allowed * max(1.0, abs(wanted))

    def _guesses(self, names: Sequence[str]) -> Iterator[tuple[str, str, Array]]:
        """Each sign turned, each two weights exchanged."""
        for n in range(min(len(self.weights), GUESSES)):
            turned = self.weights.copy()
            turned[n] *= -1
            if turned[n]:
                yield SIGN, f"{names[n % len(names)]}: {self.weights[n]:+.6g}", turned
        for a, b in list(combinations(range(len(self.weights)), 2))[:GUESSES]:
            turned = self.weights.copy()
            turned[[a, b]] = turned[[b, a]]
            self.lease.check()
            yield ORDER, f"{names[a % len(names)]} and {names[b % len(names)]}", turned

    # --- the answers ---------------------------------------------------------------------------

    def _compare_answers(self) -> None:
        rows = self.evidence.get("methods")
        methods = rows if isinstance(rows, list) else []
        stated = next(
            (mapping(row) for row in methods if mapping(row).get("key") == "composed"), {}
        )
        hits = stated.get("hits")
        if not isinstance(hits, str):
            return
        if not self.held_out:
            self.leave_out("answers", "The held-out examples are not here.")
            return
        said = self._answers()
        found = "".join(
            "01"[normalise_answer(a) == normalise_answer(e.target)]
            for a, e in zip(said, self.held_out, strict=True)
        )
        if found != hits:
            self._say_answers(hits, found)
        self.checked.append(f"the answers to {len(found)} held-out examples")

    def _say_answers(self, hits: str, found: str) -> None:
        off = sum(a != b for a, b in zip(hits, found, strict=False)) + abs(len(hits) - len(found))
        if not self.is_same_machine and off <= max(1, FLIPPED * len(hits)):
            self.is_exact = False
        elif not self.differs:
            stated = f"{hits.count('1')} of {len(hits)} right"
            said = f"{found.count('1')} of {len(found)}; {off} answers differ in that"
            self.add([Difference("answers", stated, said)])

    def _answers(self) -> list[str]:
        stack, weights, combination, blocks = handed_out(
            self.weights.tolist(), self.stack, self.config.combination,
            blocks=self.config.blocks, rank=self.config.rank,
        )  # fmt: skip
        room = evaluate.answer_room(self.base, [*self.shots, *self.held_out])
        answers: list[str] = []
        at_once = ANSWERS_AT_ONCE
        while len(answers) < len(self.held_out):
            self.lease.check()
            some = self.held_out[len(answers) : len(answers) + at_once]
            try:
                with bounded(Chunk(candidates=1, examples=at_once)):
                    answers += map(
                        storable,
                        evaluate.predict(
                            self.base, stack, weights, [each.input for each in some],
                            self.template, combination, blocks=blocks,
                            answer_options=self.spec.get("answer_options") or None,
                            batch_size=at_once, max_new_tokens=room,
                        ),
                    )  # fmt: skip
            except OutOfMemory as error:
                if error.smaller is None:
                    raise
                at_once = error.smaller.examples
        return answers


def _losses(found: float, stated: Mapping[str, Any]) -> str:
    return f"their loss is {found:.6g}; stated is {float(stated['loss_after']):.6g}"


def _loss(loss: float | None) -> str:
    return "infinite" if loss is None else f"{loss:.6g}"


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_chunk(value: Mapping[str, Any]) -> bool:
    return all(isinstance(value.get(key), int) for key in ("candidates", "examples"))
