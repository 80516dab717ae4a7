"""Addresses of the Hub's pages, which its clients print: they lead to ours."""

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.utils.http import urlencode
from django.views.decorators.http import require_safe

from modules.hub_api.answers import split_revision
from modules.models import Repo


@require_safe
def page(request: HttpRequest, owner: str, name: str, rest: str) -> HttpResponse:
    """`tree/…`, `blob/…` and `commit/…`: the version's page, with its files."""
    repo = get_object_or_404(Repo.objects.visible_to(request.user).named(owner, name))
    revision, _, known = split_revision(repo, rest)
    where = repo.get_absolute_url()
    commit = repo.at_revision(revision, known)
    if commit is not None and commit != repo.head():
        where += "?" + urlencode({"revision": revision})
    return HttpResponseRedirect(where + "#files-head")
