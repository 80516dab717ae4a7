"""Zips from strangers: looked through before anything is unpacked, and unpacked without trust.

A zip says of itself how long its list is, how large its files are and where they go. None of that
is believed: the list is bounded, paths are checked, and what comes out is counted as it comes.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from composer.engine.errors import CommonsError
from modules import services

CHUNK = 1 << 18
MOST_ENTRIES = 1_000
LONGEST_READ = 1 << 20  # the list of 1,000 files is far shorter
# Weights shrink by a few per cent, text by ten times; a bomb by a thousand.
MOST_SHRUNK = 200
SMALL = 1 << 20  # below this nothing is a bomb
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1 | 0x40 | 0x2000
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
BROKEN = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError,
    ValueError, OverflowError,
)  # fmt: skip
AGAIN = "Make the zip again from the folder that save_pretrained wrote."


class BadZip(CommonsError):
    code = "bad_zip"

    def __init__(self, message: str) -> None:
        super().__init__(message, fields={"files": [message]})


class Zip:
    """The files of a zip, by their paths in it, without a folder that holds all of them."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        entries = [info for info in archive.infolist() if not _is_aside(info)]
        if len(archive.infolist()) > MOST_ENTRIES:
            raise BadZip(
                f"The zip holds {len(archive.infolist()):,} files; {MOST_ENTRIES:,} are the most. "
                f"{AGAIN}"
            )
        for info in entries:
            _check(info)
        files = [info for info in entries if not info.is_dir()]
        folder = _common_folder([info.filename for info in files])
        self.files = {info.filename[len(folder) :]: info for info in files}
        self.folder = folder.rstrip("/")
        if len(self.files) != len(files):
            raise BadZip(f"The zip holds two files of the same name. {AGAIN}")

    def size(self, name: str) -> int:
        return self.files[name].file_size

    def copy(self, name: str, target: IO[bytes]) -> int:
        """Unpack one file; it stops where the zip said that the file would end."""
        said, size = self.files[name].file_size, 0
        with _told(), self.archive.open(self.files[name]) as source:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                if size > said:
                    raise BadZip(f"{name} in the zip is larger than the zip says. {AGAIN}")
                target.write(chunk)
        if size != said:
            raise BadZip(f"{name} in the zip is cut short. {AGAIN}")
        return size


@contextmanager
def opened(file: IO[bytes]) -> Iterator[Zip]:
    with _told():
        archive = zipfile.ZipFile(_Bounded(file))  # type: ignore[arg-type]
    with archive:
        yield Zip(archive)


def is_zip(first_bytes: bytes) -> bool:
    return first_bytes[:4] in (b"PK\x03\x04", b"PK\x05\x06")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        raise BadZip(f"The zip cannot be read ({error}). {AGAIN}") from error


def _is_aside(info: zipfile.ZipInfo) -> bool:
    """What a Mac adds of its own accord."""
    parts = info.filename.split("/")
    return parts[0] == "__MACOSX" or parts[-1] == ".DS_Store" or parts[-1].startswith("._")


def _check(info: zipfile.ZipInfo) -> None:
    name = info.filename
    shown = repr(name[:100])
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    try:
        services.check_path(name.removesuffix("/"))
        services.check_path(info.orig_filename.removesuffix("/"))
    except services.BadPath as error:
        raise BadZip(
            f"The zip holds a file named {shown}, a path that leads elsewhere. {AGAIN}"
        ) from error
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if stat.S_ISLNK(mode) else "a special file"
        raise BadZip(f"{shown} in the zip is {what}, not a file. Zip the file it stands for.")
    if info.flag_bits & ENCRYPTED:
        raise BadZip(f"{shown} in the zip is encrypted. Make a zip without a password.")
    if info.compress_type not in METHODS:
        raise BadZip(f"{shown} is packed in an unusual way. Make a plain zip, stored or deflated.")
    if name.lower().endswith(ARCHIVES):
        raise BadZip(f"The zip holds another archive, {shown}. Put the files in it directly.")
    if info.file_size > SMALL and info.file_size > MOST_SHRUNK * max(1, info.compress_size):
        raise BadZip(
            f"{shown} would grow from {info.compress_size:,} to {info.file_size:,} bytes. No "
            "adapter shrinks that well, so it was not unpacked. Upload the files themselves."
        )


def _common_folder(names: list[str]) -> str:
    """ "name/" when everything lies in one folder, as when a folder was zipped."""
    firsts = {name.partition("/")[0] if "/" in name else "" for name in names}
    return f"{firsts.pop()}/" if len(firsts) == 1 and firsts != {""} else ""


class _Bounded(io.RawIOBase):
    """A file that gives little at a time: zipfile reads a zip's list of files in one piece, as
    long as the zip says it is."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.end = file.seek(0, io.SEEK_END)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and place < 0:
            raise zipfile.BadZipFile("it points before its own beginning")
        return self.file.seek(place, whence)

    def tell(self) -> int:
        return self.file.tell()

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.end - self.file.tell())
        size = left if size < 0 else min(size, left)
        if size > LONGEST_READ:
            raise BadZip(f"The zip lists far too many files. {AGAIN}")
        return self.file.read(size)
