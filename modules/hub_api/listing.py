"""A repo as the Hub describes one, and lists of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from django.db.models import prefetch_related_objects
from django.http import HttpRequest, HttpResponseBase

from hub_site import throttles
from modules import cards, services
from modules.finding import keyset
from modules.finding.forms import ModuleFilterForm
from modules.finding.search import find
from modules.hub_api import files
from modules.hub_api.answers import (
    EMPTY,
    HubError,
    asked,
    hub_view,
    is_true,
    iso,
    number,
    with_next,
)
from modules.models import Commit, CommitFile, LoraModule, Repo
from modules.querysets import LoraModuleQuerySet
from modules.storage import local

PAGE = 100
SORTS = {
    "trendingScore": "trending",
    "trending_score": "trending",
    "downloads": "downloads",
    "likes": "likes",
    "lastModified": "newest",
    "last_modified": "newest",
    "createdAt": "newest",
    "created_at": "newest",
}
# Tags that say what a facet of ours says, as the Hub writes them.
FACETS = {"license": "licence", "language": "language", "base_model": "base_model"}


@hub_view("GET")
def models(request: HttpRequest) -> HttpResponseBase:
    """The LoRA modules of the list page, with its search, order and pages."""
    sort = request.GET.get("sort", "")
    if sort and sort not in SORTS:
        raise HubError(400, f"sort must be one of {', '.join(SORTS)}; {sort[:40]!r} is not")
    wanted = request.GET.copy()
    wanted.clear()
    wanted["q"] = request.GET.get("search", "")
    wanted["owner"] = request.GET.get("author", "")
    wanted["sort"] = SORTS.get(sort, "")
    wanted["task"] = request.GET.get("pipeline_tag", "")
    if "gated" in request.GET:
        wanted["gated"] = "true" if is_true(request.GET["gated"]) else "false"
    for tag in asked(request, "filter"):
        for one in tag.split(","):
            _add_filter(wanted, one.strip())
    form = ModuleFilterForm(wanted)
    if not form.is_valid():
        why = "; ".join(f"{name}: {' '.join(errors)}" for name, errors in form.errors.items())
        raise HubError(400, why)
    if form.has_words:
        throttles.count(request, "search")
    expand = asked(request, "expand")
    is_whole = is_true(request.GET.get("full", ""))
    page = keyset.cut(
        find(form, request.user).rows,
        form.order,
        cursor=request.GET.get("cursor", ""),
        size=number(request, "limit", PAGE, 1_000) if "limit" in request.GET else PAGE,
        load=LoraModuleQuerySet.for_api,
    )
    with_card = is_true(request.GET.get("cardData", "")) or "cardData" in expand
    if with_card or _needs_files(is_whole, expand):  # of all rows at once
        prefetch_related_objects([module.commit for module in page.items], "files__blob")
    rows = [
        shown(
            module.repo,
            module.commit,
            module=module,
            wanted=expand,
            is_whole=is_whole,
            with_card=with_card,
        )
        for module in page.items
    ]
    return with_next(request, rows, **({"cursor": page.next} if page.next else {}))


def _add_filter(wanted: Any, tag: str) -> None:
    kind, _, value = tag.partition(":")
    if kind in FACETS and value:
        # base_model:adapter:name is how the Hub marks an adapter of that base.
        wanted[FACETS[kind]] = value.removeprefix("adapter:")
    elif tag.lower() not in ("lora", "peft", "", "safetensors"):  # all of them are
        wanted.appendlist("tag", tag)


def shown(
    repo: Repo,
    commit: Commit | None,
    *,
    module: LoraModule | None = None,
    wanted: Collection[str] = (),
    with_blobs: bool = False,
    with_card: bool = False,
    is_whole: bool = False,
) -> dict[str, Any]:
    """Everything that clients may ask for; with `wanted` only that, and the id."""
    if module is None:
        module = LoraModule.objects.filter(repo=repo).select_related("base_model").first()
    needs_files = _needs_files(is_whole, wanted)
    needs_card = with_card or "cardData" in wanted
    inside: list[CommitFile] = []
    if commit and (needs_files or needs_card):
        prefetch_related_objects([commit], "files__blob")
        inside = list(commit.files.all())
    found: dict[str, Any] = {
        "_id": f"{repo.pk:024x}",
        "id": str(repo),
        "modelId": str(repo),
        "author": repo.owner.name,
        "sha": commit.sha if commit else EMPTY,
        "lastModified": iso(commit.created_at if commit else repo.created_at),
        "createdAt": iso(repo.created_at),
        "private": repo.is_private,
        "gated": repo.gated or False,
        "disabled": repo.is_hidden,
        "downloads": module.downloads if module else repo.downloads,
        "downloadsAllTime": module.downloads if module else repo.downloads,
        "likes": module.likes if module else 0,
        "trendingScore": round(module.trending) if module else 0,
        "library_name": _library(repo, module),
        "pipeline_tag": _pipeline(module),
        "tags": _tags(repo, module),
    }
    if needs_files:
        found["siblings"] = [_sibling(file, with_blobs) for file in inside]
        found["usedStorage"] = sum(file.blob.size for file in inside)
    if needs_card:
        found["cardData"] = _card_data(inside)
    if "config" in wanted and module:
        found["config"] = {"peft": {"base_model_name_or_path": module.base_model_name}}
    if "baseModels" in wanted and module:
        found["baseModels"] = {"relation": "adapter", "models": [{"id": module.base_model_name}]}
    if wanted:
        keep = {"_id", "id", "modelId", *wanted}
        found = {key: value for key, value in found.items() if key in keep}
    return found


def _needs_files(is_whole: bool, wanted: Collection[str]) -> bool:
    return "siblings" in wanted if wanted else is_whole


def _sibling(file: Any, with_blobs: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"rfilename": file.path}
    if with_blobs:
        found |= {"size": file.blob.size, "blobId": files.git_id(file.path, file.blob)}
        if lfs := files.lfs_of(file.path, file.blob):
            found["lfs"] = {"sha256": lfs.pop("oid"), **lfs}
    return found


def _tags(repo: Repo, module: LoraModule | None) -> list[str]:
    if module is None:
        return ["safetensors", "transformers"] if repo.kind == Repo.BASE else []
    found = ["peft", "safetensors", "lora", *module.tag_names]
    if module.base_model_name:
        base = module.base_model_name
        found += [f"base_model:{base}", f"base_model:adapter:{base}"]
    found += [f"license:{module.licence}"] * bool(module.licence)
    found += [word for word in module.language.split(", ") if word]
    return list(dict.fromkeys(found))


def _library(repo: Repo, module: LoraModule | None) -> str | None:
    if repo.kind == Repo.BASE:
        return "transformers"
    return "peft" if module else None  # files that are no adapter, or none yet


def _pipeline(module: LoraModule | None) -> str | None:
    return module.task if module and module.task in cards.PIPELINES else None


def _card_data(inside: Iterable[CommitFile]) -> dict[str, Any] | None:
    sha256 = next((file.blob_id for file in inside if file.path == services.CARD_NAME), None)
    if sha256 is None:
        return None
    text = local.local_path(sha256).read_bytes()[: cards.LIMIT].decode("utf-8", errors="replace")
    return cards.front_matter(text) or None
