"""One search box for everything: the best few of each kind that this visitor may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.models import Count, Q, QuerySet
from django.db.models.functions import Lower
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from composer.models import FewShotTask, Recipe
from hub_site import throttles
from hub_site.accounts.models import Namespace
from hub_site.pages import page_or_part
from modules.finding import keyset, tags
from modules.finding.forms import ModuleFilterForm
from modules.finding.search import find
from modules.querysets import LoraModuleQuerySet

if TYPE_CHECKING:
    from modules.querysets import Visitor

BEST = 5
LONGEST = 200


@require_safe
def search(request: HttpRequest) -> HttpResponse:
    text = " ".join(request.GET.get("q", "").replace("\0", "").split())[:LONGEST]
    if text:
        throttles.count(request, "search")
    found = _everything(text, request.user) if text else {}
    context = found | {"q": text, "nothing": bool(text) and not any(found.values())}
    return page_or_part(request, "search.html", "_results.html", context)


def _everything(text: str, user: Visitor) -> dict[str, list[object]]:
    return {
        "modules": _modules(text, user),
        "recipes": list(_named(Recipe.objects.published(), "title", text).for_cards()[:BEST]),
        "tasks": list(
            _named(FewShotTask.objects.visible_to(user), "name", text)
            .for_cards()
            .order_by("-updated_at")[:BEST]
        ),
        "people": list(_people(text)[:BEST]),
        "tags": list(tags.suggest(text, BEST)),
    }


def _modules(text: str, user: Visitor) -> list[object]:
    form = ModuleFilterForm({"q": text})
    form.is_valid()
    found = find(form, user)
    page = keyset.cut(found.rows, form.order, size=BEST, load=LoraModuleQuerySet.for_cards)
    return page.items


def _named(rows: QuerySet, field: str, text: str) -> QuerySet:
    """Rows whose name holds every word."""
    for word in text.split()[:8]:
        rows = rows.filter(**{f"{field}__icontains": word})
    return rows


def _people(text: str) -> QuerySet:
    """Users and organisations whose name begins so, whoever has most modules first."""
    listed = Count("repos", filter=Q(repos__lora_module__is_listed=True))
    return (
        Namespace.objects.alias(name_lower=Lower("name"))
        .filter(name_lower__startswith=text.lower())
        .exclude(user__is_guest=True)
        .exclude(user__is_active=False)
        .annotate(modules_count=listed)
        .order_by("-modules_count", "name_lower")
    )
