"""Bytes that only the Hub has: what must not happen to them."""

from __future__ import annotations

import io
from typing import Any

import pytest

from hub_site.accounts.models import User
from modules import services
from modules.models import LoraModule, ModuleOnHub
from modules.on_hub import keeping
from modules.repos import ownership
from modules.storage import bytes_back, local, pruning
from tests.modules.conftest import Publisher, weights_bytes
from tests.other_site import OtherSite, Work

pytestmark = pytest.mark.django_db(transaction=True)

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """Whatever the Hub keeps leaves the store with the next pruning."""
    monkeypatch.setattr(pruning, "LEAST_EVICTED", 500)
    settings.HUB_CACHE_DAYS = 0


def home_of(module: LoraModule) -> ModuleOnHub:
    return ModuleOnHub.objects.get(repo=module.repo)


def newer(module: LoraModule, seed: int) -> str:
    """The next version's weights."""
    services.publish_module(
        repo=module.repo,
        author=module.repo.owner.user,
        title=f"Trained with {seed}",
        additions={WEIGHTS: io.BytesIO(weights_bytes(seed))},
        check_now=True,
    )
    module.refresh_from_db()
    return module.weights_sha256


@pytest.mark.usefixtures("at_once")
def test_bytes_stay_when_the_hub_has_them_no_more(
    hub_here: OtherSite, opposites: LoraModule, work: Work
) -> None:
    """The repo was deleted there, and nothing has been pushed since."""
    keeping.choose(opposites.repo, "site")
    work()
    hub_here.client("api.delete_repo('otto/alice-opposites')")
    assert pruning.prune().evicted == 0
    assert bytes_back.is_here(opposites.weights_sha256)


@pytest.mark.usefixtures("at_once")
def test_a_repo_made_anew_there_is_not_said_to_hold_old_versions(
    hub_here: OtherSite, opposites: LoraModule, work: Work
) -> None:
    keeping.choose(opposites.repo, "site")
    work()
    old = opposites.weights_sha256
    new = newer(opposites, 7)
    work()
    hub_here.client("api.delete_repo('otto/alice-opposites')")
    keeping.ask(opposites.repo)
    work()
    keeping.try_again(opposites.repo)
    work()
    assert home_of(opposites).state == "kept"
    assert bytes_back.place_of(old) is None and bytes_back.place_of(new) is not None
    pruning.prune()
    assert bytes_back.is_here(old) and not bytes_back.is_here(new)


@pytest.mark.usefixtures("at_once")
def test_the_place_of_the_only_copy_is_not_forgotten(
    hub_here: OtherSite, opposites: LoraModule, work: Work
) -> None:
    """The Hub says "not found" to a token that may not see the repo, too."""
    keeping.choose(opposites.repo, "site")
    work()
    pruning.prune()
    hub_here.misbehave("otto/alice-opposites", status=404, headers={"X-Error-Code": "RepoNotFound"})
    keeping.ask(opposites.repo)
    work()
    assert home_of(opposites).code == "not_on_hub"
    keeping.try_again(opposites.repo)
    work()
    hub_here.behave()
    assert bytes_back.path_of(opposites.weights_sha256).exists()
    keeping.try_again(opposites.repo)
    work()
    assert (home_of(opposites).state, home_of(opposites).hub_id) == (
        "kept",
        "otto/alice-opposites",
    )


@pytest.mark.usefixtures("at_once")
def test_a_deleted_module_leaves_the_bytes_that_another_one_has(
    hub_here: OtherSite, alice: User, base_model: Any, publish: Publisher, work: Work
) -> None:
    mine = publish(alice, "mine", seed=1)
    keeping.choose(mine.repo, "site")
    work()
    pruning.prune()
    sha256 = mine.weights_sha256
    copy = publish(alice, "copy", seed=1)
    # As when pruning comes between the copy's bytes and its row.
    local.delete(sha256)
    ownership.delete(mine.repo)
    keeping.retry_due()
    work()
    assert not ModuleOnHub.objects.exists()
    assert bytes_back.is_here(copy.weights_sha256)


@pytest.mark.usefixtures("at_once")
def test_what_its_newest_version_lost_there_is_sent_again(
    hub_here: OtherSite, opposites: LoraModule, work: Work
) -> None:
    keeping.choose(opposites.repo, "site")
    work()
    pruning.prune()
    hub_here.client(
        """
name, weights = "otto/alice-opposites", "adapter_model.safetensors"
data = Path(api.hf_hub_download(name, weights)).read_bytes()[:-4] + bytes(4)
api.upload_file(path_or_fileobj=data, path_in_repo=weights, repo_id=name)
"""
    )
    assert not bytes_back.is_here(opposites.weights_sha256)
    keeping.ask(opposites.repo)
    work()
    assert home_of(opposites).state == "kept"


def test_who_thinks_again_in_the_midst_of_a_move_stays(
    hub_here: OtherSite, opposites: LoraModule, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules.on_hub import pushing
    from modules.storage import hub

    keeping.choose(opposites.repo, "site")
    work()
    delete = hub.Hub.delete

    def and_think_again(self: hub.Hub, repo_id: str) -> None:
        delete(self, repo_id)
        keeping.choose(opposites.repo, "site")

    monkeypatch.setattr(pushing.hub.Hub, "delete", and_think_again)
    keeping.choose(opposites.repo, "here")
    work()
    home = home_of(opposites)
    assert (home.place, home.state, home.move_to) == ("site", "kept", "")
