"""A worker runs a recipe again and compares, part by part. Only workers import this.

What needs no model is in proof.py, what is measured in measured_again.py. Here the recipe's record,
its examples, its modules' files and its adapter are compared, and where it was asked for, every
generation of its search.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from django.db.models.functions import Now
from safetensors.torch import load_file

from composer import artifacts, model_cache, runner, verifications
from composer.engine import recipe as engine_recipe
from composer.engine.adapter_file import WEIGHTS_NAME
from composer.engine.blocks import count as block_count
from composer.engine.errors import BadRecipe, CommonsError
from composer.engine.export import export
from composer.engine.prompt import Template
from composer.engine.search import Generation
from composer.measured_again import MeasuredAgain, mapping
from composer.models import Verification
from composer.proof import (
    COMBINATION,
    EXAMPLE,
    FILE,
    SEED,
    SPLIT,
    TEMPLATE,
    Difference,
    Parts,
    compare,
    hash_of,
    inconsistencies,
    once,
)
from composer.verifications import Pins
from hub_site.jobs import queue
from hub_site.jobs.models import Job
from modules.storage import bytes_back, fetching

if TYPE_CHECKING:
    from hub_site.jobs.worker import Lease

# What a search ends at may differ by so much of itself where another machine rounds otherwise: its
# steps lead elsewhere.
TOLERANCE_OF_A_SEARCH = 1e-2
SAVE_SECONDS = 5.0


class CannotVerify(CommonsError):
    code = "cannot_verify"


def verify(job: Job, lease: Lease) -> None:
    rows = Verification.objects.select_related(
        "recipe__base_model", "recipe__adapter", "search", "imported", "user"
    )
    row = rows.filter(job=job).first()
    if row is None:
        return  # whoever had brought the recipe as a file has removed it
    Verifying(job, lease, row).run()


class Verifying(MeasuredAgain):
    """One run, from the texts to the stamp."""

    def run(self) -> None:
        self._compare_texts()
        found = verifications.pins(self.spec, self.job.user, is_imported=self.is_imported)
        self.differs += found.differs
        self.unchecked += found.unchecked
        if self._can_load(found):
            self._load(found)
            self.measure()
            self._compare_adapter()
            if self.row.kind == Verification.SEARCH and self.says.examples is not None:
                self._search_again()
        elif not self.differs:
            raise CannotVerify(
                "It cannot be verified: " + " ".join(each["why"] for each in self.unchecked)
            )
        self._finish()

    # --- what needs no model -------------------------------------------------------------------

    def _compare_texts(self) -> None:
        stated = Parts.of(self.spec, self.says.weights)
        self.differs += inconsistencies(self.spec, self.says.weights, self.evidence)
        self.checked.append("its parts against their digests and rules")
        plain = engine_recipe.Recipe(
            self.recipe.document["schema"], self.spec, tuple(self.says.weights)
        )
        if engine_recipe.digest(plain) != self.recipe.digest and not self.differs:
            self.differs.append(Difference("id", self.recipe.digest[:12], plain.id[:12]))
        if self.says.search is not None:
            self._compare_search(stated)
        self._compare_examples()

    def _compare_search(self, stated: Parts) -> None:
        """The site keeps what was searched, and the weights of the last generation."""
        search = self.says.search
        assert search is not None
        last = (
            search.generations.filter(round="")
            .order_by("-number")
            .values_list("record", flat=True)
            .first()
        )
        weights = self.says.weights
        if last and "best_weights" in last:
            weights = [float.fromhex(text) for text in last["best_weights"]]
        kept = Parts.of(search.spec, weights)
        self.add(compare(stated, kept, "what was searched here"))
        self.checked.append("the record of its search")

    def _compare_examples(self) -> None:
        examples, salt = self.says.examples, self.says.salt
        if examples is None:
            self.leave_out(EXAMPLE, "The examples are not here any more.")
            return
        if salt is None:
            self.leave_out(EXAMPLE, "The salt in their hash went with their task.")
            return
        found = hash_of(examples["shots"], salt)
        if found != self.spec["examples_hash"]:
            stated = self.spec["examples_hash"][:12]
            self.add([Difference(EXAMPLE, stated, f"those at hand have the hash {found[:12]}")])
        wanted = mapping(self.proof.get("split")).get("held_out_hash")
        if wanted is not None and wanted != hash_of(examples["held_out"], salt):
            said = "the held-out examples"
            self.add([Difference(SPLIT, said, "those at hand are not those it was measured on")])
        self.checked.append("the hash of its examples")

    # --- loading -------------------------------------------------------------------------------

    def _can_load(self, found: Pins) -> bool:
        assert self.recipe.base_model is not None
        base = verifications.base_of(
            self.spec, self.recipe.base_model, is_imported=self.is_imported
        )
        if isinstance(base, Difference):
            self.add([base])
        elif base is not None:
            self.unchecked.append(base)
        fits = len(self.weights) % len(self.spec["ingredients"]) == 0
        return base is None and found.all_here and fits

    def _load(self, found: Pins) -> None:
        assert self.recipe.base_model is not None
        local = found.local(self.spec, self.recipe.base_model)
        shadow = self.says.as_search(self.recipe, self.job, local)
        model_cache.check_room(shadow)
        self._compare_files(found)
        self.base = model_cache.base_of(shadow, self.lease)
        self.lease.check()
        self.stack = model_cache.stack_of(shadow, self.lease)
        self.config = engine_recipe.config_of(self.spec)
        self.template = Template(self.spec["template"], bool(self.spec.get("chat_template")))
        self.fingerprint = {
            **self.base.fingerprint(),
            "engine": runner.ENGINE,
            "cma": version("cma"),
            "scipy": version("scipy"),
            "peft": version("peft"),
        }

    def _compare_files(self, found: Pins) -> None:
        """The bytes that are read, whatever the site's tables say of them."""
        for wanted, commit in zip(self.spec["ingredients"], found.commits, strict=True):
            assert commit is not None
            self.lease.check()
            path = fetching.folder_of(commit, self.lease) / WEIGHTS_NAME
            held = _hash_of_file(path)
            if held != commit.sha256:
                said = f"{wanted['repo']}: {wanted['sha256'][:12]}"
                self.add([Difference(FILE, said, f"its bytes have the hash {held[:12]}")])
        self.checked.append("the modules' files, byte for byte")

    # --- the adapter ---------------------------------------------------------------------------

    def _compare_adapter(self) -> None:
        stated = self.recipe.adapter_id
        if stated is None or self.is_imported:
            return
        with tempfile.TemporaryDirectory(prefix="verify-") as folder:
            path = self._rebuilt(Path(folder))
            if _hash_of_file(path) == stated:
                self.checked.append("its adapter, byte for byte")
            else:
                self._say_adapter(path, stated)

    def _rebuilt(self, folder: Path) -> Path:
        plain = engine_recipe.Recipe(
            self.recipe.document["schema"], self.spec, tuple(self.weights.tolist())
        )
        export(
            plain.weights, self.stack, self.config.combination, folder,
            blocks=self.config.blocks, rank=self.config.rank,
            recipe=engine_recipe.canonical(plain).decode(),
        )  # fmt: skip
        return folder / WEIGHTS_NAME

    def _say_adapter(self, rebuilt: Path, sha256: str) -> None:
        try:
            path = bytes_back.path_of(sha256)
            held = engine_recipe.inside(path)
        except (OSError, CommonsError) as error:
            if isinstance(error, BadRecipe):
                self.add([Difference("adapter", sha256[:12], error.user_message)])
            else:
                self.leave_out("adapter", "Its file cannot be read on this worker.")
            return
        stated = Parts.of(self.spec, self.says.weights)
        rows = compare(stated, Parts.of(held.spec, held.weights), "its adapter file")
        if rows:
            self.add(rows)
            return
        far = _furthest(rebuilt, path)
        if far is not None and far <= self.tolerance:
            self.is_exact = False
            self.checked.append(f"its adapter: numbers differ by at most {far:.2g} of the largest")
        else:
            how = "other tensors" if far is None else f"numbers differ by up to {far:.2g}"
            self.add([Difference("adapter", sha256[:12], f"built again it has {how}")])

    # --- the whole search ----------------------------------------------------------------------

    def _search_again(self) -> None:
        stored = self.row.records if self.row.environment == self.fingerprint else []
        records, best, saved = list(stored), None, time.monotonic()
        if records:
            best = Generation.from_json(records[-1])
        for generation in self.generations(self.objective, resume=records):
            best = generation
            records.append(generation.to_json())
            self.lease.check()
            is_late = time.monotonic() - saved > SAVE_SECONDS
            if is_late or queue.waits_higher(self.job):
                self._keep(records)
                saved = time.monotonic()
                self.lease.give_way()
        assert best is not None
        self._compare_found(best, records)

    def _keep(self, records: Sequence[dict[str, Any]]) -> None:
        with queue.checkpoint(self.job):
            Verification.objects.filter(pk=self.row.pk).update(
                records=list(records), environment=self.fingerprint
            )

    def _compare_found(self, best: Generation, records: Sequence[Mapping[str, Any]]) -> None:
        blocks = block_count(self.config.blocks)
        found = best.best_weights.tolist()
        if self.config.combination == "lorahub":
            found = list(engine_recipe.canonical_sign(found, blocks))
        rows = compare(
            Parts.of(self.spec, self.says.weights), Parts.of(self.spec, found), "the search found"
        )
        trace = mapping(self.evidence.get("search")).get("trace")
        own = artifacts.digest_of([str(row["digest"]) for row in records])
        if not rows:
            self.checked.append(f"the search of {best.evaluations} evaluations: the same weights")
            if trace is not None and trace != own:
                self.is_exact = False
            return
        stated = mapping(self.evidence.get("search")).get("best_loss")
        is_as_good = stated is not None and self.same(stated, best.best_loss, TOLERANCE_OF_A_SEARCH)
        if not self.differs and not self.is_same_machine and is_as_good:
            far = float(np.abs(np.array(found) - self.weights).max())
            self.is_exact = False
            self.checked.append(
                f"the search of {best.evaluations} evaluations: weights as good, which differ by "
                f"up to {far:.2g}"
            )
        elif not self.differs or not self.names({SEED, TEMPLATE, EXAMPLE, FILE, COMBINATION}):
            self.add(rows)

    # --- the end -------------------------------------------------------------------------------

    def _finish(self) -> None:
        differs = once(self.differs)
        outcome = Verification.MATCHED if self.is_exact else Verification.WITHIN
        if differs:
            outcome = Verification.DIFFERS
        with queue.finish(self.job, {"recipe": self.recipe.pk, "outcome": outcome}):
            Verification.objects.filter(pk=self.row.pk).update(
                outcome=outcome,
                differs=[each.to_json() for each in differs],
                checked=self.checked,
                unchecked=self.unchecked,
                environment=self.fingerprint,
                records=[],
                finished_at=Now(),
            )


def _hash_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _furthest(one: Path, other: Path) -> float | None:
    """The largest difference of two adapters' numbers, as a part of the largest number; None where
    their tensors are others."""
    ours, theirs = load_file(one), load_file(other)
    if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
        return None
    largest = max(float(tensor.abs().max()) for tensor in ours.values())
    far = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
    return far / largest if largest else far
