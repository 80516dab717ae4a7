"""`manage.py import_modules` against another site: many at once, again, refused, interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub_site.accounts.models import Namespace
from modules.models import BaseModel, Commit, LoraModule, Repo
from tests.modules.importing.conftest import Command, adapter_folder
from tests.other_site import OtherSite

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
