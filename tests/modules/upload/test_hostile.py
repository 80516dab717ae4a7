"""Whatever an author writes is text on our pages: nothing of it runs, links or loads."""

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from hub_site.accounts.models import User
from modules.models import LoraModule
from tests.modules.conftest import config_bytes, weights_bytes

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"
CARD = f"""---
license: "{EVIL.replace('"', "")}"
language: "<svg onload=alert(1)>"
task: "<script>alert(1)</script>"
tags: ["<b>bold</b>", good, "javascript:alert(1)"]
summary: "{EVIL.replace('"', "")}"
datasets: ["{EVIL.replace('"', "")}"]
---
# {EVIL}

{EVIL} [a](javascript:alert(1)) [b](data:text/html,x) <a href="vbscript:x" onclick=alert(1)>c</a>
![d](https://elsewhere.example/pixel.png) <iframe src=//elsewhere.example></iframe>
"""
PAGES = [
    "/alice/evil", "/alice/evil/settings", "/alice/evil/commits", "/alice/evil/upload", "/alice",
    "/modules/", "/modules/?q=evil", "/tags/", "/",
]  # fmt: skip


class Parts(HTMLParser):
    """What of a page runs, loads or leads somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        handlers = [name for name in given if name.startswith("on") or name == "style"]
        where = [given.get(name, "").strip().lower() for name in ("href", "src", "action")]
        odd = [w for w in where if w.startswith(("javascript:", "data:text", "vbscript:"))]
        away = tag in ("img", "iframe", "object", "embed") and "elsewhere" in "".join(where)
        if handlers or odd or away or (tag == "script" and "src" not in given):
            self.bad.append(str(self.get_starttag_text()))


def bad_parts(page: str) -> list[str]:
    parser = Parts()
    parser.feed(page)
    return parser.bad


@pytest.fixture
def evil(client: Client, alice: User, base_model: Any, settings: Any, tmp_path: Any) -> Client:
    settings.FILE_UPLOAD_TEMP_DIR = tmp_path / "coming"
    client.force_login(alice)
    config = config_bytes(base_model_name_or_path=f"x{EVIL}", init_lora_weights=EVIL, revision=EVIL)
    sent = {
        "adapter_config.json": config,
        "adapter_model.safetensors": weights_bytes(),
        "README.md": CARD.encode(),
        f"{EVIL.replace('/', '')}.txt": b"left out",
    }
    files = [SimpleUploadedFile(name, data) for name, data in sent.items()]
    where = client.post("/upload/", {"files": files})["Location"]
    asked = client.get(where).content.decode()
    assert "left out" in asked.lower() and bad_parts(asked) == []
    token = where.partition("?files=")[2]
    typed = {"files": token, "name": "evil", "visibility": "public", "description": EVIL}
    assert client.post("/upload/", typed)["Location"] == "/alice/evil"
    first = [SimpleUploadedFile("README.md", CARD.replace("good", "better").encode())]
    where = client.post("/alice/evil/upload", {"files": first})["Location"]
    message = f"{EVIL}\n{EVIL}"
    client.post("/alice/evil/upload", {"files": where.partition("?files=")[2], "message": message})
    return client


def pages(client: Client) -> Iterator[tuple[str, str]]:
    for address in PAGES:
        answer = client.get(address)
        assert answer.status_code == 200, address
        yield address, answer.content.decode()


def test_nothing_an_author_writes_runs_on_our_pages(evil: Client) -> None:
    module = LoraModule.objects.get()
    module.reject(f"A tensor is called {EVIL}.")
    shown = 0
    for address, page in pages(evil):
        assert bad_parts(page) == [], address
        shown += "&lt;script&gt;alert(1)" in page
    assert shown >= 3  # as text, it is there


def test_a_form_that_is_sent_back_says_what_was_typed_as_text(evil: Client) -> None:
    for address, typed in (
        ("/alice/evil/settings", {"tags": EVIL, "description": EVIL, "body": EVIL}),
        ("/alice/evil/settings/rename", {"name": EVIL}),
        ("/alice/evil/settings/delete", {"confirm": EVIL}),
        ("/alice/evil/settings/visibility", {"visibility": EVIL}),
    ):
        answer = evil.post(address, typed)
        assert answer.status_code == 422, address
        assert bad_parts(answer.content.decode()) == []
