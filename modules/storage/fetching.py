"""Where a worker's files come from, and where it leaves its own.

Beside the site they come from its store. With FETCH_FROM they come from the site over HTTP, by the
token of the job that reads them: this machine has no part of the site's disk. A base model on the
Hugging Face Hub comes from there, either way.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from django.conf import settings

from composer.engine.errors import CommonsError
from hub_site.jobs import job_tokens, queue
from hub_site.jobs.worker import Hindered, OutOfReach
from modules.models import BaseModel, Commit, Repo
from modules.storage import bytes_back, local
from modules.storage.local import StoredBlob

if TYPE_CHECKING:
    from hub_site.jobs.worker import Lease

logger = logging.getLogger(__name__)

T = TypeVar("T")
# Seconds between tries. The client has tried a few times itself, for half a minute, before the
# first of them is over; nobody does so for what we send.
FETCH_PAUSES = (2.0,)
SEND_PAUSES = (1.0, 2.0, 4.0, 8.0)
PROBE_SECONDS = 10
NOT_THE_SITE = (502, 503, 504)
LONGEST_PAUSE = 60.0  # of what a busy server asks for


class FilesGone(CommonsError):
    code = "module_gone"


class NotTaken(CommonsError):
    code = "result_refused"


class FolderMissing(CommonsError):
    code = "base_model_missing"


def folder_of(commit: Commit, lease: Lease) -> Path:
    """A folder with the commit's files, for the job of this lease."""
    if not settings.FETCH_FROM:
        return bytes_back.materialise(commit)
    files = dict(commit.files.values_list("path", "blob_id"))
    try:
        return _from_site(_name_of(commit), commit.sha, files, lease)
    except FilesGone:
        now = _name_of(commit)  # it may have been renamed just now
        return _from_site(now, commit.sha, files, lease)


def base_folder(base_model: BaseModel, lease: Lease) -> Path:
    """The folder of a base model in its pinned revision."""
    if base_model.source == base_model.HUB:
        return _from_hub(base_model, lease)
    if base_model.source == base_model.SITE and settings.FETCH_FROM:
        return folder_of(base_model.pinned_commit(), lease)
    folder = local.base_folder(base_model)
    if not folder.is_dir():
        raise FolderMissing(
            f"The base model {base_model} lies in a folder that the worker's machine does not "
            "have. Whoever runs this site can add it again with --keep."
        )
    return folder


def keep(path: Path, lease: Lease) -> StoredBlob:
    """Put a file that a job made into the site's store."""
    _refuse_too_large(path)
    if settings.FETCH_FROM:
        return _patiently(lambda: _send(path, lease), settings.FETCH_FROM, lease, SEND_PAUSES)
    with path.open("rb") as file:
        return local.put(file)


# --- from afar ---------------------------------------------------------------------------------


def _name_of(commit: Commit) -> str:
    repo = Repo.objects.select_related("owner").filter(pk=commit.repo_id).first()
    if repo is None:
        raise FilesGone("A module was deleted while this job read it. Submit it again without it.")
    return str(repo)


def _from_site(repo_id: str, sha: str, files: dict[str, str], lease: Lease) -> Path:
    from modules.storage import hub

    try:
        return _fetch(repo_id, sha, files, settings.FETCH_FROM, job_tokens.issue(lease.job), lease)
    except (hub.NotOnHub, hub.GatedOnHub, hub.NotAllowedOnHub) as error:
        if "X-Error-Code" not in _headers(error):
            raise OutOfReach(
                f"{settings.FETCH_FROM} does not answer as the site does: is FETCH_FROM right?"
            ) from error
        raise FilesGone(
            f"{repo_id} is no longer given out in the revision {sha[:10]}: it was deleted or "
            "hidden while this job waited. Submit it again with what is there now."
        ) from error


def _from_hub(base: BaseModel, lease: Lease) -> Path:
    from modules.storage import hub

    endpoint, token = settings.HUB_ENDPOINT, settings.HF_TOKEN or False
    try:
        folder = _fetch(base.name, base.revision, base.files, endpoint, token, lease)
    except hub.NotOnHub as error:
        raise FilesGone(
            f"The base model {base} is no longer on {endpoint} in the revision "
            f"{base.revision[:10]}. Whoever runs this site can add it again."
        ) from error
    if local.tokenizer_path(base) is None:  # its cache was cleared; forms count tokens with it
        local.keep_tokenizer((folder / "tokenizer.json").read_bytes())
    return folder


def _fetch(
    repo_id: str, sha: str, files: dict[str, str], endpoint: str, token: str | bool, lease: Lease
) -> Path:
    from modules.storage import hub_cache

    pinned = hub_cache.Pinned(repo_id, sha, files)

    def once() -> Path:
        return hub_cache.fetch(pinned, endpoint=endpoint, token=token, check=lease.check)

    return _patiently(once, endpoint, lease)


def _patiently(
    call: Callable[[], T], where: str, lease: Lease, pauses: tuple[float, ...] = FETCH_PAUSES
) -> T:
    """Try again while that can help and the job is ours. Raises LeaseLost and its like, a HubFault
    that no waiting mends, or what sends the job back to the queue."""
    from modules.storage.hub import BadHubToken, HubFault

    for pause in (*pauses, None):
        try:
            return call()
        except BadHubToken as fault:
            if where != settings.FETCH_FROM:
                raise
            raise _refused(lease) from fault
        except HubFault as fault:
            lease.check()
            if not fault.helps:
                raise
            if pause is None:
                raise _given_up(where) from fault
            logger.warning("Job %s: nothing comes from %s; trying again", lease.job.pk, where)
            _rest(min(max(pause, fault.wait or 0), LONGEST_PAUSE), lease)
    raise AssertionError("the last try returns or raises")


def _refused(lease: Lease) -> Exception:
    """The token was not taken: the claim is over, or the two sides do not share one key."""
    queue.heartbeat(lease.job)  # raises LeaseLost or JobCancelled
    return OutOfReach(
        f"{settings.FETCH_FROM} does not take this worker's token. SECRET_KEY must be the site's "
        "own, and DATABASE_URL the site's database."
    )


def _given_up(where: str) -> Exception:
    """When the site does not answer at all, every job waits. When it does, and files do not come
    all the same, or when it is the Hub that is away, other jobs may do without."""
    if where != settings.FETCH_FROM or _answers():
        return Hindered(f"Nothing came from {where}, which is down or has trouble of its own.")
    return OutOfReach(f"Nothing comes from {where}: it is down, or cannot be reached from here.")


def _answers() -> bool:
    """Is the site there, and not only a proxy in front of it?"""
    import httpx2  # what huggingface_hub itself speaks with

    try:
        answer = httpx2.get(f"{settings.FETCH_FROM}/api/whoami-v2", timeout=PROBE_SECONDS)
    except httpx2.HTTPError:
        return False
    return answer.status_code not in NOT_THE_SITE


def _headers(fault: BaseException) -> Mapping[str, str]:
    """What the other side answered with, somewhere behind this."""
    here: BaseException | None = fault
    while here is not None:
        if answer := getattr(here, "response", None):
            return answer.headers
        here = here.__cause__ or here.__context__
    return {}


def _rest(seconds: float, lease: Lease) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        lease.check()
        time.sleep(0.1)


# --- sending -----------------------------------------------------------------------------------


def _refuse_too_large(path: Path) -> None:
    """Told here: a site that says so while the bytes still travel may not be heard."""
    size = path.stat().st_size
    if size > settings.MAX_FILE_BYTES:
        raise local.FileTooLarge(
            f"The adapter has {size:,} bytes; {settings.MAX_FILE_BYTES:,} are the most that this "
            "site takes for one file. Compose fewer modules, or modules of a lower rank."
        )


def _send(path: Path, lease: Lease) -> StoredBlob:
    import httpx2

    from modules.storage.hub import HubDown

    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        try:
            answer = httpx2.put(
                f"{settings.FETCH_FROM}/api/v1/jobs/{lease.job.pk}/files/{sha256}",
                content=_pieces(file, lease),
                headers={
                    "Authorization": f"Bearer {job_tokens.issue(lease.job)}",
                    "Content-Length": str(path.stat().st_size),
                    "Content-Type": "application/octet-stream",
                },
                timeout=settings.HUB_TIMEOUT_SECONDS,
            )
        except httpx2.HTTPError as error:
            raise HubDown(f"{settings.FETCH_FROM} took no file: {error}") from error
    return _kept(answer.status_code, answer.text, sha256)


def _pieces(file: IO[bytes], lease: Lease) -> Iterator[bytes]:
    while chunk := file.read(local.CHUNK):
        lease.check()
        yield chunk


def _kept(status: int, text: str, sha256: str) -> StoredBlob:
    from modules.storage.hub import BadHubToken, HubDown

    try:
        said = json.loads(text)
        if status == 200:
            stored = StoredBlob(said["sha256"], said["size"], said["git_sha1"])
            if stored.sha256 == sha256:
                return stored
        message = str(said["message"])
    except (ValueError, KeyError, TypeError) as error:
        raise HubDown(f"{settings.FETCH_FROM} answered {status} in words of its own.") from error
    if status == 507:
        raise local.StoreFull
    if status == 401 or said.get("code") == "job_over":
        raise BadHubToken(message)
    if status >= 500 or status in (408, 429):
        raise HubDown(message)
    raise NotTaken(f"The site did not take the adapter: {message}")
