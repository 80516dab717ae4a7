"""The other site's web process: ours, and misbehaving as far as a test asks for it.

What is asked for stands in VAR_DIR/misbehave.json; every request leaves a line in
VAR_DIR/asked.jsonl, with whether it came with a token.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.web_settings")
from hub_site.wsgi import application as ours  # noqa: E402
from modules.hub_api import listing  # noqa: E402

VAR = Path(os.environ["VAR_DIR"])
MISBEHAVE, ASKED = VAR / "misbehave.json", VAR / "asked.jsonl"
FEW = 2
listing.PAGE = FEW  # so that every list has pages

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    line = {"method": environ["REQUEST_METHOD"], "path": path}
    line["range"] = environ.get("HTTP_RANGE", "")
    line["token"] = environ.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
    with ASKED.open("a") as file:
        file.write(json.dumps(line) + "\n")
    wanted = _wanted(path)
    if "status" in wanted:
        body = json.dumps({"error": wanted.get("message", "on purpose")}).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        headers |= wanted.get("headers", {})
        start_response(f"{wanted['status']} On purpose", list(headers.items()))
        return [body]
    answer = ours(environ, start_response)
    if "cut" in wanted:
        return _cut(answer)
    return _held(answer, Path(wanted["hold"])) if "hold" in wanted else answer


def _wanted(path: str) -> dict[str, Any]:
    try:
        wanted: dict[str, Any] = json.loads(MISBEHAVE.read_text())
    except FileNotFoundError:
        return {}
    if wanted["path"] not in path:
        return {}
    if "times" in wanted:
        wanted["times"] -= 1
        if wanted["times"]:
            MISBEHAVE.write_text(json.dumps(wanted))
        else:
            MISBEHAVE.unlink()
    return wanted


def _cut(answer: Iterable[bytes]) -> Iterator[bytes]:
    """The first half of the bytes, and then the connection breaks."""
    data = b"".join(answer)
    yield data[: len(data) // 2]
    raise ConnectionResetError("cut on purpose")


def _held(answer: Iterable[bytes], until_gone: Path) -> Iterator[bytes]:
    """The first half of the bytes, and the rest when the file is gone."""
    data = b"".join(answer)
    yield data[: len(data) // 2]
    while until_gone.exists():
        time.sleep(0.05)
    yield data[len(data) // 2 :]
