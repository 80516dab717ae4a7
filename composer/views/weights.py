"""What each module does in a result: the mixture without it, and with weights moved by hand."""

from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from composer import services
from composer.engine.errors import BadConfig, CommonsError
from composer.engine.recipe import module_weights
from composer.models import Recipe, Search
from composer.views.request import acts_on_job, find_done, job_named
from hub_site import throttles
from hub_site.jobs import capacity
from hub_site.jobs.models import Job

SLIDER_BOUND = 2.0  # of a slider, unless the search itself went further


def weights_context(
    request: HttpRequest, search: Search, asked: Job | None = None, error: str = ""
) -> dict[str, Any]:
    """The ablation, the sliders, and what became of the weights that were asked for."""
    recipe = search.recipe
    assert recipe is not None
    asked = asked or job_named(request, "weighed", services.WEIGH, search)
    return {
        "search": search,
        "ablation": _ablation(search.evidence, recipe),
        "sliders": _sliders(search, recipe, asked),
        "weighed": asked,
        "weighed_change": _change(search, asked),
        "weighed_answers": _answers(search, asked),
        "weighed_waits": capacity.why_nobody(asked) if asked and asked.state == "queued" else "",
        "weights_error": error,
    }


def _ablation(evidence: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    found = evidence.get("ablation")
    if not found:
        return {}
    whole = found["whole"]
    weights = dict(recipe.ingredients.values_list("name", "weight"))
    rows = [
        {"name": name, "weight": weights.get(name, 0.0), "change": _minus(each, whole), **each}
        for name, each in found["without"].items()
    ]
    return {
        **found,
        "rows": sorted(rows, key=lambda row: -(row["change"] or 0)),
        "strongest": [
            {**each, "change": _minus(each, whole)} for each in found.get("strongest", [])
        ],
    }


def _minus(variant: Mapping[str, Any], whole: Mapping[str, Any]) -> float:
    return float(variant["loss"] - whole["loss"])


def _sliders(search: Search, recipe: Recipe, asked: Job | None) -> list[dict[str, Any]]:
    """One for each module, by its number, the strongest first; where they were last moved to."""
    found = module_weights(search.spec, recipe.document["weights"])
    moved = module_weights(search.spec, asked.params["weights"]) if asked else found
    bound = max(SLIDER_BOUND, *(abs(weight) for weight in [*found, *moved]))
    rows = [
        {"number": n, "name": each["repo"], "found": found[n], "weight": moved[n], "bound": bound}
        for n, each in enumerate(search.spec["ingredients"])
    ]
    return sorted(rows, key=lambda row: -abs(row["found"]))


def _change(search: Search, asked: Job | None) -> float | None:
    loss = asked.result.get("loss") if asked and asked.state == "done" else None
    whole = search.evidence.get("ablation", {}).get("whole")
    return None if loss is None or whole is None else float(loss - whole["loss"])


def _answers(search: Search, asked: Job | None) -> list[tuple[str, str, str]]:
    """Input, answer wanted, and what these weights answer."""
    if not asked or asked.state != "done":
        return []
    return [
        (given, wanted, said)
        for (given, wanted), said in zip(
            search.examples["shots"], asked.result["answers"], strict=False
        )
    ]


def _moved(request: HttpRequest, search: Search) -> list[float]:
    """The weights that were sent, one a module. Where a module has one for each block, all of its
    blocks move by what their mean does."""
    assert search.recipe is not None
    before = [float(weight) for weight in search.recipe.document["weights"]]
    N = len(search.spec["ingredients"])
    means = module_weights(search.spec, before)
    for number in range(N):
        typed = request.POST.get(f"w_{number}", "")
        try:
            wanted = float(typed)
        except ValueError as error:
            name = search.spec["ingredients"][number]["repo"]
            raise BadConfig(f"The weight of {name} is {typed!r:.40}; give a number.") from error
        for place in range(number, len(before), N):
            before[place] += wanted - means[number]
    return before


@acts_on_job
def job_weigh(request: HttpRequest, pk: str) -> HttpResponse:
    """Measure the weights that the sliders stand at."""
    search, asked, said = find_done(request, pk), None, ""
    try:
        throttles.count(request, "submit")
        asked = services.submit_weights(
            search=search, user=request.user, weights=_moved(request, search)
        )
    except CommonsError as error:
        said = error.user_message
    if asked and not request.htmx:
        return redirect(f"{search.get_absolute_url()}?weighed={asked.pk}#weights")
    template = "composer/_weighed.html" if request.htmx else "composer/weigh.html"
    context = weights_context(request, search, asked, said)
    return render(request, template, context, status=200 if asked else 422)
