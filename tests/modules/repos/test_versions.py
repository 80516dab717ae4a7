"""New versions of a module, and the history that shows what each changed."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from hub_site.accounts.models import User
from modules import services
from modules.models import LoraModule
from modules.repos import versions
from modules.storage import local
from tests.modules.conftest import adapter, config_bytes, weights_bytes

WEIGHTS = "adapter_model.safetensors"
Send = Callable[..., Any]


@pytest.fixture
def new_version(client: Client, alice: User, settings: Any, tmp_path: Any) -> Send:
    settings.FILE_UPLOAD_TEMP_DIR = tmp_path / "coming"
    client.force_login(alice)

    def send(files: dict[str, bytes], name: str = "opposites", **typed: Any) -> Any:
        address = f"/alice/{name}/upload"
        sent = [SimpleUploadedFile(n, d) for n, d in files.items()]
        first = client.post(address, {"files": sent})
        if first.status_code != 302:
            return first
        token = first["Location"].partition("?files=")[2]
        return client.post(address, {"files": token} | typed)

    return send


def plain(answer: Any) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.content.decode()))


def test_a_new_version_keeps_the_old_one_downloadable(
    opposites: LoraModule, new_version: Send, client: Client
) -> None:
    old = opposites.commit
    answer = new_version({WEIGHTS: weights_bytes(seed=9)}, message="Trained longer\n\nTwo days.")
    assert answer["Location"] == "/alice/opposites"
    opposites.refresh_from_db()
    new = opposites.commit
    assert new.parent == old and (new.title, new.message) == ("Trained longer", "Two days.")
    assert opposites.status == LoraModule.CHECKING
    assert new.sha256_of("README.md") == old.sha256_of("README.md")
    for commit, seed in ((old, 0), (new, 9)):
        address = f"/alice/opposites/resolve/{commit.sha}/{WEIGHTS}"
        assert b"".join(client.get(address).streaming_content) == weights_bytes(seed)


def test_weights_that_do_not_fit_the_old_config_are_refused(
    opposites: LoraModule, new_version: Send
) -> None:
    answer = new_version({WEIGHTS: weights_bytes(r=4)})
    assert answer.status_code == 422 and "r = 2" in answer.content.decode()
    assert opposites.repo.commits.count() == 1


def test_the_same_files_again_make_no_version(
    opposites: LoraModule, new_version: Send, client: Client
) -> None:
    answer = new_version({WEIGHTS: weights_bytes()})
    assert opposites.repo.commits.count() == 1
    assert "nothing has changed" in client.get(answer["Location"]).content.decode()


def test_what_changed_meanwhile_is_not_written_over(
    opposites: LoraModule, alice: User, client: Client, new_version: Send
) -> None:
    sent = [SimpleUploadedFile(WEIGHTS, weights_bytes(seed=9))]
    where = client.post("/alice/opposites/upload", {"files": sent})["Location"]
    new_version({"README.md": b"Other words.\n"})
    typed = {"files": where.partition("?files=")[2], "message": "In my words."}
    answer = client.post("/alice/opposites/upload", typed)
    assert answer.status_code == 412
    page = answer.content.decode()
    assert "was changed while you worked" in page and "In my words." in page
    assert opposites.repo.commits.count() == 2
    again = re.search(r'name="files" value="([^"]+)"', page)
    assert again is not None
    client.post("/alice/opposites/upload", {"files": again.group(1), "message": "In my words."})
    head = opposites.repo.head()
    assert head is not None and head.title == "In my words."
    card = head.files.get(path="README.md").blob_id
    assert local.local_path(card).read_bytes() == b"Other words.\n"


def test_the_history_tells_what_each_version_changed(
    opposites: LoraModule, new_version: Send, client: Client
) -> None:
    changed = {
        "adapter_config.json": config_bytes(r=4, lora_alpha=16),
        WEIGHTS: weights_bytes(r=4),
        "LICENSE": b"Do as you like.",
    }
    new_version(changed, message="A larger rank")
    page = plain(client.get("/alice/opposites/commits"))
    assert page.index("A larger rank") < page.index("First version")
    assert "r: 2 → 4" in page and "alpha: 4 → 16" in page
    assert "added LICENSE 15 B" in page
    assert "changed adapter_model.safetensors" in page
    assert "by alice" in page and "2 versions" in page


def test_the_history_knows_removed_files(opposites: LoraModule, alice: User) -> None:
    services.commit(
        repo=opposites.repo, author=alice, title="x", additions={}, deletions=["README.md"]
    )
    newest, first = versions.with_changes(list(opposites.repo.commits.all()))
    assert [(f.path, f.kind) for f in newest.files] == [("README.md", "removed")]
    assert {f.kind for f in first.files} == {"added"} and first.is_first


def test_a_long_history_has_pages_and_few_queries(
    opposites: LoraModule, alice: User, client: Client
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as found:
            assert client.get("/alice/opposites/commits").status_code == 200
        return len(found)

    few = queries()
    for seed in range(25):
        services.commit(
            repo=opposites.repo, author=alice, title=f"V{seed}", additions=adapter(seed, card="x")
        )
    assert queries() <= few + 1
    page = client.get("/alice/opposites/commits").content.decode()
    assert "V24" in page and "V2<" not in page
    older = re.search(r'href="(\?before=\d+)"', page)
    assert older is not None
    page = client.get("/alice/opposites/commits" + older[1]).content.decode()
    assert "First version" in page and "V24" not in page


def test_a_strangers_version_is_refused(
    opposites: LoraModule, secret: LoraModule, client: Client, bob: User
) -> None:
    for name in ("opposites", "secret"):
        assert client.get(f"/alice/{name}/upload")["Location"].startswith("/accounts/login/")
    client.force_login(bob)
    for name in ("opposites", "secret", "nothing"):
        assert client.get(f"/alice/{name}/upload").status_code == 404
        sent = [SimpleUploadedFile(WEIGHTS, weights_bytes(seed=9))]
        assert client.post(f"/alice/{name}/upload", {"files": sent}).status_code == 404
    assert client.get("/alice/opposites/commits").status_code == 200
    assert client.get("/alice/secret/commits").status_code == 404
    assert client.post("/alice/opposites/commits").status_code == 405


def test_a_setting_that_is_only_spelt_out_is_no_change(
    opposites: LoraModule, new_version: Send, client: Client
) -> None:
    new_version({"adapter_config.json": config_bytes(use_dora=False, use_rslora=True)})
    page = plain(client.get("/alice/opposites/commits"))
    assert "rsLoRA: no → yes" in page and "DoRA:" not in page
