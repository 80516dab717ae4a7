"""Bytes on their way in: may this user upload them, and the note that the store holds them.

Pages, API and later protocols call `check` before bytes are kept, and `keep` (or, inside a commit,
`own`) to keep them. Nobody else writes Blob and Grant rows.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import IO

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet, Sum
from django.utils import timezone

from composer.engine.errors import CommonsError
from hub_site.accounts.models import User
from hub_site.figures import size as file_size
from modules.models import Blob, Commit, CommitFile, Grant
from modules.storage import local

# Whoever adds to the store holds this lock with others; pruning holds it alone.
STORE_LOCK = 0x10A_C0DE
# What was put aside must be published within this time; then it is pruned.
GRACE = timedelta(days=1)


class UploadsBanned(CommonsError):
    code = "uploads_banned"
    status = 403


class OverLimit(CommonsError):
    code = "over_limit"
    status = 413


@dataclass(frozen=True)
class Room:
    """What a user may still upload, beside what the site takes at all."""

    used: int
    used_today: int
    versions_today: int

    @property
    def file(self) -> int:
        return settings.MAX_FILE_BYTES

    @property
    def module(self) -> int:
        return settings.MAX_MODULE_BYTES

    @property
    def total(self) -> int:
        return settings.USER_MAX_BYTES

    @property
    def a_day(self) -> int:
        return settings.USER_BYTES_A_DAY

    @property
    def versions_a_day(self) -> int:
        return settings.USER_VERSIONS_A_DAY

    @property
    def versions_left(self) -> int:
        return max(0, self.versions_a_day - self.versions_today)

    @property
    def left(self) -> int:
        return max(0, self.total - self.used)

    @property
    def left_today(self) -> int:
        return max(0, self.a_day - self.used_today)

    @property
    def left_now(self) -> int:
        """New bytes; what this user brought before costs nothing more."""
        return min(self.left, self.left_today)


def room(user: User) -> Room:
    """Counted by the bytes this user brought: the same bytes twice cost nothing."""
    since = timezone.now() - timedelta(days=1)
    sums = Grant.objects.filter(user=user).aggregate(
        used=Sum("blob__size"), today=Sum("blob__size", filter=Q(created_at__gte=since))
    )
    return Room(
        used=sums["used"] or 0,
        used_today=sums["today"] or 0,
        versions_today=Commit.objects.filter(author=user, created_at__gte=since).count(),
    )


def check(user: User | None, files: Iterable[IO[bytes]] = (), *, limit: int | None = None) -> None:
    """May this user upload these files? Operators' commits have no user and no limit."""
    if user is None:
        return
    found, files = _room_of_allowed(user), list(files)
    sizes = list(map(size_of, files))
    _check_sizes(sizes, settings.MAX_FILE_BYTES if limit is None else limit)
    coming = sum(sizes)
    if coming > found.left_now:  # most uploads fit, and are not read once more for this
        coming -= _brought_before(user, files)
    _check_sum(found, coming)
    _check_disk(sum(sizes))


def check_announced(user: User | None, sizes: Iterable[int], *, waiting: int = 0) -> None:
    """The same before any byte is here; `waiting` more may come by what was allowed before."""
    sizes = list(sizes)
    if user is not None:
        found = _room_of_allowed(user)
        _check_sizes(sizes, settings.MAX_FILE_BYTES)
        _check_sum(found, sum(sizes) + waiting)
    _check_disk(sum(sizes) + waiting)


def check_module_size(size: int) -> None:
    if size > settings.MAX_MODULE_BYTES:
        raise OverLimit(
            f"The files of one version have {file_size(size)} together; "
            f"{file_size(settings.MAX_MODULE_BYTES)} are the most this site takes for a module."
        )


def keep(user: User | None, streams: Mapping[str, IO[bytes]]) -> dict[str, Blob]:
    """Store these bytes, all of them or none, and note that this user brought them."""
    check(user, streams.values())
    stored = {path: local.put(stream) for path, stream in streams.items()}
    with transaction.atomic():
        hold_store()
        return own(user, stored)


def own(user: User | None, stored: Mapping[str, local.StoredBlob]) -> dict[str, Blob]:
    """Rows for bytes just stored, and the grant that lets their user name them by hash.

    Inside a transaction that holds the store. Two uploads of one user at once go through here one
    after the other, so that they cannot step over a limit together.
    """
    blobs = {
        path: Blob(sha256=b.sha256, size=b.size, git_sha1=b.git_sha1) for path, b in stored.items()
    }
    # In one order everywhere: two commits of the same bytes must not wait for each other.
    unique = sorted({b.sha256: b for b in blobs.values()}.values(), key=lambda b: b.sha256)
    if any(not local.local_path(blob.sha256).exists() for blob in unique):
        raise local.BytesMissing("The files were cleared away while they came in. Try again.")
    Blob.objects.bulk_create(unique, ignore_conflicts=True)
    if user is not None and unique:
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        # What pruning might take at any time is brought anew: it must last until it is published.
        lapsed_grants().filter(user=user, blob__in=unique).delete()
        grants = [Grant(user=user, blob=blob) for blob in unique]
        Grant.objects.bulk_create(grants, ignore_conflicts=True)
        _check_sum(room(user), 0)
    return blobs


def lapsed_grants() -> QuerySet[Grant]:
    """Of bytes that came more than a day ago and are in none of their user's repos: they stop
    counting."""
    used = CommitFile.objects.filter(
        blob=OuterRef("blob"), commit__repo__owner__user=OuterRef("user")
    )
    return Grant.objects.filter(created_at__lt=timezone.now() - GRACE).exclude(Exists(used))


def hold_store() -> None:
    """Until this transaction ends, nothing is pruned."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", [STORE_LOCK])


def size_of(stream: IO[bytes]) -> int:
    """How long a stream is, when it can tell; otherwise the store counts while it reads."""
    if not stream.seekable():
        return 0
    here = stream.tell()
    size = stream.seek(0, io.SEEK_END) - here
    stream.seek(here)
    return size


def _brought_before(user: User, files: Iterable[IO[bytes]]) -> int:
    hashes = {_sha256(file) for file in files if file.seekable()}
    grants = Grant.objects.filter(user=user, blob__in=hashes)
    return grants.aggregate(size=Sum("blob__size"))["size"] or 0


def _sha256(file: IO[bytes]) -> str:
    here = file.tell()
    digest = hashlib.sha256()
    while chunk := file.read(local.CHUNK):
        digest.update(chunk)
    file.seek(here)
    return digest.hexdigest()


def _check_disk(coming: int) -> None:
    """Better told before the first of several files is kept than at the last."""
    folder = settings.BLOB_DIR
    while not folder.exists():
        folder = folder.parent
    if coming > shutil.disk_usage(folder).free:
        raise local.StoreFull


def _room_of_allowed(user: User) -> Room:
    if user.uploads_banned_at is not None:
        why = f": {user.uploads_banned_reason}" if user.uploads_banned_reason else "."
        raise UploadsBanned(f"A moderator has stopped uploads from your account{why}")
    found = room(user)
    if not found.versions_left:
        raise OverLimit(
            f"You published {found.versions_today:,} versions in the last 24 hours, the most for "
            "one day. Come back tomorrow."
        )
    return found


def _check_sizes(sizes: Sequence[int], limit: int) -> None:
    if sizes and max(sizes) > limit:
        raise local.FileTooLarge(
            f"A file of {file_size(max(sizes))} is larger than {file_size(limit)}, the most this "
            "site takes for one file."
        )


def _check_sum(found: Room, coming: int) -> None:
    if found.used + coming > found.total:
        raise OverLimit(
            f"Your files would come to {file_size(found.used + coming)}; "
            f"{file_size(found.total)} are the most for one person. Delete modules that you no "
            "longer need: their bytes stop counting within a day."
        )
    if found.used_today + coming > found.a_day:
        raise OverLimit(
            f"You uploaded {file_size(found.used_today)} in the last 24 hours; with these "
            f"{file_size(coming)} it would be more than {file_size(found.a_day)}, the most for "
            "one day. Come back tomorrow."
        )
