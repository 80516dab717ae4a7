"""A job's page: live while it runs, the result at the same address when it is done."""

import time
from hashlib import sha256
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Max
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.utils.cache import get_conditional_response
from django.utils.http import quote_etag
from django.views.decorators.http import require_http_methods, require_safe
from django_htmx.http import HttpResponseClientRefresh

from composer import artifacts, leaks, plots, publishing, services
from composer.downloads import adapter_zip
from composer.engine.errors import CommonsError
from composer.forms import PublishForm, TryForm, add_commons_error
from composer.job_words import interruptions, job_words
from composer.models import Recipe, Search
from composer.progress import Progress, progress
from composer.views.request import acts_on_job, find_done, find_search, job_named
from composer.views.results import evidence_context, facts, predictions_context, ranking_context
from composer.views.weights import weights_context
from hub_site import throttles
from hub_site.jobs import capacity
from hub_site.jobs.models import Job
from hub_site.pages import page_or_part, site_address
from modules.repos.card_files import cards_of

RESULT_PARTS = {
    "predictions": "composer/_predictions.html",
    "try-it": "composer/_try_it.html",
    "weighed": "composer/_weighed.html",
}
# Seconds for which what a page says of a waiting job's start is near enough.
GUESS_GOOD_FOR = 10


def _loss_plot(search: Search, now: Progress) -> str:
    points = [(point.evaluations, point.best_loss) for point in now.curve]
    before = search.evidence.get("search", {}).get("loss_before")
    return plots.loss_curve(points, budget=now.budget, baseline=before) if points else ""


def _job_context(request: HttpRequest, search: Search) -> dict[str, Any]:
    now = progress(search)
    return {
        "search": search,
        "task": search.task_shown_to(request.user),
        "job": search.job,
        "progress": now,
        "words": job_words(search, now),
        # By name, which is their place: a bar that is live must not change its rows.
        "weights": sorted((w.name, w.weight, f"/{w.name}") for w in now.weights),
        "loss_plot": _loss_plot(search, now),
        "why_nobody": capacity.why_nobody(search.job) if search.job.state == "queued" else "",
        "interruptions": interruptions(search.job),
        "restarted": search.job.events.filter(name="restarted").last(),
    }


def _etag(search: Search) -> str:
    """What decides how the status looks. Many ask each second: they are told in a few bytes that
    nothing has changed, and nothing is counted and drawn for it."""
    job, seen = search.job, [search.job.fence, search.job.state]
    if job.state == "queued":
        seen += [job.queue_position(), int(time.time()) // GUESS_GOOD_FOR]
    else:
        last = search.generations.aggregate(pk=Max("pk"))["pk"]
        seen += [job.cancel_requested, search.stage, search.stage_detail, last]
    return quote_etag(sha256(repr(seen).encode()).hexdigest()[:32])


@require_safe
@login_required
def job(request: HttpRequest, pk: str) -> HttpResponse:
    search = find_search(request, pk)
    is_part = request.headers.get("HX-Target") == "job-status"
    if search.job.is_over and is_part:
        return HttpResponseClientRefresh()  # the rest of the page is another one now
    if search.job.state == "done" and search.recipe:
        return _answer_result(request, search, search.recipe)
    kept = {}
    if is_part:
        kept = {"ETag": _etag(search), "Cache-Control": "private, no-cache"}
        unchanged = get_conditional_response(request, etag=kept["ETag"])
        if unchanged is not None:
            return unchanged
    context = _job_context(request, search)
    answer = page_or_part(request, "composer/job.html", "composer/_job_status.html", context)
    for name, value in kept.items():
        answer.headers[name] = value
    return answer


def _answer_result(request: HttpRequest, search: Search, recipe: Recipe) -> HttpResponse:
    target = request.headers.get("HX-Target", "")
    part = RESULT_PARTS.get(target, "composer/_predictions.html")
    if target == "weighed":  # asked for twice a second while a worker measures
        return page_or_part(request, part, part, weights_context(request, search))
    context = {
        **_job_context(request, search),
        **evidence_context(search.evidence),
        **predictions_context(request, search),
        **_trial_context(search, job_named(request, "trial", services.PREDICT, search)),
        **weights_context(request, search),
        "recipe": recipe,
        "times_opened": leaks.times_opened(search, request.user),
        "warnings": leaks.warnings(search, _training_data(recipe)),
        "closed": publishing.closed_ingredients(recipe, request.user),
        "facts": facts(search.spec),
        "load": search.evidence.get("load", []),
        "left_out": search.evidence.get("left_out", {}),
        **ranking_context(search.evidence),
        "ingredients": recipe.ingredients.all(),
        "all_zero": not any(recipe.document["weights"]),
        "generations": search.generations.filter(round="").defer("record"),
        "snippet": artifacts.snippet(recipe, site_address(request)),
        "base_model": recipe.base_model,
    }
    return page_or_part(request, "composer/result.html", part, context)


def _training_data(recipe: Recipe) -> dict[str, str]:
    """What the modules that take part say they were trained on, by name."""
    used = recipe.ingredients.exclude(weight=0).select_related("lora_module__commit")
    commits = {each.name: each.lora_module.commit for each in used if each.lora_module is not None}
    cards = cards_of(commits.values())
    return {
        name: cards[commit.pk].training_data
        for name, commit in commits.items()
        if commit.pk in cards
    }


@acts_on_job
def job_cancel(request: HttpRequest, pk: str) -> HttpResponse:
    search = find_search(request, pk)
    services.cancel(search)
    return redirect(search)


# --- try it ------------------------------------------------------------------------------------


def _trial_context(
    search: Search, trial: Job | None, form: TryForm | None = None
) -> dict[str, Any]:
    text = trial.params["input"] if trial else ""
    form = form or TryForm(initial={"input": text})
    known = search.examples["held_out"] or search.examples["shots"]
    form.fields["input"].widget.attrs["placeholder"] = f"As in your examples: {known[0][0]}"
    return {
        "search": search,
        "trial": trial,
        "trial_text": text,
        "trial_waits": capacity.why_nobody(trial) if trial and trial.state == "queued" else "",
        "try_form": form,
    }


@acts_on_job
def job_try(request: HttpRequest, pk: str) -> HttpResponse:
    """Ask both models one question; the answer comes to the result's page."""
    search = find_search(request, pk)
    form, trial = TryForm(request.POST), None
    if form.is_valid():
        try:
            throttles.count(request, "submit")
            given = form.cleaned_data["input"]
            trial = services.submit_trial(search=search, user=request.user, given=given)
        except CommonsError as error:
            add_commons_error(form, error)
    if trial and not request.htmx:
        return redirect(f"{search.get_absolute_url()}?trial={trial.pk}#try-it")
    template = "composer/_try_it.html" if request.htmx else "composer/try.html"
    context = _trial_context(search, trial, form)
    return render(request, template, context, status=200 if trial else 422)


# --- publish and download ----------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def job_publish(request: HttpRequest, pk: str) -> HttpResponse:
    search = find_done(request, pk)
    if search.recipe.published_at:
        return redirect(search.recipe)
    status = 200
    if request.method == "POST":
        form = PublishForm(request.POST, search=search, user=request.user)
        if form.is_valid():
            try:
                recipe = publishing.publish(search=search, user=request.user, **form.cleaned_data)
            except CommonsError as error:
                add_commons_error(form, error)
            else:
                messages.success(request, "Published. Anybody can see and use this recipe now.")
                return redirect(recipe)
        status = 422
    else:
        initial = {"title": search.title}
        form = PublishForm(initial=initial, search=search, user=request.user)
    context = {
        "search": search,
        "task": search.task_shown_to(request.user),
        "is_salted": publishing.is_salted(search),
        "form": form,
        "ingredients": search.recipe.ingredients.all(),
    }
    return render(request, "composer/publish.html", context, status=status)


@require_safe
@login_required
def job_adapter(request: HttpRequest, pk: str) -> StreamingHttpResponse:
    search = find_done(request, pk)
    return adapter_zip(request, search.recipe, search)
