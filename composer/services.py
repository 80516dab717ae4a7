"""What people do with tasks, searches and recipes. Pages, API and commands end here."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Required, TypedDict, Unpack

from django.db import transaction
from django.utils import timezone

from composer import limits
from composer.engine import examples as engine_examples
from composer.engine import recipe as engine_recipe
from composer.engine.config import PRESETS, SearchConfig, with_combination
from composer.engine.errors import BadConfig, BadExamples, CommonsError
from composer.models import Example, FewShotTask, Ingredient, Recipe, Search
from composer.module_choice import ModuleChoice, choose_modules, usual_choice
from composer.task_checks import check_task, preview_prompt
from hub_site.accounts.models import User
from hub_site.accounts.notices import notify
from hub_site.jobs import queue
from hub_site.jobs.models import Job
from modules.models import BaseModel, LoraModule

if TYPE_CHECKING:
    from composer.querysets import Visitor

COMPOSE, PREDICT = "compose", "predict"
MOST_TRIAL_CHARACTERS = 4_000


class NotAllowed(CommonsError):
    code = "not_allowed"
    status = 403


class NotReady(CommonsError):
    """The thing asked for is not there yet, or never will be; the message says which."""

    code = "not_ready"
    status = 409


class Withdrawn(CommonsError):
    code = "withdrawn"
    status = 403


# --- tasks -------------------------------------------------------------------------------------


class TaskFields(TypedDict, total=False):
    """What a person or a program says of a task."""

    name: Required[str]
    base_model: Required[BaseModel]
    shots: Required[Sequence[engine_examples.Example]]
    held_out: Sequence[engine_examples.Example]
    description: str
    template: str
    answer_options: Sequence[str]


def create_task(*, user: User, **fields: Unpack[TaskFields]) -> FewShotTask:
    return _write_task(FewShotTask(owner=user, salt=secrets.token_hex(16)), **fields)


@transaction.atomic
def update_task(task: FewShotTask, **fields: Unpack[TaskFields]) -> FewShotTask:
    """Change a task. Searches already submitted keep the examples they were given."""
    if not FewShotTask.objects.select_for_update().filter(pk=task.pk).exists():
        raise NotReady("This task was deleted while you changed it. Write a new one.")
    return _write_task(task, **fields)


@transaction.atomic
def _write_task(
    task: FewShotTask,
    *,
    name: str,
    base_model: BaseModel,
    shots: Sequence[engine_examples.Example],
    held_out: Sequence[engine_examples.Example] = (),
    description: str = "",
    template: str = "{input}",
    answer_options: Sequence[str] = (),
) -> FewShotTask:
    check_task(base_model, shots, held_out, template, answer_options)
    task.name = name
    task.description = description
    task.base_model = base_model
    task.template = template
    task.answer_options = list(answer_options)
    task.save()
    task.examples.all().delete()
    _write_examples(task, shots, held_out)
    return task


@transaction.atomic
def duplicate_task(task: FewShotTask, *, user: User) -> FewShotTask:
    """A copy that belongs to `user`; how a demo task becomes one that can be edited."""
    copy = FewShotTask.objects.create(
        owner=user,
        name=f"{task.name[:112]} (copy)",
        description=task.description,
        base_model=task.base_model,
        template=task.template,
        answer_options=task.answer_options,
        salt=secrets.token_hex(16),
    )
    _write_examples(copy, task.pairs(Example.SHOT), task.pairs(Example.HELD_OUT))
    return copy


def delete_task(task: FewShotTask) -> None:
    """Remove a task and its examples. Its jobs and recipes stay: they hold their own copies."""
    task.delete()


def load_demo_tasks(tasks: Iterable[Mapping[str, Any]], *, base_model: BaseModel) -> int:
    """Write the demo library's tasks; run again, it changes only what is different.

    Each: {"key", "name", "description", "template", "answer_options", "shots", "held_out"},
    examples as [input, target].
    """
    count = 0
    for document in tasks:
        shots = [engine_examples.Example(*pair) for pair in document["shots"]]
        held_out = [engine_examples.Example(*pair) for pair in document["held_out"]]
        template = document.get("template", "{input}")
        options = list(document.get("answer_options", []))
        check_task(base_model, shots, held_out, template, options)
        with transaction.atomic():
            task, _ = FewShotTask.objects.update_or_create(
                demo_key=document["key"],
                defaults={
                    "owner": None,
                    "name": document["name"],
                    "description": document.get("description", ""),
                    "base_model": base_model,
                    "template": template,
                    "answer_options": options,
                },
            )
            wanted = [[[e.input, e.target] for e in rows] for rows in (shots, held_out)]
            found = [
                [[e.input, e.target] for e in task.pairs(split)]
                for split in (Example.SHOT, Example.HELD_OUT)
            ]
            if wanted != found:
                task.examples.all().delete()
                _write_examples(task, shots, held_out)
        count += 1
    return count


# --- searches ----------------------------------------------------------------------------------


def config_for(preset: str, overrides: Mapping[str, Any] | None = None) -> SearchConfig:
    """A preset with the given settings changed; None keeps the preset's value."""
    if preset not in PRESETS:
        known = " or ".join(repr(name) for name in PRESETS)
        raise BadConfig(
            f"The preset is {preset!r}; it must be {known}.", fields={"preset": [known]}
        )
    config = PRESETS[preset]()
    changes = {name: value for name, value in (overrides or {}).items() if value is not None}
    unknown = sorted(set(changes) - set(config.to_json()))
    if unknown:
        raise BadConfig(
            f"Unknown setting {unknown[0]!r}. Known: {', '.join(sorted(config.to_json()))}.",
            fields={unknown[0]: ["Unknown setting."]},
        )
    # The combination first: it brings the start and step that suit it.
    if "combination" in changes:
        config = with_combination(config, changes["combination"])
    return replace(config, **changes).validate()


@transaction.atomic
def submit_job(
    *,
    task: FewShotTask,
    user: User,
    preset: str = "recommended",
    modules: ModuleChoice | None = None,
    overrides: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
) -> Job:
    """Queue a search for the task. Everything that decides its result is frozen here.

    The same key from the same user returns the job it made the first time.
    """
    _lock(user)
    params = {
        "task": str(task.pk),
        "preset": preset,
        "modules": modules.to_json() if modules else None,
        "overrides": dict(overrides or {}),
    }
    if _is_used(user, idempotency_key):
        return queue.submit(COMPOSE, user=user, params=params, idempotency_key=idempotency_key)
    config = config_for(preset, overrides)
    limits.check_budget(user, config.budget)
    limits.check_queue(user)
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
    )
    spec = engine_recipe.make_spec(
        base_model={"repo": task.base_model.name, "revision": task.base_model.revision},
        ingredients=[_ingredient(module) for module in chosen],
        config=config,
        template=task.template,
        examples_hash=engine_recipe.examples_hash(shots, task.salt),
    )
    job = queue.submit(COMPOSE, user=user, params=params, idempotency_key=idempotency_key)
    Search.objects.create(
        job=job,
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
    )
    return job


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
    for search in Search.objects.filter(pk=job.pk):
        notify(job.user, f"“{search.title}” {ended}", search.get_absolute_url())


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
    if search.recipe_id is None:
        raise NotReady("There is no adapter to try yet: the search has not finished.")
    if search.recipe is not None:
        refuse_withdrawn(search.recipe, user)
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
    if not _is_used(user, idempotency_key):
        limits.check_queue(user)
    return queue.submit(
        PREDICT,
        user=user,
        params={"search": str(search.pk), "input": given},
        priority=10,
        idempotency_key=idempotency_key,
    )


# --- recipes -----------------------------------------------------------------------------------


@transaction.atomic
def publish(
    *,
    search: Search,
    user: User,
    title: str,
    description: str = "",
    show_examples: bool = False,
) -> Recipe:
    """Make a search's recipe public. Examples and predictions stay private unless shown.

    A recipe that is public already stays as its first publisher left it.
    """
    if search.recipe_id is None:
        raise NotReady("There is nothing to publish yet: the search has not finished.")
    if user.is_guest:
        raise NotAllowed("Sign up to publish: a recipe carries its author's name.")
    recipe = Recipe.objects.select_for_update().get(pk=search.recipe_id)
    if recipe.published_at:
        return recipe
    hidden = private_ingredients(recipe)
    if hidden:
        raise NotAllowed(
            f"This recipe cannot be public: {', '.join(hidden)} "
            f"{'is' if len(hidden) == 1 else 'are'} private or no longer here. "
            "Make the module public, or search again without it."
        )
    recipe.title = title.strip() or search.title
    recipe.description = description
    recipe.shows_examples = show_examples
    recipe.published_at = timezone.now()
    recipe.published_by = user
    recipe.published_search = search
    recipe.save()
    return recipe


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
            search.evidence.pop("answers", None)
            search.save(update_fields=["examples", "evidence"])
        Job.objects.filter(pk=search.pk).update(user=None, idempotency_key=None)
    theirs = Recipe.objects.filter(published_at=None, searches__job__user=user)
    private = list(theirs.values_list("pk", flat=True))
    user.jobs.all().delete()
    left = Recipe.objects.filter(pk__in=private, searches=None, published_at=None).values("pk")
    # One that somebody finds again just now is theirs.
    unused = Recipe.objects.filter(pk__in=left).select_for_update(skip_locked=True)
    Recipe.objects.filter(pk__in=[recipe.pk for recipe in unused]).delete()


def private_ingredients(recipe: Recipe) -> list[str]:
    """Names of the ingredients that not everybody may see."""
    from django.contrib.auth.models import AnonymousUser

    wanted = recipe.ingredients.all()
    public = LoraModule.objects.visible_to(AnonymousUser()).filter(
        pk__in=[ingredient.lora_module_id for ingredient in wanted]
    )
    seen = set(public.values_list("pk", flat=True))
    return [ingredient.name for ingredient in wanted if ingredient.lora_module_id not in seen]


def standings(recipe: Recipe, user: "Visitor") -> dict[int, str]:
    """What became of each ingredient's module for this visitor, by the ingredient's id: "here",
    "hidden", "private" or "deleted". The recipe keeps its name, version and hash in any case."""
    wanted = list(recipe.ingredients.select_related("lora_module__repo"))
    seen = set(
        LoraModule.objects.visible_to(user)
        .filter(pk__in=[each.lora_module_id for each in wanted])
        .values_list("pk", flat=True)
    )

    def standing(each: Ingredient) -> str:
        if each.lora_module_id is None:
            return "deleted"
        if each.is_hidden:
            return "hidden"
        return "here" if each.lora_module_id in seen else "private"

    return {each.pk: standing(each) for each in wanted}


def refuse_withdrawn(recipe: Recipe, user: "Visitor") -> None:
    """An adapter is made of its modules: what was hidden is not handed out inside it either."""
    if recipe.adapter_allowed or (user.is_authenticated and user.is_staff):
        return
    hidden = recipe.ingredients.exclude(lora_module__repo__hidden_at=None)
    names = list(hidden.exclude(lora_module=None).values_list("name", flat=True))
    if names:
        raise Withdrawn(
            f"This adapter is withdrawn: a moderator has hidden {', '.join(names)}, which is in "
            "it. Search again without it; if it is restored, the adapter can be had again."
        )


# --- private -----------------------------------------------------------------------------------


def _write_examples(
    task: FewShotTask,
    shots: Sequence[engine_examples.Example],
    held_out: Sequence[engine_examples.Example],
) -> None:
    Example.objects.bulk_create(
        Example(task=task, split=split, position=place, input=row.input, target=row.target)
        for split, rows in ((Example.SHOT, shots), (Example.HELD_OUT, held_out))
        for place, row in enumerate(rows)
    )


def _ingredient(module: LoraModule) -> dict[str, str]:
    return {
        "repo": str(module.repo),
        "revision": module.commit.sha,
        "sha256": module.weights_sha256,
    }


def _lock(user: User) -> None:
    """One submission of a user at a time: two at once cannot both be the last one allowed."""
    User.objects.select_for_update().get(pk=user.pk)


def _is_used(user: User, key: str | None) -> bool:
    """The queue answers a used key with the job it made, or says that the request differs."""
    return key is not None and Job.objects.filter(user=user, idempotency_key=key).exists()
