"""Where the command line and notebooks have base models and modules from: folders, or the Hub.

What is named is a folder where there is one, otherwise a repo of the Hub (or of the site that
HF_ENDPOINT names): `owner/name`, `owner/name@revision`, or `owner/*` for all of an author's
adapters. Files come by the stock client, into its own cache.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.engine.adapter_file import CONFIG_NAME, WEIGHTS_NAME
from composer.engine.errors import CommonsError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

REPO = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
ALL_OF = re.compile(r"(?P<owner>[\w.-]+)/\*")
# Weights as safetensors alone; pickles are not loaded.
BASE_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
# The revision of what lies in a folder and in no repository.
LOCAL = "local"

Note = Callable[[str], None]


class NotThere(CommonsError):
    """Neither a folder nor a repo of the Hub."""

    code = "not_there"


@dataclass(frozen=True)
class Source:
    """Files on this machine. repo is None for a folder; revision is then `local`."""

    name: str
    folder: Path
    repo: str | None = None
    revision: str = LOCAL


def base(name: str) -> Source:
    """A base model's files."""
    if Path(name).is_dir():
        return _of_folder(Path(name))
    repo, revision = _repo(name, "base model")
    return _fetch(repo, revision, BASE_FILES)


def modules(names: Sequence[str], of: Source, note: Note = lambda text: None) -> list[Source]:
    """Adapters' files, in the order of their names as given; note is told what is left out."""
    found: list[Source] = []
    for name in names:
        found += _modules(name, of, note)
    seen: set[Path] = set()
    for source in found:
        if source.folder in seen:
            raise CommonsError(f"The module {source.folder} is given twice. Name it once.")
        seen.add(source.folder)
    return _told_apart(found)


def _told_apart(found: Sequence[Source]) -> list[Source]:
    """Weights and scores go by name: where two would have one, folders are called by as much more
    of their path as tells them apart, and repos by their revision."""
    taken = Counter(source.name for source in found)
    twice = [source for source in found if taken[source.name] > 1]
    names = dict(zip((each.folder for each in twice), _longer_names(twice), strict=True))
    return [replace(source, name=names.get(source.folder, source.name)) for source in found]


def _longer_names(sources: Sequence[Source]) -> list[str]:
    for parts in range(2, 1 + max((len(each.folder.parts) for each in sources), default=0)):
        names = [
            f"{each.repo}@{each.revision}" if each.repo else "/".join(each.folder.parts[-parts:])
            for each in sources
        ]
        if len(set(names)) == len(names):
            return names
    return [str(each.folder) for each in sources]


def _modules(name: str, of: Source, note: Note) -> list[Source]:
    if Path(name).is_dir():
        return _in_folder(Path(name))
    if whole := ALL_OF.fullmatch(name):
        return _all_of(whole["owner"], of, note)
    repo, revision = _repo(name, "module")
    return [_adapter(repo, revision)]


def _in_folder(folder: Path) -> list[Source]:
    """The folder is an adapter's, or holds such folders (taken in order of name)."""
    inside = sorted(path.parent for path in folder.glob(f"*/{CONFIG_NAME}"))
    if (folder / CONFIG_NAME).is_file():
        inside = [folder]
    if not inside:
        raise NotThere(
            f"There is no {CONFIG_NAME} in {folder} or in the folders in it. Name folders that "
            "PEFT's save_pretrained wrote, or repos of the Hub."
        )
    return [_of_folder(each) for each in inside]


def _of_folder(folder: Path) -> Source:
    resolved = folder.resolve()
    return Source(resolved.name, resolved)


def _repo(name: str, what: str) -> tuple[str, str | None]:
    found = REPO.fullmatch(name)
    if found is None:
        raise NotThere(
            f"There is no folder {name!r} for the {what}. Name a folder, or a repo of the Hub as "
            "owner/name."
        )
    return found["id"], found["revision"]


def _all_of(owner: str, of: Source, note: Note) -> list[Source]:
    """All of an author's adapters of this base model, or of any where `of` has no name."""
    from huggingface_hub import HfApi

    with _hub_errors(f"{owner}/*"):
        listed = list(HfApi().list_models(author=owner, full=True))
    adapters = sorted(info.id for info in listed if CONFIG_NAME in _files(info))
    if not adapters:
        raise NotThere(f"{owner} has no repos with an {CONFIG_NAME} on the Hub.")
    found, others = [], Counter[str]()
    for repo in adapters:
        made_for = _base_named(repo)
        if of.name and made_for not in (of.repo, of.name):
            others[made_for or "a base model that they do not name"] += 1
            continue
        found.append(_adapter(repo, None))
    for made_for, count in others.items():
        note(f"Left out: {count} of {owner}'s adapters, made for {made_for}.")
    if not found:
        raise NotThere(
            f"None of the {len(adapters)} adapters of {owner} was made for {of.repo or of.name}. "
            "Name the base model that they were made for, or the modules one by one."
        )
    return found


def _files(info: ModelInfo) -> Iterator[str]:
    return (each.rfilename for each in info.siblings or ())


def _base_named(repo: str) -> str:
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    disable_progress_bars()  # a bar for each of an author's configs says nothing
    try:
        folder = _fetch(repo, None, (CONFIG_NAME,)).folder
    finally:
        enable_progress_bars()
    try:
        config: Any = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        return str(config["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _adapter(repo: str, revision: str | None) -> Source:
    source = _fetch(repo, revision, (CONFIG_NAME, WEIGHTS_NAME))
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (source.folder / name).is_file():
            raise NotThere(
                f"{repo} has no {name}. It is no LoRA module, or its weights are a pickle, which "
                "is not loaded: convert them with save_pretrained(safe_serialization=True)."
            )
    return source


def _fetch(repo: str, revision: str | None, patterns: Sequence[str]) -> Source:
    from huggingface_hub import snapshot_download

    with _hub_errors(repo):
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    return Source(repo, folder, repo, folder.name)


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """The client's errors in our words, in one line."""
    import httpx2  # what huggingface_hub itself speaks with
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise NotThere(
            f"{what} is gated: ask its author for access on its page, and sign in with "
            "`hf auth login` or HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise NotThere(f"{what} has no such revision.") from error
    except RepositoryNotFoundError as error:
        raise NotThere(
            f"There is no folder {what!r} here, and no such repo on the Hub that you can see. "
            "Look at the name; for a private one, sign in with HF_TOKEN."
        ) from error
    except HFValidationError as error:
        raise NotThere(
            f"There is no folder {what!r} here, and no repo of the Hub can have this name: {error}"
        ) from error
    except (LocalEntryNotFoundError, OSError, httpx2.HTTPError, httpx2.InvalidURL) as error:
        why = " ".join(str(error).split())
        raise NotThere(
            f"{what!r} is no folder here, and the Hub cannot be reached ({why}). Look at "
            "HF_ENDPOINT and the network, or name a folder."
        ) from error
