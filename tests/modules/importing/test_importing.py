"""From another site to a module here, by a real worker: what comes, and why others do not."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from hub_site.accounts.models import Notice, User
from modules.models import BaseModel, HubOrigin, LoraModule
from tests.modules.conftest import Publisher, config_bytes
from tests.modules.importing.conftest import (
    adapter_folder,
    ask,
    by_name,
    put_there,
    wait_for_imports,
)
from tests.other_site import OtherSite
from tests.workers import WorkerProcess, wait_for

pytestmark = pytest.mark.django_db(transaction=True)
Worker = Callable[..., WorkerProcess]


def test_a_repo_becomes_a_module_with_everything_that_it_says(
    importing_worker: Worker,
    our_hub: OtherSite,
    alice: User,
    base_model: BaseModel,
    tmp_path: Path,
) -> None:
    folder = adapter_folder(tmp_path)
    (folder / "LICENSE").write_text("Do what you like.")
    (folder / "training_args.json").write_text("{}")
    sha = our_hub.upload("opposites", folder)
    (row,) = ask(alice, f"{our_hub.url}/otto/opposites/tree/main")
    importing_worker()
    wait_for_imports([row])
    assert (row.state, row.outcome, row.hub_sha, row.reason) == ("done", "new", sha, "")
    module = LoraModule.objects.get()
    assert row.repo == module.repo and str(module.repo) == "alice/opposites"
    assert module.base_model == base_model and module.licence == "apache-2.0"
    assert set(module.tag_names) == {"words", "opposites"}
    files = {f.path: f.blob_id for f in module.commit.files.all()}
    assert set(files) == {
        "LICENSE", "README.md", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    origin = HubOrigin.objects.get(repo=module.repo)
    assert (origin.hub_id, origin.hub_sha, origin.follows) == ("otto/opposites", sha, True)
    assert {path: file["here"] for path, file in origin.files.items()} == files
    assert module.commit.author == alice and sha in module.commit.message
    assert module.check_job is not None
    wait_for(module.check_job, "done")
    module.refresh_from_db()
    assert module.is_ready
    (notice,) = Notice.objects.filter(user=alice)  # and none that it passed its checks
    assert notice.text == "otto/opposites is imported."


@pytest.fixture
def odd_repos(our_hub: OtherSite, tmp_path: Path) -> OtherSite:
    """One that is fine, and every kind that is not."""

    def folder(name: str, **files: bytes) -> Path:
        made = tmp_path / name
        made.mkdir()
        for path, data in files.items():
            (made / path.replace("__", ".")).write_bytes(data)
        return made

    deep = tmp_path / "deep"
    (deep / "checkpoint-10").mkdir(parents=True)
    (deep / "checkpoint-10" / "adapter_config.json").write_bytes(config_bytes())
    our_hub.upload_all(
        {
            "fine": adapter_folder(tmp_path),
            "taken": adapter_folder(tmp_path, 1),
            "whole": folder("whole", config__json=b"{}", model__safetensors=b"x"),
            "deep": deep,
            "ia3": folder("ia3", adapter_config__json=config_bytes()),
            "words": folder("words", README__md=b"Nothing yet.\n"),
            "large": adapter_folder(tmp_path, 3),
        }
    )
    (tmp_path / "config").write_bytes(config_bytes(peft_type="IA3"))
    put_there(our_hub, "ia3", "adapter_config.json", tmp_path / "config")
    put_there(our_hub, "ia3", "adapter_model.safetensors", tmp_path / "config")
    put_large = "from modules.models import Blob; Blob.objects.filter(pk={!r}).update(size=10**12)"
    weights = (tmp_path / "adapter-3-2" / "adapter_model.safetensors").read_bytes()
    our_hub.run(put_large.format(sha256(weights).hexdigest()))
    our_hub.client("api.update_repo_settings('otto/words', private=True)")
    return our_hub


def test_each_that_cannot_come_says_why_and_the_others_come(
    importing_worker: Worker,
    odd_repos: OtherSite,
    alice: User,
    base_model: BaseModel,
    publish: Publisher,
) -> None:
    publish(alice, "taken", seed=20)
    names = ["fine", "taken", "whole", "deep", "ia3", "words", "nowhere", "large"]
    rows = by_name(ask(alice, *(f"otto/{name}" for name in names)))
    # The site's own token could see the private one; it must not be asked with for a user.
    importing_worker(HF_TOKEN=odd_repos.token)
    wait_for_imports(rows.values())
    assert {name: row.state for name, row in rows.items()} == {
        name: "done" if name == "fine" else "refused" for name in names
    }
    reasons = {name: row.reason for name, row in rows.items()}
    assert "exists already" in reasons["taken"] and "otto/taken as " in reasons["taken"]
    assert "whole model, not an adapter" in reasons["whole"]
    assert "in folders (checkpoint-10)" in reasons["deep"]
    assert "'IA3'" in reasons["ia3"] and "LORA" in reasons["ia3"]
    for name in ("words", "nowhere"):  # private is like missing
        assert f"has no otto/{name}" in reasons[name]
    assert "1.0 TB" in reasons["large"] and "320 MB" in reasons["large"]
    assert LoraModule.objects.filter(repo__owner=alice.namespace).count() == 2
    asked = odd_repos.asked("/resolve/")
    assert not any("otto/large" in line["path"] for line in asked)
    assert not any("ia3" in line["path"] and "safetensors" in line["path"] for line in asked)
    assert {line["token"] for line in asked} == {""}
    text = Notice.objects.filter(user=alice, text__contains="modules are imported").get().text
    assert text.startswith("1 of 8")


@pytest.mark.slow
def test_another_name_here_and_a_pinned_revision(
    importing_worker: Worker, our_hub: OtherSite, alice: User, tmp_path: Path
) -> None:
    first = our_hub.upload("m", adapter_folder(tmp_path))
    our_hub.upload("m", adapter_folder(tmp_path, 1))
    (row,) = ask(alice, f"otto/m@{first} as mine")
    importing_worker()
    wait_for_imports([row])
    assert row.state == "done" and str(row.repo) == "alice/mine" and row.hub_sha == first
    origin = HubOrigin.objects.get(repo=row.repo)
    assert not origin.follows and origin.revision == first  # a commit never becomes newer
