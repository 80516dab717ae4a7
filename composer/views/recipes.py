"""Published recipes: the list, the page, and its files."""

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from composer import artifacts, on_hub, publishing, recipe_import, verifications
from composer.attribution import notices, sources
from composer.citation import bibtex
from composer.downloads import adapter_zip
from composer.engine.errors import CommonsError
from composer.exports import exports
from composer.liking import of_recipes
from composer.models import Ingredient, Recipe, RecipeImport, Verification
from composer.views.request import find_recipe, page_of
from composer.views.results import evidence_context, facts, predictions_context
from hub_site.pages import site_address
from modules.licence_terms import terms

if TYPE_CHECKING:
    from composer.querysets import Visitor

VERIFICATIONS, VERSIONS = 20, 10


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
    imported = recipe_import.named_by(found, request.user)
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
        "exports": exports(found, site) if found.adapter_id else [],
        "notices": notices(sources(_seen(ingredients))),
        **_verified(found, request.user),
        **_brought(imported),
        "likes_it": of_recipes.has(found, request.user),
        "parent": Recipe.objects.published().filter(pk=found.parent_id).first(),
        "versions": Recipe.objects.published().filter(parent=found)[:VERSIONS],
        "base_model": found.base_model,
        "bibtex": bibtex(found, site + found.get_absolute_url()),
        "hub_homes": on_hub.shown_to(found, request.user),
        "hub_places": on_hub.places(found, request.user),
        "shots": examples.examples["shots"] if examples else [],
    }
    return render(request, "composer/recipe.html", context)


def _brought(imported: RecipeImport | None) -> dict[str, Any]:
    if imported is None:
        return {}
    missing = recipe_import.missing(imported)
    names = [each.name for each in missing if each.sha256 and each.address]
    return {
        "imported": imported,
        "missing": missing,
        "import_query": urlencode({"repos": "\n".join(names)}) if names else "",
        "stated_scores": recipe_import.stated_scores(imported),
        "stated_site": recipe_import.site_of(imported),
    }


def _verified(found: Recipe, user: "Visitor") -> dict[str, Any]:
    """The stamps, the newest first, and what the badge says of them."""
    rows = list(found.verifications.visible_to(user).for_rows()[:VERIFICATIONS])
    stamps = []
    for row in rows:
        is_own = user.is_authenticated and row.user_id == user.pk
        if row.outcome or is_own:
            row.words = verifications.in_words(row)
            row.place = verifications.place_in_words(row.environment)
            row.is_own = is_own
            stamps.append(row)
    done = [row for row in stamps if row.outcome]
    return {
        "verifications": stamps,
        "verified": sum(row.outcome != Verification.DIFFERS for row in done),
        "newest_stamp": done[0] if done else None,
        "is_verifying": any(
            row.is_own and not row.outcome and row.job and not row.job.is_over for row in stamps
        ),
    }


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
        row.terms = None
        if row.standing == "here" and row.lora_module is not None:
            row.terms = terms(row.lora_module.licence)
    return rows


def _seen(ingredients: list[Ingredient]) -> list[Ingredient]:
    """Nothing is told of a module that this visitor may not see."""
    return [row for row in ingredients if row.standing in ("here", "deleted")]


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
