"""A line between a client and the site that a test can cut or hold at a byte of its choice."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNK = 1 << 16
OF_ONE_LINE = {"connection", "keep-alive", "transfer-encoding"}


@dataclass
class Rule:
    """What happens to requests like this one, `times` times."""

    method: str
    path: str
    after: int
    times: int = 1
    reached: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def takes(self, method: str, path: str) -> bool:
        if self.times and method == self.method and re.search(self.path, path):
            self.times -= 1
            return True
        return False


class Line(ThreadingHTTPServer):
    """Hands every request on to the site, and its answer back, byte by byte."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Ends)
        # What a client has sent but nobody read should not be more than a few megabytes.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
        self.port = port
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[tuple[str, str, str]] = []  # method, path, Range
        self.cuts: list[Rule] = []
        self.holds: list[Rule] = []

    def cut_answers(self, method: str, path: str, after: int, times: int = 1) -> Rule:
        """The connection breaks after so many bytes of the answer's body."""
        self.cuts.append(Rule(method, path, after, times))
        return self.cuts[-1]

    def hold_requests(self, method: str, path: str, after: int) -> Rule:
        """After so many bytes of the body nothing moves until `go_on`."""
        self.holds.append(Rule(method, path, after))
        return self.holds[-1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what this is for."""


@contextmanager
def line_to(port: int) -> Iterator[Line]:
    with Line(port) as line:
        threading.Thread(target=line.serve_forever, daemon=True).start()
        try:
            yield line
        finally:
            for rule in line.holds:
                rule.go_on.set()
            line.shutdown()


class _Ends(BaseHTTPRequestHandler):
    server: Line
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def hand_on(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("Range", "")))
        site = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=120)
        try:
            site.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in OF_ONE_LINE:
                    site.putheader(name, value)
            site.endheaders()
            if self._sent_on(site):
                self._answered(site.getresponse())
        except OSError:
            self.close_connection = True
        finally:
            site.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = hand_on  # noqa: N815

    def _sent_on(self, site: http.client.HTTPConnection) -> bool:
        """Whether the client sent all it had announced."""
        left, sent = int(self.headers.get("Content-Length") or 0), 0
        hold = next((r for r in self.server.holds if r.takes(self.command, self.path)), None)
        while left:
            piece = self.rfile.read1(min(CHUNK, left, hold.after - sent if hold else CHUNK))  # type: ignore[attr-defined]
            if not piece:
                self.close_connection = True
                return False
            site.send(piece)
            left, sent = left - len(piece), sent + len(piece)
            if hold and sent == hold.after:
                hold.reached.set()
                hold.go_on.wait()
                hold = None
        return True

    def _answered(self, answer: http.client.HTTPResponse) -> None:
        cut = next((r for r in self.server.cuts if r.takes(self.command, self.path)), None)
        if cut and not cut.after:  # the site has done its work, and nobody hears of it
            cut.reached.set()
            self.close_connection = True
            return
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in OF_ONE_LINE:
                self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Connection", "close")
        self.end_headers()
        left = cut.after if cut else 1 << 60
        while left and (piece := answer.read1(min(CHUNK, left))):
            self.wfile.write(piece)
            left -= len(piece)
        if cut:
            cut.reached.set()
            self.close_connection = True
