"""The site's own store: every file once, under the hash of its bytes, never changed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

from django.conf import settings
from django.urls import reverse

from composer.engine.errors import CommonsError

if TYPE_CHECKING:
    from modules.models import BaseModel, Commit, CommitFile

CHUNK = 1 << 18
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WrongBytes(CommonsError):
    code = "wrong_bytes"
    status = 422


class FileTooLarge(CommonsError):
    code = "file_too_large"
    status = 413


class StoreFull(CommonsError):
    code = "store_full"
    status = 507

    def __init__(self) -> None:
        super().__init__(
            "The site's disk is full, so the file was not kept. Nothing was changed; "
            "try again later, or tell whoever runs this site."
        )


class BytesMissing(CommonsError):
    code = "bytes_missing"
    status = 500


@dataclass(frozen=True)
class StoredBlob:
    """Bytes that the store holds; git_sha1 is the id that git and the Hub give small files."""

    sha256: str
    size: int
    git_sha1: str


def put(
    stream: IO[bytes], expected_sha256: str | None = None, limit: int | None = None
) -> StoredBlob:
    """Keep the stream's bytes. When this raises, nothing of them is left behind."""
    limit = settings.MAX_FILE_BYTES if limit is None else limit
    incoming = settings.BLOB_DIR / "incoming"
    temporary = None
    try:
        with told_when_full():
            incoming.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=incoming, delete=False) as file:
                temporary = Path(file.name)
                sha256, size = _copy(stream, file, limit)
                if expected_sha256 is not None and sha256 != expected_sha256.lower():
                    raise WrongBytes(
                        f"The bytes have the hash {sha256}, but {expected_sha256} was announced. "
                        "They were changed on the way: upload the file again."
                    )
                file.flush()
                os.fsync(file.fileno())
            stored = StoredBlob(sha256, size, _git_sha1(temporary, size))
            _move_in(temporary, local_path(sha256))
        return stored
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def put_aside(stream: IO[bytes], path: Path, size: int) -> str:
    """Keep a part of a larger file until all parts are there; exactly `size` bytes."""
    incoming = settings.BLOB_DIR / "incoming"  # where half parts are cleared away, like half files
    with told_when_full():
        for folder in (incoming, path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=incoming, delete=False) as file:
            try:
                digest, came = _copy(stream, file, size)
                if came != size:
                    raise WrongBytes(f"{came:,} bytes came instead of {size:,}. Send them again.")
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        Path(file.name).replace(path)
    return digest


@contextmanager
def told_when_full() -> Iterator[None]:
    """A full disk is nobody's bug: it is said in words."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StoreFull from error
        raise


def local_path(sha256: str) -> Path:
    """Where these bytes lie, or would lie."""
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise ValueError(f"not a sha256: {sha256!r}")
    return settings.BLOB_DIR / sha256[:2] / sha256[2:4] / sha256


def open(sha256: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:  # noqa: A001
    """The bytes from start up to, not including, end; in chunks, so that size costs no memory."""
    return _chunks(opened(sha256), start, end)


def opened(sha256: str) -> FileIO:
    try:
        return FileIO(local_path(sha256))
    except FileNotFoundError as error:
        raise _missing(sha256) from error


def delete(sha256: str) -> None:
    local_path(sha256).unlink(missing_ok=True)


def url(file: CommitFile) -> str:
    """Where a browser or program gets this file; a commit's own address never changes its bytes."""
    repo = file.commit.repo
    rest = f"{file.commit.sha}/{file.path}"
    return reverse("modules:resolve", args=[repo.owner.name, repo.name, rest])


def materialise(commit: Commit) -> Path:
    """A folder with the commit's files, for programs that want to read one. Made once, kept."""
    folder = settings.CACHE_DIR / "commits" / commit.sha
    if folder.is_dir():
        return folder
    with told_when_full():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as making:
            files = Path(making) / "files"
            files.mkdir()
            for path, sha256 in commit.files.values_list("path", "blob_id"):
                target = files / path
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(sha256, target)
            try:
                files.rename(folder)
            except OSError:
                if not folder.is_dir():  # somebody else made the same folder first: it is the same
                    raise
    return folder


def base_folder(base_model: BaseModel) -> Path:
    """The folder of a base model: an operator's own, or the pinned revision kept by the site."""
    if base_model.source == base_model.FOLDER:
        return Path(base_model.folder)
    return materialise(base_model.pinned_commit())


def tokenizer_path(base_model: BaseModel) -> Path | None:
    """The base model's tokenizer.json, where this machine has it. Nothing is fetched for this."""
    if base_model.source == base_model.FOLDER:
        path = Path(base_model.folder) / "tokenizer.json"
    elif not base_model.tokenizer_sha256:
        return None
    elif base_model.source == base_model.HUB:
        path = _kept_tokenizer(base_model.tokenizer_sha256)
    else:
        path = local_path(base_model.tokenizer_sha256)
    return path if path.is_file() else None


def keep_tokenizer(data: bytes) -> str:
    """Keep the tokenizer of a base model whose other files stay on the Hub; says its hash."""
    sha256 = hashlib.sha256(data).hexdigest()
    path = _kept_tokenizer(sha256)
    with told_when_full():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        Path(file.name).replace(path)
    return sha256


def _kept_tokenizer(sha256: str) -> Path:
    return settings.CACHE_DIR / "tokenizers" / sha256


def _copy(stream: IO[bytes], file: IO[bytes], limit: int) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        size += len(chunk)
        if size > limit:
            raise FileTooLarge(
                f"The file is larger than {limit:,} bytes, the most this site takes for one file."
            )
        digest.update(chunk)
        file.write(chunk)
    return digest.hexdigest(), size


def _git_sha1(path: Path, size: int) -> str:
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _move_in(temporary: Path, target: Path) -> None:
    """Rename into place and make it last; two uploads of the same bytes end as one file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.chmod(0o444)  # folders made by materialise() share this very file
    temporary.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _chunks(file: FileIO, start: int, end: int | None) -> Iterator[bytes]:
    with file:
        file.seek(start)
        left = None if end is None else end - start
        while left is None or left > 0:
            chunk = file.read(CHUNK if left is None else min(CHUNK, left))
            if not chunk:
                return
            left = None if left is None else left - len(chunk)
            yield chunk


def _link(sha256: str, target: Path) -> None:
    source = local_path(sha256)
    try:
        os.link(source, target)
    except FileNotFoundError as error:
        raise _missing(sha256) from error
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _missing(sha256: str) -> BytesMissing:
    return BytesMissing(
        f"The bytes {sha256[:12]}… should be in the site's store but are not there. "
        "Whoever runs this site has to restore its var/blobs folder."
    )
