"""The module × example matrix: what each module did alone on an example, kept for whoever asks
next, and the module × task matrix that is drawn from it.

A score belongs to a version of a module (a commit's id) and to an example as one base model reads
it. Test examples never get here: a ranking sees the few-shot examples alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rfc8785
from django.utils import timezone
from numpy.typing import NDArray

from composer import publishing
from composer.engine.examples import Example
from composer.models import ExampleScores, FewShotTask, TaskScore
from modules.models import Commit, LoraModule

if TYPE_CHECKING:
    from composer.models import Search

Array = NDArray[np.float64]
Hits = NDArray[np.bool_]
BASE = 0  # the version of the base model alone
# Counted up where the engine measures otherwise than before.
MEASURE = 1


@dataclass(frozen=True)
class Scores:
    """V versions on B examples: losses (V, B), NaN where nothing is known, and exact (V, B)."""

    versions: tuple[int, ...]
    losses: Array
    exact: Hits

    @property
    def is_known(self) -> Hits:
        return ~np.isnan(self.losses)


def key_of(example: Example, spec: Mapping[str, Any], precision: str, owner: str = "") -> str:
    """The hash of an example as it is read: by which base model, in which template and chat, in
    which precision. Private ones have their owner's rows alone: that others' are known already
    would confirm a guess at them."""
    from hashlib import sha256

    document: Any = {
        "measure": MEASURE,
        "base_model": [spec["base_model"]["repo"], spec["base_model"]["revision"]],
        "template": spec["template"],
        "chat_template": spec.get("chat_template"),
        "precision": precision,
        "example": [example.input, example.target],
        **({"owner": owner} if owner else {}),
    }
    return sha256(rfc8785.dumps(document)).hexdigest()


def keys_of(examples: Iterable[Example], search: Search, precision: str) -> list[str]:
    """As a ranking of this search's keeps them."""
    owner = str(search.job.user_id) if publishing.is_salted(search) else ""
    return [key_of(example, search.spec, precision, owner) for example in examples]


def ranked_before(examples: Sequence[Example], search: Search, precision: str) -> list[int]:
    """Places of those that modules were ranked on here: by the same user, or on a task that
    everybody sees."""
    owners = ("", str(search.job.user_id))
    keys = [
        {key_of(example, search.spec, precision, owner) for owner in owners} for example in examples
    ]
    rows = ExampleScores.objects.filter(key__in=set().union(*keys))
    known = set(rows.values_list("key", flat=True))
    return [place for place, either in enumerate(keys) if either & known]


def versions_of(ingredients: Iterable[Mapping[str, str]]) -> dict[str, int]:
    """A number for each pinned module, by its name. Equal commits of two repos have one."""
    pinned = {each["repo"]: each["revision"] for each in ingredients}
    found = Commit.objects.filter(sha__in=set(pinned.values())).order_by("-pk")
    numbers = dict(found.values_list("sha", "pk"))  # of equals the first made stays
    return {name: numbers[sha] for name, sha in pinned.items() if sha in numbers}


def read(keys: Sequence[str], versions: Sequence[int]) -> Scores:
    """What is known of these versions on these examples."""
    place = {version: row for row, version in enumerate(versions)}
    losses = np.full((len(versions), len(keys)), np.nan)
    exact = np.zeros((len(versions), len(keys)), dtype=np.bool_)
    column = {key: number for number, key in enumerate(keys)}
    rows = ExampleScores.objects.filter(key__in=keys)
    for row in rows:
        for version, loss, hit in zip(row.versions, row.losses, row.exact, strict=True):
            if version in place:
                losses[place[version], column[row.key]] = loss
                exact[place[version], column[row.key]] = hit
    rows.update(used_at=timezone.now())
    return Scores(tuple(versions), losses, exact)


def keep(keys: Sequence[str], found: Scores) -> None:
    """Add what was measured; call it in a transaction. What is known already stays as it is, so
    that two who measure at once agree on what the first has found."""
    now = timezone.now()
    known = {
        row.key: row
        for row in ExampleScores.objects.filter(key__in=keys).order_by("key").select_for_update()
    }
    new = []
    for column, key in enumerate(keys):
        row = known.get(key)
        fresh = [
            place
            for place, version in enumerate(found.versions)
            if found.is_known[place, column] and not (row and version in row.versions)
        ]
        if not fresh:
            continue
        row = row or ExampleScores(key=key, versions=[], losses=[], exact=[])
        row.versions += [found.versions[place] for place in fresh]
        row.losses += [float(found.losses[place, column]) for place in fresh]
        row.exact += [bool(found.exact[place, column]) for place in fresh]
        row.used_at = now
        if key in known:
            row.save()
        else:
            new.append(row)
    ExampleScores.objects.bulk_create(sorted(new, key=lambda row: row.key), ignore_conflicts=True)


def _is_still(task: FewShotTask, search: Search) -> bool:
    shots = [[e.input, e.target] for e in task.pairs("shot")]
    is_read_so = task.template == search.spec["template"]
    is_same = task.base_model_id == search.base_model_id and is_read_so
    return is_same and shots == list(search.examples["shots"])


def note_task(search: Search, found: Scores, names: Mapping[int, str], tokens: Array) -> None:
    """The module × task matrix: each module's mean on the task's examples, where the task still
    is what was ranked on. tokens (B,): what an example counts for."""
    # Held until the rows are there: whoever changes the task takes them away afterwards.
    tasks = FewShotTask.objects.select_for_update(no_key=True)
    task = tasks.filter(pk=search.task_id).first()
    if task is None or not _is_still(task, search):
        return
    base = found.versions.index(BASE)
    share = tokens / tokens.sum()
    wanted = {names[each]: each for each in found.versions if each in names}
    revisions = {each["repo"]: each["revision"] for each in search.spec["ingredients"]}
    modules = {
        str(module.repo): module
        for module in LoraModule.objects.select_related("repo__owner").filter(
            commit__sha__in=set(revisions.values())
        )
    }
    rows = []
    for name, version in wanted.items():
        place, module = found.versions.index(version), modules.get(name)
        loss = float(found.losses[place] @ share)
        if module is None or not np.isfinite(loss):
            continue
        rows.append(
            TaskScore(
                task=task,
                lora_module=module,
                revision=revisions[name],
                loss=loss,
                base_loss=float(found.losses[base] @ share),
                exact=int(found.exact[place].sum()),
                base_exact=int(found.exact[base].sum()),
                examples=len(tokens),
                measured_at=timezone.now(),
            )
        )
    TaskScore.objects.bulk_create(
        sorted(rows, key=lambda row: row.lora_module_id),
        update_conflicts=True,
        unique_fields=["task", "lora_module"],
        update_fields=[
            "revision", "loss", "base_loss", "exact", "base_exact", "examples", "measured_at",
        ],
    )  # fmt: skip
