"""The library's pages: the list, and what an owner has. A repo's page: `repos/page.py`."""

from __future__ import annotations

from django.db.models import Count, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from hub_site import throttles
from hub_site.accounts.models import Namespace
from hub_site.pages import page_or_part
from modules.finding import facets, keyset, search
from modules.finding.forms import BEST, FILTERS, SORTS, ModuleFilterForm
from modules.models import BaseModel, Collection, LoraModule
from modules.querysets import LoraModuleQuerySet

VERSIONS = 20
RECIPES = 10
COLLECTIONS = 20
TASKS = 10


@require_safe
def module_list(request: HttpRequest) -> HttpResponse:
    form = ModuleFilterForm(request.GET)
    status = 200 if form.is_valid() else 422
    form.leave_out_errors()
    if form.has_words:
        throttles.count(request, "search")
    found = search.find(form, request.user)
    page = keyset.cut(
        found.rows, form.order, request.GET.get("after", ""), load=LoraModuleQuerySet.for_cards
    )
    counts = facets.count(form, found)
    context = {
        "form": form,
        "page": page,
        "found": found,
        "counts": counts,
        "facets": facets.facets(form, counts),
        "active": form.active(),
        "sorts": {key: title for key, title in SORTS.items() if key != BEST or form.has_words},
        "sort_by": form.sort_by,
        "hidden": [
            (name, value)
            for name in (*FILTERS, "sort")
            for value in request.GET.getlist(name)
            if value and name not in form.errors and (name, value) != ("sort", BEST)
        ],
        "library_is_empty": not page.items and not request.GET,
        "ways_out": [] if page.items else facets.ways_out(form, request.user),
    }
    return page_or_part(request, "modules/list.html", "modules/_found.html", context, status)


@require_safe
def profile(request: HttpRequest, owner: str) -> HttpResponse:
    namespace = get_object_or_404(Namespace.objects.select_related("user"), name__iexact=owner)
    if namespace.user is not None and namespace.user.is_guest:
        raise Http404
    is_me = namespace.user is not None and namespace.user == request.user
    modules = LoraModule.objects.visible_to(request.user).of_owner(namespace.name)
    page = keyset.cut(
        (modules if is_me else modules.filter(is_listed=True)).for_cards(),
        keyset.Order("published_at"),
        cursor=request.GET.get("after", ""),
    )
    recipes = (
        list(namespace.user.recipes.published().for_cards()[:RECIPES]) if namespace.user else []
    )
    tasks = namespace.user.tasks.listed() if namespace.user else None
    size = Count("items", filter=None if is_me else Q(items__lora_module__is_listed=True))
    collections = Collection.objects.visible_to(request.user).filter(owner=namespace)
    context = {
        "namespace": namespace,
        "is_me": is_me,
        "page": page,
        "recipes": recipes,
        "tasks": list(tasks.for_cards()[:TASKS]) if tasks is not None else [],
        "tasks_count": tasks.count() if tasks is not None else 0,
        "collections": collections.select_related("owner").annotate(size=size)[:COLLECTIONS],
        "base_models": BaseModel.objects.of_owner(namespace.name),
    }
    return render(request, "modules/profile.html", context)
