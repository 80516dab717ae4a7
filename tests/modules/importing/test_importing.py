"""From another site to a module here, by a real worker: what comes, and what stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hub_site.accounts.models import User
from modules.models import BaseModel, HubOrigin, LoraModule
from tests.modules.importing.conftest import adapter_folder, ask, wait_for_imports
from tests.other_site import OtherSite
from tests.workers import WorkerProcess

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
    assert {line["token"] for line in our_hub.asked("/resolve/")} == {""}
