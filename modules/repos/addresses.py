"""Names that repos had before: links to them lead on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from django.http import HttpRequest, HttpResponse, HttpResponsePermanentRedirect
from django.urls import reverse

from hub_site.accounts import tokens
from modules.models import Repo

if TYPE_CHECKING:
    from modules.querysets import Visitor


class MovedRepos:
    """Where nothing is found under /{owner}/{name}, look whether a repo had that name.

    An address whose parts are called `owner` and `name` is a repo's; a collection has a `slug`.
    Pages move for good (301); whatever programs ask keeps its method (308). A repo that the
    visitor may not see has not moved either.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if response.status_code != 404 or request.resolver_match is None:
            return response
        match = request.resolver_match
        owner, name = match.kwargs.get("owner"), match.kwargs.get("name")
        if not owner or not name:
            return response
        repo = _moved(request, owner, name)
        if repo is None:
            return response
        kwargs = match.kwargs | {"owner": repo.owner.name, "name": repo.name}
        where = reverse(match.view_name, args=match.args or None, kwargs=kwargs)
        if query := request.META.get("QUERY_STRING", ""):
            where += "?" + query
        is_page = request.method in ("GET", "HEAD") and "text/html" in (
            response.headers.get("Content-Type", "")
        )
        moved = HttpResponsePermanentRedirect(where)
        moved.status_code = 301 if is_page else 308
        moved.headers["Cache-Control"] = "no-cache"  # the name may be taken again
        return moved


def _moved(request: HttpRequest, owner: str, name: str) -> Repo | None:
    if Repo.objects.named(owner, name).exists():  # hidden or private: it is there
        return None
    visible = Repo.objects.visible_to(_visitor(request)).select_related("owner")
    return visible.once_named(owner, name).first()


def _visitor(request: HttpRequest) -> Visitor:
    sent = tokens.sent_with(request)
    token = tokens.find(sent) if sent else None
    return token.user if token else request.user
