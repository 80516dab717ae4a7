"""The library's pages: the list, a repo's page, and what an owner has."""

from __future__ import annotations

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from hub_site.accounts.models import Namespace
from hub_site.pages import page_or_part, site_address
from modules import cards, keyset, services, snippets
from modules.forms import BEST, SORTS, ModuleFilterForm, active, facets
from modules.models import BaseModel, Commit, LoraModule, Repo
from modules.storage import local

VERSIONS = 20
RECIPES = 10
BLANK: dict[str, Any] = {
    "q": "", "owner": "", "base_model": "", "r": None, "tag": [], "target": [], "sort": "",
}  # fmt: skip


@require_safe
def module_list(request: HttpRequest) -> HttpResponse:
    form = ModuleFilterForm(request.GET)
    visible = LoraModule.objects.visible_to(request.user).listed()
    status = 200 if form.is_valid() else 422
    if status == 422:  # what could not be read is said, and left out
        form.cleaned_data = BLANK | form.cleaned_data
    found = form.find(visible)
    page = keyset.cut(
        form.sort_rows(found.for_cards()), form.order, cursor=request.GET.get("after", "")
    )
    sorts = {key: title for key, title in SORTS.items() if key != BEST or form.has_words}
    context = {
        "form": form,
        "page": page,
        "facets": facets(form, found),
        "active": active(form),
        "sorts": sorts,
        "sort_by": form.sort_by,
        "hidden": [
            (name, value)
            for name in ("base_model", "r", "tag", "target", "owner", "sort")
            for value in request.GET.getlist(name)
            if value and name not in form.errors
        ],
        "library_is_empty": not page.items and not visible.exists(),
    }
    return page_or_part(request, "modules/list.html", "modules/_found.html", context, status)


@require_safe
def repo(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    found = get_object_or_404(Repo.objects.visible_to(request.user).named(owner, name))
    commit = _commit(found, request.GET.get("revision"))
    context = _files(found, commit) | {
        "repo": found,
        "commit": commit,
        "site": site_address(request),
        "is_owner": Repo.objects.editable_by(request.user).filter(pk=found.pk).exists(),
    }
    if found.kind == Repo.BASE:
        return _base_model_page(request, found, context)
    return _module_page(request, found, context)


@require_safe
def profile(request: HttpRequest, owner: str) -> HttpResponse:
    namespace = get_object_or_404(Namespace.objects.select_related("user"), name__iexact=owner)
    if namespace.user is not None and namespace.user.is_guest:
        raise Http404
    is_me = namespace.user is not None and namespace.user == request.user
    modules = LoraModule.objects.visible_to(request.user).of_owner(namespace.name)
    page = keyset.cut(
        (modules if is_me else modules.listed()).for_cards(),
        keyset.Order("published_at"),
        cursor=request.GET.get("after", ""),
    )
    recipes = namespace.user.recipes.published().for_cards() if namespace.user else []
    context = {
        "namespace": namespace,
        "is_me": is_me,
        "page": page,
        "recipes": recipes[:RECIPES],
        "base_models": BaseModel.objects.of_owner(namespace.name),
    }
    return render(request, "modules/profile.html", context)


def _commit(found: Repo, revision: str | None) -> Commit | None:
    """The version asked for, or the newest. A repo just made has none yet."""
    if not revision:
        return found.head()
    commit = found.at_revision(revision)
    if commit is None:
        raise Http404
    return commit


def _files(found: Repo, commit: Commit | None) -> dict[str, Any]:
    """The files, card and versions that every repo's page shows."""
    files = list(commit.files.select_related("blob")) if commit else []
    for file in files:
        assert commit is not None
        commit.repo, file.commit = found, commit
    text = next((file for file in files if file.path == services.CARD_NAME), None)
    card = cards.Card()
    if text is not None:
        card = cards.read(b"".join(local.open(text.blob_id, 0, cards.LIMIT)))
    return {
        "files": [{"file": file, "blob": file.blob, "url": local.url(file)} for file in files],
        "size": sum(file.blob.size for file in files),
        "card": card,
        "versions": found.commits.select_related("author")[:VERSIONS],
        "versions_count": found.commits.count(),
    }


def _module_page(request: HttpRequest, found: Repo, context: dict[str, Any]) -> HttpResponse:
    module = LoraModule.objects.for_page().filter(repo=found).first()
    if module is not None:
        commit = context["commit"]
        context |= {
            "module": module,
            "is_newest": commit == module.commit,
            "recipes": module.published_recipes()[:RECIPES],
            "snippets": snippets.for_module(module, commit, context["site"]),
        }
    return render(request, "modules/module.html", context)


def _base_model_page(request: HttpRequest, found: Repo, context: dict[str, Any]) -> HttpResponse:
    base = BaseModel.objects.defer("layers").filter(repo=found).first()
    if base is not None:
        commit = context["commit"]
        modules = LoraModule.objects.visible_to(request.user).listed().filter(base_model=base)
        context |= {
            "base": base,
            "modules": modules.for_cards()[: keyset.SIZE],
            "modules_count": modules.count(),
            "snippets": snippets.for_base_model(base, found, commit, context["site"]),
        }
    return render(request, "modules/base_model.html", context)
