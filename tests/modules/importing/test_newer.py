"""What has moved on there becomes a version here; what was changed here stays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from hub_site.accounts.models import User
from hub_site.jobs import queue
from modules import services
from modules.importing import asking
from modules.models import BaseModel, Commit, HubOrigin, Import, LoraModule
from modules.repos import ownership
from tests.modules.conftest import CARD
from tests.modules.importing.conftest import adapter_folder, ask, text_of, wait_for_imports
from tests.other_site import OtherSite
from tests.workers import WorkerProcess, wait_for, wait_until

pytestmark = pytest.mark.django_db(transaction=True)
Worker = Callable[..., WorkerProcess]


@pytest.fixture
def imported(
    importing_worker: Worker,
    our_hub: OtherSite,
    alice: User,
    base_model: BaseModel,
    tmp_path: Path,
) -> LoraModule:
    our_hub.upload("m", adapter_folder(tmp_path))
    rows = ask(alice, "otto/m")
    importing_worker()
    wait_for_imports(rows)
    module: LoraModule = LoraModule.objects.get(repo__name="m")
    return module


def newer(module: LoraModule, user: User) -> Import:
    asking.ask_for_newer(HubOrigin.objects.get(repo=module.repo), user)
    row = Import.objects.latest("pk")
    wait_for_imports([row])
    return row


def test_what_moved_on_becomes_a_version_and_what_was_edited_here_stays(
    imported: LoraModule, our_hub: OtherSite, alice: User, tmp_path: Path
) -> None:
    assert newer(imported, alice).outcome == "same"
    ownership.edit_card(
        user=alice, repo=imported.repo, changes={"license": "mit"}, body=None, parent=None
    )
    sha = our_hub.upload("m", adapter_folder(tmp_path, 1, card=CARD + "\nNewer there.\n"))
    row = newer(imported, alice)
    assert (row.state, row.outcome, row.hub_sha) == ("done", "version", sha)
    assert row.reason == "README.md was changed here and stays as it is."
    module = LoraModule.objects.get(pk=imported.pk)
    assert module.weights_sha256 != imported.weights_sha256 and module.licence == "mit"
    assert "Newer there" not in text_of(module, "README.md")
    assert "README.md" in module.commit.message
    assert Commit.objects.filter(repo=module.repo).count() == 3
    # Asked again, nothing is new, and the card still is the one from here.
    assert newer(imported, alice).outcome == "same"

    # An explicit import of the same repo is the same, whatever the module is called by now.
    ownership.rename(module.repo, "renamed")
    (row,) = ask(alice, "otto/m")
    wait_for_imports([row])
    assert row.outcome == "same" and row.repo == module.repo


def test_weights_that_were_replaced_here_are_left_alone(
    imported: LoraModule, our_hub: OtherSite, alice: User, tmp_path: Path
) -> None:
    own = adapter_folder(tmp_path, 5)
    with (own / "adapter_model.safetensors").open("rb") as file:
        services.publish_module(
            repo=imported.repo,
            author=alice,
            title="My own",
            additions={"adapter_model.safetensors": file},
        )
    our_hub.upload("m", adapter_folder(tmp_path, 6))
    row = newer(imported, alice)
    assert row.outcome == "same" and "adapter_model.safetensors was changed here" in row.reason
    module = LoraModule.objects.get(pk=imported.pk)
    assert module.commit.title == "My own"


def follow() -> None:
    HubOrigin.objects.update(checked_at=timezone.now() - timedelta(days=2))
    wait_for(queue.submit("follow_hub", params={}), "done")


def test_modules_follow_the_hub_until_their_owner_says_otherwise(
    imported: LoraModule, our_hub: OtherSite, alice: User, tmp_path: Path
) -> None:
    follow()
    assert Import.objects.count() == 1  # nothing had moved
    first = our_hub.upload("m", adapter_folder(tmp_path, 1))
    follow()
    row = Import.objects.latest("pk")
    wait_for_imports([row])
    assert (row.user, row.outcome, row.hub_sha) == (alice, "version", first)

    HubOrigin.objects.update(follows=False)
    our_hub.upload("m", adapter_folder(tmp_path, 2))
    follow()
    assert Import.objects.latest("pk") == row
    HubOrigin.objects.update(follows=True)

    # Gone there: told, and the module stays.
    our_hub.client("api.update_repo_settings('otto/m', private=True)")
    follow()
    origin = HubOrigin.objects.get()
    assert "has no otto/m" in origin.trouble and origin.hub_sha == first
    assert LoraModule.objects.get().commit.title.startswith("Newer version")
    our_hub.client("api.update_repo_settings('otto/m', private=False)")
    follow()
    wait_until(lambda: HubOrigin.objects.get().hub_sha != first, "the version that was missed")
    assert HubOrigin.objects.get().trouble == ""


def test_a_stranger_who_takes_over_the_name_there_is_not_followed(
    imported: LoraModule, our_hub: OtherSite, tmp_path: Path
) -> None:
    our_hub.client("api.move_repo('otto/m', 'otto/elsewhere')")
    our_hub.upload("m", adapter_folder(tmp_path, 1))
    follow()
    assert Import.objects.count() == 1
    assert "is another repo by now" in HubOrigin.objects.get().trouble
