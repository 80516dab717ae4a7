"""From a task to a job: the form of a composition, and the one-click demo."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from composer import services
from composer.engine.config import PRESETS, preset_with
from composer.engine.errors import CommonsError
from composer.engine.recipe import config_of
from composer.forms import ComposeForm, add_commons_error
from composer.models import Example, FewShotTask, Recipe, Search
from composer.module_choice import (
    MIXED_UNASKED,
    Fit,
    ModuleChoice,
    fits_in,
    left_out,
    ranked_to,
    tags_of,
)
from composer.views.request import find_task, visitor
from hub_site import throttles
from hub_site.accounts.models import User
from hub_site.figures import duration
from modules.community import collections as library
from modules.models import BaseModel, Collection, LoraModule

RECOMMENDED = "recommended"
USUAL_FOLDS = 5
MOST_TAGS = 100  # the commonest, in the form
MOST_COLLECTIONS = 20  # of one's own, the last changed first, in the form
ADVANCED = {
    "How modules are mixed": ("combination", "blocks", "rank"),
    "What is made small": ("objective", "reduction", "penalty"),
    "How it is searched": ("optimiser", "x0", "sigma", "bound", "population", "restarts"),
    "How the best is chosen": ("selection", "folds", "patience"),
}


def usual_time(base_model: BaseModel | None, folds: int = 0) -> str:
    """How long the last compositions on this base model took, in words."""
    if base_model is None:
        return ""
    seconds = Search.objects.usual_seconds(base_model, folds)
    if seconds is not None:
        return f"The last ones here took about {duration(seconds)}."
    one = Search.objects.usual_seconds(base_model) if folds else None
    if one is not None:
        every = duration(one * (folds + 1))
        return f"One search took about {duration(one)} here, so {folds + 1} may take {every}."
    return "How long it takes shows as soon as it runs."


def compose_context(
    task: FewShotTask, form: ComposeForm, shot_count: int, key: str = ""
) -> dict[str, Any]:
    fits = form.fits
    fitting = [fit for fit in fits if fit.fits]
    measured = measured_by(task, shot_count, form)
    return {
        "task": task,
        "form": form,
        # Two presses of the button are one job.
        "key": key or secrets.token_urlsafe(12),
        "presets": {name: make() for name, make in PRESETS.items()},
        "shot_count": shot_count,
        "measured_by": measured,
        "fits": fitting,
        "tags": tags_of(fits)[:MOST_TAGS],
        "tag_chosen": str(form["tag"].value() or ""),
        "collections": _collections(form, fits),
        "fitting_count": len(fitting),
        "mixed_unasked": MIXED_UNASKED,
        "misfits": [fit for fit in fits if not fit.fits],
        "chosen": _ids(form["modules"].value() or []),
        "advanced": {title: [form[name] for name in names] for title, names in ADVANCED.items()},
        "has_settings": _any_given(form, ComposeForm.SETTINGS),
        "has_advanced": _any_given(form, [name for names in ADVANCED.values() for name in names]),
        "estimate": usual_time(task.base_model, measured["folds"]),
    }


def usual_folds(task: FewShotTask, shot_count: int) -> int:
    """How a page measures where nobody says: by folds where there is nothing held out."""
    held_out = task.examples.filter(split=Example.HELD_OUT).exists()
    return 0 if held_out or shot_count < USUAL_FOLDS else USUAL_FOLDS


def measured_by(task: FewShotTask, shot_count: int, form: ComposeForm) -> dict[str, int]:
    """What a composition will be measured on, and how many searches that takes."""
    held_out = task.examples.filter(split=Example.HELD_OUT).count()
    typed = str(form["test_folds"].value() or "")
    folds = int(typed) if typed.isdecimal() and len(typed) < 4 else 0
    return {"held_out": held_out, "folds": 0 if held_out else folds, "searches": folds + 1}


@dataclass(frozen=True)
class _Choosable:
    """A collection that the form offers, and how many of its modules can be mixed here."""

    name: str
    collection: Collection
    fitting: int
    left_out: list[Fit]
    is_chosen: bool

    @property
    def count(self) -> int:
        return self.fitting + len(self.left_out)


def _collections(form: ComposeForm, fits: list[Fit]) -> list[_Choosable]:
    """The visitor's own, and the one that a link or the form named."""
    user, base_model = form.user, form.task.base_model
    chosen = str(form["collection"].value() or "")
    owner, _, name = chosen.partition("/")
    offered = list(library.of_user(user)[:MOST_COLLECTIONS])
    named = Collection.objects.visible_to(user).named(owner, name).first()
    if named is not None and named not in offered:
        offered.append(named)
    found = []
    for each in offered:
        rows = fits_in(each, fits, base_model, user)
        left_out = [fit for fit in rows if not fit.fits]
        found.append(
            _Choosable(
                f"{each.owner.name}/{each.name}", each, len(rows) - len(left_out), left_out,
                each == named,
            )
        )  # fmt: skip
    return found


def _ids(values: Sequence[Any]) -> set[int]:
    texts = [str(value) for value in values]
    return {int(text) for text in texts if text.isdecimal() and len(text) < 19}


def _any_given(form: ComposeForm, names: Sequence[str]) -> bool:
    return any(form[name].errors or form[name].value() not in (None, "") for name in names)


# --- from an earlier composition ---------------------------------------------------------------


def _modules_named(ingredients: Sequence[Mapping[str, str]], user: User) -> list[LoraModule]:
    names = {each["repo"] for each in ingredients}
    visible = LoraModule.objects.visible_to(user).ready().select_related("repo__owner")
    return [module for module in visible if str(module.repo) in names]


def _modules_in(recipe: Recipe, user: User) -> list[LoraModule]:
    """Those that are here, under whatever name: a recipe's file from elsewhere has others."""
    here = recipe.ingredients.values("lora_module")
    visible = LoraModule.objects.visible_to(user).ready().filter(pk__in=here)
    return list(visible.select_related("repo__owner"))


def _settings_of(search: Search, user: User) -> dict[str, Any]:
    """A search's settings as the form takes them: its preset, and what differs from that."""
    used, bare = config_of(search.spec).to_json(), preset_with(search.preset).to_json()
    # These two bring settings of their own, which the form will bring again.
    brought = {name: used[name] for name in ("combination", "objective")}
    usual = preset_with(search.preset, brought).to_json()
    usual.update({name: bare[name] for name in brought})
    changed = {name: used[name] for name in ComposeForm.SETTINGS if used[name] != usual[name]}
    chosen = _modules_of(search, user)
    folds = {"test_folds": search.job.params.get("test_folds") or 0}
    return {**changed, **folds, "preset": search.preset, **chosen}


def _modules_of(search: Search, user: User) -> dict[str, Any]:
    """By hand those that were mixed; a ranking that never came is asked for again."""
    ingredients = search.spec["ingredients"]
    count = ranked_to(search.job.params)
    if count is None or "screening" in search.evidence:
        return _by_hand(ingredients, user)
    return {"how": "ranked", "count": count} if search.job.params.get("modules") else {}


def _by_hand(ingredients: Sequence[Mapping[str, str]], user: User) -> dict[str, Any]:
    return {"how": "hand", "modules": [each.pk for each in _modules_named(ingredients, user)]}


def _start(request: HttpRequest) -> tuple[dict[str, Any], Search | Recipe | None]:
    """The settings of the search or recipe that is remixed, and that one itself."""
    if digest := request.GET.get("recipe"):
        recipe = get_object_or_404(Recipe.objects.visible_to(request.user).with_digest(digest))
        modules = [module.pk for module in _modules_in(recipe, request.user)]
        chosen = {"how": "hand", "modules": modules}
        return {**chosen, "remixed": f"recipe:{recipe.pk}"}, recipe
    if name := request.GET.get("collection"):
        return {"how": "collection", "collection": name}, None
    if name := request.GET.get("tag"):
        return {"how": "tag", "tag": name}, None
    if not (pk := request.GET.get("from")):
        return {}, None
    try:
        search = get_object_or_404(Search.objects.visible_to(request.user), pk=pk)
    except ValidationError as error:  # not a uuid
        raise Http404 from error
    return {**_settings_of(search, request.user), "remixed": f"search:{search.pk}"}, search


# --- the pages ---------------------------------------------------------------------------------


def compose_at_once(
    request: HttpRequest,
    task: FewShotTask,
    user: User,
    remixed: Recipe | None = None,
    collection: Collection | None = None,
) -> HttpResponse:
    """Submit with the recommended settings; what stands in the way is said on the task's page."""
    throttles.count(request, "submit")
    choice = ModuleChoice("collection", collection=collection) if collection else None
    if remixed:
        choice = ModuleChoice("hand", modules=tuple(_modules_in(remixed, user)))
    try:
        job = services.submit_job(
            task=task,
            user=user,
            preset=RECOMMENDED,
            modules=choice,
            test_folds=usual_folds(task, task.examples.filter(split=Example.SHOT).count()),
            remixed=remixed,
        )
    except CommonsError as error:
        messages.error(request, error.user_message)
        return redirect(task)
    return redirect("composer:job", job.pk)


def _once(request: HttpRequest, task: FewShotTask) -> str | None:
    """Two presses of the button are one job; other settings on the same page, or another version
    of the task, are another one."""
    if not request.POST.get("key"):
        return None
    sent = sorted(pair for pair in request.POST.lists() if pair[0] != "csrfmiddlewaretoken")
    return f"page:{sha256(repr((sent, task.updated_at)).encode()).hexdigest()}"


def _submit(request: HttpRequest, form: ComposeForm) -> HttpResponse | None:
    """The new job's page, or None when the form says what is wrong."""
    if not form.is_valid():
        return None
    form.user = visitor(request)
    throttles.count(request, "submit")
    try:
        job = form.submit(idempotency_key=_once(request, form.task))
    except CommonsError as error:
        add_commons_error(form, error)
        return None
    if form.choice is not None and form.choice.collection is not None:
        _say_what_was_left_out(request, form, form.choice.collection)
    return redirect("composer:job", job.pk)


def _say_what_was_left_out(request: HttpRequest, form: ComposeForm, collection: Collection) -> None:
    left = left_out(collection, form.task.base_model, form.user, form.combination_used)
    if left:
        some = " ".join(f"{fit.lora_module}: {fit.reason}" for fit in left[:3])
        rest = f" And {len(left) - 3} more." if len(left) > 3 else ""
        messages.info(request, f"{len(left)} of “{collection}” left out. {some}{rest}")


@require_http_methods(["GET", "HEAD", "POST"])
def task_compose(request: HttpRequest, pk: str) -> HttpResponse:
    try:
        task = find_task(request, pk)
    except Http404:
        if request.user.is_authenticated or request.method == "POST":
            raise
        return redirect_to_login(request.get_full_path())
    key, remixed, status = request.POST.get("key", "")[:100], None, 200
    shot_count = task.examples.filter(split=Example.SHOT).count()
    if request.method == "POST":
        form = ComposeForm(request.POST, task=task, user=request.user)
        if answer := _submit(request, form):
            return answer
        status = 422
    else:
        form = ComposeForm(task=task, user=request.user)
        start, remixed = _start(request)
        form.initial = {"test_folds": usual_folds(task, shot_count), **start}
    context = {
        **compose_context(task, form, shot_count, key),
        "is_owner": task.owner_id is not None and task.owner_id == request.user.pk,
        "remixed": remixed,
    }
    return render(request, "composer/compose.html", context, status=status)


@require_POST
def try_demo(request: HttpRequest, demo_key: str) -> HttpResponse:
    """One click: the demo task, the recommended settings, and a guest where nobody is signed in."""
    task = get_object_or_404(FewShotTask.objects.demo(), demo_key=demo_key)
    return compose_at_once(request, task, visitor(request))
