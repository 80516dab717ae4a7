"""What visitors do with a recipe besides reading it: have it verified, like it, bring one here."""

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST
from django_htmx.http import HttpResponseClientRedirect

from composer import recipe_import, verifications
from composer.engine.errors import CommonsError
from composer.forms import RecipeImportForm
from composer.liking import of_recipes
from composer.models import RecipeImport, Verification
from composer.views.request import find_recipe, visitor
from hub_site import throttles
from hub_site.pages import part_id

LIKE_PART = "composer/_like.html"
SHOWN = 50


def has_account(request: HttpRequest) -> bool:
    return request.user.is_authenticated and not request.user.is_guest


@require_POST
def recipe_verify(request: HttpRequest, digest: str) -> HttpResponse:
    """`cancel=1` ends one's own that is on its way; `kind` asks for one."""
    found = find_recipe(request, digest)
    if request.POST.get("cancel") == "1":
        verifications.cancel(found, request.user)
        return redirect(f"{found.get_absolute_url()}#verified")
    kind = request.POST.get("kind", "")
    if kind not in (Verification.EVALUATION, Verification.SEARCH):
        kind = Verification.EVALUATION
    user = visitor(request)
    throttles.count(request, "submit")
    try:
        verifications.submit_verification(recipe=found, user=user, kind=kind)
    except CommonsError as error:
        messages.error(request, error.user_message)
    else:
        messages.success(request, "A worker runs it again. You may close this page.")
    return redirect(f"{found.get_absolute_url()}#verified")


@require_POST
def recipe_like(request: HttpRequest, digest: str) -> HttpResponse:
    """`want=1` likes, anything else takes it back."""
    found = find_recipe(request, digest)
    if not has_account(request):
        answer = redirect_to_login(found.get_absolute_url())
        return HttpResponseClientRedirect(answer.url) if request.htmx else answer
    of_recipes.set(found, request.user, request.POST.get("want") == "1")
    if request.headers.get("HX-Target") == part_id(LIKE_PART):
        context = {"recipe": found, "likes_it": of_recipes.has(found, request.user)}
        return render(request, LIKE_PART, context)
    return redirect(found)


@require_http_methods(["GET", "HEAD", "POST"])
def recipe_import_page(request: HttpRequest) -> HttpResponse:
    status = 200
    if request.method == "POST":
        user = visitor(request)
        throttles.count(request, "upload")
        form = RecipeImportForm(request.POST, request.FILES)
        if form.is_valid():
            data = form.cleaned_data
            try:
                found = recipe_import.bring(
                    user=user, document=data["document"], title=data["title"]
                )
            except CommonsError as error:
                form.add_error(None, error.user_message)
            else:
                return redirect(found.recipe)
        status = 422
    else:
        form = RecipeImportForm()
    brought = RecipeImport.objects.none()
    if request.user.is_authenticated:
        brought = RecipeImport.objects.filter(user=request.user).order_by("-created_at")
    context = {"form": form, "brought": brought.defer("evidence")[:SHOWN]}
    return render(request, "composer/recipe_import.html", context, status=status)


@require_POST
def recipe_import_remove(request: HttpRequest, digest: str) -> HttpResponse:
    if not request.user.is_authenticated:
        return redirect_to_login("/recipes/import/")
    found = get_object_or_404(RecipeImport, recipe=digest, user=request.user)
    recipe_import.remove(found)
    messages.success(request, f"“{found.title}” is no longer among what you brought.")
    return redirect("composer:recipe_import")
