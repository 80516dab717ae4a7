"""What people do with repos. Pages, API and commands end here, most of them in `commit`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import reduce
from operator import add
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from django.contrib.postgres.search import SearchVector
from django.db import IntegrityError, transaction
from django.db.models import Value
from django.db.models.expressions import Combinable
from django.utils import timezone

from composer.engine.adapter_file import CONFIG_LIMIT, CONFIG_NAME, WEIGHTS_NAME
from composer.engine.errors import CommonsError
from hub_site.accounts.models import Namespace, User
from modules import cards
from modules.bases import matching
from modules.checks import checking, quick
from modules.checks.checking import update_listed
from modules.finding import tags
from modules.locks import hold_repo
from modules.models import (
    Blob,
    Commit,
    CommitFile,
    Grant,
    LoraModule,
    OldAddress,
    Ref,
    Repo,
)
from modules.on_hub import keeping
from modules.querysets import search_words
from modules.storage import bytes_back, local
from modules.upload import intake

CARD_NAME = "README.md"
RESERVED_REPO_NAMES = frozenset(
    {"resolve", "tree", "blob", "raw", "commits", "settings", "download"}
)
MOST_FILES = 1_000
MOST_INDEXED = 250_000  # characters of a card; PostgreSQL's index of a text ends at a megabyte


class AboutName(CommonsError):
    def __init__(self, message: str) -> None:
        super().__init__(message, fields={"name": [message]})


class BadName(AboutName):
    code = "bad_name"


class NameTaken(AboutName):
    code = "name_taken"
    status = 409


class BadPath(CommonsError):
    code = "bad_path"


class BadCommit(CommonsError):
    code = "bad_commit"


class StaleParent(CommonsError):
    code = "stale_parent"
    status = 412


class UnknownFile(CommonsError):
    code = "unknown_file"
    status = 404


# --- repos -------------------------------------------------------------------------------------


def check_free(owner: Namespace, name: str) -> None:
    """Before files are read for it; whether it still is decides the database."""
    check_repo_name(name)
    if Repo.objects.named(owner.name, name).exists():
        raise _taken(owner, name)


def _taken(owner: Namespace, name: str) -> NameTaken:
    return NameTaken(
        f"{owner.name}/{name} exists already. Choose another name, or add a version to it."
    )


def create_repo(*, owner: Namespace, name: str, kind: str, visibility: str = Repo.PUBLIC) -> Repo:
    check_repo_name(name)
    try:
        with transaction.atomic():
            # A new repo takes the name over: links to one that had it before end here.
            OldAddress.objects.filter(owner=owner, name__iexact=name).delete()
            return Repo.objects.create(owner=owner, name=name, kind=kind, visibility=visibility)
    except IntegrityError as error:
        raise _taken(owner, name) from error


def check_repo_name(name: str) -> None:
    """The Hub's rules, so that a repo can move there under its own name."""
    allowed = re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?", name)
    if not allowed or "--" in name or ".." in name or name.lower().endswith(".git"):
        raise BadName(
            f"{name!r} cannot be a name. Use 1 to 96 letters, digits, dots, dashes or underscores, "
            'beginning with a letter or digit, without "--", ".." or ".git" at the end.'
        )
    if name.lower() in RESERVED_REPO_NAMES:
        raise BadName(f"{name!r} is part of the site's own addresses. Choose another name.")


# --- commits -----------------------------------------------------------------------------------


def commit(
    *,
    repo: Repo,
    author: User | None,
    title: str,
    additions: Mapping[str, IO[bytes] | Blob],
    deletions: Iterable[str] = (),
    parent: str | None = None,
    message: str = "",
    branch: str = "main",
    limit: int | None = None,
    check_now: bool = False,
) -> Commit:
    """Write one version: all of it or nothing. A change that changes nothing gives the head back.

    `parent`, when given, must still be the branch's head. A change sent again, because its answer
    got lost, gives the version that it made. A LoRA repo's files are read by the quick checks
    first, and a job checks them in full; `check_now` does that here, for operators.
    """
    deletions, title = list(deletions), (title.strip() or "Upload")[:200]
    for path in [*additions, *deletions]:
        check_path(path)
    by = (author.pk if author else None, title, message)
    head = repo.head(branch)
    if not _could_be(head, parent, by):
        _refuse_stale(head, parent, repo)  # before bytes travel; again under the lock
    streams = {p: a for p, a in additions.items() if not isinstance(a, Blob)}
    named = {p: a for p, a in additions.items() if isinstance(a, Blob)}
    intake.check(author, streams.values(), limit=limit)
    if repo.kind == Repo.LORA and branch == "main":
        _read_first(head, streams, named, deletions)
    stored = {path: local.put(stream, limit=limit) for path, stream in streams.items()}
    for path, blob in named.items():
        _granted(repo, author, path, blob)  # before its bytes are looked at; again under the lock
        _refuse_pickle(path, blob.sha256)
    for path, came in stored.items():
        _refuse_pickle(path, came.sha256)
    with transaction.atomic():
        intake.hold_store()
        repo = hold_repo(repo)
        head = repo.head(branch)
        blobs = intake.own(author, stored)
        blobs |= {p: _granted(repo, author, p, blob) for p, blob in named.items()}
        before = _files_of(head)
        if _could_be(head, parent, by) and _is_made(head, blobs, deletions):
            after = before
        else:
            _refuse_stale(head, parent, repo)
            after = _tree(before, blobs, deletions)
        if head is not None and after == before:
            checking.check_again(repo, author)
            return head
        if repo.kind == Repo.LORA and author is not None:
            intake.check_module_size(_size(after))
        made = _write(repo, head, author, title, message, after)
        Ref.objects.update_or_create(
            repo=repo, kind=Ref.BRANCH, name=branch, defaults={"commit": made}
        )
        repo.save(update_fields=["updated_at"])
        if repo.kind == Repo.LORA and branch == "main":
            _describe(repo, made, before, after, author, check_now)
    return made


def publish_module(
    *,
    repo: Repo,
    author: User | None,
    title: str,
    additions: Mapping[str, IO[bytes] | Blob],
    deletions: Iterable[str] = (),
    parent: str | None = None,
    message: str = "",
    check_now: bool = False,
) -> LoraModule:
    """A commit after which the repo must hold a LoRA module: its config and its weights."""
    with transaction.atomic():
        commit(
            repo=repo,
            author=author,
            title=title,
            additions=additions,
            deletions=deletions,
            parent=parent,
            message=message,
            check_now=check_now,
        )
        module = LoraModule.objects.filter(repo=repo).first()
        if module is None:
            raise BadCommit(
                f"A LoRA module is two files, {CONFIG_NAME} and {WEIGHTS_NAME}, as PEFT's "
                "save_pretrained writes them. Add what is missing."
            )
    return module


def check_path(path: str) -> None:
    """A path that means the same on every machine, and never leaves its folder."""
    parts = path.split("/")
    odd = any(ord(c) < 32 or c in "\\\x7f" for c in path)
    dots = any(part in ("", ".", "..") for part in parts)
    long = len(path) > 500 or any(len(part.encode()) > 255 for part in parts)
    if odd or dots or long or parts[0].lower() == ".git":
        raise BadPath(
            f"{path[:200]!r} cannot be a file's path. Use names joined by single slashes, without "
            '"..", backslashes or control characters, not below .git, 500 characters at most.'
        )


def commit_sha(parent: str, author: str, title: str, message: str, files: Mapping[str, str]) -> str:
    """A commit's id: a hash over everything but the time, so that the same history made twice,
    on two machines, has the same ids."""
    document = ["commons-commit-1", parent, author, title, message, sorted(files.items())]
    data = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return hashlib.sha256(data).hexdigest()[:40]


def _refuse_stale(head: Commit | None, parent: str | None, repo: Repo) -> None:
    if parent is not None and parent != (head.sha if head else ""):
        now = head.sha[:10] if head else "empty"
        raise StaleParent(
            f"{repo} was changed while you worked: its newest version is {now}, not {parent[:10]}. "
            "Look at what is new, then send your change again."
        )


def _could_be(head: Commit | None, parent: str | None, by: tuple[int | None, str, str]) -> bool:
    """Whether the newest version is by the same author, with the same words, on this parent."""
    if head is None or by != (head.author_id, head.title, head.message):
        return False
    return parent in (None, head.parent.sha if head.parent else "")


def _is_made(head: Commit | None, blobs: Mapping[str, Blob], deletions: Iterable[str]) -> bool:
    """Whether the newest version came by this change. Clients leave out what did not change, so one
    sent again may say less than it did at first."""
    here, before = _files_of(head), _files_of(head.parent if head else None)
    are_there = all(here.get(path) == blob.sha256 for path, blob in blobs.items())
    return are_there and all(path in before and path not in here for path in deletions)


def _files_of(commit: Commit | None) -> dict[str, str]:
    return dict(commit.files.values_list("path", "blob_id")) if commit else {}


def _refuse_pickle(path: str, sha256: str) -> None:
    with bytes_back.path_of(sha256).open("rb") as file:
        quick.refuse_pickle(path, file)


def _read_first(
    head: Commit | None,
    streams: Mapping[str, IO[bytes]],
    named: Mapping[str, Blob],
    deletions: Iterable[str],
) -> None:
    """Refuse what is wrong while it is still an upload: of a refused adapter no byte is kept.

    Bytes named by their hash, or that come as a stream that cannot be read twice, are read in the
    store instead.
    """
    for path, stream in streams.items():
        if stream.seekable():
            quick.refuse_pickle(path, cast("BinaryIO", stream))
    both = {CONFIG_NAME, WEIGHTS_NAME}
    if both & {*named, *deletions} or not both & set(streams):
        return
    kept = dict(head.files.values_list("path", "blob_id")) if head else {}
    if not all(name in kept or name in streams and streams[name].seekable() for name in both):
        return
    config: Path | bytes
    if CONFIG_NAME in streams:
        config = streams[CONFIG_NAME].read(CONFIG_LIMIT + 1)
        streams[CONFIG_NAME].seek(0)
    else:
        config = local.local_path(kept[CONFIG_NAME])
    weights = streams.get(WEIGHTS_NAME) or bytes_back.path_of(kept[WEIGHTS_NAME])
    matching.match(quick.read(config, cast("Path | BinaryIO", weights)))
    if WEIGHTS_NAME in streams:
        streams[WEIGHTS_NAME].seek(0)


def _size(files: Mapping[str, str]) -> int:
    sizes = dict(Blob.objects.filter(pk__in=set(files.values())).values_list("pk", "size"))
    return sum(sizes[sha256] for sha256 in files.values())


def _granted(repo: Repo, author: User | None, path: str, blob: Blob) -> Blob:
    """A hash is no capability: bytes are named only where they are, or by who uploaded them."""
    here = CommitFile.objects.filter(commit__repo=repo, blob_id=blob.sha256)
    own = Grant.objects.filter(user=author, blob_id=blob.sha256)
    if not here.exists() and (author is None or not own.exists()):
        raise UnknownFile(f"{path}: upload these bytes first; {blob.sha256[:12]}… is not known.")
    return blob


def _tree(
    before: Mapping[str, str], blobs: Mapping[str, Blob], deletions: Iterable[str]
) -> dict[str, str]:
    after = dict(before)
    for path in deletions:
        if after.pop(path, None) is None:
            raise UnknownFile(f"{path!r} cannot be deleted: this version has no such file.")
    after |= {path: blob.sha256 for path, blob in blobs.items()}
    if not after:
        raise BadCommit("A version needs at least one file.")
    if len(after) > MOST_FILES:
        raise BadCommit(f"A version has at most {MOST_FILES:,} files; this one has {len(after):,}.")
    folders = {"/".join(p.split("/")[:n]) for p in after for n in range(1, p.count("/") + 1)}
    if both := folders & set(after):
        raise BadPath(f"{min(both)!r} would be a file and a folder at once.")
    return after


def _write(
    repo: Repo,
    head: Commit | None,
    author: User | None,
    title: str,
    message: str,
    files: Mapping[str, str],
) -> Commit:
    sha = commit_sha(
        head.sha if head else "", author.get_username() if author else "", title, message, files
    )
    made = Commit.objects.create(
        repo=repo,
        sha=sha,
        parent=head,
        author=author,
        title=title,
        message=message,
        created_at=timezone.now(),
    )
    CommitFile.objects.bulk_create(
        CommitFile(commit=made, path=path, blob_id=sha256) for path, sha256 in files.items()
    )
    return made


# --- LoRA modules ------------------------------------------------------------------------------


def _describe(
    repo: Repo,
    made: Commit,
    before: Mapping[str, str],
    after: Mapping[str, str],
    author: User | None,
    check_now: bool,
) -> None:
    """Bring the repo's LoraModule up to this commit, and have new weights checked."""
    module = LoraModule.objects.filter(repo=repo).first()
    if CONFIG_NAME not in after or WEIGHTS_NAME not in after:
        if module is not None:
            raise BadCommit(
                f"A LoRA module needs {CONFIG_NAME} and {WEIGHTS_NAME}. Replace them instead of "
                "deleting them, or delete the whole module."
            )
        return
    card = _card(after)
    facts = {
        "commit": made,
        "summary": card.summary,
        "licence": card.licence,
        "language": card.language,
        "task": card.task,
    }
    same = module is not None and all(
        before.get(name) == after[name] for name in (CONFIG_NAME, WEIGHTS_NAME)
    )
    if not same:
        facts |= _facts_of_files(after)
    if module is None or before.get(WEIGHTS_NAME) != after[WEIGHTS_NAME]:
        # An edited card makes no module newer, nor an original a copy of its copies.
        facts["published_at"] = made.created_at
    is_new = module is None
    module, _ = LoraModule.objects.update_or_create(repo=repo, defaults=facts)
    if is_new and keeping.default_place() != keeping.HERE:
        keeping.choose(repo, keeping.default_place())
    tags.set_tags(module, card.tags)
    update_listed(module)
    index(module, card)
    if not same and check_now:
        checking.check(module)
    elif not same:
        checking.check_later(module, author)


def _facts_of_files(files: Mapping[str, str]) -> dict[str, Any]:
    """What config and weights say; their full check is still to come."""
    weights = files[WEIGHTS_NAME]
    reading = quick.read(local.local_path(files[CONFIG_NAME]), bytes_back.path_of(weights))
    base_model, base_model_name = matching.match(reading)
    return {
        "base_model": base_model,
        "base_model_name": base_model_name,
        **checking.facts_of(reading),
        "weights_size": Blob.objects.get(pk=weights).size,
        "weights_sha256": weights,
        "tensors_sha256": "",
        "status": LoraModule.CHECKING,
        "rejected_reason": "",
        "checks": [],
    }


def index(module: LoraModule, card: cards.Card | None = None) -> None:
    """Keep the module's words for search: its name before its tags, its card last.

    Without a card it is read again: for a new name, say.
    """
    if card is None:
        card = _card(dict(module.commit.files.values_list("path", "blob_id")))
    name, owner = module.repo.name, module.repo.owner.name
    head = {"A": name, "B": " ".join(module.tag_names), "C": owner, "D": module.summary}
    every = head | {"C": f"{owner} {module.summary} {module.base_model_name}", "D": card.text}
    LoraModule.objects.filter(pk=module.pk).update(
        search=_vector(every), head=_vector(head), name_key=name.lower()
    )


def _vector(weighted: Mapping[str, str]) -> Combinable:
    parts: list[Combinable] = [
        SearchVector(
            Value(" ".join(search_words(text))[:MOST_INDEXED]), weight=weight, config="simple"
        )
        for weight, text in weighted.items()
    ]
    return reduce(add, parts)


def _card(files: Mapping[str, str]) -> cards.Card:
    if CARD_NAME not in files:
        return cards.Card()
    with local.local_path(files[CARD_NAME]).open("rb") as file:
        return cards.read(file.read(cards.LIMIT))
