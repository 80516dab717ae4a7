"""Files on their way to clients, without a thread for each.

The worker's loop sends them, piece by piece, to whoever is ready for more, after the view has
ended. So a slow download costs a connection and an open file, and no thread.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Protocol

PIECE = 1 << 20


class Sendable(Protocol):
    """A file that may be sent this way. Its own handle may be closed meanwhile."""

    def fileno(self) -> int: ...

    def sent(self, count: int) -> None:
        """So many bytes were sent; called once, with all of them, in any thread."""


class Rest:
    """What of a file the client has not taken yet."""

    def __init__(self, file: Sendable, offset: int, count: int) -> None:
        self.file, self.count = file, count
        self._offset, self._left = offset, count
        self._handle = os.dup(file.fileno())

    @property
    def is_empty(self) -> bool:
        return not self._left

    def send(self, socket: Any) -> int:
        """As much as a piece; raises BlockingIOError when the client takes nothing now."""
        sent = os.sendfile(socket.fileno(), self._handle, self._offset, min(PIECE, self._left))
        if not sent:  # the rest was announced: nobody shall wait for it
            raise ConnectionResetError(errno.ECONNRESET, "The file is shorter than it was")
        self._offset += sent
        self._left -= sent
        return sent

    def close(self) -> None:
        os.close(self._handle)
