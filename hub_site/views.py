"""The home page and the pages for what went wrong."""

import sys

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from composer.models import FewShotTask, Recipe
from hub_site import errors
from hub_site.throttles import TooOften
from modules.models import LoraModule

NEWEST = 5
PIGMENTS = 24


def home(request: HttpRequest) -> HttpResponse:
    recipes = list(Recipe.objects.published().for_cards()[:NEWEST])
    modules = list(LoraModule.objects.visible_to(request.user).listed().for_cards()[:PIGMENTS])
    context = {
        "demo_tasks": FewShotTask.objects.demo()[:4],
        "modules": modules[:NEWEST],
        "unmixed": [(str(module), 1.0, module.get_absolute_url()) for module in modules],
        "recipes": recipes,
        "newest_recipe": recipes[0] if recipes else None,
    }
    return render(request, "home.html", context)


@require_safe
def about(request: HttpRequest, page: str) -> HttpResponse:
    """What an operator may want to write anew: templates/about/ holds the texts."""
    return render(request, f"about/{page}.html", {"guest_days": settings.GUEST_DAYS})


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    told = errors.told(exception) if exception else None
    if told is not None:
        context = {"error": told, "status": errors.status_of(told)}
        return render(request, "error.html", context, status=context["status"])
    return render(request, "400.html", status=400)


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return render(request, "403.html", status=403)


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return render(request, "404.html", status=404)


def too_often(request: HttpRequest) -> HttpResponse:
    """allauth's own limits, most of which are by the minute; it does not say which one it was."""
    error = TooOften("This was asked for too often. Come back in a minute.", 60)
    context = {"error": error, "status": error.status}
    return errors.with_headers(render(request, "429.html", context, status=error.status), error)


def server_error(request: HttpRequest) -> HttpResponse:
    """Nothing that asks the database or the session: they may be what broke."""
    if isinstance(sys.exc_info()[1], errors.DATABASE_AWAY):
        return errors.database_away(request)
    return render(None, "500.html", status=500)
