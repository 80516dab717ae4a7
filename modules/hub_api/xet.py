"""The write side of Xet, by which clients since huggingface_hub 1.20 send large files.

The client cuts files into chunks, packs chunks into xorbs, and sends those first. A shard then says
of which chunks of which xorbs each file is made; we put the files together and keep them like any
other upload. Files are read over plain HTTP. Formats: https://huggingface.co/docs/xet.

Nothing is believed: a file counts by the sha256 of the bytes that came out, a user's shard reaches
that user's own xorbs only, and what a shard may unfold to is bounded before it is unfolded.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, cast

import lz4.frame
from django.conf import settings
from django.core import signing
from django.db import transaction
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.utils import timezone

from hub_site import throttles
from hub_site.accounts.models import User
from hub_site.figures import size as file_size
from modules.hub_api.answers import HubError, hub_view, own_repo
from modules.storage import local
from modules.upload import intake

LIFETIME = 3600
SALT = "xet"
XORB_LIMIT = 64 * 1024 * 1024 + 1024 * 1024  # its format allows 64 MiB, and a footer
SHARD_LIMIT = 16 * 1024 * 1024
MOST_FILES = 1_000
CHUNK_LIMIT = 128 * 1024
PACKED_LIMIT = 2 * CHUNK_LIMIT
STORED, LZ4, GROUPED_LZ4 = 0, 1, 2

HEADER, ENTRY, CHUNK_HEADER = struct.Struct("<32sQQ"), struct.Struct("<32s4I"), 8
TAG = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
END = b"\xff" * 32
HAS_VERIFICATION, HAS_METADATA = 1 << 31, 1 << 30


class BadShard(HubError):
    def __init__(self, why: str) -> None:
        super().__init__(400, f"This upload could not be put together: {why}.")


class Term(NamedTuple):
    """A piece of a file: chunks `start` up to, not including, `end` of a xorb."""

    xorb: str
    size: int
    start: int
    end: int


@dataclass(frozen=True)
class File:
    terms: list[Term]
    sha256: str  # as its client announced it; "" when it did not

    @property
    def size(self) -> int:
        return sum(term.size for term in self.terms)


# --- what clients ask --------------------------------------------------------------------------


@hub_view("GET")
def write_token(request: HttpRequest, owner: str, name: str, revision: str) -> HttpResponseBase:
    """Where to send xorbs, and what says who sends them."""
    user, _ = own_repo(request, owner, name)
    intake.check(user)
    token = signing.dumps(user.pk, salt=SALT)
    found = {
        "casUrl": request.build_absolute_uri("/xet"),
        "accessToken": token,
        "exp": int(timezone.now().timestamp()) + LIFETIME,
    }
    answer = JsonResponse(found)
    answer["X-Xet-Cas-Url"] = found["casUrl"]
    answer["X-Xet-Access-Token"] = token
    answer["X-Xet-Token-Expiration"] = str(found["exp"])
    return answer


@hub_view("POST", is_public=True)
def xorb(request: HttpRequest, digest: str) -> HttpResponseBase:
    user = _sender(request)
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise HubError(400, "A xorb is named by 64 hexadecimal digits")
    length = request.META.get("CONTENT_LENGTH") or ""
    if not length.isdigit() or int(length) > XORB_LIMIT:
        raise local.FileTooLarge(f"A xorb has at most {XORB_LIMIT:,} bytes.")
    path = _folder(user) / digest
    if path.exists():
        return JsonResponse({"was_inserted": False})
    held = sum(each.stat().st_size for each in _folder(user).glob("*"))
    if held + int(length) > settings.USER_BYTES_A_DAY:
        raise intake.OverLimit(
            f"You sent {file_size(held)} of large files in the last weeks, the most that clients "
            "with Xet may. Set HF_HUB_DISABLE_XET=1 and upload again."
        )
    intake.check_announced(user, [int(length)])
    local.put_aside(cast("IO[bytes]", request), path, int(length))
    return JsonResponse({"was_inserted": True})


@hub_view("POST", is_public=True)
def shard(request: HttpRequest) -> HttpResponseBase:
    """Put the shard's files together, and keep them for the commit that names them."""
    user = _sender(request)
    data = request.read(SHARD_LIMIT + 1)
    if len(data) > SHARD_LIMIT:
        raise BadShard(f"a shard has at most {SHARD_LIMIT:,} bytes")
    files = read_shard(data)
    sizes = [file.size for file in files]
    intake.check_announced(user, sizes)
    intake.check_module_size(sum(sizes))
    stored = {}
    for number, file in enumerate(files):
        stream = cast("IO[bytes]", _Unfolded(_folder(user), file))
        stored[str(number)] = local.put(stream, file.sha256 or None, limit=file.size)
    with transaction.atomic():
        intake.hold_store()
        intake.own(user, stored)
    return JsonResponse({"result": 1})


@hub_view("GET", "POST", "PUT", is_public=True)
def nothing_here(request: HttpRequest, rest: str) -> HttpResponseBase:
    """Other ways of sending, for which clients try these; and which chunks are known already:
    others' are nobody's business, so none."""
    raise HubError(404, "This is not known here")


def _sender(request: HttpRequest) -> User:
    token = request.headers.get("Authorization", "").partition(" ")[2]
    try:
        pk = signing.loads(token, salt=SALT, max_age=LIFETIME)
        user = User.objects.get(pk=pk, is_active=True)
    except (signing.BadSignature, User.DoesNotExist) as error:
        raise HubError(401, "This upload's token is not known, or it has ended") from error
    throttles.count(request, "transfer", user)
    intake.check(user)
    return user


def _folder(user: User) -> Path:
    return settings.BLOB_DIR / "xorbs" / str(user.pk)


# --- what a shard says -------------------------------------------------------------------------


def read_shard(data: bytes) -> list[File]:
    """The files that it describes; the rest of a shard is for the store that we are not."""
    try:
        tag, version, _ = HEADER.unpack_from(data)
        if tag != TAG or version != 2:
            raise BadShard("it does not begin like a shard of version 2")
        files: list[File] = []
        at = HEADER.size
        while True:
            digest, flags, count, _, _ = ENTRY.unpack_from(data, at)
            if digest == END:
                return files
            if len(files) == MOST_FILES:
                raise BadShard(f"a shard has at most {MOST_FILES} files")
            at += ENTRY.size
            if count * ENTRY.size > len(data) - at:
                raise BadShard("it breaks off")
            terms = [_term(data, at + n * ENTRY.size) for n in range(count)]
            at += count * ENTRY.size * (2 if flags & HAS_VERIFICATION else 1)
            sha256 = ""
            if flags & HAS_METADATA:
                sha256 = _hex(ENTRY.unpack_from(data, at)[0])
                at += ENTRY.size
            files.append(File(terms, sha256))
    except struct.error as error:
        raise BadShard("it breaks off") from error


def _term(data: bytes, at: int) -> Term:
    digest, _, size, start, end = ENTRY.unpack_from(data, at)
    if not 0 < end - start <= XORB_LIMIT // CHUNK_HEADER or size > (end - start) * CHUNK_LIMIT:
        raise BadShard("a piece is larger than its chunks can be")
    return Term(_hex(digest), size, start, end)


def _hex(digest: bytes) -> str:
    """Xet writes a hash as four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))


# --- unfolding ---------------------------------------------------------------------------------


class _Unfolded:
    """A file as a stream, chunk by chunk out of its xorbs."""

    def __init__(self, folder: Path, file: File) -> None:
        self._chunks = (chunk for term in file.terms for chunk in _chunks(folder, term))

    def read(self, size: int) -> bytes:
        return next(self._chunks, b"")


def _chunks(folder: Path, term: Term) -> Iterator[bytes]:
    try:
        file = (folder / term.xorb).open("rb")
    except FileNotFoundError as error:
        raise BadShard(
            "the site no longer has the bytes that this client sent before. Delete the folder xet "
            "in the client's cache, or set HF_HUB_DISABLE_XET=1, and upload again"
        ) from error
    left = term.size
    with file:
        for number in range(term.end):
            head = file.read(CHUNK_HEADER)
            if len(head) < CHUNK_HEADER:
                raise BadShard("a xorb has fewer chunks than its shard says")
            packed, size = int.from_bytes(head[1:4], "little"), int.from_bytes(head[5:8], "little")
            if head[0] != 0 or packed > PACKED_LIMIT or not 0 < size <= CHUNK_LIMIT:
                raise BadShard("a chunk's head cannot be read")
            if number < term.start:
                file.seek(packed, 1)
                continue
            left -= size
            if left < 0:
                raise BadShard("a piece is longer than its shard says")
            yield _unpacked(head[4], file.read(packed), size)
    if left:
        raise BadShard("a piece is shorter than its shard says")


def _unpacked(scheme: int, packed: bytes, size: int) -> bytes:
    if scheme == STORED:
        data = packed
    elif scheme in (LZ4, GROUPED_LZ4):
        try:
            data = lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=size)
        except (RuntimeError, EOFError) as error:
            raise BadShard("a chunk cannot be unpacked") from error
        if scheme == GROUPED_LZ4:
            data = _regrouped(data)
    else:
        raise BadShard(f"a chunk is packed in the unknown way {scheme}")
    if len(data) != size:
        raise BadShard("a chunk does not have the length that its head says")
    return data


def _regrouped(data: bytes) -> bytes:
    """First every fourth byte, then every fourth after the first, and so on: numbers pack better
    with their like bytes together."""
    found, at = bytearray(len(data)), 0
    for place in range(4):
        count = len(range(place, len(data), 4))
        found[place::4] = data[at : at + count]
        at += count
    return bytes(found)
