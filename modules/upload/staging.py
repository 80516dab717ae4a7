"""An author's files, in two steps: what came is read and kept; then it is published as a version.

Between the steps the bytes lie in the store under their hashes, granted to the one who brought
them; what is never published is pruned after a day.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, BinaryIO, Protocol, cast

from django.core import signing
from django.db import transaction

from composer.engine.adapter_file import CONFIG_LIMIT, CONFIG_NAME, WEIGHTS_NAME
from composer.engine.errors import BadAdapter, CommonsError
from hub_site.accounts.models import User
from modules import cards, services
from modules.bases import matching
from modules.cards import Card, Facts
from modules.checks import quick
from modules.models import Blob, Commit, Grant, LoraModule, Repo
from modules.on_hub import keeping
from modules.storage import bytes_back, local
from modules.upload import intake, receiving, unzip

CARD_NAME = services.CARD_NAME
LEGAL = ("license", "licence", "notice", "copying")
LEGAL_LIMIT = 1 << 20
MOST_LEGAL = 4
MOST_NAMED = 10
DAY = 24 * 3600
WHAT_TO_BRING = (
    f"A LoRA module is two files, {CONFIG_NAME} and {WEIGHTS_NAME}, as PEFT's save_pretrained "
    "writes them; README.md may come along, or all of them as one zip."
)


class BadUpload(CommonsError):
    code = "bad_upload"

    def __init__(self, message: str) -> None:
        super().__init__(message, fields={"files": [message]})


class SentFile(Protocol):
    name: str | None
    file: IO[bytes]
    size: int | None


@dataclass
class Incoming:
    """What of an upload is taken: paths and their bytes, not stored yet."""

    files: dict[str, IO[bytes]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    name: str = ""  # of the zip or the folder in it


@dataclass(frozen=True)
class Staged:
    """What was kept in the first step, and what it says."""

    files: dict[str, Blob]
    left_out: list[str]
    name: str
    parent: str
    card: Card
    card_text: str
    reading: quick.Reading

    @property
    def base_model(self) -> str:
        return self.reading.base_model


# --- first step: read, then keep ---------------------------------------------------------------


def stage(user: User, sent: Iterable[SentFile], repo: Repo | None = None) -> str:
    """Read the files, refuse what is wrong, keep the rest; returns the token for `find`."""
    with ExitStack() as stack:
        incoming = sort_out(sent, stack)
        head = repo.head() if repo is not None else None
        check(user, incoming, head)
        blobs = intake.keep(user, incoming.files)
    hashes = {path: blob.sha256 for path, blob in blobs.items()}
    return _token(user, hashes, _shortened(incoming.left_out), incoming.name[:96], repo, head)


def _token(
    user: User,
    hashes: Mapping[str, str],
    left_out: list[str],
    name: str,
    repo: Repo | None,
    head: Commit | None,
) -> str:
    return signing.dumps(
        {
            "user": user.pk,
            "files": hashes,
            "left_out": left_out,
            "name": name,
            "parent": head.sha if head else "",
            "repo": repo.pk if repo else None,
        },
        salt="upload",
        compress=True,
    )


def sort_out(sent: Iterable[SentFile], stack: ExitStack) -> Incoming:
    """Which file is what: by its name, or unpacked from a zip."""
    found, pickles = Incoming(), []
    for file, name, stream in _unpacked(sent, found, stack):
        path = recognise(name)
        if path is None or is_legal(path) and sum(map(is_legal, found.files)) >= MOST_LEGAL:
            found.left_out.append(name)
            if name.lower().endswith(quick.PICKLES):
                pickles.append(name)
        elif path in found.files:
            raise BadUpload(f"Two files are {path}: {file} is the second. Choose one of them.")
        else:
            found.files[path] = stream()
    if pickles and WEIGHTS_NAME not in found.files:
        quick.refuse_pickle(pickles[0])
    if not found.files:
        there = f" Not taken: {', '.join(found.left_out[:5])}." if found.left_out else ""
        raise BadUpload(f"{WHAT_TO_BRING}{there}")
    return found


def recognise(name: str) -> str | None:
    """The path that a file gets; browsers add " (1)" to what is downloaded twice."""
    base = PurePosixPath(name).name
    lower = re.sub(r" ?\(\d+\)(?=\.|$)", "", base.lower())
    if "/" in name:  # deeper in a zip: checkpoints and the like
        return None
    if lower == CONFIG_NAME:
        return CONFIG_NAME
    if lower.endswith(".safetensors"):
        return WEIGHTS_NAME
    if lower in ("readme.md", "readme.markdown", "readme", "readme.txt"):
        return CARD_NAME
    stem, _, ending = lower.partition(".")
    return base if stem in LEGAL and ending in ("", "txt", "md") else None


def is_legal(path: str) -> bool:
    return path.lower().startswith(LEGAL)


def _shortened(names: list[str]) -> list[str]:
    """For people, and for an address that must not grow with what a zip holds."""
    shown = [name if len(name) <= 60 else f"{name[:40]}…" for name in names[:MOST_NAMED]]
    rest = len(names) - len(shown)
    return [*shown, f"and {rest:,} more"] if rest else shown


def check(user: User, incoming: Incoming, head: Commit | None) -> None:
    """Everything that a request can judge, before a byte is kept."""
    files = incoming.files
    sizes = {path: intake.size_of(stream) for path, stream in files.items()}
    intake.check(user, files.values())
    kept = dict(head.files.values_list("path", "blob__size")) if head else {}
    intake.check_module_size(sum((kept | sizes).values()))
    for path, size in sizes.items():
        if is_legal(path) and size > LEGAL_LIMIT:
            raise BadUpload(f"{path} has {size:,} bytes; {LEGAL_LIMIT:,} are the most for it.")
        quick.refuse_pickle(path, cast(BinaryIO, files[path]))
        files[path].seek(0)
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if name not in {*files, *kept}]
    if missing:
        raise BadUpload(f"{' and '.join(missing)} is missing. {WHAT_TO_BRING}")
    if CARD_NAME in files:
        cards.check(files[CARD_NAME].read(8 * cards.LIMIT))
        files[CARD_NAME].seek(0)
    _read(files, head)


def _read(files: Mapping[str, IO[bytes]], head: Commit | None) -> quick.Reading:
    """Config and header together, each from the upload or from the version before."""
    before = dict(head.files.values_list("path", "blob_id")) if head else {}
    config, weights = files.get(CONFIG_NAME), files.get(WEIGHTS_NAME)
    try:
        reading = quick.read(
            config.read(CONFIG_LIMIT + 1) if config else local.local_path(before[CONFIG_NAME]),
            cast(BinaryIO, weights) if weights else bytes_back.path_of(before[WEIGHTS_NAME]),
        )
        matching.match(reading)
    except BadAdapter as error:
        error.fields = {"files": [error.user_message]}
        raise
    for stream in filter(None, (config, weights)):
        stream.seek(0)
    return reading


def _unpacked(
    sent: Iterable[SentFile], found: Incoming, stack: ExitStack
) -> Iterator[tuple[str, str, Opener]]:
    """Each file as (name for people, path, how to open it); a zip's files are unpacked when
    somebody wants them."""
    sent = list(sent)
    zips = [file for file in sent if _is_zip(file)]
    if len(zips) > 1:
        raise BadUpload("Two zips came at once. Put one module's files into one zip.")
    for file in sent:
        name = (file.name or "file").replace("\\", "/").rpartition("/")[2]
        if file not in zips:
            yield name, name, lambda file=file: file.file
            continue
        archive = stack.enter_context(unzip.opened(file.file))
        found.name = archive.folder or name.rpartition(".")[0]
        wanted = sum(archive.size(path) for path in archive.files if recognise(path))
        intake.check_module_size(wanted)
        for path in archive.files:
            yield f"{path} in {name}", path, lambda a=archive, p=path: _unpack(a, p, stack)


class Opener(Protocol):
    def __call__(self) -> IO[bytes]: ...


def _unpack(archive: unzip.Zip, path: str, stack: ExitStack) -> IO[bytes]:
    target = stack.enter_context(receiving.nameless())
    with local.told_when_full():
        archive.copy(path, target)
        target.seek(0)
    return target


def _is_zip(file: SentFile) -> bool:
    first = file.file.read(4)
    file.file.seek(0)
    return unzip.is_zip(first) and not (file.name or "").lower().endswith(
        (".safetensors", *quick.PICKLES)
    )


# --- between the steps -------------------------------------------------------------------------


def find(token: str, user: User, repo: Repo | None = None) -> Staged | None:
    """What this token stands for; None when it is not this user's, or too old."""
    try:
        said = signing.loads(token, salt="upload", max_age=DAY)
    except signing.BadSignature:
        return None
    if said["user"] != user.pk or said["repo"] != (repo.pk if repo else None):
        return None
    hashes: dict[str, str] = said["files"]
    granted = Grant.objects.filter(user=user, blob_id__in=hashes.values())
    blobs = {grant.blob_id: grant.blob for grant in granted.select_related("blob")}
    if not set(hashes.values()) <= set(blobs):
        return None
    head = repo.at_revision(said["parent"]) if repo and said["parent"] else None
    before = dict(head.files.values_list("path", "blob_id")) if head else {}
    after = before | hashes
    text = ""
    if CARD_NAME in after:
        text = local.local_path(after[CARD_NAME]).read_bytes().decode("utf-8", "replace")
    return Staged(
        files={path: blobs[sha256] for path, sha256 in hashes.items()},
        left_out=said["left_out"],
        name=said["name"],
        parent=said["parent"],
        card=cards.read(text.encode()),
        card_text=text,
        reading=quick.read(
            local.local_path(after[CONFIG_NAME]), bytes_back.path_of(after[WEIGHTS_NAME])
        ),
    )


def on_newest(staged: Staged, user: User, repo: Repo) -> str:
    """A token for the same files as a change of what is the newest version by now."""
    hashes = {path: blob.sha256 for path, blob in staged.files.items()}
    return _token(user, hashes, staged.left_out, staged.name, repo, repo.head())


# --- second step: publish ----------------------------------------------------------------------


def publish(
    *,
    user: User,
    staged: Staged,
    name: str,
    visibility: str,
    facts: Facts,
    message: str = "",
    place: str = "",
) -> LoraModule:
    """A new module: its repo, with everything in its first version."""
    with transaction.atomic():  # a module that is refused leaves no empty repo
        repo = services.create_repo(
            owner=user.namespace, name=name, kind=Repo.LORA, visibility=visibility
        )
        module = add_version(
            user=user, staged=staged, repo=repo, facts=facts, message=message or "First version"
        )
        if place:
            keeping.choose(repo, place)
        return module


def add_version(
    *, user: User, staged: Staged, repo: Repo, facts: Facts, message: str = ""
) -> LoraModule:
    """A new version; files that did not come along stay as they are."""
    title, _, rest = message.strip().partition("\n")
    return services.publish_module(
        repo=repo,
        author=user,
        title=title or "New version",
        message=(title[200:] + rest).strip(),
        additions=staged.files | _card(staged, facts, repo.name),
        parent=staged.parent,
    )


def _card(staged: Staged, facts: Facts, name: str) -> dict[str, IO[bytes]]:
    """README.md with what was typed, when that says more than it says already."""
    facts = Facts(
        **{**facts.__dict__, "name": staged.card.title or name, "base_model": staged.base_model}
    )
    typed = any((facts.description, facts.licence, facts.language, facts.tags, facts.task,
                 facts.training_data, facts.not_for))  # fmt: skip
    if not typed:
        return {}
    text = cards.with_facts(staged.card_text, facts)
    if text == staged.card_text:
        return {}
    return {CARD_NAME: io.BytesIO(text.encode())}
