"""A commit's files as one zip, written while it is sent: size costs no memory."""

import io
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

from modules.models import Commit, CommitFile
from modules.storage import bytes_back


class _Sink(io.RawIOBase):
    """A place that zipfile writes to and that we empty as it fills."""

    def __init__(self) -> None:
        self.written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.written += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self.written)
        self.written.clear()
        return taken


def chunks(commit: Commit) -> Iterator[bytes]:
    """The same commit always gives the same bytes: times are the commit's. Weights do not shrink,
    so nothing is compressed."""
    files = list(commit.files.select_related("blob"))  # now: it may be deleted while it is sent
    return _zipped(files, commit.created_at.timetuple()[:6])


def _zipped(files: Iterable[CommitFile], when: Any) -> Iterator[bytes]:
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for file in files:
            info = zipfile.ZipInfo(file.path, date_time=when)
            info.external_attr = 0o644 << 16
            large = file.blob.size >= zipfile.ZIP64_LIMIT // 2
            with archive.open(info, "w", force_zip64=large) as entry:
                for chunk in bytes_back.chunks(file.blob_id):
                    entry.write(chunk)
                    yield sink.take()
    yield sink.take()
