"""Modules kept in repos of the Hub: what stands there, and that it follows what is here."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from hub_site.accounts.models import User
from modules import services
from modules.community import moderation
from modules.models import BlobOnHub, LoraModule, ModuleOnHub, Repo
from modules.on_hub import keeping
from modules.repos import gate, ownership
from modules.storage import bytes_back, local, pruning
from tests.modules.conftest import Publisher, adapter, weights_bytes
from tests.modules.hub_api.conftest import client_environment
from tests.other_site import OtherSite, Work

pytestmark = pytest.mark.django_db(transaction=True)


def home_of(module: LoraModule) -> ModuleOnHub:
    return ModuleOnHub.objects.get(repo=module.repo)


WEIGHTS = "adapter_model.safetensors"
FETCH = """
import hashlib
from huggingface_hub import hf_hub_download
path = hf_hub_download({name!r}, "adapter_model.safetensors", token=False)
print(hashlib.sha256(open(path, "rb").read()).hexdigest())
"""


def there(site: OtherSite, name: str = "otto/alice-opposites", **token: str) -> dict[str, Any]:
    """The repo as the stock client sees it there."""
    return json.loads(
        site.client(
            f"""
info = api.model_info({name!r}, files_metadata=True)
card = open(api.hf_hub_download({name!r}, "README.md")).read()
print(json.dumps({{
    "sha": info.sha, "private": info.private, "card": card, "data": info.card_data.to_dict(),
    "files": {{f.rfilename: f.lfs.sha256 if f.lfs else f.blob_id for f in info.siblings}},
}}))
""",
            **token,
        )
    )


def test_it_pushes_a_module_with_its_card_and_pins_what_it_pushed(
    hub_here: OtherSite, opposites: LoraModule, work: Work
) -> None:
    keeping.choose(opposites.repo, "site")
    assert home_of(opposites).state == "waiting"
    assert [job.result["outcome"] for job in work()] == ["done"]
    home, found = home_of(opposites), there(hub_here, token="")
    assert (home.state, home.hub_id, home.sha) == ("kept", "otto/alice-opposites", found["sha"])
    assert home.commit == opposites.commit and not home.is_private and not found["private"]
    assert found["files"][WEIGHTS] == opposites.weights_sha256
    assert set(found["files"]) == {"README.md", "adapter_config.json", WEIGHTS}
    data = found["data"]
    assert (data["base_model"], data["library_name"]) == ("lora-commons/tiny-t5", "peft")
    assert data["license"] == "apache-2.0" and {"words", "opposites", "lora"} <= set(data["tags"])
    assert "Answers with the opposite" in found["card"]
    kept = BlobOnHub.objects.get(path=WEIGHTS)
    assert (kept.blob_id, kept.sha) == (opposites.weights_sha256, found["sha"])
    # Once more changes nothing there.
    keeping.ask(opposites.repo)
    work()
    assert there(hub_here)["sha"] == found["sha"]


def test_it_follows_new_versions_edited_cards_visibility_and_hiding(
    hub_here: OtherSite, alice: User, opposites: LoraModule, work: Work
) -> None:
    keeping.choose(opposites.repo, "site")
    work()
    services.publish_module(
        repo=opposites.repo,
        author=alice,
        title="Trained for longer",
        additions={WEIGHTS: io.BytesIO(weights_bytes(7)), "notes.txt": io.BytesIO(b"more\n")},
        check_now=True,
    )
    work()
    opposites.refresh_from_db()
    found = there(hub_here)
    assert found["files"][WEIGHTS] == opposites.weights_sha256 and "notes.txt" in found["files"]
    ownership.edit_card(
        user=alice, repo=opposites.repo, changes={"license": "mit"}, body=None, parent=None
    )
    services.commit(
        repo=opposites.repo, author=alice, title="Fewer", additions={}, deletions=["notes.txt"]
    )
    assert len(work()) == 1  # however often it was asked for
    found = there(hub_here)
    assert found["data"]["license"] == "mit" and "notes.txt" not in found["files"]
    ownership.set_visibility(opposites.repo, Repo.PRIVATE)
    work()
    assert there(hub_here)["private"] and home_of(opposites).is_private
    ownership.set_visibility(opposites.repo, Repo.PUBLIC)
    work()
    assert not there(hub_here)["private"]
    for gated in (Repo.MANUAL, gate.OPEN):
        gate.set_gate(opposites.repo, gated)
        work()
        assert there(hub_here)["private"] == bool(gated)
    moderation.hide(opposites.repo, moderator=alice, reason="A test.")
    work()
    assert there(hub_here)["private"]


def test_it_keeps_nothing_there_that_did_not_pass_its_checks(
    hub_here: OtherSite, alice: User, base_model: Any, settings: Any, work: Work
) -> None:
    settings.MODULES_LIVE_ON = "hub"
    repo = services.create_repo(owner=alice.namespace, name="fresh", kind=Repo.LORA)
    module = services.publish_module(repo=repo, author=alice, title="First", additions=adapter(3))
    assert home_of(module).place == "site"  # new modules live there, and nobody had to ask
    module.reject("A test.")
    keeping.ask(repo)
    work()
    module.refresh_from_db()
    # The check came first, found nothing wrong, and then it was pushed.
    assert module.is_ready and home_of(module).state == "kept"
    module.reject("A test.")
    sha = home_of(module).sha
    keeping.ask(repo)
    work()
    assert home_of(module).sha == sha and home_of(module).state == "waiting"


def test_a_deleted_module_goes_there_too(
    hub_here: OtherSite, opposites: LoraModule, work: Work
) -> None:
    keeping.choose(opposites.repo, "site")
    work()
    ownership.delete(opposites.repo)
    assert keeping.retry_due() == 1
    work()
    assert not ModuleOnHub.objects.exists()
    assert hub_here.client("print(api.repo_exists('otto/alice-opposites'))").strip() == "False"


def test_names_that_are_taken_get_a_number(
    hub_here: OtherSite, alice: User, base_model: Any, publish: Publisher, work: Work, tmp_path: Any
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "README.md").write_text("Somebody else's.\n")
    hub_here.upload("alice-opposites", tmp_path / "theirs")
    module = publish(alice, "opposites")
    keeping.choose(module.repo, "site")
    work()
    assert home_of(module).hub_id == "otto/alice-opposites-2"
    assert (
        hub_here.client(
            "print(open(api.hf_hub_download('otto/alice-opposites', 'README.md')).read())"
        )
        == "Somebody else's.\n\n"
    )


def test_bytes_that_the_hub_keeps_leave_the_store_and_come_back(
    hub_here: OtherSite,
    alice: User,
    base_model: Any,
    publish: Publisher,
    work: Work,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pruning, "LEAST_EVICTED", 500)
    settings.HUB_CACHE_DAYS = 0
    mine, copy = publish(alice, "mine", seed=1), publish(alice, "copy", seed=1)
    sha256 = mine.weights_sha256
    data = local.local_path(sha256).read_bytes()
    keeping.choose(mine.repo, "site")
    work()
    assert pruning.prune().evicted == 0  # the copy is kept here alone
    ownership.delete(copy.repo)
    assert pruning.prune().evicted >= 1
    assert not bytes_back.is_here(sha256)
    client = Client()
    address = f"/{mine.repo}/resolve/main/{WEIGHTS}"
    answer = client.get(address)  # the other site hands bytes out itself, so they are passed on
    assert b"".join(answer.streaming_content) == data
    answer = client.get(address, headers={"Range": "bytes=5-9"})
    assert (answer.status_code, b"".join(answer.streaming_content)) == (206, data[5:10])
    assert client.head(address).headers["Content-Length"] == str(len(data))
    assert client.get(mine.get_absolute_url()).status_code == 200
    assert len(b"".join(client.get(f"/{mine.repo}/download.zip").streaming_content)) > len(data)
    # A new card needs no weights; what needs them gets them back.
    ownership.edit_card(
        user=alice, repo=mine.repo, changes={"license": "mit"}, body=None, parent=None
    )
    work()
    assert not bytes_back.is_here(sha256) and home_of(mine).state == "kept"
    mine.refresh_from_db()
    folder = bytes_back.materialise(mine.commit)
    assert (folder / WEIGHTS).read_bytes() == data and bytes_back.is_here(sha256)
    # Back to this site: every byte first, then the repo there goes.
    pruning.prune()
    keeping.choose(mine.repo, "here")
    work()
    assert bytes_back.is_here(sha256) and not ModuleOnHub.objects.exists()
    assert hub_here.client("print(api.repo_exists('otto/alice-mine'))").strip() == "False"


def test_downloads_are_led_to_where_the_hub_leads(
    hub_here: OtherSite,
    opposites: LoraModule,
    work: Work,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    live_server: Any,
    tmp_path: Any,
) -> None:
    """The Hub keeps its large files in a content network: there, no token of ours is sent."""
    monkeypatch.setattr(pruning, "LEAST_EVICTED", 500)
    settings.HUB_CACHE_DAYS = 0
    keeping.choose(opposites.repo, "site")
    work()
    data = local.local_path(opposites.weights_sha256).read_bytes()
    assert pruning.prune().evicted == 1
    home = home_of(opposites)
    network = f"http://localhost:{hub_here.port}/{home.hub_id}/resolve/{home.sha}/{WEIGHTS}"
    hub_here.misbehave("/resolve/", status=302, headers={"Location": network}, times=1)
    address = f"/{opposites.repo}/resolve/main/{WEIGHTS}"
    answer = Client().get(address)
    assert (answer.status_code, answer.headers["Location"]) == (302, network)
    assert answer.headers["X-Linked-Size"] == str(len(data))
    opposites.refresh_from_db()
    assert opposites.downloads == 1
    hub_here.misbehave("/resolve/", status=302, headers={"Location": network}, times=1)
    got = subprocess.run(
        [sys.executable, "-c", FETCH.format(name=str(opposites.repo))],
        env=client_environment(live_server.url, tmp_path, token=""),
        capture_output=True,
        text=True,
    )
    assert got.stdout.strip() == opposites.weights_sha256, got.stderr
    last = hub_here.asked("/resolve/")[-1]
    assert (last["method"], last["token"]) == ("GET", "")


def test_endpoint_and_token_never_come_from_the_environment(
    hub_here: OtherSite, opposites: LoraModule, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_TOKEN", "hf_somebodys")
    keeping.choose(opposites.repo, "site")
    work()
    assert home_of(opposites).state == "kept"
    assert {line["token"] for line in hub_here.asked("/api/")} == {hub_here.token}
    assert hub_here.url == settings.HUB_ENDPOINT


def test_programs_choose_the_place_and_read_how_it_goes(
    hub_here: OtherSite, alice: User, bob: User, opposites: LoraModule, work: Work, client: Client
) -> None:
    client.force_login(alice)
    address = f"/api/v1/modules/{opposites.repo}/"
    assert client.get(address).json()["hub"] is None
    answer = client.patch(address, {"place": "own"}, content_type="application/json")
    assert answer.status_code == 422 and "connected in your settings" in answer.json()["message"]
    answer = client.patch(address, {"place": "site"}, content_type="application/json")
    assert answer.json()["hub"]["state"] == "waiting"
    work()
    seen = client.get(address).json()["hub"]
    assert (seen["state"], seen["id"]) == ("kept", "otto/alice-opposites")
    assert seen == Client().get(address).json()["hub"]
    ownership.set_visibility(opposites.repo, Repo.PRIVATE)
    client.force_login(bob)
    assert client.get(address).status_code == 404
