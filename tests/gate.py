"""A TCP door in front of a server, which a test shuts, opens and cuts: a network that fails."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LARGE = 1 << 12  # what is longer than this is a file's, not a request's


class Gate:
    """Listens on a port of its own and passes bytes on to the server behind it."""

    def __init__(self, url: str) -> None:
        host, _, port = url.partition("://")[2].partition(":")
        self._behind = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = threading.Event()
        self._live: list[socket.socket] = []
        self.cut_answers = self.cut_uploads = 0  # how many lines will break in mid-file
        self.passed = 0  # bytes of answers
        threading.Thread(target=self._accept, daemon=True).start()
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def open(self) -> None:
        self._open.set()

    def shut(self) -> None:
        """Whoever comes, and whoever is there, is sent away."""
        self._open.clear()
        for line in list(self._live):
            _end(line)

    def close(self) -> None:
        self.shut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            if not self._open.is_set():
                _end(line)
                continue
            threading.Thread(target=self._pass, args=[line], daemon=True).start()

    def _pass(self, line: socket.socket) -> None:
        with contextlib.suppress(OSError), socket.create_connection(self._behind) as server:
            self._live += [line, server]
            threading.Thread(target=self._upload, args=[line, server], daemon=True).start()
            with contextlib.suppress(OSError):
                while data := server.recv(1 << 16):
                    if self.cut_answers and len(data) >= LARGE:
                        self.cut_answers -= 1
                        line.sendall(data[: len(data) // 2])
                        break
                    line.sendall(data)
                    self.passed += len(data)
        _end(line)

    def _upload(self, line: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := line.recv(1 << 16):
                if self.cut_uploads and len(data) >= LARGE:
                    self.cut_uploads -= 1
                    server.sendall(data[: len(data) // 2])
                    _end(line)
                    break
                server.sendall(data)
        _end(server)


def _end(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()


@contextmanager
def gate_to(url: str) -> Iterator[Gate]:
    gate = Gate(url)
    try:
        yield gate
    finally:
        gate.close()
