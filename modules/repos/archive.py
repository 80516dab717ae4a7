"""A commit's files as one zip, written while it is sent: size costs no memory."""

import io
import zipfile
from collections.abc import Iterator

from modules.models import Commit
from modules.storage import local


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
    sink = _Sink()
    when = commit.created_at.timetuple()[:6]
    with zipfile.ZipFile(sink, "w") as archive:
        for file in commit.files.select_related("blob"):
            info = zipfile.ZipInfo(file.path, date_time=when)
            info.external_attr = 0o644 << 16
            large = file.blob.size >= zipfile.ZIP64_LIMIT // 2
            with archive.open(info, "w", force_zip64=large) as entry:
                for chunk in local.open(file.blob_id):
                    entry.write(chunk)
                    yield sink.take()
    yield sink.take()
