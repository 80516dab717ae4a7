"""The body of a commit: one JSON object a line, files as base64 inside it, read as it comes.

A line can be as long as a file, so it is never held: what stands in `"content": "…"` is decoded
into a nameless temporary file on the way, and only the rest of the line is parsed as JSON.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from modules.hub_api.answers import HubError
from modules.storage import local

CHUNK = 1 << 18  # divisible by four, as base64 is
LINE_LIMIT = 1_000_000  # beside the files' bytes
CONTENT = re.compile(rb'"content"\s*:\s*"')
LONGEST_KEY = 64  # of white space around it, too


@dataclass
class Line:
    key: str
    value: dict[str, Any]
    content: IO[bytes] | None = None


class BadBody(HubError):
    def __init__(self, why: str) -> None:
        super().__init__(400, f"The commit could not be read: {why}.")


def lines(
    read: Callable[[int], bytes],
    new_file: Callable[[], IO[bytes]],
    limit: int,
    announced: int | None = None,
) -> Iterator[Line]:
    """Each line with its file. `limit` bounds the bytes of all files together; `announced` is how
    long the body should be, because one that ends between two lines looks whole."""
    source = _Source(read, announced)
    left = limit
    while not source.is_at_end():
        rest, content = bytearray(), None
        while True:
            piece, found = source.until_content_or_line_end(LINE_LIMIT - len(rest))
            rest += piece
            if not found:
                break
            if content is not None:
                raise BadBody("a line holds two contents")
            content = new_file()
            left -= source.decode_into(content, left, limit)
            content.seek(0)
            rest += b'"content":""'
        if rest.strip():
            yield _parsed(bytes(rest), content)


def _parsed(rest: bytes, content: IO[bytes] | None) -> Line:
    try:
        found = json.loads(rest)
        key, value = found["key"], found["value"]
        if not isinstance(key, str) or not isinstance(value, dict):
            raise TypeError("not a key with a value")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadBody('each line must be {"key": …, "value": {…}} in JSON') from error
    return Line(key, value, content)


class _Source:
    """The request's stream with what was read too far."""

    def __init__(self, read: Callable[[int], bytes], announced: int | None) -> None:
        self._read, self._held, self._ended = read, b"", False
        self._announced, self._came = announced, 0

    def is_at_end(self) -> bool:
        return not self._held and not self._more()

    def until_content_or_line_end(self, most: int) -> tuple[bytes, bool]:
        """Bytes up to the end of the line, or to the first sign of a file's content."""
        taken = bytearray()
        while True:
            end = self._held.find(b"\n")
            found = CONTENT.search(self._held, 0, end if end >= 0 else len(self._held))
            if found:
                taken += self._held[: found.start()]
                self._held = self._held[found.end() :]
            elif end >= 0:
                taken += self._held[:end]
                self._held = self._held[end + 1 :]
            if len(taken) > most:
                raise BadBody(f"a line has more than {LINE_LIMIT:,} bytes beside its file")
            if found or end >= 0:
                return bytes(taken), bool(found)
            # The sign may be cut in two: keep as much as could be its beginning.
            keep = min(LONGEST_KEY, len(self._held))
            taken += self._held[: len(self._held) - keep]
            self._held = self._held[len(self._held) - keep :]
            if not self._more():
                taken += self._held
                self._held = b""
                return bytes(taken), False

    def decode_into(self, file: IO[bytes], left: int, limit: int) -> int:
        """Decode up to the closing quote; how many bytes came."""
        size, undecoded = 0, b""
        while True:
            if not self._held and not self._more():
                raise BadBody("it breaks off inside a file")
            end = self._held.find(b'"')
            piece = self._held if end < 0 else self._held[:end]
            self._held = b"" if end < 0 else self._held[end + 1 :]
            # Some writers of JSON escape the slashes of base64.
            undecoded += piece.replace(b"\\", b"")
            cut = len(undecoded) if end >= 0 else len(undecoded) // 4 * 4
            try:
                data = base64.b64decode(undecoded[:cut], validate=True)
            except binascii.Error as error:
                raise BadBody("a file's content is not base64") from error
            undecoded = undecoded[cut:]
            size += len(data)
            if size > left:
                raise local.FileTooLarge(
                    f"The files of this commit are larger than {limit:,} bytes, the most this site "
                    "takes at once."
                )
            with local.told_when_full():
                file.write(data)
            if end >= 0:
                return size

    def _more(self) -> bool:
        if self._ended:
            return False
        try:
            chunk = self._read(CHUNK)
        except OSError as error:  # the client went away
            raise BadBody("the connection broke") from error
        self._ended = not chunk
        self._held += chunk
        self._came += len(chunk)
        if self._ended and self._announced is not None and self._came < self._announced:
            raise BadBody("the connection broke")
        return bool(chunk)
