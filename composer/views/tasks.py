"""Pages of few-shot tasks: the list, the form with its live preview, the task itself."""

from collections.abc import Mapping
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from composer import task_writing
from composer.engine.config import preset_with
from composer.engine.errors import CommonsError
from composer.engine.prompt import SLOT
from composer.forms import ComposeForm, ExampleRow, TaskForm
from composer.models import Example, FewShotTask, Recipe, Search
from composer.querysets import SearchQuerySet
from composer.task_checks import preview_prompt
from composer.verdict import verdict
from composer.views.compose import (
    RECOMMENDED,
    compose_at_once,
    compose_context,
    usual_folds,
    usual_time,
)
from composer.views.request import find_task, page_of, visitor
from hub_site.accounts import guests
from modules.community import collections
from modules.models import BaseModel, Collection, LoraModule

SEARCHES_SHOWN = 10
SHARED_SHOWN = 5
HELD_OUT_SHOWN = 20
HELPERS_SHOWN = 10


def _compositions(searches: SearchQuerySet) -> list[dict[str, Any]]:
    """The newest searches with what came of each."""
    newest = searches.for_cards().newest_first().prefetch_related("recipe__ingredients")
    return [
        {"search": search, "verdict": verdict(search.evidence) if search.recipe else None}
        for search in newest[:SEARCHES_SHOWN]
    ]


def _helpers(request: HttpRequest, task: FewShotTask) -> dict[str, Any]:
    """Which modules help, by what they did alone on the task's examples."""
    measured = task.scores.current().of_modules_shown_to(request.user)
    scores = measured.helping().largest_gain_first()
    best = list(scores.select_related("lora_module__repo__owner")[:HELPERS_SHOWN])
    return {
        "helpers": [
            {
                "name": str(score.lora_module),
                "url": score.lora_module.get_absolute_url(),
                "gain": score.gain,
                "loss": score.loss,
                "exact": score.exact,
                "same": [],
            }
            for score in best
        ],
        "helpers_base": measured.first(),
        "helpers_count": scores.count(),
        "helpers_measured": measured.count(),
    }


@require_safe
def tasks(request: HttpRequest) -> HttpResponse:
    own = FewShotTask.objects.editable_by(request.user).for_cards().newest_first()
    page = page_of(request, own)
    shared = FewShotTask.objects.listed()
    if request.user.is_authenticated:
        shared = shared.exclude(owner=request.user)
    context = {
        "page": page,
        "tasks": page.object_list,
        "shared": shared.for_cards()[:SHARED_SHOWN],
        "compositions": _compositions(Search.objects.visible_to(request.user)),
        "demo_tasks": list(FewShotTask.objects.demo()),
    }
    return render(request, "composer/tasks.html", context)


# --- the form ----------------------------------------------------------------------------------


def _base_model(value: Any) -> BaseModel | None:
    """The one chosen in the form; the first one where nothing usable was."""
    if isinstance(value, BaseModel):
        return value
    text = str(value or "")
    is_id = text.isdecimal() and len(text) < 19
    chosen = BaseModel.objects.filter(pk=int(text)).first() if is_id else None
    return chosen or BaseModel.objects.usable().order_by("name").first()


def _preview(base_model: BaseModel | None, template: str, row: ExampleRow) -> dict[str, Any]:
    """What the model will read of this example, or why that cannot be said."""
    if base_model is None:
        return {"error": "This site has no base model yet. Its operator adds one."}
    given = row.input.strip()
    if not given and template.strip() in ("", SLOT):
        return {}
    try:
        found = preview_prompt(base_model, template or SLOT, given or "…")
    except CommonsError as error:
        return {"error": error.user_message}
    return {
        "prompt": found.prompt,
        "tokens": found.tokens,
        "max_tokens": found.max_tokens,
        "fits": found.fits,
        "wanted": row.target.strip(),
    }


def _brought_along(request: HttpRequest) -> dict[str, Any]:
    """What a link to a new task named: a module or collection to use, or a recipe to start from."""
    module = remixed = collection = None
    if name := request.GET.get("module", ""):
        owner, _, repo = name.partition("/")
        visible = LoraModule.objects.visible_to(request.user).select_related("repo__owner")
        module = visible.named(owner, repo).first()
    if digest := request.GET.get("recipe", ""):
        remixed = Recipe.objects.visible_to(request.user).with_digest(digest).first()
    if name := request.GET.get("collection", ""):
        owner, _, slug = name.partition("/")
        collection = Collection.objects.visible_to(request.user).named(owner, slug).first()
    return {"module": module, "remixed": remixed, "collection": collection}


def _initial(
    module: LoraModule | None = None,
    remixed: Recipe | None = None,
    collection: Collection | None = None,
) -> dict[str, Any]:
    if collection is not None and (base_model := collections.commonest_base(collection)):
        return {"base_model": base_model}
    if remixed:
        template = remixed.document["spec"]["template"]
        return {"base_model": remixed.base_model_id, "template": template}
    return {"base_model": module.base_model_id} if module and module.base_model_id else {}


def _answer_form(
    request: HttpRequest, task: FewShotTask | None, brought: Mapping[str, Any]
) -> HttpResponse:
    """New and edited tasks go the same way; only what stands in the form at first differs."""
    status = 200
    if request.method != "POST":
        form = TaskForm(task=task, initial=_initial(**brought))
    elif {"add_row", "preview"} & set(request.POST):
        form = TaskForm.with_more_rows(request.POST, task=task)
    else:
        form = TaskForm(request.POST, task=task)
        if form.is_valid():
            return _save(request, form, brought)
        status = 422
    rows = form.shot_rows
    base_model = _base_model(form["base_model"].value())
    context = {
        **brought,
        "form": form,
        "task": task,
        "blank_row": ExampleRow(0),
        "shot_count": sum(bool(row.input.strip() or row.target.strip()) for row in rows),
        "preview": _preview(base_model, form["template"].value() or "", rows[0]),
        "recommended": preset_with(RECOMMENDED),
        "estimate": usual_time(base_model),
    }
    return render(request, "composer/task_form.html", context, status=status)


def _save(request: HttpRequest, form: TaskForm, brought: Mapping[str, Any]) -> HttpResponse:
    user = visitor(request)
    task = form.save(user)
    remixed, collection = brought.get("remixed"), brought.get("collection")
    if request.POST.get("then") == "compose":
        return compose_at_once(request, task, user, remixed, collection)
    if form.task:
        messages.success(request, "Saved.")
        return redirect(task)
    where = reverse("composer:task_compose", args=[task.pk])
    if collection:
        return redirect(f"{where}?collection={collection.owner.name}/{collection.name}")
    return redirect(f"{where}?recipe={remixed.pk}" if remixed else where)


@require_http_methods(["GET", "HEAD", "POST"])
def task_new(request: HttpRequest) -> HttpResponse:
    guests.admit(request)  # before anything is typed
    return _answer_form(request, None, _brought_along(request))


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def task_edit(request: HttpRequest, pk: str) -> HttpResponse:
    task = get_object_or_404(FewShotTask.objects.editable_by(request.user), pk=pk)
    return _answer_form(request, task, {})


@csrf_exempt  # it changes nothing, and may be under way while a visitor becomes a guest
@require_POST
def task_preview(request: HttpRequest) -> HttpResponse:
    """The part of the form that shows what the model will read."""
    typed = TaskForm.with_more_rows(request.POST)
    base_model = _base_model(request.POST.get("base_model"))
    preview = _preview(base_model, request.POST.get("template", ""), typed.shot_rows[0])
    return render(request, "composer/_preview.html", {"preview": preview})


# --- the task ----------------------------------------------------------------------------------


@require_safe
def task(request: HttpRequest, pk: str) -> HttpResponse:
    try:
        found = find_task(request, pk)
    except Http404:
        if request.user.is_authenticated:
            raise
        return redirect_to_login(request.get_full_path())
    shots, held_out = found.pairs(Example.SHOT), found.pairs(Example.HELD_OUT)
    first = ExampleRow(1, shots[0].input, shots[0].target) if shots else ExampleRow(1)
    form = ComposeForm(task=found, user=request.user)
    form.initial = {"test_folds": usual_folds(found, len(shots))}
    context = {
        **compose_context(found, form, len(shots)),
        "is_owner": found.owner_id is not None and found.owner_id == request.user.pk,
        "shots": shots,
        "held_out": held_out[:HELD_OUT_SHOWN],
        "held_out_count": len(held_out),
        **_helpers(request, found),
        "compositions": _compositions(found.searches.visible_to(request.user)),
        "preview": _preview(found.base_model, found.template, first),
    }
    return render(request, "composer/task.html", context)


@require_POST
def task_duplicate(request: HttpRequest, pk: str) -> HttpResponse:
    found = find_task(request, pk)
    copy = task_writing.duplicate_task(found, user=visitor(request))
    messages.success(request, f"This is your copy of “{found.name}”. Change what you like.")
    return redirect("composer:task_edit", copy.pk)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def task_delete(request: HttpRequest, pk: str) -> HttpResponse:
    found = get_object_or_404(FewShotTask.objects.editable_by(request.user).for_cards(), pk=pk)
    if request.method == "POST":
        task_writing.delete_task(found)
        messages.success(request, f"“{found.name}” and its examples are deleted.")
        return redirect("composer:tasks")
    return render(request, "composer/task_delete.html", {"task": found})
