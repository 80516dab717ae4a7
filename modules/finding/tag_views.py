"""Pages of tags: the most used ones, what carries one, and suggestions while somebody types."""

from __future__ import annotations

from django.db.models import Count
from django.http import Http404, HttpRequest, HttpResponse, HttpResponsePermanentRedirect
from django.shortcuts import render
from django.views.decorators.http import require_safe

from hub_site import throttles
from hub_site.pages import page_or_part
from modules.finding import facets, keyset, search, tags
from modules.finding.forms import BEST, SORTS, ModuleFilterForm
from modules.models import Tag
from modules.querysets import LoraModuleQuerySet


@require_safe
def tag_list(request: HttpRequest) -> HttpResponse:
    text = request.GET.get("q", "")[:60]
    words = text.strip()
    if words:
        throttles.count(request, "search")
    found = tags.suggest(words, tags.SHOWN) if words else Tag.objects.in_use().by_uses()
    context = {
        "q": text,
        "tags": list(found[: tags.SHOWN]),
        "count": None if words else Tag.objects.in_use().aggregate(n=Count("pk"))["n"],
    }
    return page_or_part(request, "modules/tags.html", "modules/_tags.html", context)


@require_safe
def tag(request: HttpRequest, name: str) -> HttpResponse:
    """What carries the tag. One that this visitor can see no module of is not there for them."""
    found_tag = tags.find(name)
    if found_tag is None:
        raise Http404
    query = request.GET.copy()
    query.setlist("tag", [found_tag.name])
    form = ModuleFilterForm({"tag": [found_tag.name], "sort": request.GET.get("sort", "")})
    form.data = query
    if not form.is_valid():
        form.leave_out_errors()
    form.cleaned_data |= {"q": ""}
    found = search.find(form, request.user)
    counts = facets.count(form, found)
    if not counts.total:
        raise Http404
    if found_tag.name != name:
        return HttpResponsePermanentRedirect(found_tag.get_absolute_url())
    page = keyset.cut(
        found.rows, form.order, request.GET.get("after", ""), load=LoraModuleQuerySet.for_cards
    )
    context = {
        "tag": found_tag,
        "page": page,
        "counts": counts,
        "related": facets.related_tags(counts, found_tag.name, tags.RELATED),
        "sorts": {key: title for key, title in SORTS.items() if key != BEST},
        "sort_by": form.sort_by,
    }
    return render(request, "modules/tag.html", context)


@require_safe
def suggest(request: HttpRequest) -> HttpResponse:
    """Options for a field where tags are typed, separated by commas: the last one is completed."""
    throttles.count(request, "search")
    typed = request.GET.get("q") or request.GET.get("tags", "")  # the field's own name
    before, comma, last = typed[:1000].rpartition(",")
    chosen = {name.strip().lower() for name in before.split(",")}
    found = [tag for tag in tags.suggest(last) if tag.name.lower() not in chosen]
    context = {"before": f"{before.strip()}, " if comma else "", "tags": found}
    return render(request, "modules/_tag_options.html", context)
