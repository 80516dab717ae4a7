"""The Hugging Face Hub, or another site that speaks its protocol: the only code that talks to it.

Endpoint and token are said with every call and never taken from the environment, so that this
process can be a Hub itself and use another one. Whatever goes wrong there ends as a `HubFault`: in
words, and with whether trying again can help.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2  # what huggingface_hub itself speaks with
from django.conf import settings
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    hf_hub_url,
    set_client_factory,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils import logging as hf_logging
from huggingface_hub.utils._http import default_client_factory, get_session, hf_raise_for_status

from composer.engine.errors import CommonsError
from modules.storage import local

if TYPE_CHECKING:
    from modules.models import Blob

LONGEST_SAID = 300
ERRORS = (httpx2.HTTPError, httpx2.InvalidURL, OSError, RuntimeError, ValueError)


class HubFault(CommonsError):
    """Something is wrong between us and the Hub. `helps` says that trying again can mend it."""

    status = 503
    helps = False
    wait: float | None = None  # seconds that the Hub asked for


class HubDown(HubFault):
    code = "hub_down"
    helps = True


class HubBusy(HubFault):
    code = "hub_busy"
    helps = True

    def __init__(self, user_message: str, wait: float | None = None) -> None:
        super().__init__(user_message)
        self.wait = wait


class BadHubToken(HubFault):
    code = "hub_token"


class NotAllowedOnHub(HubFault):
    code = "hub_forbidden"


class GatedOnHub(HubFault):
    code = "hub_gated"


class NotOnHub(HubFault):
    """Never there, deleted, or private: the Hub does not tell which."""

    code = "not_on_hub"
    status = 404


class RefusedByHub(HubFault):
    code = "hub_refused"


@dataclass(frozen=True)
class File:
    path: str
    size: int
    sha256: str  # of large files; the Hub knows small ones by git's id alone
    git_sha1: str


def is_same(file: File, blob: Blob) -> bool:
    """A small file has git's id of its bytes there; a large one the hash that we know it by."""
    return blob.sha256 == file.sha256 or not file.sha256 and blob.git_sha1 == file.git_sha1


@dataclass(frozen=True)
class Facts:
    """A repo on the Hub at one commit."""

    repo_id: str  # as it is called now: the Hub leads on from old names
    sha: str
    is_private: bool
    is_gated: bool
    files: tuple[File, ...]
    tags: tuple[str, ...]

    def file(self, path: str) -> File | None:
        return next((file for file in self.files if file.path == path), None)


@dataclass(frozen=True)
class Whoami:
    name: str
    organisations: tuple[str, ...]
    may_write: bool


class Hub:
    """The Hub as one account sees it; without a token, as everybody does."""

    def __init__(self, token: str = "") -> None:
        prepare()
        self._token: str | bool = token or False
        self._api = HfApi(
            endpoint=settings.HUB_ENDPOINT, token=self._token, library_name="lora-commons"
        )

    def whoami(self) -> Whoami:
        with _faults("your Hugging Face account"):
            found = self._api.whoami()
        role = found.get("auth", {}).get("accessToken", {}).get("role", "")
        names = tuple(str(each.get("name")) for each in found.get("orgs") or ())
        return Whoami(str(found["name"]), names, role != "read")

    # --- reading -------------------------------------------------------------------------------

    def facts(self, repo_id: str, revision: str | None = None) -> Facts:
        """What is there now, with every file's size and hash."""
        with _faults(repo_id):
            found = self._api.model_info(repo_id, revision=revision, files_metadata=True)
        return Facts(
            repo_id=found.id,
            sha=found.sha or "",
            is_private=bool(found.private),
            is_gated=bool(found.gated),
            files=tuple(
                File(
                    each.rfilename,
                    each.size or 0,
                    each.lfs.sha256 if each.lfs else "",
                    each.blob_id or "",
                )
                for each in found.siblings or ()
            ),
            tags=tuple(found.tags or ()),
        )

    def exists(self, repo_id: str) -> bool:
        """Whether a repo has this very name; one that had it before is no hindrance."""
        try:
            return self.facts(repo_id).repo_id.lower() == repo_id.lower()
        except NotOnHub:
            return False
        except GatedOnHub:
            return True

    def names(
        self, *, author: str = "", search: str = "", limit: int | None = None
    ) -> Iterator[str]:
        """The ids of the models of an author whose names hold these words, page by page."""
        with _faults(author or "the Hub"):
            for each in self._api.list_models(
                author=author or None, search=search or None, limit=limit
            ):
                yield each.id

    def download(self, repo_id: str, sha: str, path: str, folder: Path) -> Path:
        """One file of a pinned commit, into a folder; a connection that broke is resumed."""
        with _faults(f"{repo_id}: {path}"), local.told_when_full():
            return Path(self._api.hf_hub_download(repo_id, path, revision=sha, local_dir=folder))

    @contextmanager
    def opened(
        self, repo_id: str, sha: str, path: str, start: int = 0, end: int | None = None
    ) -> Iterator[Iterator[bytes]]:
        """The bytes from start up to, not including, end, as they come from the Hub."""
        headers = self._api._build_hf_headers() | {"Accept-Encoding": "identity"}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        what = f"{repo_id}: {path}"
        with (
            _faults(what),
            get_session().stream("GET", self.url(repo_id, sha, path), headers=headers) as answer,
        ):
            hf_raise_for_status(answer)
            yield answer.iter_bytes()

    def address(self, repo_id: str, sha: str, path: str) -> str | None:
        """Where the Hub leads on for these bytes, for some minutes and without a token; None when
        it hands them out itself."""
        url = self.url(repo_id, sha, path)
        with _faults(f"{repo_id}: {path}"):
            found = self._api.get_hf_file_metadata(
                url=url, token=self._token, timeout=settings.HUB_TIMEOUT_SECONDS
            )
        there, here = httpx2.URL(found.location), httpx2.URL(url)
        return None if there.host == here.host and there.port == here.port else found.location

    @staticmethod
    def url(repo_id: str, sha: str, path: str) -> str:
        """Where everybody gets a file of a public repo."""
        return hf_hub_url(repo_id, path, revision=sha, endpoint=settings.HUB_ENDPOINT)

    # --- writing -------------------------------------------------------------------------------

    def create(self, repo_id: str, *, is_private: bool) -> None:
        """Make the repo; one that is there already stays."""
        with _faults(repo_id):
            self._api.create_repo(repo_id, private=is_private, exist_ok=True)

    def set_private(self, repo_id: str, is_private: bool) -> None:
        with _faults(repo_id):
            self._api.update_repo_settings(repo_id, private=is_private)

    def commit(
        self,
        repo_id: str,
        additions: Mapping[str, Path | bytes],
        deletions: Sequence[str] = (),
        *,
        title: str,
        message: str = "",
    ) -> str:
        """Write one version, and say its commit. The same once more changes nothing."""
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path, _content(given)) for path, given in additions.items()
        ]
        operations += [CommitOperationDelete(path, is_folder=False) for path in deletions]
        with _faults(repo_id):
            done = self._api.create_commit(
                repo_id, operations, commit_message=title, commit_description=message
            )
        return str(done.oid)

    def delete(self, repo_id: str) -> None:
        """Gone for good; one that is gone already is none the worse."""
        with _faults(repo_id):
            self._api.delete_repo(repo_id, missing_ok=True)


def _content(given: Path | bytes) -> str | bytes:
    return str(given) if isinstance(given, Path) else given


@cache
def prepare() -> None:
    """Once a process: answers that take for ever are given up, no bars and no chatter."""
    disable_progress_bars()
    hf_logging.set_verbosity_error()  # its own handler would print each retry beside ours
    set_client_factory(_client)


def _client() -> httpx2.Client:
    client = default_client_factory()
    asks = [*client.event_hooks["request"], _do_not_wait_for_ever]
    client.event_hooks = {"request": asks, "response": [_do_not_wait_as_told]}
    return client


def _do_not_wait_for_ever(request: httpx2.Request) -> None:
    """Some of the client's calls say that they would, so its own timeout is not enough."""
    said = request.extensions.get("timeout", {})
    most = dict.fromkeys(("connect", "read", "write", "pool"), settings.HUB_TIMEOUT_SECONDS)
    request.extensions["timeout"] = most | {n: v for n, v in said.items() if v is not None}


def _do_not_wait_as_told(response: httpx2.Response) -> None:
    """The client would sleep as long as a busy Hub says, and a worker with it."""
    if response.status_code == 429:
        said = response.headers.get("Retry-After", "")
        wait = float(said) if re.fullmatch("[0-9]{1,6}", said) else None
        raise HubBusy("The Hub has had too many requests from here.", wait)


# --- faults ------------------------------------------------------------------------------------


@contextmanager
def _faults(what: str) -> Iterator[None]:
    """What the client raises, as words for whoever waits for it."""
    try:
        yield
    except CommonsError:
        raise
    except ERRORS as error:
        raise fault(error, what) from error


def fault(error: BaseException, what: str) -> HubFault:
    for each in _causes(error):
        if found := _told(each, what):
            return found
    return HubDown(f"The connection to {_host()} broke off: {_said(error)}")


def _causes(error: BaseException) -> Iterable[BaseException]:
    """What was raised, and what it was raised for: a download hides the answer it got."""
    here: BaseException | None = error
    while here is not None:
        yield here
        here = here.__cause__ or here.__context__


def _told(error: BaseException, what: str) -> HubFault | None:
    if isinstance(error, HubFault):
        return error
    if isinstance(error, OfflineModeIsEnabled):
        return HubDown("HF_HUB_OFFLINE is set here, so nothing was asked of the Hub.")
    if isinstance(error, GatedRepoError):
        return GatedOnHub(
            f"{what} is gated on {_host()}. Ask its author for access there, and connect the "
            "account that has it."
        )
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError | EntryNotFoundError):
        if isinstance(error, HfHubHTTPError):
            return NotOnHub(f"{_host()} has no {what}, or it is not for this account to see.")
        return None  # the client's own word for "not in my cache"; the answer stands behind it
    if isinstance(error, HFValidationError):
        return RefusedByHub(f"{what[:200]!r} cannot be the name of a repo on {_host()}.")
    if isinstance(error, HfHubHTTPError):
        return _of_answer(error, what)
    if isinstance(error, httpx2.TimeoutException):
        return HubDown(f"{_host()} did not answer in time.")
    if isinstance(error, httpx2.NetworkError | httpx2.ProtocolError):
        return HubDown(f"{_host()} cannot be reached: {_said(error)}")
    return None


def _of_answer(error: HfHubHTTPError, what: str) -> HubFault:
    status = error.response.status_code
    said = _said(error.server_message or error)
    if status >= 500 and status not in (501, 507):
        return HubDown(f"{_host()} has trouble of its own (status {status}).")
    if status == 401:
        return BadHubToken(
            f"{_host()} does not take this token: it is mistyped, revoked or has expired."
        )
    if status == 403:
        return NotAllowedOnHub(f"{_host()} does not allow this with {what}: {said}")
    if status == 404:
        return NotOnHub(f"{_host()} has no {what}, or it is not for this account to see.")
    if status == 408:
        return HubDown(f"{_host()} did not get everything in time.")
    return RefusedByHub(f"{_host()} refused {what}: {said}")


def _said(error: object) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_SAID else f"{text[:LONGEST_SAID]}…"


def _host() -> str:
    return settings.HUB_ENDPOINT.partition("://")[2] or settings.HUB_ENDPOINT
