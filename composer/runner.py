"""The worker's side of a job: search, measure, build. Only workers import this.

Every result is written under the job's fence. A search goes on from its last generation, and
measuring from the last method measured, whenever the worker is ended and whoever takes over.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from composer import artifacts, model_cache
from composer.engine import evaluate
from composer.engine import recipe as engine_recipe
from composer.engine.batch import chat_of, encode, encode_prompts
from composer.engine.blocks import count as block_count
from composer.engine.chunk import Chunk, OutOfMemory
from composer.engine.contenders import Contender
from composer.engine.errors import CommonsError
from composer.engine.examples import Example
from composer.engine.export import handed_out
from composer.engine.objective import Objective
from composer.engine.prompt import Template, normalise_answer
from composer.engine.screening import screen_folders
from composer.engine.search import Generation, ResumeMismatch
from composer.engine.search import search as run_search
from composer.engine.stack import Stack
from composer.models import Generation as GenerationRow
from composer.models import Ingredient, Recipe, Search
from composer.verdict import NAMES
from hub_site.jobs import queue
from hub_site.jobs.models import Job, JobEvent
from modules.models import LoraModule

if TYPE_CHECKING:
    from hub_site.jobs.worker import Lease

Array = NDArray[np.float64]

HELD_OUT_AT_ONCE = 64
# Counted up where the engine rounds otherwise than before: a search is then begun anew.
ENGINE = 2


class NothingFound(CommonsError):
    code = "nothing_found"


def compose(job: Job, lease: "Lease") -> None:
    """Search for weights, measure what they are worth, and leave a recipe with its adapter."""
    search = Search.objects.select_related("base_model").get(pk=job.pk)
    Composition(job, lease, search).run()


def predict(job: Job, lease: "Lease") -> None:
    """Answer one input, by the base model and by a composed adapter."""
    search = Search.objects.select_related("base_model", "recipe").get(pk=job.params["search"])
    assert search.recipe is not None
    base, stack = model_cache.base_of(search, lease), model_cache.stack_of(search, lease)
    template = _template(search)
    options = search.examples.get("answer_options") or None
    given = [job.params["input"]]
    shots = [Example(*pair) for pair in search.examples["shots"]]
    room = evaluate.answer_room(base, shots)
    start = time.perf_counter()
    config = engine_recipe.config_of(search.spec)
    stack, weights, combination, blocks = handed_out(
        search.recipe.document["weights"],
        stack,
        config.combination,
        blocks=config.blocks,
        rank=config.rank,
    )
    (alone,), (composed,) = evaluate.predict_each(
        base,
        stack,
        [None, weights],
        given,
        template,
        combination,
        blocks=blocks,
        answer_options=options,
        max_new_tokens=room,
    )
    result = {
        "input": job.params["input"],
        "base": _storable(alone),
        "composed": _storable(composed),
        "seconds": round(time.perf_counter() - start, 3),
    }
    with queue.finish(job, result):
        pass


@dataclass
class Composition:
    """One run of a composition job, from wherever an earlier one was ended."""

    job: Job
    lease: "Lease"
    search: Search

    def run(self) -> None:
        with self._stage("preparing"):
            self._load_base()
        if self._is_ranked and "screening" not in self.search.evidence:
            with self._stage("ranking"):
                self._rank()
        with self._stage("preparing"):
            self._load_modules()
        with self._stage("searching"):
            best = self._search()
        with self._stage("measuring"):
            self._measure(best)
        found = engine_recipe.build(self.search.spec, best.best_weights.tolist())
        with self._stage("building"):
            built = self._build(found)
        self._finish(found, built)

    # --- preparing ---------------------------------------------------------------------------

    def _load_base(self) -> None:
        search = self.search
        self.shots = [Example(*pair) for pair in search.examples["shots"]]
        self.held_out = [Example(*pair) for pair in search.examples["held_out"]]
        self.options = search.examples.get("answer_options") or None
        self.template = _template(search)
        self.config = engine_recipe.config_of(search.spec)
        self.base = model_cache.base_of(search, self.lease)
        self._record_chat_template()
        self.lease.check()

    def _record_chat_template(self) -> None:
        """Which one the prompts are asked in is known once the tokenizer is loaded."""
        chat = chat_of(
            self.template, self.base.tokenizer, is_encoder_decoder=self.base.is_encoder_decoder
        )
        spec, found = self.search.spec, None if chat is None else chat.hash
        if spec.get("chat_template") != found:
            self._settle({**spec, "chat_template": found})

    def _settle(self, spec: dict[str, Any], **evidence: Any) -> None:
        """What of the spec only a worker can find out. It is the same whoever finds it."""
        self.search.spec = spec
        self.search.evidence = {**self.search.evidence, **evidence}
        with queue.checkpoint(self.job):
            Search.objects.filter(pk=self.job.pk).update(spec=spec, evidence=self.search.evidence)

    # --- ranking -----------------------------------------------------------------------------

    @property
    def _is_ranked(self) -> bool:
        return (self.job.params.get("modules") or {}).get("how") == "ranked"

    def _rank(self) -> None:
        """Measure every candidate alone on the examples; the best of them are what is mixed."""
        candidates = self.search.spec["ingredients"]
        batch = encode(
            self.shots,
            self.template,
            self.base.tokenizer,
            is_encoder_decoder=self.base.is_encoder_decoder,
        )

        def progress(done: int, total: int) -> None:
            self.lease.check()
            self._show(stage_detail=f"{done} of {total} modules")

        found = screen_folders(
            model_cache.folders_of(self.search, self.lease),
            self.base,
            batch,
            names=[each["repo"] for each in candidates],
            reduction=self.config.reduction,
            progress=progress,
        )
        losses, kept = found.loss(), found.top(self.job.params["modules"]["count"])
        if not kept:
            raise NothingFound(
                "No module could be measured on the examples: "
                + " ".join(f"{name}: {why}" for name, why in list(found.refused.items())[:3])
            )
        rows = [{"name": found.names[n], "loss": float(losses[n])} for n in found.ranking()]
        self._settle(
            {**self.search.spec, "ingredients": [candidates[n] for n in kept]},
            screening={"modules": rows, "refused": dict(found.refused), "mixed": len(kept)},
        )

    # --- preparing the search ----------------------------------------------------------------

    def _load_modules(self) -> None:
        self.stack = model_cache.stack_of(self.search, self.lease)
        before = self.search.fingerprint.get("chunk")
        self._choose_chunk(Chunk.from_json(before) if before else None)
        self.answer_room = evaluate.answer_room(self.base, [*self.shots, *self.held_out])
        self.fingerprint = {
            **self.base.fingerprint(),
            "engine": ENGINE,
            "cma": version("cma"),
            "scipy": version("scipy"),
            "peft": version("peft"),
            "chunk": self.objective.chunk.to_json(),
        }
        if "load" not in self.search.evidence:
            self._note(load=[report.to_json() for report in self.stack.reports])

    def _choose_chunk(self, chunk: Chunk | None) -> None:
        """The one that a search began with, or one that fits into what is free now."""
        self.objective = Objective.of(
            self.base, self.stack, self.shots, self.template, self.config, options=self.options,
            chunk=chunk,
        )  # fmt: skip

    # --- searching ---------------------------------------------------------------------------

    def _search(self) -> Generation:
        """The last generation; each one is a row before the next begins."""
        stored = self._stored()
        while True:
            try:
                return self._search_from(stored)
            except ResumeMismatch as mismatch:
                if not stored:
                    raise
                self._restart(mismatch.user_message)
            except OutOfMemory as error:
                if error.smaller is None:
                    raise
                self._restart_with(error.smaller, error.user_message)
            stored = []

    def _stored(self) -> list[dict[str, Any]]:
        rows = list(self.search.generations.order_by("number").values_list("record", flat=True))
        if rows and self.search.fingerprint != self.fingerprint:
            before = self.search.fingerprint
            changed = [key for key in self.fingerprint if before.get(key) != self.fingerprint[key]]
            self._choose_chunk(None)  # this machine's own
            self.fingerprint["chunk"] = self.objective.chunk.to_json()
            self._restart(
                f"Another worker took over ({', '.join(changed)} differ), which would not give "
                "the same figures. The search began again."
            )
            return []
        return rows

    def _search_from(self, stored: Sequence[dict[str, Any]]) -> Generation:
        last = Generation.from_json(stored[-1]) if stored else None
        N = len(self.stack)
        weights = N * block_count(self.config.blocks)
        found = run_search(self.objective, weights, self.config, modules=N, resume=stored)
        for generation in found:
            self._keep(generation)
            last = generation
            self.lease.give_way()
        if last is None or not np.isfinite(last.best_loss):
            raise NothingFound(
                "Every candidate's loss was infinite or not a number, so there is nothing to "
                "choose. Check the examples, or choose other modules."
            )
        return last

    def _keep(self, generation: Generation) -> None:
        with queue.checkpoint(self.job):
            if generation.number == 0:
                Search.objects.filter(pk=self.job.pk).update(fingerprint=self.fingerprint)
            GenerationRow.objects.create(
                search=self.search,
                number=generation.number,
                evaluations=generation.evaluations,
                best_loss=generation.best_loss,
                seconds=generation.seconds,
                record=generation.to_json(),
            )

    def _restart(self, reason: str) -> None:
        # The candidates that were not among the best are no longer in the spec.
        evidence = self.search.evidence
        kept = {key: evidence[key] for key in ("screening", "load") if key in evidence}
        with queue.checkpoint(self.job):
            self.search.generations.all().delete()
            Search.objects.filter(pk=self.job.pk).update(evidence=kept, fingerprint={})
            JobEvent.objects.create(
                job=self.job, fence=self.job.fence, name="restarted", detail={"reason": reason}
            )
        self.search.evidence, self.search.fingerprint = kept, {}

    def _restart_with(self, chunk: Chunk, why: str) -> None:
        """Other pieces give other last bits, so nothing that was measured is kept."""
        self.objective = self.objective.with_chunk(chunk)
        self.fingerprint["chunk"] = chunk.to_json()
        self._restart(f"{why} The search began again in smaller pieces.")
        # Whoever takes over need not run out of memory first.
        Search.objects.filter(pk=self.job.pk, job__fence=self.job.fence).update(
            fingerprint={"chunk": chunk.to_json()}
        )

    # --- measuring ---------------------------------------------------------------------------

    def _measure(self, best: Generation) -> None:
        weights = best.best_weights
        if "search" not in self.search.evidence:
            self._note(search=self._search_facts(best))
        if not self.held_out:
            return
        # Where modules were ranked first, each was a forward as well.
        ranked = len(self.search.evidence.get("screening", {}).get("modules", []))
        config, cost = self.config, best.evaluations + ranked
        mixed = (self.stack, weights, config.combination, config.blocks)
        given = handed_out(
            weights, self.stack, config.combination, blocks=config.blocks, rank=config.rank
        )
        methods: list[tuple[str, Callable[[], Contender | None]]] = [
            ("composed", lambda: _contender("composed", given, cost)),
        ]
        if given[0] is not self.stack:
            methods.append(("exact", lambda: _contender("exact", mixed, cost)))
        methods += [
            ("zero_shot", lambda: None),
            ("best_single", lambda: evaluate.best_single(self.objective)),
            ("uniform", lambda: evaluate.uniform(self.stack)),
            ("fresh_lora", self._fresh_lora),
        ]
        for key, contender in methods:
            if not any(row["key"] == key for row in self.search.evidence.get("methods", [])):
                self._show(stage_detail=NAMES[key])
                self._measure_one(key, contender)
                self.lease.give_way()

    def _search_facts(self, best: Generation) -> dict[str, Any]:
        rows = list(self.search.generations.order_by("number"))
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

    def _fresh_lora(self) -> Contender:
        return evaluate.fresh_lora(
            self.base,
            self.shots,
            self.template,
            seed=self.config.seed,
            layers=sorted(self.stack.A),
            after_step=self.lease.check,
        )

    def _measure_one(self, key: str, contender: Callable[[], Contender | None]) -> None:
        start = time.perf_counter()
        method = contender()
        trained = time.perf_counter() - start
        answers = self._answers(method)
        targets = [example.target for example in self.held_out]
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
        evidence = self.search.evidence
        self._note(
            methods=[*evidence.get("methods", []), row],
            answers={**evidence.get("answers", {}), key: answers},
        )

    def _answers(self, method: Contender | None) -> list[str]:
        answers: list[str] = []
        inputs = [example.input for example in self.held_out]
        for start in range(0, len(inputs), HELD_OUT_AT_ONCE):
            self.lease.check()
            given = evaluate.predict(
                self.base,
                method.stack if method else None,
                method.weights if method else None,
                inputs[start : start + HELD_OUT_AT_ONCE],
                self.template,
                method.combination if method else "sum",
                blocks=method.blocks if method else "all",
                answer_options=self.options,
                batch_size=HELD_OUT_AT_ONCE,
                max_new_tokens=self.answer_room,
            )
            answers += map(_storable, given)
        return answers

    def _detail_of(self, key: str, method: Contender | None) -> str:
        if key != "best_single" or method is None:
            return ""
        return self.stack.names[int(np.argmax(method.weights))]

    def _tokens_per_example(self) -> float:
        inputs = [example.input for example in self.held_out]
        _, mask = encode_prompts(
            inputs,
            self.template,
            self.base.tokenizer,
            is_encoder_decoder=self.base.is_encoder_decoder,
        )
        return round(int(mask.sum()) / len(inputs), 1)

    # --- building ----------------------------------------------------------------------------

    def _build(self, found: engine_recipe.Recipe) -> "artifacts.Built | None":
        """Once a recipe: an earlier search's adapter of the same recipe is the same adapter."""
        made = Recipe.objects.filter(digest=found.id, adapter__isnull=False).first()
        if made is not None:
            return None
        self.lease.check()
        return artifacts.build(found, self.base, self.stack, self.objective.batch, self.lease)

    def _finish(self, found: engine_recipe.Recipe, built: "artifacts.Built | None") -> None:
        result = {"recipe": found.id}
        with queue.finish(self.job, result):
            recipe, is_new = Recipe.objects.select_for_update().get_or_create(
                digest=found.id,
                defaults={
                    "document": {k: v for k, v in found.to_json().items() if k != "evidence"},
                    "title": self.search.title,
                    "base_model": self.search.base_model,
                },
            )
            if is_new:
                _write_ingredients(recipe, found)
            if built is not None and recipe.adapter_id is None:
                built.attach(recipe)
            evidence = {
                **self.search.evidence,
                "adapter": recipe.adapter_facts,
                "environment": self.fingerprint,
            }
            Search.objects.filter(pk=self.job.pk).update(
                recipe=recipe, matched=not is_new, evidence=evidence, stage="", stage_detail=""
            )
            if not is_new:
                JobEvent.objects.create(
                    job=self.job, fence=self.job.fence, name="matched", detail=result
                )

    # --- writing under the fence -------------------------------------------------------------

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.lease.check()
        self._show(stage=name, stage_detail="")
        start = time.perf_counter()
        yield
        seconds = self.search.evidence.setdefault("seconds", {})
        seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - start, 3)

    def _show(self, **fields: str) -> None:
        """Not a checkpoint: a job that dies in a stage again and again makes no progress."""
        ours = Search.objects.filter(
            pk=self.job.pk, job__fence=self.job.fence, job__state="running"
        )
        ours.update(**fields)

    def _note(self, **parts: Any) -> None:
        """Keep a part of the evidence, so that it is measured once."""
        self.search.evidence = {**self.search.evidence, **parts}
        with queue.checkpoint(self.job):
            Search.objects.filter(pk=self.job.pk).update(evidence=self.search.evidence)


def _template(search: Search) -> Template:
    """Searches of before chat templates were known go on without one."""
    return Template(search.spec["template"], None if "chat_template" in search.spec else False)


def _contender(name: str, mixed: tuple[Stack, Array, str, str], cost: int) -> Contender:
    stack, weights, combination, blocks = mixed
    return Contender(name, stack, weights, combination, cost, blocks=blocks)


def _storable(answer: str) -> str:
    """Byte-level models can say NUL, which PostgreSQL's text cannot hold."""
    return answer.replace("\0", "\ufffd")


def _write_ingredients(recipe: Recipe, found: engine_recipe.Recipe) -> None:
    pinned = found.spec["ingredients"]
    here = {
        str(module.repo): module
        for module in LoraModule.objects.filter(
            weights_sha256__in=[each["sha256"] for each in pinned]
        ).select_related("repo__owner")
    }
    weights = engine_recipe.module_weights(found.spec, found.weights)
    Ingredient.objects.bulk_create(
        Ingredient(
            recipe=recipe,
            position=place,
            lora_module=here.get(each["repo"]),
            name=each["repo"],
            revision=each["revision"],
            weights_sha256=each["sha256"],
            weight=weight,
        )
        for place, (each, weight) in enumerate(zip(pinned, weights, strict=True))
    )
