"""A browser's line to the site, as far as a load needs one: cheap, since it shares the cores.

One connection that is kept while the site keeps it, cookies, and an address of its own. Every
answer goes into a book: what kind of page it was, how long it took, whether it was as expected.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

PATIENCE = 60.0
BOUNDARY = "----commons-load"
FINE = frozenset({200, 302, 304})
CSRF = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def place(self) -> str:
        """Where it leads, without the site's address."""
        parts = urlsplit(self.headers.get("location", ""))
        return parts.path + (f"?{parts.query}" if parts.query else "")

    @property
    def csrf(self) -> str:
        found = CSRF.search(self.text)
        return found[1] if found else ""


@dataclass
class Book:
    """What was asked, and how it went."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    bytes_in: int = 0

    def note(self, kind: str, line: str, answer: Answer, fine: Iterable[int]) -> None:
        self.seconds.setdefault(kind, []).append(answer.seconds)
        self.statuses[kind, answer.status] += 1
        self.bytes_in += len(answer.body)
        if answer.status not in fine:
            said = " ".join(re.sub(r"<[^>]*>", " ", answer.text).split())
            self.wrong(kind, f"{answer.status} for {line}: {said[:200]}")

    def wrong(self, kind: str, what: str) -> None:
        self.errors.append(f"{kind}: {what}")

    @property
    def requests(self) -> int:
        return sum(map(len, self.seconds.values()))


class Broken(Exception):
    """No answer came; the book has it already. Whoever asked gives this round up."""


class Line:
    """`address` is what the person comes from, as the one proxy in front would say it."""

    def __init__(self, port: int, book: Book, address: str, cookies: dict[str, str]) -> None:
        self.port, self.book, self.address = port, book, address
        self.cookies = dict(cookies)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(
        self, kind: str, path: str, part: str = "", etag: str = "", **headers: str
    ) -> Answer:
        """A page, or the part of it that htmx replaces."""
        if part:
            headers |= {"HX-Request": "true", "HX-Target": part}
        if etag:
            headers["If-None-Match"] = etag
        return await self.ask(kind, "GET", path, headers=headers)

    async def post(
        self, kind: str, path: str, fields: dict[str, str], fine: Iterable[int] = (302,)
    ) -> Answer:
        """A form, as a browser sends one. An answer that is no redirect shows it again: wrong."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self.ask(kind, "POST", path, urlencode(fields).encode(), headers, fine)

    async def post_files(self, kind: str, path: str, csrf: str, files: dict[str, bytes]) -> Answer:
        parts = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="csrfmiddlewaretoken"']
        body = f"{parts[0]}\r\n\r\n{csrf}\r\n".encode()
        for name, data in files.items():
            head = f'form-data; name="files"; filename="{name}"'
            body += f"--{BOUNDARY}\r\nContent-Disposition: {head}\r\n\r\n".encode() + data + b"\r\n"
        body += f"--{BOUNDARY}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return await self.ask(kind, "POST", path, body, headers, (302,))

    async def ask(
        self,
        kind: str,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        fine: Iterable[int] = FINE,
    ) -> Answer:
        """The time counts from before a connection is made to the last byte of the answer."""
        sent = self._request(method, path, body, headers or {})
        began = time.perf_counter()
        try:
            answer = await asyncio.wait_for(self._exchange(sent, began), PATIENCE)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            self.close()
            self.book.wrong(kind, f"no answer for {method} {path}: {error!r}")
            raise Broken from error
        except asyncio.CancelledError:
            self.close()
            raise
        self.book.note(kind, f"{method} {path}", answer, fine)
        return answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}"]
        all_headers = {"X-Forwarded-For": self.address, "Accept": "text/html,*/*", **headers}
        if self.cookies:
            all_headers["Cookie"] = "; ".join(f"{k}={v}" for k, v in self.cookies.items())
        if body or method not in ("GET", "HEAD"):
            all_headers["Content-Length"] = str(len(body))
        lines += [f"{name}: {value}" for name, value in all_headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def _exchange(self, sent: bytes, began: float) -> Answer:
        """A kept connection may have been closed meanwhile: then a new one, as browsers do."""
        if self._streams is not None:
            reader, writer = self._streams
            try:
                if reader.at_eof():
                    raise EOFError
                writer.write(sent)
                first = await reader.readline()
                if not first:
                    raise EOFError
            except (OSError, EOFError):
                self.close()
            else:
                return await self._read(reader, first, began)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        self._streams = reader, writer
        writer.write(sent)
        first = await reader.readline()
        if not first:
            raise EOFError("the site closed the connection without an answer")
        return await self._read(reader, first, began)

    async def _read(self, reader: asyncio.StreamReader, first: bytes, began: float) -> Answer:
        status, headers = int(first.split()[1]), dict[str, str]()
        while (line := await reader.readline()).strip():
            name, _, value = line.decode("latin-1").partition(":")
            name, value = name.strip().lower(), value.strip()
            if name == "set-cookie":
                cookie, _, kept = value.partition(";")[0].partition("=")
                self.cookies[cookie] = kept.strip('"')
            headers[name] = value
        if status in (204, 304):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = await _chunks(reader)
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        seconds = time.perf_counter() - began
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, headers, body, seconds)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    found = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        found.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readline()
    return b"".join(found)


def some_address() -> str:
    """Nobody's, so that limits by address hold for each person apart."""
    return f"10.{secrets.randbelow(250)}.{secrets.randbelow(250)}.{1 + secrets.randbelow(250)}"
