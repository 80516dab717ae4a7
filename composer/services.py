"""What people do with searches: submit, cancel, try, forget. Pages, API and commands end here.

Tasks are in task_writing.py, published recipes in publishing.py.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction
from django.db.models import Q

from composer import leaks, limits, needs
from composer.engine import examples as engine_examples
from composer.engine import recipe as engine_recipe
from composer.engine.config import preset_with
from composer.engine.errors import BadConfig, BadExamples
from composer.errors import NotReady
from composer.models import Example, FewShotTask, Recipe, RecipeImport, Search
from composer.module_choice import ModuleChoice, choose_modules, ranked_to, usual_choice
from composer.publishing import refuse_closed, refuse_withdrawn
from composer.search_checks import check_settings, check_test_folds
from composer.task_checks import preview_prompt
from hub_site.accounts.models import User
from hub_site.accounts.notices import notify
from hub_site.jobs import queue
from hub_site.jobs.models import Job
from modules.models import BaseModel, LoraModule

COMPOSE, PREDICT, WEIGH = "compose", "predict", "weigh"
MOST_WEIGHT = 10
MOST_TRIAL_CHARACTERS = 4_000


@transaction.atomic
def submit_job(
    *,
    task: FewShotTask,
    user: User,
    preset: str = "recommended",
    modules: ModuleChoice | None = None,
    overrides: Mapping[str, Any] | None = None,
    test_folds: int = 0,
    remixed: Search | Recipe | None = None,
    idempotency_key: str | None = None,
) -> Job:
    """Queue a search for the task. Everything that decides its result is frozen here.

    test_folds: where the task has no held-out examples, measure by so many folds of its examples.
    remixed: what the choice of modules was taken from.
    The same key from the same user returns the job it made the first time.
    """
    _lock(user)
    params = {
        "task": str(task.pk),
        "preset": preset,
        "modules": modules.to_json() if modules else None,
        "overrides": dict(overrides or {}),
        "test_folds": test_folds,
        "remixed": _recipe_of(remixed),
    }
    if _is_used(user, idempotency_key):
        return queue.submit(COMPOSE, user=user, params=params, idempotency_key=idempotency_key)
    config = preset_with(preset, overrides)
    limits.check_budget(user, config.budget)
    limits.check_queue(user)
    task = _hold(task, user)
    if not BaseModel.objects.usable().filter(pk=task.base_model_id).exists():
        raise NotReady(
            f"The base model {task.base_model} is not on this site, so no worker can load it. "
            "Choose another one for the task, or ask whoever runs this site to add it."
        )
    shots, held_out = task.pairs(Example.SHOT), task.pairs(Example.HELD_OUT)
    engine_examples.check(shots, held_out)
    chosen = choose_modules(
        modules or usual_choice(preset),
        base_model=task.base_model,
        user=user,
        combination=config.combination,
        about=f"{task.name} {task.description} {task.template}",
    )
    mixed = ranked_to(params) or len(chosen)
    check_settings(config, task, shots, chosen, min(mixed, len(chosen)))
    check_test_folds(test_folds, config, shots, held_out, min(mixed, len(chosen)))
    spec = engine_recipe.make_spec(
        base_model={"repo": task.base_model.name, "revision": task.base_model.revision},
        ingredients=[_ingredient(module) for module in chosen],
        config=config,
        template=task.template,
        examples_hash=engine_recipe.examples_hash(shots, task.salt_used),
        split=leaks.split_rule(test_folds, config.seed),
        answer_options=task.answer_options,
    )
    search = Search(
        task=task,
        title=task.name,
        preset=preset,
        base_model=task.base_model,
        spec=spec,
        examples={
            "shots": [[e.input, e.target] for e in shots],
            "held_out": [[e.input, e.target] for e in held_out],
            "answer_options": task.answer_options,
        },
        held_out_hash=leaks.hash_of_test(held_out),
        evidence=leaks.evidence(
            remixed, held_out, user, folded=shots if test_folds and _is_by_hand(modules) else ()
        ),
    )
    search.job = queue.submit(
        COMPOSE,
        user=user,
        params=params,
        idempotency_key=idempotency_key,
        needs=needs.of_search(search, params),
        queue=needs.queue_of(task.base_model),
    )
    search.save(force_insert=True)
    return search.job


def _is_by_hand(modules: ModuleChoice | None) -> bool:
    return modules is not None and modules.how == "hand"


def _recipe_of(remixed: Search | Recipe | None) -> str | None:
    return remixed.recipe_id if isinstance(remixed, Search) else remixed and remixed.pk


def cancel(search: Search) -> None:
    cancel_job(search.job)


def cancel_job(job: Job) -> None:
    """Ask for the end of a job; a running one ends after its current generation."""
    queue.request_cancel(job)


def tell_owner(job: Job, state: str) -> None:
    """A notice of how a composition ended; whoever cancelled it knows."""
    if state == "cancelled":
        return
    ended = "is done: see what it is worth." if state == "done" else "failed: " + job.error_message
    # Asked for anew: a guest who signed in meanwhile has become somebody else.
    for search in Search.objects.filter(pk=job.pk).select_related("job__user"):
        notify(search.job.user, f"“{search.title}” {ended}", search.get_absolute_url())


def finished_recipe(search: Search) -> Recipe:
    """What a search found, with its adapter; raises NotReady while there is none."""
    if search.recipe is None or search.recipe.adapter_id is None:
        raise NotReady("There is no adapter yet: the search has not finished.")
    return search.recipe


@transaction.atomic
def submit_trial(
    *, search: Search, user: User, given: str, idempotency_key: str | None = None
) -> Job:
    """Queue a question to base model and composed adapter; the answers are the job's result."""
    _lock(user)
    _refuse_unusable(search, user)
    if not given.strip():
        raise BadExamples("Type an input to try.", field="input", part="input")
    if len(given) > MOST_TRIAL_CHARACTERS:
        raise BadExamples(
            f"The input has {len(given)} characters; {MOST_TRIAL_CHARACTERS} fit.",
            field="input",
            part="input",
        )
    preview = preview_prompt(search.base_model, search.spec["template"], given)
    if not preview.fits:
        raise BadExamples(
            f"The model would read {preview.tokens} tokens; it can read {preview.max_tokens}. "
            "Shorten the input.",
            field="input",
            part="input",
        )
    return _ask(PREDICT, search, user, {"input": given}, idempotency_key)


@transaction.atomic
def submit_weights(
    *, search: Search, user: User, weights: Sequence[float], idempotency_key: str | None = None
) -> Job:
    """Queue other weights of a result's modules, to be measured on the examples it was searched
    with. They have no verdict: the test examples are not opened for them."""
    _lock(user)
    _refuse_unusable(search, user)
    assert search.recipe is not None
    wanted = len(search.recipe.document["weights"])
    if len(weights) != wanted:
        raise BadConfig(
            f"There are {len(weights)} weights; this composition has {wanted}.",
            fields={"weights": [f"Give {wanted}."]},
        )
    # A search without a bound may have gone further than anybody moves by hand.
    most = max(MOST_WEIGHT, *(math.ceil(abs(each)) for each in search.recipe.document["weights"]))
    for weight in weights:
        if not abs(weight) <= most:  # also what is no number
            raise BadConfig(
                f"A weight is {weight}; it must be from -{most} to {most}.",
                fields={"weights": [f"From -{most} to {most}."]},
            )
    return _ask(WEIGH, search, user, {"weights": list(weights)}, idempotency_key)


def _refuse_unusable(search: Search, user: User) -> None:
    if search.recipe is None:
        raise NotReady("There is no adapter to try yet: the search has not finished.")
    refuse_withdrawn(search.recipe, user)
    refuse_closed(search.recipe, user)


def _ask(kind: str, search: Search, user: User, params: Mapping[str, Any], key: str | None) -> Job:
    """A short question about a result, which goes before searches."""
    if not _is_used(user, key):
        limits.check_queue(user)
    return queue.submit(
        kind,
        user=user,
        params={"search": str(search.pk), **params},
        priority=10,
        idempotency_key=key,
        needs=needs.of_search(search, search.job.params),
        queue=search.job.queue,
    )


@transaction.atomic
def forget_searches(user: User) -> None:
    """Before somebody goes: what they published stays with its figures, without its author and
    without texts that were private; every other search goes, and the recipes only they could see.
    """
    public = Recipe.objects.filter(published_search__job__user=user).order_by("pk")
    for recipe in public.select_related("published_search"):
        search = recipe.published_search
        if not recipe.shows_examples:
            search.examples = {"shots": [], "held_out": []}
            for each in (search.evidence, *search.evidence.get("folds", {}).values()):
                each.pop("answers", None)
            search.save(update_fields=["examples", "evidence"])
        Job.objects.filter(pk=search.pk).update(user=None, idempotency_key=None)
    theirs = Q(searches__job__user=user) | Q(imports__user=user)
    private = list(Recipe.objects.filter(theirs, published_at=None).values_list("pk", flat=True))
    user.jobs.all().delete()
    RecipeImport.objects.filter(user=user).delete()
    unfound = Recipe.objects.filter(searches=None, imports=None, published_at=None)
    left = unfound.filter(pk__in=private).values("pk")
    # One that somebody finds again just now is theirs.
    unused = Recipe.objects.filter(pk__in=left).select_for_update(skip_locked=True)
    Recipe.objects.filter(pk__in=[recipe.pk for recipe in unused]).delete()


def _ingredient(module: LoraModule) -> dict[str, str]:
    return {
        "repo": str(module.repo),
        "revision": module.commit.sha,
        "sha256": module.weights_sha256,
    }


def _hold(task: FewShotTask, user: User) -> FewShotTask:
    """The task as it stands, until the job is made: its owner may edit, delete or take it back."""
    rows = FewShotTask.objects.select_for_update(of=("self",), no_key=True)
    held = rows.visible_to(user).select_related("base_model").filter(pk=task.pk).first()
    if held is None:
        raise NotReady("This task was deleted, or is no longer shared. Choose another one.")
    return held


def _lock(user: User) -> None:
    """One submission of a user at a time: two at once cannot both be the last one allowed."""
    User.objects.select_for_update().get(pk=user.pk)


def _is_used(user: User, key: str | None) -> bool:
    """The queue answers a used key with the job it made, or says that the request differs."""
    return key is not None and Job.objects.filter(user=user, idempotency_key=key).exists()
