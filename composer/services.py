"""What people do with tasks, searches and recipes. Pages, API and commands end here."""

import functools
import random
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from composer.engine import examples as engine_examples
from composer.engine import recipe as engine_recipe
from composer.engine.config import PRESETS, SearchConfig, with_combination
from composer.engine.errors import BadConfig, BadExamples, CommonsError, IncompatibleModules
from composer.engine.prompt import Template, TokenCounter
from composer.example_text import HELD_OUT, SHOTS, Problem, Row
from composer.models import Example, FewShotTask, Recipe, Search
from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import Job
from modules.models import BaseModel, LoraModule

if TYPE_CHECKING:
    from composer.querysets import Visitor

COMPOSE, PREDICT = "compose", "predict"
MOST_MODULES = 100
MOST_ANSWER_OPTIONS = 200
MOST_TRIAL_CHARACTERS = 4_000
PROBLEMS_SHOWN = 20


class OverLimit(CommonsError):
    """Somebody asked for more than the site allows them at once."""

    code = "over_limit"
    status = 429


class NotAllowed(CommonsError):
    code = "not_allowed"
    status = 403


class NotReady(CommonsError):
    """The thing asked for is not there yet, or never will be; the message says which."""

    code = "not_ready"
    status = 409


# --- tasks -------------------------------------------------------------------------------------


@transaction.atomic
def create_task(
    *,
    user: User,
    name: str,
    base_model: BaseModel,
    shots: Sequence[engine_examples.Example],
    held_out: Sequence[engine_examples.Example] = (),
    description: str = "",
    template: str = "{input}",
    answer_options: Sequence[str] = (),
) -> FewShotTask:
    check_task(base_model, shots, held_out, template, answer_options)
    task = FewShotTask.objects.create(
        owner=user,
        name=name,
        description=description,
        base_model=base_model,
        template=template,
        answer_options=list(answer_options),
        salt=secrets.token_hex(16),
    )
    _write_examples(task, shots, held_out)
    return task


@transaction.atomic
def update_task(
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
    """Change a task. Searches already submitted keep the examples they were given."""
    check_task(base_model, shots, held_out, template, answer_options)
    if not FewShotTask.objects.select_for_update().filter(pk=task.pk).exists():
        raise NotReady("This task was deleted while you changed it. Write a new one.")
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


def check_task(
    base_model: BaseModel,
    shots: Sequence[engine_examples.Example],
    held_out: Sequence[engine_examples.Example],
    template: str,
    answer_options: Sequence[str],
) -> None:
    """Raise BadExamples for anything that must not enter a search."""
    engine_examples.check(
        shots, held_out, token_counter(base_model), base_model.max_tokens, Template(template)
    )
    if message := wrong_options(answer_options):
        raise BadExamples(message, part="answer_options")
    for split, part in ((shots, "examples"), (held_out, "held_out")):
        for line, example in enumerate(split, 1):
            if answer_options and example.target not in answer_options:
                raise BadExamples(
                    f"The answer {example.target!r} in line {line} is no answer option.",
                    line=line,
                    field="target",
                    part=part,
                )


def wrong_options(answer_options: Sequence[str]) -> str:
    """What is wrong with them as a list, or nothing."""
    if len(set(answer_options)) != len(answer_options):
        return "An answer option is given twice."
    if len(answer_options) == 1:
        return "Give two answer options or more, or none."
    if len(answer_options) > MOST_ANSWER_OPTIONS:
        return (
            f"There are {len(answer_options)} answer options; give at most {MOST_ANSWER_OPTIONS}."
        )
    return ""


def find_problems(
    shots: Sequence[Row],
    held_out: Sequence[Row],
    *,
    base_model: BaseModel | None = None,
    template: str = "{input}",
    answer_options: Sequence[str] = (),
) -> list[Problem]:
    """Everything wrong with the examples of a form, each where its writer finds it.

    The rules are those of `composer.engine.examples.check`, which stops at the first.
    """
    problems: list[Problem] = []
    if not shots:
        problems.append(Problem(SHOTS, "", 0, "", "Give at least one example."))
    for split, rows, most in (
        (SHOTS, shots, engine_examples.MOST_EXAMPLES),
        (HELD_OUT, held_out, engine_examples.MOST_HELD_OUT),
    ):
        if len(rows) > most:
            message = f"There are {len(rows)} examples; give at most {most}."
            problems.append(Problem(split, "", 0, "", message))
    first_seen: dict[str, tuple[str, Row]] = {}
    measure = _length_check(base_model, template)
    for split, row in [*((SHOTS, row) for row in shots), *((HELD_OUT, row) for row in held_out)]:
        for name, text, what in (
            ("input", row.input, "input"),
            ("target", row.target, "answer"),
        ):
            if message := _wrong_text(text, what) or measure(name, text):
                problems.append(Problem(split, row.place, row.number, name, message))
        if answer_options and row.target and row.target not in answer_options:
            message = f"{row.target!r} is not among the answer options."
            problems.append(Problem(split, row.place, row.number, "target", message))
        key = " ".join(row.input.split())
        if key and key in first_seen:
            message = _repeats(split, *first_seen[key])
            problems.append(Problem(split, row.place, row.number, "input", message))
        first_seen.setdefault(key, (split, row))
    return problems[:PROBLEMS_SHOWN]


@dataclass(frozen=True)
class PromptPreview:
    """What the model will read for one input, and how long that is."""

    prompt: str
    tokens: int | None
    max_tokens: int
    pieces: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return self.tokens is None or self.tokens <= self.max_tokens


def preview_prompt(base_model: BaseModel, template: str, given: str) -> PromptPreview:
    prompt = Template(template).render(given)
    counter = token_counter(base_model)
    pieces = counter.tokens(prompt) if counter else []
    count = len(pieces) if counter else None
    return PromptPreview(prompt, count, base_model.max_tokens, pieces)


def token_counter(base_model: BaseModel) -> TokenCounter | None:
    """The base model's own tokenizer, or None where its file is not on this machine."""
    from modules.storage.local import tokenizer_path

    path = tokenizer_path(base_model)
    return _counter(path, path.stat().st_mtime_ns) if path else None


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


# --- modules that can be composed --------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """A module of the base model, and why it cannot take part where it cannot."""

    lora_module: LoraModule
    reason: str = ""

    @property
    def fits(self) -> bool:
        return not self.reason


def modules_for(base_model: BaseModel, user: "Visitor", combination: str = "sum") -> list[Fit]:
    """Every module of this base model that the user may see, by name, with the misfits' reasons."""
    visible = LoraModule.objects.visible_to(user).filter(base_model=base_model)
    # Sorted here: their order is part of a recipe's id, and databases collate differently.
    found = sorted(visible.select_related("repo__owner", "commit"), key=str)
    usual = _usual_shape([module for module in found if module.status == LoraModule.READY])
    return [Fit(module, _misfit(module, combination, usual)) for module in found]


@dataclass(frozen=True)
class ModuleChoice:
    """Which modules a search mixes: all that fit, `count` of them drawn with `seed`, or these."""

    how: str = "all"  # "all", "random", "hand"
    count: int = 20
    seed: int = 0
    modules: tuple[LoraModule, ...] = ()

    def to_json(self) -> dict[str, Any]:
        names = sorted(str(module) for module in self.modules)
        return {"how": self.how, "count": self.count, "seed": self.seed, "modules": names}


def choose_modules(
    choice: ModuleChoice, *, base_model: BaseModel, user: "Visitor", combination: str
) -> list[LoraModule]:
    """The modules of a search, by name; raises where the choice cannot be met."""
    fits = modules_for(base_model, user, combination)
    fitting = [fit.lora_module for fit in fits if fit.fits]
    if choice.how == "hand":
        chosen = _by_hand(choice.modules, fits)
    elif choice.how == "random":
        if choice.count < 1:
            raise BadConfig("Draw at least one module.", fields={"count": ["At least 1."]})
        count = min(choice.count, len(fitting))
        drawn = set(random.Random(choice.seed).sample(range(len(fitting)), count))  # noqa: S311
        chosen = [module for place, module in enumerate(fitting) if place in drawn]
    else:
        chosen = fitting
    if not chosen:
        raise IncompatibleModules(
            f"No module of {base_model} fits the combination {combination!r}. "
            "Choose another combination, or upload a module."
        )
    if len(chosen) > MOST_MODULES:
        raise OverLimit(
            f"{len(chosen)} modules are chosen; a search mixes at most {MOST_MODULES}. "
            "Draw some at random or choose by hand."
        )
    return chosen


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
    _check_budget(user, config.budget)
    _check_queue(user)
    if not BaseModel.objects.usable().filter(pk=task.base_model_id).exists():
        raise NotReady(
            f"The base model {task.base_model} is not on this site, so no worker can load it. "
            "Choose another one for the task, or ask whoever runs this site to add it."
        )
    shots, held_out = task.pairs(Example.SHOT), task.pairs(Example.HELD_OUT)
    engine_examples.check(shots, held_out)
    chosen = choose_modules(
        modules or _usual_choice(preset),
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
        _check_queue(user)
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


def private_ingredients(recipe: Recipe) -> list[str]:
    """Names of the ingredients that not everybody may see."""
    from django.contrib.auth.models import AnonymousUser

    wanted = recipe.ingredients.all()
    public = LoraModule.objects.visible_to(AnonymousUser()).filter(
        pk__in=[ingredient.lora_module_id for ingredient in wanted]
    )
    seen = set(public.values_list("pk", flat=True))
    return [ingredient.name for ingredient in wanted if ingredient.lora_module_id not in seen]


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


@functools.lru_cache(maxsize=8)
def _counter(path: Path, changed: int) -> TokenCounter:
    return TokenCounter(path)


def _length_check(base_model: BaseModel | None, template: str) -> Any:
    counter = token_counter(base_model) if base_model else None
    if counter is None or base_model is None:
        return lambda name, text: ""
    most = base_model.max_tokens
    render = Template(template).render

    def measure(name: str, text: str) -> str:
        count = counter.count(render(text) if name == "input" else text)
        if count <= most:
            return ""
        return f"This is {count} tokens long; the model reads at most {most}. Shorten it."

    return measure


def _wrong_text(text: str, what: str) -> str:
    if not text.strip():
        return f"The {what} is empty."
    if "\x00" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        return f"The {what} holds characters that are not text. Retype it."
    return ""


def _repeats(split: str, first_split: str, first: Row) -> str:
    if split == first_split:
        return f"This input repeats {first.place} {first.number}. Remove one of them."
    return (
        f"This input is also in {first.place} {first.number} of the examples. An answer that the "
        "search has seen proves nothing: remove one of them."
    )


Shape = tuple[int, tuple[str, ...]]


def _shape(module: LoraModule) -> Shape:
    return module.r, tuple(module.target_modules)


def _usual_shape(modules: Sequence[LoraModule]) -> Shape | None:
    shapes = [_shape(module) for module in modules]
    return max(shapes, key=shapes.count, default=None)


def _misfit(module: LoraModule, combination: str, usual: Shape | None) -> str:
    if module.status == LoraModule.CHECKING:
        return "Its files are still being checked."
    if module.status == LoraModule.REJECTED:
        return module.rejected_reason or "Its files were rejected."
    if usual is None or combination != "lorahub":
        return ""
    if module.r != usual[0]:
        return (
            f"Its rank is {module.r}, the others' {usual[0]}. LoraHub mixes modules of one rank; "
            "the combination 'sum' mixes any."
        )
    if _shape(module) != usual:
        return (
            f"It adapts {', '.join(module.target_modules)}, the others {', '.join(usual[1])}. "
            "LoraHub mixes modules of one kind; the combination 'sum' mixes any."
        )
    return ""


def _by_hand(chosen: Sequence[LoraModule], fits: Sequence[Fit]) -> list[LoraModule]:
    if not chosen:
        raise IncompatibleModules("Choose at least one module.")
    wanted = {module.pk for module in chosen}
    known = {fit.lora_module.pk: fit for fit in fits}
    for module in chosen:
        fit = known.get(module.pk)
        if fit is None:
            raise IncompatibleModules(f"{module} does not belong to this base model.")
        if not fit.fits:
            raise IncompatibleModules(f"{module} cannot be mixed here. {fit.reason}")
    return [fit.lora_module for fit in fits if fit.lora_module.pk in wanted]


def _usual_choice(preset: str) -> ModuleChoice:
    return ModuleChoice("random") if preset == "paper" else ModuleChoice()


def _ingredient(module: LoraModule) -> dict[str, str]:
    return {
        "repo": str(module.repo),
        "revision": module.commit.sha,
        "sha256": module.weights_sha256,
    }


def _lock(user: User) -> None:
    """One submission of a user at a time: two at once cannot both be the last one allowed."""
    User.objects.select_for_update().get(pk=user.pk)


def _check_budget(user: User, budget: int) -> None:
    most = settings.GUEST_MAX_BUDGET if user.is_guest else settings.MAX_BUDGET
    if budget > most:
        more = " Sign up to use more." if user.is_guest else ""
        message = f"The budget is {budget} evaluations; you can use up to {most}.{more}"
        raise OverLimit(message, fields={"budget": [message]})


def _check_queue(user: User) -> None:
    most = settings.GUEST_QUEUED_JOBS if user.is_guest else settings.USER_QUEUED_JOBS
    waiting = Job.objects.filter(user=user, state__in=["queued", "running"]).count()
    if waiting >= most:
        more = " Sign up for more." if user.is_guest else ""
        raise OverLimit(
            f"You have {waiting} jobs queued or running; {most} are allowed at once. "
            f"Wait for one to end, or cancel one.{more}"
        )
    guests = Job.objects.filter(user__is_guest=True, state="queued")
    if user.is_guest and guests.count() >= settings.GUESTS_QUEUED_JOBS:
        raise OverLimit(
            "Many visitors try this at the moment, and the places for guests are taken. Come back "
            "in a few minutes, or sign up."
        )


def _is_used(user: User, key: str | None) -> bool:
    """The queue answers a used key with the job it made, or says that the request differs."""
    return key is not None and Job.objects.filter(user=user, idempotency_key=key).exists()
