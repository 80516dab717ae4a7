"""gunicorn's threaded worker, with an end to its patience.

A client who stalls, or trickles, holds a thread for as long as it likes: gunicorn's timeouts do not
reach into one. As many such clients as there are threads would hold the whole site. Those who only
read a file slowly hold none: see `sending.py`.
"""

from __future__ import annotations

import errno
import selectors
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

from hub_site.sending import Rest

PATIENCE = 30.0  # seconds that a client may be waited for, beyond what its bytes are worth
SLOWEST = 4096  # bytes a second that keep the patience as it is
PIECE = 1 << 18
TO_SAY_SO = 2.0  # seconds for the answer to whoever was too slow


class PacedSocket(socket.socket):
    """Every second of waiting costs patience, every byte gives some back. At its end the
    connection counts as broken, as if the client had gone."""

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(fileno=accepted.detach())
        self.patience = PATIENCE
        self.rest: Rest | None = None

    def recv(self, *args: Any) -> bytes:
        return self._paced(super().recv, *args)

    def send(self, *args: Any) -> int:
        return self._paced(super().send, *args)

    def sendall(self, data: Any, *flags: int) -> None:
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self.send(rest[:PIECE], *flags) :]

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        if count is not None and hasattr(file, "sent"):
            self.rest = Rest(file, offset, count)  # of which the worker takes care
            return count
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
        self.waited(time.monotonic() - began, done if isinstance(done, int) else len(done))
        if self.patience <= 0:
            raise self._gone()
        return done

    def waited(self, seconds: float, count: int) -> None:
        self.patience = min(PATIENCE, self.patience - seconds + count / SLOWEST)

    def _gone(self) -> OSError:
        self.patience = TO_SAY_SO
        return ConnectionResetError(errno.ECONNRESET, "The client was too slow")


class PatientWorker(ThreadWorker):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sending: dict[TConn, tuple[Rest, float]] = {}  # and since when it waits

    def enqueue_req(self, conn: TConn) -> None:
        if not isinstance(conn.sock, PacedSocket):
            conn.sock = PacedSocket(conn.sock)
        super().enqueue_req(conn)

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        """The view is done; what it answered may have to be sent yet."""
        rest = getattr(conn.sock, "rest", None)
        if rest is None:
            super().finish_request(conn, fs)
            return
        conn.sock.rest = None
        self.sending[conn] = rest, time.monotonic()
        try:
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, selectors.EVENT_WRITE, partial(self.send_on, conn, fs))
        except (OSError, ValueError):  # something went wrong after the view, and closed it
            self.give_up(conn)

    def send_on(self, conn: TConn, fs: Future[Any], _: Any) -> None:
        rest, since = self.sending[conn]
        now = time.monotonic()
        try:
            conn.sock.waited(now - since, rest.send(conn.sock))
        except BlockingIOError:
            return
        except OSError:
            self.give_up(conn)
            return
        self.sending[conn] = rest, now
        if rest.is_empty:
            self.stop_sending(conn)
            super().finish_request(conn, fs)
            self.tpool.submit(rest.file.sent, rest.count)

    def murder_keepalived(self, force: bool = False) -> None:
        """gunicorn calls this about once a second."""
        now = time.monotonic()
        for conn, (_, since) in list(self.sending.items()):
            if force or conn.sock.patience <= now - since:
                self.give_up(conn)
        super().murder_keepalived(force)

    def give_up(self, conn: TConn) -> None:
        self.stop_sending(conn)
        self.nr_conns -= 1
        conn.close()

    def stop_sending(self, conn: TConn) -> None:
        self.sending.pop(conn)[0].close()
        with suppress(KeyError, ValueError):  # never registered
            self.poller.unregister(conn.sock)
