"""Published recipes: the list, the page, and its files."""

from typing import TYPE_CHECKING

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from composer import artifacts, on_hub, publishing
from composer.citation import bibtex
from composer.downloads import adapter_zip
from composer.engine.errors import CommonsError
from composer.models import Ingredient, Recipe
from composer.views.request import find_recipe, page_of
from composer.views.results import evidence_context, facts, predictions_context
from hub_site.pages import site_address

if TYPE_CHECKING:
    from composer.querysets import Visitor


@require_safe
def recipes(request: HttpRequest) -> HttpResponse:
    page = page_of(request, Recipe.objects.published().for_cards())
    return render(request, "composer/recipes.html", {"page": page, "recipes": page.object_list})


@require_safe
def recipe(request: HttpRequest, digest: str) -> HttpResponse:
    found = find_recipe(request, digest)
    search = found.published_search
    evidence = search.evidence if search else {}
    examples = search if found.shows_examples else None
    site = site_address(request)
    ingredients = _ingredients(found, request.user)
    gone = {each.name for each in ingredients if each.standing != "here"}
    context = {
        **evidence_context(evidence, gone),
        **(predictions_context(request, examples) if examples else {}),
        "recipe": found,
        "task": search.task_shown_to(request.user) if search else None,
        "withdrawn": found.withdrawn,
        "is_refused": _is_refused(found, request.user),
        "ingredients": ingredients,
        "facts": facts(found.document["spec"]),
        "examples_hash": found.document["spec"]["examples_hash"],
        "matched": found.searches.filter(matched=True).count(),
        "snippet": artifacts.snippet(found, site),
        "base_model": found.base_model,
        "bibtex": bibtex(found, site + found.get_absolute_url()),
        "hub_homes": on_hub.shown_to(found, request.user),
        "hub_places": on_hub.places(found, request.user),
        "shots": examples.examples["shots"] if examples else [],
    }
    return render(request, "composer/recipe.html", context)


@require_POST
def recipe_hub(request: HttpRequest, digest: str) -> HttpResponse:
    """Put the adapter into a repo on the Hub, or try once more what went wrong."""
    found = find_recipe(request, digest)
    here = f"{found.get_absolute_url()}#hub"
    if not request.user.is_authenticated:
        return redirect_to_login(here)
    try:
        on_hub.put(found, request.user, request.POST.get("place", ""))
    except CommonsError as error:
        messages.error(request, error.user_message)
    else:
        messages.success(request, "It is on its way to the Hub. You may close this page.")
    return redirect(here)


def _is_refused(recipe: Recipe, user: "Visitor") -> bool:
    try:
        publishing.refuse_withdrawn(recipe, user)
        publishing.refuse_closed(recipe, user)
    except CommonsError:
        return True
    return False


def _ingredients(recipe: Recipe, user: "Visitor") -> list[Ingredient]:
    """The strongest first, each with what became of its module for this visitor."""
    standings = publishing.standings(recipe, user)
    rows = sorted(recipe.ingredients.all(), key=lambda each: -abs(each.weight))
    for row in rows:
        row.standing = standings[row.pk]
    return rows


@require_safe
def recipe_json(request: HttpRequest, digest: str) -> HttpResponse:
    document = artifacts.recipe_json(find_recipe(request, digest))
    response = JsonResponse(document, json_dumps_params={"indent": 2, "ensure_ascii": False})
    response.headers["Content-Disposition"] = f'inline; filename="recipe-{digest[:12]}.json"'
    return response


@require_safe
def recipe_adapter(request: HttpRequest, digest: str) -> StreamingHttpResponse:
    found = find_recipe(request, digest)
    if found.adapter_id is None:
        raise Http404
    return adapter_zip(request, found)
