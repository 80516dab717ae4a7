"""A recipe that was really searched for and published, and twelve ways to tamper with it."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from composer import proof, publishing, runner, services, task_writing, verifications, verifying
from composer.engine import recipe as engine_recipe
from composer.engine.examples import Example
from composer.models import FewShotTask, Generation, Ingredient, Recipe, Search, Verification
from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.worker import Lease
from modules.models import BaseModel, Blob

Document = dict[str, Any]

SHOTS = [Example("big", "small"), Example("hot", "cold"), Example("the old", "new")]
HELD_OUT = [Example("up", "down"), Example("a good", "bad"), Example("left", "right")]
SETTINGS = {"budget": 30, "seed": 3, "optimiser": "cmaes", "population": 6}


def search_for(
    user: User, base_model: BaseModel, *, held_out: Sequence[Example] = HELD_OUT, **overrides: Any
) -> Search:
    task = task_writing.create_task(
        user=user,
        name="Opposites",
        base_model=base_model,
        template="opposite of {input} :",
        shots=SHOTS,
        held_out=held_out,
    )
    return search_on(task, user, **overrides)


def search_on(task: FewShotTask, user: User, **overrides: Any) -> Search:
    job = services.submit_job(task=task, user=user, overrides={**SETTINGS, **overrides})
    claimed = queue.claim_next("test")
    assert claimed is not None and claimed.pk == job.pk
    runner.compose(claimed, Lease(claimed))
    return Search.objects.select_related("job", "recipe").get(pk=job.pk)


def publish(search: Search, user: User, **fields: Any) -> Recipe:
    return publishing.publish(search=search, user=user, title="Opposites", **fields)


def verify(recipe: Recipe, user: User, kind: str = Verification.EVALUATION) -> Verification:
    """Ask for it, and do it as a worker's child does."""
    row = verifications.submit_verification(recipe=recipe, user=user, kind=kind)
    claimed = queue.claim_next("test")
    assert claimed is not None and claimed.pk == row.job_id
    verifying.verify(claimed, Lease(claimed))
    return Verification.objects.get(pk=row.pk)


# --- tampering -----------------------------------------------------------------------------------


def _largest(document: Document) -> int:
    weights = document["weights"]
    return max(range(len(weights)), key=lambda n: abs(weights[n]))


def _weight(document: Document) -> None:
    document["weights"][_largest(document)] *= 1.5


def _sign(document: Document) -> None:
    document["weights"][_largest(document)] *= -1


def _file(document: Document) -> None:
    document["spec"]["ingredients"][1]["sha256"] = "ab" * 32


def _order(document: Document) -> None:
    pinned = document["spec"]["ingredients"]
    pinned[0], pinned[1] = pinned[1], pinned[0]


def _revision(document: Document) -> None:
    document["spec"]["ingredients"][2]["revision"] = "cd" * 20


def _base_revision(document: Document) -> None:
    document["spec"]["base_model"]["revision"] = "ef" * 20


def _template(document: Document) -> None:
    document["spec"]["template"] = "the new of {input} :"


def _example(document: Document) -> None:
    document["spec"]["examples_hash"] = "12" * 32


def _split(document: Document) -> None:
    document["spec"]["split"] = "5 folds"


def _seed(document: Document) -> None:
    document["spec"]["seed"] = 4


def _combination(document: Document) -> None:
    document["spec"]["combination"] = "lorahub"
    document["spec"]["scaling"] = engine_recipe.SCALING["lorahub"]
    document["spec"]["rank"] = engine_recipe.RANK["lorahub"]
    document["weights"] = list(engine_recipe.canonical_sign(document["weights"]))


def _scaling(document: Document) -> None:
    document["spec"]["scaling"] = engine_recipe.SCALING["linear"]


TAMPERINGS: dict[str, Callable[[Document], None]] = {
    proof.WEIGHT: _weight,
    proof.SIGN: _sign,
    proof.FILE: _file,
    proof.ORDER: _order,
    proof.REVISION: _revision,
    proof.BASE_REVISION: _base_revision,
    proof.TEMPLATE: _template,
    proof.EXAMPLE: _example,
    proof.SPLIT: _split,
    proof.SEED: _seed,
    proof.COMBINATION: _combination,
    proof.SCALING: _scaling,
}


def tampered(document: Document, what: str) -> Document:
    found = copy.deepcopy(document)
    TAMPERINGS[what](found)
    return found


def anew(document: Document) -> Document:
    """With the id and the digests of its parts made again, so that they fit."""
    found = copy.deepcopy(document)
    spec, weights = found["spec"], found["weights"]
    found["id"] = engine_recipe.digest(engine_recipe.Recipe(found["schema"], spec, tuple(weights)))
    if "proof" in found.get("evidence", {}):
        found["evidence"]["proof"]["parts"] = proof.Parts.of(spec, weights).digests()
    return found


def put_in_place(recipe: Recipe, what: str, *, of_everything: bool) -> Recipe:
    """Another row with the tampered document; with the search, its record and its examples made to
    fit as well, so that only what was measured is as it was."""
    search = recipe.published_search
    assert search is not None
    document = anew(tampered(recipe.document, what))
    if of_everything and what == proof.EXAMPLE:
        search.examples["shots"][1] = ["hot", "a new"]
        salt = search.examples["salt"]
        document["spec"]["examples_hash"] = proof.hash_of(search.examples["shots"], salt)
        document = anew(document)
    other = _row(recipe, document, adapter=None if of_everything else recipe.adapter)
    if of_everything:
        _make_fit(search, document)
    return other


def put_in_place_of_weights(recipe: Recipe, change: Callable[[float], float]) -> Recipe:
    search, document = recipe.published_search, copy.deepcopy(recipe.document)
    assert search is not None
    document["weights"] = [change(weight) for weight in document["weights"]]
    document = anew(document)
    _make_fit(search, document)
    return _row(recipe, document, adapter=None)


def _row(recipe: Recipe, document: Document, *, adapter: Blob | None) -> Recipe:
    other = Recipe.objects.create(
        digest=document["id"],
        document=document,
        title="Tampered",
        base_model=recipe.base_model,
        adapter=adapter,
        published_at=recipe.published_at,
        published_by=recipe.published_by,
        published_search=recipe.published_search,
    )
    for row in recipe.ingredients.all():
        pinned = document["spec"]["ingredients"][row.position]
        Ingredient.objects.create(
            recipe=other, position=row.position, lora_module=row.lora_module, name=pinned["repo"],
            revision=pinned["revision"], weights_sha256=pinned["sha256"], weight=row.weight,
        )  # fmt: skip
    return other


def _make_fit(search: Search, document: Document) -> None:
    parts = proof.Parts.of(document["spec"], document["weights"]).digests()
    search.evidence["proof"]["parts"] = parts
    search.spec = document["spec"]
    search.save()
    if last := Generation.objects.filter(search=search, round="").last():
        last.record["best_weights"] = [float(w).hex() for w in document["weights"]]
        last.save()
