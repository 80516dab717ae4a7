"""`manage.py import_modules` against another site: many at once, again, refused, interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from django.core.management import CommandError, call_command
from safetensors.torch import load_file

from hub_site.accounts.models import Namespace
from modules.importing import presets
from modules.models import BaseModel, Commit, HubOrigin, LoraModule, Repo
from tests.modules.conftest import make_user
from tests.modules.importing.conftest import Command, adapter_folder, put_there
from tests.other_site import OtherSite
from tests.workers import ROOT

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def library(our_hub: OtherSite, tmp_path: Path) -> OtherSite:
    """Five modules, in lists of two; four of them are of the flan family."""
    folders = {f"flan-{seed}": adapter_folder(tmp_path, seed) for seed in range(4)}
    our_hub.upload_all(folders | {"other": adapter_folder(tmp_path, 9)})
    return our_hub


def names() -> list[str]:
    return sorted(str(module) for module in LoraModule.objects.select_related("repo__owner"))


def test_it_takes_all_of_an_author_that_a_search_finds(
    import_modules: Command, library: OtherSite, base_model: BaseModel
) -> None:
    done = import_modules("otto", "--search", "flan")
    assert done.returncode == 0, done.stderr
    assert names() == [f"otto/flan-{n}" for n in range(4)] and "4 imported." in done.stdout
    assert Namespace.objects.get(name="otto").kind == Namespace.ORGANISATION
    assert set(Repo.objects.filter(kind="lora").values_list("visibility", flat=True)) == {"public"}
    assert LoraModule.objects.filter(check_job__state="queued").count() == 4

    again = import_modules("otto", "--search", "flan")
    assert again.returncode == 0 and "4 unchanged." in again.stdout
    assert Commit.objects.filter(repo__kind="lora").count() == 4


@pytest.mark.slow
def test_what_is_refused_stops_nothing_and_counts_in_the_end(
    import_modules: Command, library: OtherSite, base_model: BaseModel, tmp_path: Path
) -> None:
    library.upload("flan-x", _pickled(library, tmp_path))
    put_there(library, "flan-x", "adapter_model.bin", tmp_path / "weights.bin")
    library.client("api.create_repo('otto/flan-empty')")
    done = import_modules(
        "otto", "otto/flan-x", "otto/nowhere", "otto/flan-empty", "--search", "flan"
    )
    assert done.returncode == 1
    assert names() == [f"otto/flan-{n}" for n in (0, 1, 2, 3, "x")]
    assert "5 imported, 2 refused." in done.stdout and "2 of 7 did not come" in done.stderr
    assert "refused otto/flan-empty: otto/flan-empty has no files yet." in done.stdout
    assert "has no otto/nowhere" in done.stdout
    assert "imported otto/flan-x" in done.stdout and "pickle" in done.stdout
    assert HubOrigin.objects.get(hub_id="otto/flan-x").converted["file"] == "adapter_model.bin"


def _pickled(library: OtherSite, tmp_path: Path) -> Path:
    folder = adapter_folder(tmp_path, 8)
    weights = folder / "adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "weights.bin")
    weights.unlink()
    return folder


@pytest.mark.slow
def test_a_dry_run_says_what_would_come_and_changes_nothing(
    import_modules: Command, library: OtherSite
) -> None:
    done = import_modules("otto", "--limit", "3", "--dry-run", "--owner", "lab")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("would be imported otto/") == 3 and " as lab/" in done.stdout
    assert "Dry run: 3 imported." in done.stdout
    assert not Namespace.objects.filter(name__in=("otto", "lab")).exists()
    assert not Repo.objects.exists()


@pytest.mark.slow
def test_they_stand_under_another_organisation_but_never_under_a_persons_name(
    import_modules: Command, library: OtherSite
) -> None:
    make_user("otto")
    done = import_modules("otto/other")
    assert done.returncode == 1 and "belongs to a user" in done.stdout and "--owner" in done.stdout
    assert import_modules("otto/other", "--owner", "lab").returncode == 0
    assert names() == ["lab/other"]


@pytest.mark.slow
def test_it_stops_when_the_hub_is_down_and_goes_on_when_it_is_back(
    import_modules: Command, library: OtherSite
) -> None:
    library.misbehave("/api/models/otto/", status=503)
    done = import_modules("otto", "--jobs", "1", HUB_RETRY_MS="10")
    assert done.returncode == 1
    assert "1 failed, 4 not tried" in done.stdout and "The Hub was down" in done.stdout
    library.behave()
    assert import_modules("otto").returncode == 0 and len(names()) == 5
    library.kill()
    done = import_modules("otto", HUB_RETRY_MS="10")
    assert done.returncode == 1 and "cannot be reached" in done.stderr


@pytest.mark.slow
def test_a_revoked_token_is_told_once(import_modules: Command, library: OtherSite) -> None:
    done = import_modules("otto", HF_TOKEN="lc_wrong")
    assert done.returncode == 1 and "does not take this token" in done.stderr
    done = import_modules("otto/flan-1", "otto/flan-2", "--jobs", "1", HF_TOKEN="lc_wrong")
    assert "1 refused, 1 not tried" in done.stdout and not Repo.objects.exists()


def test_it_wants_to_know_what() -> None:
    with pytest.raises(CommandError, match="Name an author"):
        call_command("import_modules")


def test_every_preset_is_told_in_the_docs() -> None:
    text = (ROOT / "docs" / "import.md").read_text()
    for preset in presets.PRESETS:
        assert f"--preset {preset.name}" in text
        assert preset.author in text and preset.base_model in text
