"""A repo's page: a LoRA module's, or a base model's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from composer.engine.adapter_file import read_header
from composer.engine.errors import CommonsError
from hub_site.pages import page_or_part, part_id, site_address
from modules import cards, services
from modules.checks import checking
from modules.community import collections, likes
from modules.finding import keyset
from modules.models import (
    BaseModel,
    CollectionItem,
    Commit,
    HubOrigin,
    LoraModule,
    Repo,
)
from modules.on_hub import keeping
from modules.repos import gate, snippets
from modules.repos.similar import similar_to
from modules.storage import local

VERSIONS = 5  # the others stand on the page of versions
TASKS = 5
RECIPES = 10
COLLECTIONS = 5
VARIANTS = {
    "use_dora": "DoRA",
    "bias": "Bias",
    "rank_pattern": "Ranks that differ",
    "alpha_pattern": "Alphas that differ",
    "modules_to_save": "Trained in full",
    "init_lora_weights": "Began as",
}
STATUS_PART = "modules/_module_status.html"


@require_safe
def repo(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    found = get_object_or_404(Repo.objects.visible_to(request.user).named(owner, name))
    commit = _commit(found, request.GET.get("revision"))
    is_owner = Repo.objects.editable_by(request.user).filter(pk=found.pk).exists()
    context = _files(found, commit) | {
        "repo": found,
        "commit": commit,
        "site": site_address(request),
        "is_owner": is_owner,
        "is_insider": is_owner or request.user.is_staff,
        "has_access": gate.may_read(found, request.user),
    }
    if found.gated:
        context |= {
            "my_request": gate.request_of(found, request.user),
            "waiting_count": gate.waiting(found) if is_owner else 0,
        }
    if found.kind == Repo.BASE:
        return _base_model_page(request, found, context)
    return _module_page(request, found, context)


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
        "files": [
            {
                "file": file,
                "blob": file.blob,
                "url": local.url(file),
                "is_open": file.path in gate.OPEN_FILES,
            }
            for file in files
        ],
        "size": sum(file.blob.size for file in files),
        "card": card,
        "versions": found.commits.select_related("author")[:VERSIONS],
        "versions_count": found.commits.count(),
    }


def _module_page(request: HttpRequest, found: Repo, context: dict[str, Any]) -> HttpResponse:
    module = LoraModule.objects.for_page().prefetch_related("tags").filter(repo=found).first()
    if module is not None:
        commit = context["commit"]
        context |= {
            "module": module,
            "is_newest": commit == module.commit,
            "uses": _uses(module),
            "helps": _helps(module),
            "variant": in_words(module.variant),
            "dtypes": _dtypes(module.weights_sha256),
            "checks": checking.checks_shown(module, request.user),
            "snippets": snippets.for_module(module, commit, context["site"]),
            "similar": similar_to(module),
            "home": keeping.shown_to(found, request.user),
            "likes_it": likes.of_modules.has(module, request.user),
            "collected": _collections(module),
            **_origin(found, module),
            "my_collections": (
                collections.of_user(request.user) if request.user.is_authenticated else []
            ),
        }
    response = page_or_part(request, "modules/module.html", STATUS_PART, context)
    polls = request.headers.get("HX-Target") == part_id(STATUS_PART)
    if polls and (module is None or module.status != LoraModule.CHECKING):
        response.headers["HX-Refresh"] = "true"  # facts and buttons of the page are others now
    return response


def _origin(found: Repo, module: LoraModule) -> dict[str, Any]:
    """Where an imported module came from; how its weights were converted, if these are they."""
    origin = HubOrigin.objects.filter(repo=found).first()
    conversion = origin.converted if origin else {}
    is_of_these = conversion.get("result_sha256") == module.weights_sha256
    return {"origin": origin, "conversion": conversion if is_of_these else None}


def _uses(module: LoraModule) -> list[dict[str, Any]]:
    """The newest recipes that it is in, each with its weight there."""
    recipes = list(module.published_recipes()[:RECIPES])
    return [
        {
            "recipe": recipe,
            "weight": sum(
                each.weight for each in recipe.ingredients.all() if each.lora_module_id == module.pk
            ),
        }
        for recipe in recipes
    ]


def _helps(module: LoraModule) -> list[Any]:
    """The public tasks whose loss it lowers most, alone."""
    scores = module.task_scores.of_public_tasks().current().helping().largest_gain_first()
    return list(scores.select_related("task")[:TASKS])


def in_words(variant: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a config says beyond rank, alpha and targets."""
    return [
        (VARIANTS.get(name, name.replace("_", " ").capitalize()), _value_in_words(value))
        for name, value in variant.items()
    ]


def _value_in_words(value: Any) -> str:
    if value is True:
        return "yes"
    if isinstance(value, list):
        return ", ".join(str(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {each}" for key, each in value.items())
    return str(value)


@lru_cache(maxsize=4096)
def _dtypes(weights_sha256: str) -> str:
    """From the file's header, which never changes; nothing when the store lost the file."""
    try:
        header = read_header(local.local_path(weights_sha256))
    except (CommonsError, OSError):
        return ""
    return ", ".join(sorted({tensor.dtype for tensor in header.values()}))


def _collections(module: LoraModule) -> list[CollectionItem]:
    """Public collections that it is in, the last changed first."""
    items = module.collected.filter(
        collection__visibility="public", collection__hidden_at=None
    ).select_related("collection__owner")
    return list(items.order_by("-collection__updated_at", "-pk")[:COLLECTIONS])


def _base_model_page(request: HttpRequest, found: Repo, context: dict[str, Any]) -> HttpResponse:
    base = BaseModel.objects.defer("layers").filter(repo=found).first()
    if base is not None:
        commit = context["commit"]
        modules = LoraModule.objects.listed_to(request.user).filter(base_model=base)
        context |= {
            "base": base,
            "modules": modules.for_cards()[: keyset.SIZE],
            "modules_count": modules.count(),
            "snippets": snippets.for_base_model(base, found, commit, context["site"]),
        }
    return render(request, "modules/base_model.html", context)
