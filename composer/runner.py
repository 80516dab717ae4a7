"""The worker's side of a job: search, measure, build. Only workers import this.

Every result is written under the job's fence. A search goes on from its last generation, and
measuring from the last method measured, whenever the worker is ended and whoever takes over.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from composer import artifacts, folds, model_cache, ranking, score_matrix
from composer.engine import ablation, evaluate
from composer.engine import recipe as engine_recipe
from composer.engine.batch import chat_of
from composer.engine.blocks import count as block_count
from composer.engine.chunk import Chunk, OutOfMemory
from composer.engine.examples import Example
from composer.engine.export import handed_out
from composer.engine.objective import Objective
from composer.engine.prompt import Template
from composer.engine.search import Generation, ResumeMismatch
from composer.engine.search import search as run_search
from composer.measuring import Measuring
from composer.models import Generation as GenerationRow
from composer.models import Ingredient, Recipe, Search
from composer.running import Given, NothingFound, Round, Run, storable
from hub_site.jobs import queue
from hub_site.jobs.models import Job, JobEvent
from modules.models import LoraModule

if TYPE_CHECKING:
    from hub_site.jobs.worker import Lease

# Counted up where the engine rounds otherwise than before: a search is then begun anew.
ENGINE = 2
CHOSEN_BY_HAND = ("hand", "tag", "collection")
# What a search that begins anew need not find out again.
KEPT = ("preselected", "leaks", "screening", "fold_ingredients", "left_out", "load")


class BeganAnew(Exception):
    """A round that only measures had to begin again, and nothing that was found is kept."""


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
        "base": storable(alone),
        "composed": storable(composed),
        "seconds": round(time.perf_counter() - start, 3),
    }
    with queue.finish(job, result):
        pass


def weigh(job: Job, lease: "Lease") -> None:
    """Measure other weights for a search's modules, on the examples it was searched with."""
    search = Search.objects.select_related("base_model").get(pk=job.params["search"])
    base, stack = model_cache.base_of(search, lease), model_cache.stack_of(search, lease)
    template, config = _template(search), engine_recipe.config_of(search.spec)
    shots = [Example(*pair) for pair in search.examples["shots"]]
    start = time.perf_counter()
    # As the ablation counts, so that the two can be compared.
    kind = config.objective if config.objective in ablation.LOSSES else "paper"
    objective = Objective.of(
        base, stack, shots, template, replace(config, objective=kind, optimiser="cobyla")
    )
    weights = np.array(job.params["weights"], dtype=np.float64)
    (found,) = ablation.measure(objective, weights[None])
    answers = evaluate.predict(
        base,
        stack,
        weights,
        [example.input for example in shots],
        template,
        config.combination,
        blocks=config.blocks,
        answer_options=search.examples.get("answer_options") or None,
        max_new_tokens=evaluate.answer_room(base, shots),
    )
    result = {
        "weights": job.params["weights"],
        "loss": found.loss if np.isfinite(found.loss) else None,
        "exact": found.exact,
        "examples": len(shots),
        "answers": list(map(storable, answers)),
        "seconds": round(time.perf_counter() - start, 3),
    }
    with queue.finish(job, result):
        pass


class Composition(Run):
    """One run of a composition job, from wherever an earlier one was ended."""

    def run(self) -> None:
        with self.stage("preparing"):
            self.load_base()
            self._tell_of_ranked_tests()
        if ranking.is_due(self):
            with self.stage("ranking"):
                ranking.rank(self, self.given)
        with self.stage("preparing"):
            self.leave_out_closed()
            self.load_modules()
        best = self._searched_and_measured()
        found = engine_recipe.build(self.search.spec, best.best_weights.tolist())
        with self.stage("building"):
            built = self._build(found)
        self._finish(found, built)

    def _searched_and_measured(self) -> Generation:
        while True:
            main = Round("", self.given, self.objective)
            try:
                with self.stage("searching"):
                    best = self.find(main)
                with self.stage("measuring"):
                    # The search may have gone on in smaller pieces.
                    self.measure(replace(main, objective=self.objective), best)
                    folds.measure(self)
                return best
            except BeganAnew:
                continue

    def measure(self, round_: Round, best: Generation) -> None:
        Measuring(self, round_, self.answer_room, self.find_control).measure(best)

    # --- preparing ---------------------------------------------------------------------------

    def load_base(self) -> None:
        search = self.search
        model_cache.check_room(search)
        self.given = Given(
            base=model_cache.base_of(search, self.lease),
            shots=[Example(*pair) for pair in search.examples["shots"]],
            held_out=[Example(*pair) for pair in search.examples["held_out"]],
            options=search.examples.get("answer_options") or None,
            template=_template(search),
            config=engine_recipe.config_of(search.spec),
        )
        self._record_chat_template()
        self.lease.check()

    def _record_chat_template(self) -> None:
        """Which one the prompts are asked in is known once the tokenizer is loaded."""
        base = self.given.base
        chat = chat_of(
            self.given.template, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder
        )
        spec, found = self.search.spec, None if chat is None else chat.hash
        if spec.get("chat_template") != found:
            self.settle({**spec, "chat_template": found})

    def _tell_of_ranked_tests(self) -> None:
        """Whoever chose the modules may have gone by a ranking of what they are tested on."""
        choice, known = self.job.params["modules"] or {}, self.search.evidence.get("leaks", {})
        if choice.get("how") not in CHOSEN_BY_HAND or "ranked" in known:
            return
        given = self.given
        tested = given.held_out or (given.shots if self.job.params.get("test_folds") else [])
        found = score_matrix.ranked_before(tested, self.search, given.precision)
        if found:
            self.note(leaks={**known, "ranked": found})

    def leave_out_closed(self) -> None:
        """Where nobody chose the modules, those that have gone or been closed meanwhile are left
        out, by name; whoever chose them is told instead."""
        if self.job.params["modules"] or {"screening", "load"} & self.search.evidence.keys():
            return
        folders, refused = model_cache.open_folders_of(self.search, self.lease)
        if refused and folders:
            kept = [each for each in self.search.spec["ingredients"] if each["repo"] in folders]
            self.settle({**self.search.spec, "ingredients": kept}, left_out=refused)

    def load_modules(self) -> None:
        self.stack = model_cache.stack_of(self.search, self.lease)
        before = self.search.fingerprint.get("chunk")
        self._choose_chunk(Chunk.from_json(before) if before else None)
        self.answer_room = evaluate.answer_room(
            self.given.base, [*self.given.shots, *self.given.held_out]
        )
        self.fingerprint = {
            **self.given.base.fingerprint(),
            "engine": ENGINE,
            "cma": version("cma"),
            "scipy": version("scipy"),
            "peft": version("peft"),
            "chunk": self.objective.chunk.to_json(),
        }
        if "load" not in self.search.evidence:
            self.note(load=[report.to_json() for report in self.stack.reports])

    def _choose_chunk(self, chunk: Chunk | None) -> None:
        """The one that a search began with, or one that fits into what is free now."""
        self.objective = Objective.of(
            self.given.base,
            self.stack,
            self.given.shots,
            self.given.template,
            self.given.config,
            options=self.given.options,
            chunk=chunk,
        )

    # --- searching ---------------------------------------------------------------------------

    def find(self, round_: Round) -> Generation:
        """The last generation; each one is a row before the next begins."""
        return self._find(round_.name, round_.objective)

    def find_control(self, round_: Round, objective: Objective) -> Generation:
        """The same search over other modules."""
        return self._find(round_.control, objective)

    def _find(self, name: str, objective: Objective) -> Generation:
        while True:
            try:
                return self._search_from(self._stored(name), name, objective)
            except ResumeMismatch as mismatch:
                if not self.search.generations.filter(round=name).exists():
                    raise
                self.restart(mismatch.user_message)
            except OutOfMemory as error:
                if error.smaller is None:
                    raise
                self._restart_with(error.smaller, error.user_message)
                objective = objective.with_chunk(error.smaller)
            if name:
                raise BeganAnew

    def _stored(self, name: str) -> list[dict[str, Any]]:
        done = self.search.generations.filter(round=name).order_by("number")
        rows = list(done.values_list("record", flat=True))
        if rows and self.search.fingerprint != self.fingerprint:
            before = self.search.fingerprint
            changed = [key for key in self.fingerprint if before.get(key) != self.fingerprint[key]]
            self._choose_chunk(None)  # this machine's own
            self.fingerprint["chunk"] = self.objective.chunk.to_json()
            self.restart(
                f"Another worker took over ({', '.join(changed)} differ), which would not give "
                "the same figures. The search began again."
            )
            return []
        return rows

    def _search_from(
        self, stored: Sequence[dict[str, Any]], name: str, objective: Objective
    ) -> Generation:
        last = Generation.from_json(stored[-1]) if stored else None
        N, config = len(objective.stack), self.given.config
        weights = N * block_count(config.blocks)
        for generation in run_search(objective, weights, config, modules=N, resume=stored):
            self._keep(generation, name)
            last = generation
            self.lease.give_way()
        if last is None or not np.isfinite(last.best_loss):
            raise NothingFound(
                "Every candidate's loss was infinite or not a number, so there is nothing to "
                "choose. Check the examples, or choose other modules."
            )
        return last

    def _keep(self, generation: Generation, name: str) -> None:
        with queue.checkpoint(self.job):
            if generation.number == 0 and not name:
                Search.objects.filter(pk=self.job.pk).update(fingerprint=self.fingerprint)
            GenerationRow.objects.create(
                search=self.search,
                round=name,
                number=generation.number,
                evaluations=generation.evaluations,
                best_loss=generation.best_loss,
                seconds=generation.seconds,
                record=generation.to_json(),
            )

    def restart(self, reason: str) -> None:
        # The candidates that were not among the best are no longer in the spec.
        evidence = self.search.evidence
        kept = {key: evidence[key] for key in KEPT if key in evidence}
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
        self.restart(f"{why} The search began again in smaller pieces.")
        # Whoever takes over need not run out of memory first.
        Search.objects.filter(pk=self.job.pk, job__fence=self.job.fence).update(
            fingerprint={"chunk": chunk.to_json()}
        )

    # --- building ----------------------------------------------------------------------------

    def _build(self, found: engine_recipe.Recipe) -> "artifacts.Built | None":
        """Once a recipe: an earlier search's adapter of the same recipe is the same adapter."""
        made = Recipe.objects.filter(digest=found.id, adapter__isnull=False).first()
        if made is not None:
            return None
        self.lease.check()
        return artifacts.build(found, self.given.base, self.stack, self.objective.batch, self.lease)

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
            is_found = recipe.published_at is not None or recipe.searches.exists()
            if is_new:
                _write_ingredients(recipe, found)
            elif not is_found:
                _take_over(recipe, self.search)
            if built is not None and recipe.adapter_id is None:
                built.attach(recipe)
            evidence = {
                **self.search.evidence,
                "adapter": recipe.adapter_facts,
                "environment": self.fingerprint,
            }
            Search.objects.filter(pk=self.job.pk).update(
                recipe=recipe, matched=is_found, evidence=evidence, stage="", stage_detail=""
            )
            if is_found:
                JobEvent.objects.create(
                    job=self.job, fence=self.job.fence, name="matched", detail=result
                )


def _template(search: Search) -> Template:
    """Searches of before chat templates were known go on without one."""
    return Template(search.spec["template"], None if "chat_template" in search.spec else False)


def _take_over(recipe: Recipe, search: Search) -> None:
    """So far it was only brought here as a file, by somebody who had a name of their own for it,
    and perhaps not these modules."""
    Recipe.objects.filter(pk=recipe.pk).update(title=search.title)
    here = _modules_of(search.spec["ingredients"])
    for each in recipe.ingredients.all():
        if each.name in here:
            Ingredient.objects.filter(pk=each.pk).update(lora_module=here[each.name])


def _modules_of(pinned: Sequence[Mapping[str, str]]) -> dict[str, LoraModule]:
    """By name, those that hold the pinned weights."""
    found = LoraModule.objects.filter(weights_sha256__in=[each["sha256"] for each in pinned])
    return {str(module.repo): module for module in found.select_related("repo__owner")}


def _write_ingredients(recipe: Recipe, found: engine_recipe.Recipe) -> None:
    pinned = found.spec["ingredients"]
    here = _modules_of(pinned)
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
