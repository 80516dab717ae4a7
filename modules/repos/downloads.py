"""The bytes of a repo: one file of one version, or all of them as a zip."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial, wraps
from typing import TYPE_CHECKING

from django.conf import settings
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_safe

from composer.engine.errors import CommonsError
from hub_site.accounts import tokens
from hub_site.addresses import address_of
from hub_site.headers import SANDBOX
from modules.community import counting
from modules.hub_api import answers, files
from modules.hub_api.job_reader import JobReader
from modules.models import CommitFile, Repo
from modules.repos import archive as zips
from modules.repos import gate
from modules.storage import bytes_back, local

if TYPE_CHECKING:
    from modules.querysets import Visitor

logger = logging.getLogger(__name__)

TEXTS = (".md", ".txt", ".json", ".jsonl", ".yaml", ".yml", ".csv", ".gitattributes")
PROXY_SENDS = "X-Accel-Redirect"
COUNTED = ("adapter_model.safetensors", "model.safetensors")


def _told_to_programs(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Errors as the Hub's clients read them: who asks for bytes is seldom a browser. Reading may
    also be allowed by a session, for the links on the site's own pages."""

    @wraps(view)
    def told(request: HttpRequest, owner: str, name: str, **rest: str) -> HttpResponseBase:
        try:
            user = answers.visitor(request) if tokens.sent_with(request) else request.user
            return view(request, user, answers.find_repo(user, owner, name), **rest)
        except CommonsError as error:
            return answers.told(error)

    return told


@require_safe
@_told_to_programs
def resolve(request: HttpRequest, user: Visitor, repo: Repo, rest: str) -> HttpResponseBase:
    """`resolve/{revision}/{path}`: a branch's name may hold slashes, so known names go first."""
    revision, path, known = answers.split_revision(repo, rest)
    if path not in gate.OPEN_FILES:
        answers.refuse_gated(request, repo, user)
    commit = answers.find_commit(repo, revision, user, known)
    files_here = commit.files.select_related("blob") if commit else CommitFile.objects.none()
    file = files_here.filter(path=path.replace("\0", "")).first()
    if commit is None or file is None:
        raise answers.entry_not_found(repo, path, commit)
    address = bytes_back.address_of(file.blob_id)
    answer = _led_on(request, user, file, address) if address else _answer(request, user, file)
    answer["X-Repo-Commit"] = answers.told_as(commit, revision)
    answer["X-Linked-ETag"] = answer["ETag"]
    answer["X-Linked-Size"] = str(file.blob.size)
    return _guarded(answer, repo)


@require_safe
@_told_to_programs
def archive(request: HttpRequest, user: Visitor, repo: Repo) -> HttpResponseBase:
    """All files of a version, `?revision=…` or the newest."""
    answers.refuse_jobs(user)
    answers.refuse_gated(request, repo, user)
    commit = answers.find_commit(repo, request.GET.get("revision") or answers.MAIN)
    if commit is None:
        raise answers.revision_not_found(repo, answers.MAIN)
    answer: HttpResponseBase = HttpResponse()
    if request.method == "GET":
        chunks = _or_cut(zips.chunks(commit), repo)
        answer = StreamingHttpResponse(counting.when_read(chunks, request, user, commit))
    answer["Content-Type"] = "application/zip"
    answer["Content-Disposition"] = content_disposition_header(
        True, f"{repo.name}-{commit.sha[:10]}.zip"
    )
    answer["X-Repo-Commit"] = commit.sha
    return _guarded(answer, repo)


def _or_cut(chunks: Iterable[bytes], repo: Repo) -> Iterator[bytes]:
    """Too late for an error page when bytes go missing on the way: the connection is cut, so that
    nobody takes a part for the whole."""
    try:
        yield from chunks
    except CommonsError as error:
        logger.warning("A download of %s broke off: %s", repo, error.user_message)
        raise ConnectionResetError(errno.ECONNRESET, "the download broke off") from None


def _led_on(
    request: HttpRequest, user: Visitor, file: CommitFile, address: str
) -> HttpResponseBase:
    """The bytes are on the Hub: whoever asks fetches them there, and knows them by our headers."""
    if request.method == "GET" and _counts(user, file):
        counting.count_download(file.commit, user, address_of(request))
    answer = HttpResponseRedirect(address)
    answer["ETag"] = f'"{files.etag(file.path, file.blob)}"'
    return answer


def _answer(request: HttpRequest, user: Visitor, file: CommitFile) -> HttpResponseBase:
    size = file.blob.size
    etag = f'"{files.etag(file.path, file.blob)}"'
    if etag in request.headers.get("If-None-Match", ""):
        answer: HttpResponseBase = HttpResponse(status=304)
        answer["ETag"] = etag
        return answer
    wanted = request.headers.get("Range", "")
    if request.headers.get("If-Range", etag) != etag:
        wanted = ""
    start, end = _range(wanted, size)
    if start >= size > 0 or start > end:
        answer = HttpResponse(status=416)
        answer["Content-Range"] = f"bytes */{size}"
    else:
        is_part = bool(size) and ((start, end) != (0, size) or _is_range(wanted))
        if request.method == "HEAD":
            answer = HttpResponse()
        else:
            counts = _counts(user, file) and not _is_range(wanted)
            answer = _sent(request, user if counts else None, file, start, end, is_part)
        if PROXY_SENDS not in answer:
            answer["Content-Length"] = str(end - start)
            if is_part:
                answer.status_code = 206
                answer["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    answer["ETag"] = etag
    answer["Accept-Ranges"] = "bytes"
    is_text = file.path.lower().endswith(TEXTS)
    answer["Content-Type"] = "text/plain; charset=utf-8" if is_text else "application/octet-stream"
    filename = file.path.rpartition("/")[2]
    answer["Content-Disposition"] = content_disposition_header(not is_text, filename) or ""
    return answer


def _sent(
    request: HttpRequest,
    user: Visitor | None,
    file: CommitFile,
    start: int,
    end: int,
    is_part: bool,
) -> HttpResponseBase:
    """The bytes; with a user, the download counts once they are all gone."""
    count = partial(counting.count_download, file.commit, user, address_of(request))
    if settings.ACCEL_REDIRECT and file.blob.size and bytes_back.is_here(file.blob_id):
        if user is not None:
            count()  # nobody will say when they are gone
        return _left_to_proxy(file.blob_id, is_part)
    part = bytes_back.part(file.blob_id, start, end, None if user is None else count)
    if part is not None:
        return _PartResponse(part)
    chunks = _or_cut(bytes_back.chunks(file.blob_id, start, end), file.commit.repo)
    if user is not None:
        chunks = counting.when_read(chunks, request, user, file.commit)
    return StreamingHttpResponse(chunks)


def _left_to_proxy(sha256: str, is_part: bool) -> HttpResponse:
    """No bytes: the proxy sends them from the store, all of them or the range that was asked for.

    Which of the two is decided here, because proxies read odd ranges in their own ways.
    """
    path = local.local_path(sha256).relative_to(settings.BLOB_DIR).as_posix()
    place = f"{settings.ACCEL_REDIRECT}{'part' if is_part else 'whole'}/{path}"
    return HttpResponse(headers={PROXY_SENDS: place})


class _PartResponse(FileResponse):
    block_size = local.CHUNK  # where the server does not leave the sending to the system


def _counts(user: Visitor, file: CommitFile) -> bool:
    """What a worker fetches for a job is nobody's download."""
    return file.path in COUNTED and not isinstance(user, JobReader)


def _is_range(header: str) -> bool:
    return re.fullmatch(r"bytes=([0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})", header.strip()) is not None


def _range(header: str, size: int) -> tuple[int, int]:
    """One range of bytes as start and end; everything when the header asks for anything else."""
    if not _is_range(header) or size == 0:
        return 0, size
    first, last = header.strip().removeprefix("bytes=").split("-")
    if not first:
        return max(0, size - int(last)), size if int(last) else -1
    return int(first), min(size, int(last) + 1) if last else size


def _guarded(answer: HttpResponseBase, repo: Repo) -> HttpResponseBase:
    answer["X-Content-Type-Options"] = "nosniff"
    answer["Content-Security-Policy"] = SANDBOX  # strangers' files
    for_all = not (repo.needs_token or repo.is_hidden)
    answer["Cache-Control"] = "no-cache" if for_all else "private, no-cache"
    answer["Vary"] = "Authorization, Cookie"
    return answer
