"""The second site that other tests use as their Hub."""

from __future__ import annotations

import json
from pathlib import Path

from tests.modules.conftest import CARD, config_bytes, weights_bytes
from tests.other_site import OtherSite


def adapter_folder(root: Path, seed: int = 0) -> Path:
    folder = root / f"adapter-{seed}"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes(config_bytes())
    (folder / "adapter_model.safetensors").write_bytes(weights_bytes(seed))
    (folder / "README.md").write_text(CARD)
    return folder


def test_it_keeps_what_is_uploaded_over_a_kill(other_site: OtherSite, tmp_path: Path) -> None:
    sha = other_site.upload("one", adapter_folder(tmp_path), private=True)
    other_site.kill()
    other_site.start()
    assert other_site.client("print(api.model_info('otto/one').sha)").strip() == sha
    look = "from modules.models import Repo; print(Repo.objects.get().visibility)"
    assert other_site.run(look).strip() == "private"


def test_it_is_empty_for_every_test(other_site: OtherSite) -> None:
    assert other_site.client("print(len(list(api.list_models())))").strip() == "0"


def test_it_lists_in_pages_of_few(other_site: OtherSite, tmp_path: Path) -> None:
    for seed in range(3):
        other_site.upload(f"m-{seed}", adapter_folder(tmp_path, seed))
    found = other_site.client("print(json.dumps([m.id for m in api.list_models(author='otto')]))")
    assert sorted(json.loads(found)) == ["otto/m-0", "otto/m-1", "otto/m-2"]
    assert len(other_site.asked("/api/models")) > len(other_site.asked("/api/models/"))


def test_it_misbehaves_as_it_is_told_and_says_what_it_was_asked(other_site: OtherSite) -> None:
    other_site.misbehave("/api/models/otto/", status=403, headers={"X-Error-Code": "GatedRepo"})
    look = """
try:
    api.model_info("otto/one")
except GatedRepoError:
    print("gated")
"""
    assert other_site.client(look).strip() == "gated"
    other_site.behave()
    (line,) = other_site.asked("/api/models/otto/one")
    assert line["method"] == "GET" and line["token"] == other_site.token
