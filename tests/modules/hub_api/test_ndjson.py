"""The body of a commit is read as it comes, whatever pieces it comes in."""

import base64
import contextlib
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.engine.errors import CommonsError
from modules.hub_api import ndjson
from modules.hub_api.ndjson import BadBody
from modules.storage.local import FileTooLarge

FILES = st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=300)), max_size=5)


def body(*items: dict[str, Any], **style: Any) -> bytes:
    return b"".join(json.dumps(item, **style).encode() + b"\n" for item in items)


def file(path: str, data: bytes, **more: Any) -> dict[str, Any]:
    content = base64.b64encode(data).decode()
    return {"key": "file", "value": {"content": content, "path": path, "encoding": "base64"} | more}


def read(data: bytes, piece: int = 7, limit: int = 10_000) -> list[ndjson.Line]:
    stream = io.BytesIO(data)
    return list(ndjson.lines(lambda _: stream.read(piece), io.BytesIO, limit))


@given(files=FILES, piece=st.integers(1, 400), indent=st.booleans(), sort=st.booleans())
def test_it_reads_what_any_client_writes(
    files: list[tuple[str, bytes]], piece: int, indent: bool, sort: bool
) -> None:
    header = {"key": "header", "value": {"summary": 'say "content": "no"', "description": ""}}
    style = {"sort_keys": sort, "separators": (" , ", " :  ") if indent else (",", ":")}
    found = read(body(header, *(file(*one) for one in files), **style), piece)
    assert found[0].value["summary"] == header["value"]["summary"]
    assert [(line.value["path"], line.content.read()) for line in found[1:]] == files


def test_a_files_content_is_never_held_whole() -> None:
    largest = 0
    data = body(file("a", bytes(3_000_000)))
    stream = io.BytesIO(data)

    class Watched(io.BytesIO):
        def write(self, piece: Any) -> int:
            nonlocal largest
            largest = max(largest, len(piece))
            return super().write(piece)

    (line,) = ndjson.lines(stream.read, Watched, 10_000_000)
    assert line.content is not None and len(line.content.read()) == 3_000_000
    assert largest <= ndjson.CHUNK


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{", "each line must be"),
        (b"[]\n", "each line must be"),
        (b'{"key": "file"}\n', "each line must be"),
        (b'{"key": 3, "value": {}}\n', "each line must be"),
        (b'{"key": "file", "value": {"content": "AAAA', "breaks off"),
        (b'{"key": "file", "value": {"content": "A!A=", "path": "a"}}\n', "not base64"),
        (b'{"key": "file", "value": {"content": "AAA", "path": "a"}}\n', "not base64"),
        (
            b'{"key": "file", "value": {"content": "", "content": "", "path": "a"}}\n',
            "two contents",
        ),
        (b'{"key": "x", "value": "' + b"y" * 1_100_000 + b'"}\n', "more than 1,000,000 bytes"),
        (b"[" * 200_000 + b"\n", "each line must be"),
        (b"\xff\xfe\n", "each line must be"),
    ],
)
def test_what_it_cannot_read_it_says(data: bytes, why: str) -> None:
    with pytest.raises(BadBody, match=why):
        read(data, 100_000)


def test_all_files_together_have_a_limit() -> None:
    data = body(file("a", bytes(600)), file("b", bytes(600)))
    assert len(read(data, limit=1_200)) == 2
    with pytest.raises(FileTooLarge, match="1,199"):
        read(data, limit=1_199)


@given(data=st.binary(max_size=200))
def test_no_bytes_break_it(data: bytes) -> None:
    with contextlib.suppress(CommonsError):
        read(data)
