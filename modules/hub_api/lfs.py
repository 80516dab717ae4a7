"""Large files before their commit, by git's LFS protocol: a batch gives out tickets, bytes come in.

A ticket stands in the address, since clients send no token with the bytes. It is good once, for one
user, repo, hash and size, and for some hours. A connection that breaks does not use it up.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, cast

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils import timezone

from hub_site import throttles
from hub_site.accounts.models import User
from modules.hub_api.answers import HubError, body, hub_view, own_repo, signed_in
from modules.models import Blob, Repo, UploadTicket
from modules.storage import local
from modules.upload import intake

LIFETIME = timedelta(hours=6)
PART = 64 * 1024 * 1024
MOST_OBJECTS = 1_000


class BadTicket(HubError):
    def __init__(self, why: str) -> None:
        super().__init__(403, f"This address {why}. Start the upload again")


def known_to(user: User, repo: Repo) -> QuerySet[Blob]:
    """Blobs that this user may name by their hash: a hash alone is no capability."""
    granted = Q(grants__user=user)
    here = Q(pk__in=repo.commits.values("files__blob"))
    return Blob.objects.filter(granted | here).distinct()


@hub_view("POST")
def batch(request: HttpRequest, owner: str, name: str) -> HttpResponseBase:
    user, repo = own_repo(request, owner, name)
    throttles.count(request, "transfer")
    given = body(request)
    if given.get("operation") != "upload":
        raise HubError(422, "Only uploads go this way; files are read at /resolve/")
    wanted = [_object(entry) for entry in given.get("objects") or []]
    if not wanted or len(wanted) > MOST_OBJECTS:
        raise HubError(400, f"objects must name 1 to {MOST_OBJECTS} files")
    known = known_to(user, repo).in_bulk([oid for oid, _ in wanted])
    known = {oid for oid in known if local.local_path(oid).exists()}
    coming = {oid: size for oid, size in wanted if oid not in known}
    intake.check_announced(user, coming.values(), waiting=_announced_before(user, coming))
    transfers = given.get("transfers") or ["basic"]
    in_parts = isinstance(transfers, list) and "multipart" in transfers
    answers, chosen = [], "basic"
    for oid, size in wanted:
        answer: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
        if oid not in known:
            href = request.build_absolute_uri(f"/lfs/{_ticket(user, repo, oid, size)}")
            upload: dict[str, Any] = {"href": href}
            if in_parts and size > PART:
                chosen = "multipart"
                count = -(-size // PART)
                upload["header"] = {"chunk_size": str(PART)}
                upload["header"] |= {f"{n:05}": f"{href}/{n}" for n in range(1, count + 1)}
            answer["actions"] = {"upload": upload, "verify": {"href": f"{href}/verify"}}
        answers.append(answer)
    found = JsonResponse({"transfer": chosen, "objects": answers, "hash_algo": "sha256"})
    found["Content-Type"] = "application/vnd.git-lfs+json"
    return found


@hub_view("PUT", "POST")
def put(request: HttpRequest, secret: str) -> HttpResponseBase:
    """PUT: all bytes at once. POST: the parts are there, put them together."""
    ticket = _find(request, secret)
    if request.method == "PUT":
        _announced(request, ticket.size)
        _keep(ticket, cast("IO[bytes]", request))
    else:
        given = body(request)
        count = -(-ticket.size // PART)
        if given.get("oid") != ticket.oid or len(given.get("parts") or []) != count:
            raise HubError(422, f"The upload needs all of its {count} parts")
        _keep(ticket, cast("IO[bytes]", _Joined(ticket, count)))
        for n in range(1, count + 1):
            _part(ticket, n).unlink(missing_ok=True)
    return HttpResponse()


@hub_view("PUT")
def put_part(request: HttpRequest, secret: str, number: int) -> HttpResponseBase:
    ticket = _find(request, secret)
    count = -(-ticket.size // PART)
    if not 1 <= number <= count:
        raise HubError(422, f"There is no part {number} of {count}")
    size = PART if number < count else ticket.size - PART * (count - 1)
    _announced(request, size)
    digest = local.put_aside(cast("IO[bytes]", request), _part(ticket, number), size)
    answer = HttpResponse()
    answer["ETag"] = f'"{digest}"'
    return answer


@hub_view("POST")
def verify(request: HttpRequest, secret: str) -> HttpResponseBase:
    user = signed_in(request)
    ticket = UploadTicket.objects.filter(secret_sha256=_digest(secret), user=user).first()
    if ticket is None or ticket.used_at is None:
        raise HubError(404, "These bytes have not come in")
    return HttpResponse()


def _announced_before(user: User, coming: Mapping[str, int]) -> int:
    """Bytes that other tickets still let in. One announced again does not count twice."""
    tickets = UploadTicket.objects.filter(user=user, used_at=None)
    tickets.filter(Q(expires_at__lt=timezone.now()) | Q(oid__in=coming)).delete()
    return tickets.aggregate(sum=Sum("size"))["sum"] or 0


def _object(entry: Any) -> tuple[str, int]:
    oid, size = (entry.get("oid"), entry.get("size")) if isinstance(entry, dict) else (None, None)
    if not isinstance(oid, str) or not re.fullmatch("[0-9a-f]{64}", oid):
        raise HubError(422, f"{str(oid)[:80]!r} is no sha256")
    if not isinstance(size, int) or not 0 <= size < 1 << 60:
        raise HubError(422, f"{str(size)[:40]!r} is no size")
    return oid, size


def _ticket(user: User, repo: Repo, oid: str, size: int) -> str:
    secret = secrets.token_urlsafe(32)
    UploadTicket.objects.create(
        secret_sha256=_digest(secret),
        user=user,
        repo=repo,
        oid=oid,
        size=size,
        expires_at=timezone.now() + LIFETIME,
    )
    return secret


def _find(request: HttpRequest, secret: str) -> UploadTicket:
    tickets = UploadTicket.objects.select_related("user")
    ticket = tickets.filter(secret_sha256=_digest(secret)).first()
    if ticket is None:
        raise BadTicket("is not known, or no longer")
    if ticket.used_at is not None:
        raise BadTicket("was used already")
    if ticket.expires_at < timezone.now():
        raise BadTicket("was good for some hours only")
    throttles.count(request, "transfer", ticket.user)
    intake.check(ticket.user)
    return ticket


def _keep(ticket: UploadTicket, stream: IO[bytes]) -> None:
    stored = local.put(stream, expected_sha256=ticket.oid, limit=ticket.size)
    with transaction.atomic():
        intake.hold_store()
        unused = UploadTicket.objects.filter(pk=ticket.pk, used_at=None)
        if not unused.update(used_at=timezone.now()):
            raise BadTicket("was used already")
        intake.own(ticket.user, {ticket.oid: stored})


def _announced(request: HttpRequest, size: int) -> None:
    """Said before the bytes travel."""
    length = request.META.get("CONTENT_LENGTH") or ""
    if length.isascii() and length.isdigit() and int(length) > size:
        raise local.FileTooLarge(f"{int(length):,} bytes are coming, but {size:,} were announced.")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _part(ticket: UploadTicket, number: int) -> Path:
    return settings.BLOB_DIR / "incoming" / f"part-{ticket.pk}-{number}"


class _Joined:
    """The parts of an upload, one after the other, as one stream."""

    def __init__(self, ticket: UploadTicket, count: int) -> None:
        self._chunks = self._read(ticket, count)

    def read(self, size: int) -> bytes:
        return next(self._chunks, b"")

    @staticmethod
    def _read(ticket: UploadTicket, count: int) -> Iterator[bytes]:
        for number in range(1, count + 1):
            try:
                file = _part(ticket, number).open("rb")
            except FileNotFoundError as error:
                raise HubError(422, f"Part {number} of {count} has not come in") from error
            with file:
                while chunk := file.read(local.CHUNK):
                    yield chunk
