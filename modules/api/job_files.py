"""Where a running job leaves a file when its worker has not the site's disk.

A token of the job is the only way in (`hub_site/jobs/job_tokens.py`). The bytes lie in the store
without a row of their own: the job's end writes that, under its fence, as it does for a worker on
the site's machine; what never gets one is cleared away after a day.
"""

from __future__ import annotations

import re
import uuid
from typing import IO, cast

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.urls import path
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from composer.engine.errors import CommonsError
from hub_site.accounts import tokens
from hub_site.jobs import job_tokens, queue, registry
from hub_site.jobs.models import Job, JobEvent
from modules.storage import local

KEPT = "file kept"
MOST_FILES = 4


class NotThisJob(CommonsError):
    code = "not_this_job"
    status = 403


class JobOver(CommonsError):
    code = "job_over"
    status = 409


class TooManyResults(CommonsError):
    code = "too_many_files"
    status = 409


class BadHash(CommonsError):
    code = "bad_hash"


class JobTokenAuthentication(BaseAuthentication):
    """Authorization: Bearer lcj_…"""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, Job] | None:
        sent = tokens.sent_with(request)
        if sent is None:
            return None
        job = job_tokens.find(sent)
        if job is None:
            raise AuthenticationFailed("This is no token of a job that runs, or no longer.")
        return AnonymousUser(), job

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class ByJob(BasePermission):
    message = "Only a worker sends files here, with its job's token."

    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.auth, Job)


class JobFile(APIView):
    authentication_classes = [JobTokenAuthentication]
    permission_classes = [ByJob]
    schema = None  # between our own worker and our own site: nobody else can have such a token

    def put(self, request: Request, pk: uuid.UUID, sha256: str) -> Response:
        """Keep the bytes. The same again changes nothing."""
        job: Job = request.auth
        _check_allowed(job, pk, sha256)
        _check_size(request)
        stream = cast("IO[bytes]", request.stream or _Nothing())
        stored = local.put(stream, expected_sha256=sha256)
        try:
            queue.note(job, KEPT, sha256=sha256, size=stored.size)
        except (queue.LeaseLost, queue.JobCancelled) as error:
            raise JobOver(f"While the file came in: {error}") from error
        return Response({"sha256": stored.sha256, "size": stored.size, "git_sha1": stored.git_sha1})


class _Nothing:
    """The body of a request that says it has none."""

    def read(self, size: int = -1) -> bytes:
        return b""


def _check_allowed(job: Job, pk: uuid.UUID, sha256: str) -> None:
    if job.pk != pk:
        raise NotThisJob("This token is another job's.")
    if not registry.leaves_files(job.kind):
        raise NotThisJob(f"A job of the kind {job.kind} leaves no files.")
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise BadHash(f"{sha256[:80]!r} is no sha256. Name the file by the hash of its bytes.")
    events = JobEvent.objects.filter(job=job, fence=job.fence, name=KEPT)
    others = set(events.values_list("detail__sha256", flat=True)) - {sha256}
    if len(others) >= MOST_FILES:
        raise TooManyResults(f"This job has left {MOST_FILES} files already, the most for one.")


def _check_size(request: Request) -> None:
    """Said before the bytes travel; the store counts them while they come."""
    length = request.META.get("CONTENT_LENGTH") or ""
    if length.isdigit() and int(length) > settings.MAX_FILE_BYTES:
        raise local.FileTooLarge(
            f"{int(length):,} bytes are coming; {settings.MAX_FILE_BYTES:,} are the most for a "
            "file (MAX_FILE_BYTES)."
        )


urlpatterns = [
    path("jobs/<uuid:pk>/files/<str:sha256>", JobFile.as_view(), name="api-job-file"),
]
