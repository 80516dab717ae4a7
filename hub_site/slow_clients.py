"""gunicorn's threaded worker, with an end to its patience.

A client who stalls, or trickles, holds a thread for as long as it likes: gunicorn's timeouts do not
reach into one. As many such clients as there are threads would hold the whole site.
"""

import errno
import socket
import time
from collections.abc import Callable
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

PATIENCE = 30.0  # seconds that a client may be waited for, beyond what its bytes are worth
SLOWEST = 4096  # bytes a second that keep the patience as it is
PIECE = 1 << 15
TO_SAY_SO = 2.0  # seconds for the answer to whoever was too slow


class PacedSocket(socket.socket):
    """Every second of waiting costs patience, every byte gives some back. At its end the
    connection counts as broken, as if the client had gone."""

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(fileno=accepted.detach())
        self.patience = PATIENCE

    def recv(self, *args: Any) -> bytes:
        return self._paced(super().recv, *args)

    def send(self, *args: Any) -> int:
        return self._paced(super().send, *args)

    def sendall(self, data: Any, *flags: int) -> None:
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self.send(rest[:PIECE], *flags) :]

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        total = 0
        while count is None or total < count:
            piece = PIECE if count is None else min(PIECE, count - total)
            sent = self._paced(super().sendfile, file, offset + total, piece)
            if not sent:
                break
            total += sent
        return total

    def _paced(self, act: Callable[..., Any], *args: Any) -> Any:
        if self.gettimeout() is not None:  # gunicorn has set a deadline of its own
            return act(*args)
        began = time.monotonic()
        self.settimeout(self.patience)
        try:
            done = act(*args)
        except TimeoutError:
            raise self._gone() from None
        finally:
            self.settimeout(None)
        worth = (done if isinstance(done, int) else len(done)) / SLOWEST
        self.patience = min(PATIENCE, self.patience - (time.monotonic() - began) + worth)
        if self.patience <= 0:
            raise self._gone()
        return done

    def _gone(self) -> OSError:
        self.patience = TO_SAY_SO
        return ConnectionResetError(errno.ECONNRESET, "The client was too slow")


class PatientWorker(ThreadWorker):
    def enqueue_req(self, conn: TConn) -> None:
        if not isinstance(conn.sock, PacedSocket):
            conn.sock = PacedSocket(conn.sock)
        super().enqueue_req(conn)
