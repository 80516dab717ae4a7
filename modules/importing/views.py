"""Pages: ask for repos of the Hub, see them come, look for newer versions."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import islice
from typing import Any, TypeAlias
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.db.models import Count, Min, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from composer.engine.errors import CommonsError
from hub_site import throttles
from hub_site.errors import status_of
from hub_site.jobs import capacity
from hub_site.pages import page_or_part, part_id
from modules.importing import addresses, asking, presets
from modules.importing.forms import FindForm, ImportForm, as_lines
from modules.models import HubOrigin, Import, Repo
from modules.on_hub.accounts import token_for
from modules.storage.hub import Hub
from modules.upload import intake

ROWS_PART = "modules/_import_rows.html"
RECENT = 10
GET_AND_POST = ["GET", "HEAD", "POST"]
ONE = {
    Import.WAITING: "It waits for a worker.",
    Import.RUNNING: "It is being fetched.",
    Import.DONE: "It is here.",
    Import.REFUSED: "It was refused.",
    Import.FAILED: "It could not be fetched.",
    Import.CANCELLED: "It was cancelled.",
}
MANY = {
    Import.DONE: "here",
    Import.RUNNING: "being fetched",
    Import.WAITING: "waiting",
    Import.REFUSED: "refused",
    Import.FAILED: "not fetched",
    Import.CANCELLED: "cancelled",
}
View: TypeAlias = Callable[..., HttpResponse]


def _for_authors(view: View) -> View:
    """For whoever has a name that modules can stand under."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return redirect_to_login(reverse("modules:import"))
        if request.user.is_guest or not hasattr(request.user, "namespace"):
            messages.info(request, "A module stands under a name: sign up to import some.")
            return redirect(f"{reverse('account_signup')}?next={reverse('modules:import')}")
        return view(request, *args, **kwargs)

    return guarded


# --- ask ---------------------------------------------------------------------------------------


@require_http_methods(GET_AND_POST)
@_for_authors
def import_page(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":
        if request.GET.get("author"):
            return _found(request)
        return _page(request, ImportForm(initial={"repos": request.GET.get("repos", "")}))
    throttles.count(request, "submit")
    form = ImportForm(request.POST)
    if not form.is_valid():
        return _page(request, form, 422)
    try:
        batch = asking.ask(
            user=request.user,
            owner=request.user.namespace,
            addresses=form.cleaned_data["repos"],
            visibility=form.cleaned_data["visibility"],
        )
    except CommonsError as error:
        form.add_error(None, error.user_message)
        return _page(request, form, status_of(error))
    return redirect("modules:import_batch", batch)


def _found(request: HttpRequest) -> HttpResponse:
    """The form with all repos of an author in it, for whoever asked for them to look through."""
    find = FindForm(request.GET)
    if not find.is_valid():
        return _page(request, ImportForm(), 422, find=find)
    throttles.count(request, "search")
    author, search = find.cleaned_data["author"], find.cleaned_data["search"]
    try:
        hub = Hub(token_for(request.user))
        names = list(islice(hub.names(author=author, search=search), asking.MOST_AT_ONCE + 1))
    except CommonsError as error:
        find.add_error("author", error.user_message)
        return _page(request, ImportForm(), status_of(error), find=find)
    more = len(names) > asking.MOST_AT_ONCE
    names = names[: asking.MOST_AT_ONCE]
    context = {"find": find, "found_count": len(names), "found_more": more, "author": author}
    return _page(request, ImportForm(initial=as_lines(names)), **context)


def _page(request: HttpRequest, form: ImportForm, status: int = 200, **more: Any) -> HttpResponse:
    context = {
        "form": form,
        "find": FindForm(),
        "hub": addresses.site_of_hub(),
        "presets": presets.PRESETS,
        "most": asking.MOST_AT_ONCE,
        "room": intake.room(request.user),
        "banned": request.user.uploads_banned_at is not None,
        "recent": _recent(request),
        **more,
    }
    return render(request, "modules/import.html", context, status=status)


def _recent(request: HttpRequest) -> list[dict[str, Any]]:
    """What this user asked for before, each list as one line that is called by its first."""
    own = Import.objects.visible_to(request.user)
    lists = list(
        own.order_by()
        .values("batch")
        .annotate(
            count=Count("pk"),
            done=Count("pk", filter=Q(state=Import.DONE)),
            open=Count("pk", filter=Q(state__in=Import.OPEN)),
            first=Min("pk"),
            at=Min("created_at"),
        )
        .order_by("-first")[:RECENT]
    )
    names = dict(own.filter(pk__in=[each["first"] for each in lists]).values_list("pk", "hub_id"))
    return [each | {"name": names.get(each["first"], "")} for each in lists]


# --- see them come -----------------------------------------------------------------------------


@require_safe
@_for_authors
def import_batch(request: HttpRequest, batch: UUID) -> HttpResponse:
    rows = list(_rows(request, batch).for_rows())
    counts = {state: sum(row.state == state for row in rows) for state in Import.STATES}
    open_ones = sum(counts[state] for state in Import.OPEN)
    context = {
        "batch": batch,
        "rows": rows,
        "counts": counts,
        "is_over": not open_ones,
        "ended": len(rows) - open_ones,
        "not_come": counts[Import.REFUSED] + counts[Import.FAILED] + counts[Import.CANCELLED],
        "words": _in_words(counts),
        "hub": addresses.site_of_hub(),
        "hub_url": settings.HUB_ENDPOINT,
        "worker_is_missing": open_ones and not capacity.live_workers().exists(),
    }
    response = page_or_part(request, "modules/import_batch.html", ROWS_PART, context)
    if not open_ones and request.headers.get("HX-Target") == part_id(ROWS_PART):
        response.headers["HX-Refresh"] = "true"  # the page's head offers to cancel no more
    return response


def _rows(request: HttpRequest, batch: UUID) -> QuerySet[Import]:
    rows = Import.objects.visible_to(request.user).filter(batch=batch)
    if not rows.exists():
        raise Http404
    return rows


def _in_words(counts: dict[str, int]) -> str:
    """Of 12 modules, 3 are here, 1 is being fetched, 8 are waiting."""
    count = sum(counts.values())
    if count == 1:
        return next(ONE[state] for state, n in counts.items() if n)
    parts = [f"{n} {'is' if n == 1 else 'are'} {MANY[s]}" for s in MANY if (n := counts[s])]
    return f"Of {count} modules, {', '.join(parts)}."


@require_POST
@_for_authors
def import_cancel(request: HttpRequest, batch: UUID) -> HttpResponse:
    asking.cancel(_chosen(request, batch))
    return redirect("modules:import_batch", batch)


@require_POST
@_for_authors
def import_again(request: HttpRequest, batch: UUID) -> HttpResponse:
    throttles.count(request, "submit")
    try:
        asking.again(list(_chosen(request, batch)))
    except CommonsError as error:
        messages.error(request, error.user_message)
    return redirect("modules:import_batch", batch)


def _chosen(request: HttpRequest, batch: UUID) -> QuerySet[Import]:
    """One of the list, or without a number all of it."""
    rows = _rows(request, batch).select_related("job", "user")
    pk = request.POST.get("import", "")
    if not pk:
        return rows
    return rows.filter(pk=pk) if pk.isdecimal() and len(pk) < 19 else rows.none()


# --- newer versions of one module ----------------------------------------------------------------


def _of_own_repo(view: View) -> View:
    """A button on a module's page, for its owner."""

    @require_POST
    @wraps(view)
    def guarded(request: HttpRequest, owner: str, name: str) -> HttpResponse:
        if not request.user.is_authenticated:
            return redirect_to_login(reverse("modules:repo", args=[owner, name]))
        own = Repo.objects.editable_by(request.user).named(owner, name)
        origins = HubOrigin.objects.select_related("repo__owner")
        return view(request, get_object_or_404(origins, repo__in=own))

    return guarded


@_of_own_repo
def origin_look(request: HttpRequest, origin: HubOrigin) -> HttpResponse:
    """Have a worker compare it with the Hub now."""
    throttles.count(request, "submit")
    try:
        batch = asking.ask_for_newer(origin, request.user)
    except asking.AlreadyComing:
        messages.info(request, f"{origin.repo.name} is being compared with the Hub already.")
        return redirect(origin.repo)
    return redirect("modules:import_batch", batch)


@_of_own_repo
def origin_follow(request: HttpRequest, origin: HubOrigin) -> HttpResponse:
    follows = request.POST.get("follows") == "yes"
    HubOrigin.objects.filter(pk=origin.pk).update(follows=follows)
    said = (
        f"New versions of {origin.hub_id} become versions here."
        if follows
        else f"{origin.repo.name} stays as it is, whatever comes on the Hub."
    )
    messages.success(request, said)
    return redirect(origin.repo)
