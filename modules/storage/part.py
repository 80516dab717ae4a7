"""Bytes of a stored file as a file of their own, which the web server may leave to the system to
send: they never pass through Python then."""

from __future__ import annotations

from collections.abc import Callable

from modules.storage import local


class Part:
    """The bytes from start up to, not including, end. `when_whole` is called once all were taken,
    whoever took them: reader or system."""

    def __init__(
        self, sha256: str, start: int, end: int, when_whole: Callable[[], None] | None = None
    ) -> None:
        self._file = local.opened(sha256)
        self._file.seek(start)
        self._left = end - start
        self._when_whole = when_whole

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        if not data:
            self.sent(0)
        return data

    def sent(self, count: int) -> None:
        """Somebody else has read and sent so many of the bytes that were left."""
        self._left -= count
        if not self._left and self._when_whole is not None:
            self._when_whole()
            self._when_whole = None

    def close(self) -> None:
        self._file.close()
