"""Base models and whole folders: what operators bring, by command."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.conf import settings

from composer.engine.adapter_file import read_header
from composer.engine.errors import BadBaseModel
from hub_site.accounts.models import Namespace
from modules.checks.checking import recheck
from modules.models import BaseModel, Commit, LoraModule, Ref, Repo
from modules.services import NameTaken, commit, create_repo


def keep_base_model(
    *,
    repo: Repo,
    folder: Path,
    summary: str = "",
    aliases: Iterable[str] = (),
    revision: str = "",
) -> BaseModel:
    """Keep a base model's files on this site, and let workers load that version.

    `revision` is what its modules' configs call this version, where that is not the commit's id;
    it becomes a tag.
    """
    facts = read_base_model(folder)
    made = mirror(repo, folder, "Add the base model")
    if revision:
        Ref.objects.update_or_create(
            repo=repo, kind=Ref.TAG, name=revision, defaults={"commit": made}
        )
    return write_base_model(
        str(repo), facts, aliases, repo=repo, source=BaseModel.SITE, revision=revision or made.sha,
        folder="", summary=summary,
    )  # fmt: skip


def point_to_base_model(
    *, name: str, folder: Path, summary: str = "", aliases: Iterable[str] = ()
) -> BaseModel:
    """Let workers load a base model from an operator's folder, which the site does not copy."""
    folder = folder.resolve()
    revision = hashlib.sha256()
    for path in _files(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        revision.update(f"{digest}  {path.relative_to(folder).as_posix()}\n".encode())
    return write_base_model(
        name, read_base_model(folder), aliases, repo=None, source=BaseModel.FOLDER,
        revision=revision.hexdigest()[:40], folder=str(folder), summary=summary,
    )  # fmt: skip


def write_base_model(
    name: str, facts: dict[str, Any], aliases: Iterable[str], **fields: Any
) -> BaseModel:
    """Its row, new or as it is now; modules that came before it are checked against it."""
    lowered = sorted({alias.strip().lower() for alias in aliases if alias.strip()})
    base_model, _ = BaseModel.objects.update_or_create(
        name=name, defaults={"files": {}, **facts, **fields, "aliases": lowered}
    )
    waiting = LoraModule.objects.filter(base_model=None).select_related("commit", "repo__owner")
    for module in waiting.by_base_name([name, *lowered]):
        recheck(module)
    return base_model


def read_base_model(folder: Path) -> dict[str, Any]:
    """What a base model's folder says of it: config, tokenizer, and the shapes of its weights."""
    config = _json(folder / "config.json", needed=True)
    if not (folder / "tokenizer.json").is_file():
        raise BadBaseModel(
            f"{folder} has no tokenizer.json. Save the tokenizer in the fast format: "
            "AutoTokenizer.from_pretrained(…, use_fast=True).save_pretrained(folder)."
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise BadBaseModel(
            f"{folder} has no .safetensors file. Save the model with "
            "model.save_pretrained(folder, safe_serialization=True); pickles are not loaded."
        )
    tensors = {name: info.shape for path in weights for name, info in read_header(path).items()}
    with (folder / "tokenizer.json").open("rb") as file:
        tokenizer = hashlib.file_digest(file, "sha256").hexdigest()
    return facts_of(config, _json(folder / "tokenizer_config.json"), tokenizer, tensors)


def facts_of(
    config: Mapping[str, Any],
    tokenizer_config: Mapping[str, Any],
    tokenizer_sha256: str,
    tensors: Mapping[str, tuple[int, ...]],
) -> dict[str, Any]:
    """The columns of a base model that its files say, the weights by their shapes alone."""
    return {
        "config": dict(config),
        "tokenizer_sha256": tokenizer_sha256,
        "parameters": sum(math.prod(shape) for shape in tensors.values()),
        "is_encoder_decoder": bool(config.get("is_encoder_decoder")),
        "max_tokens": _max_tokens(config, tokenizer_config),
        "layers": {
            name.removesuffix(".weight"): list(shape)
            for name, shape in tensors.items()
            if name.endswith(".weight") and len(shape) == 2
        },
    }


def _max_tokens(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> int:
    """The longest input; tokenizers without a limit say 10^30."""
    said = [config.get("n_positions"), config.get("max_position_embeddings"),
            tokenizer.get("model_max_length")]  # fmt: skip
    known = [int(n) for n in said if isinstance(n, int | float) and 0 < n < 10_000_000]
    return min(known, default=512)


def _json(path: Path, needed: bool = False) -> dict[str, Any]:
    if not path.is_file():
        if needed:
            raise BadBaseModel(f"{path.parent} has no {path.name}. Is it a model's folder?")
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadBaseModel(f"{path} is not valid JSON: {error}.") from error
    return found if isinstance(found, dict) else {}


def mirror(repo: Repo, folder: Path, title: str, *, check_now: bool = False) -> Commit:
    """Make the repo's main branch hold exactly this folder's files; a second time, nothing."""
    files = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    head = repo.head()
    before = dict(head.files.values_list("path", "blob_id")) if head else {}
    changed = {name: path for name, path in files.items() if _sha256(path) != before.get(name)}
    with ExitStack() as stack:
        return commit(
            repo=repo,
            author=None,
            title=title,
            additions={n: stack.enter_context(p.open("rb")) for n, p in changed.items()},
            deletions=sorted(set(before) - set(files)),
            limit=max([settings.MAX_FILE_BYTES, *(p.stat().st_size for p in changed.values())]),
            check_now=check_now,
        )


def organisation(name: str) -> Namespace:
    """The organisation of this name, made when it is not there."""
    found = Namespace.objects.filter(name__iexact=name).first()
    if found is None:
        found = Namespace.objects.create(name=name, kind=Namespace.ORGANISATION)
    elif found.kind != Namespace.ORGANISATION:
        raise NameTaken(f"The name {name!r} belongs to a user, so it cannot be an organisation.")
    return found


def repo_of(owner: Namespace, name: str, kind: str) -> Repo:
    """The repo of this name, made when it is not there."""
    found = Repo.objects.named(owner.name, name).first()
    if found is not None and found.kind != kind:
        raise NameTaken(f"{found} exists already, and it is a {found.get_kind_display()}.")
    return found or create_repo(owner=owner, name=name, kind=kind)


def _files(folder: Path) -> list[Path]:
    """Every file below the folder but hidden ones, in one order on every machine."""
    if not folder.is_dir():
        raise BadBaseModel(f"{folder} is not a folder that this machine has.")
    below = [p for p in folder.rglob("*") if p.is_file()]
    shown = [p for p in below if not any(q.startswith(".") for q in p.relative_to(folder).parts)]
    return sorted(shown, key=lambda path: path.relative_to(folder).as_posix())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
