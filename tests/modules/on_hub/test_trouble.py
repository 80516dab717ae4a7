"""What goes wrong on the Hub is said, tried again where that helps, and leaves no module stuck."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from hub_site.accounts.models import User
from hub_site.jobs.models import Job
from modules.models import LoraModule, ModuleOnHub, Repo
from modules.on_hub import keeping
from modules.repos import ownership
from modules.storage import local, pruning
from tests.other_site import OtherSite, Work
from tests.workers import WorkerProcess, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def home_of(module: LoraModule) -> ModuleOnHub:
    return ModuleOnHub.objects.get(repo=module.repo)


def later(work: Work) -> None:
    """The time of the next try has come."""
    ModuleOnHub.objects.filter(retry_at__isnull=False).update(retry_at=timezone.now())
    assert keeping.retry_due() >= 1
    work()


def test_a_hub_that_is_down_is_tried_again_by_itself(
    hub_here: OtherSite, opposites: LoraModule, work: Work
) -> None:
    hub_here.misbehave("/api/models/otto/alice-opposites", status=503)
    keeping.choose(opposites.repo, "site")
    work()
    home = home_of(opposites)
    assert (home.state, home.code, home.tries) == ("trouble", "hub_down", 1)
    assert "503" in home.reason
    assert home.retry_at - timezone.now() < timedelta(minutes=2)
    opposites.refresh_from_db()
    assert opposites.is_composable  # whatever the Hub does
    assert keeping.retry_due() == 0  # not yet
    later(work)
    assert home_of(opposites).tries == 2
    hub_here.behave()
    later(work)
    home = home_of(opposites)
    assert (home.state, home.reason, home.tries, home.retry_at) == ("kept", "", 0, None)


def test_a_busy_hub_is_left_alone_for_as_long_as_it_asks(
    hub_here: OtherSite, opposites: LoraModule, work: Work
) -> None:
    hub_here.misbehave("/preupload/", status=429, headers={"Retry-After": "4000"})
    keeping.choose(opposites.repo, "site")
    work()
    home = home_of(opposites)
    assert home.code == "hub_busy"
    assert home.retry_at - timezone.now() > timedelta(minutes=60)
    hub_here.behave()
    later(work)
    assert home_of(opposites).state == "kept"


def test_a_hub_that_takes_for_ever_is_given_up(
    hub_here: OtherSite, opposites: LoraModule, work: Work, settings: Any
) -> None:
    settings.HUB_TIMEOUT_SECONDS = 1
    hub_here.misbehave("/api/models/otto/alice-opposites")  # half of an answer, and then nothing
    keeping.choose(opposites.repo, "site")
    work()
    home = home_of(opposites)
    assert (home.state, home.reason) == (
        "trouble",
        f"127.0.0.1:{hub_here.port} did not answer in time.",
    )


def test_a_revoked_token_is_said_to_the_owner_and_mended_by_connecting_anew(
    hub_here: OtherSite, alice: User, opposites: LoraModule, work: Work, client: Client
) -> None:
    client.force_login(alice)
    page = "/accounts/hugging-face/"
    answer = client.post(page, {"token": "hf_wrong"})
    assert answer.status_code == 503 and "does not take this token" in answer.content.decode()
    assert client.post(page, {"token": hub_here.token}).status_code == 302
    home = f"/{opposites.repo}/settings/home"
    assert client.post(home, {"place": "own"}).status_code == 302
    work()
    kept = home_of(opposites)
    assert (kept.state, kept.hub_id, kept.place) == ("kept", "otto/opposites", "own")
    hub_here.run(
        "from hub_site.accounts.models import AccessToken\n"
        "from django.utils import timezone\n"
        "AccessToken.objects.update(revoked_at=timezone.now())\n"
    )
    try:
        ownership.edit_card(
            user=alice, repo=opposites.repo, changes={"license": "mit"}, body=None, parent=None
        )
        work()
        kept = home_of(opposites)
        assert (kept.state, kept.code) == ("trouble", "hub_token")
        assert "revoked" in alice.notices.latest("pk").text
        assert "cannot be used any longer" in client.get(page).content.decode()
        settings_page = client.get(f"/{opposites.repo}/settings").content.decode()
        assert "Trouble with the Hub" in settings_page and "Try again now" in settings_page
    finally:
        hub_here.run(
            "from hub_site.accounts.models import AccessToken\n"
            "AccessToken.objects.update(revoked_at=None)\n"
        )
    assert client.post(page, {"token": hub_here.token}).status_code == 302
    work()
    assert home_of(opposites).state == "kept"
    # A user's own repo is theirs, whatever becomes of the module here.
    ownership.delete(opposites.repo)
    keeping.retry_due()
    work()
    assert not ModuleOnHub.objects.exists()
    assert hub_here.client("print(api.repo_exists('otto/opposites'))").strip() == "True"


def test_it_never_writes_over_a_repo_that_somebody_else_made(
    hub_here: OtherSite,
    alice: User,
    opposites: LoraModule,
    work: Work,
    tmp_path: Any,
    client: Client,
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "README.md").write_text("Mine.\n")
    hub_here.upload("opposites", tmp_path / "theirs")
    client.force_login(alice)
    client.post("/accounts/hugging-face/", {"token": hub_here.token})
    keeping.choose(opposites.repo, "own")
    work()
    home = home_of(opposites)
    assert home.code == "hub_refused" and "was not made by this site" in home.reason
    assert "otto/opposites" in alice.notices.latest("pk").text
    hub_here.client("api.move_repo('otto/opposites', 'otto/elsewhere')")
    client.post(f"/{opposites.repo}/settings/home", {"again": "1"})
    work()
    assert home_of(opposites).state == "kept"


def test_what_is_deleted_or_renamed_there_is_noticed(
    hub_here: OtherSite, alice: User, opposites: LoraModule, work: Work
) -> None:
    keeping.choose(opposites.repo, "site")
    work()
    hub_here.client("api.delete_repo('otto/alice-opposites')")
    keeping.ask(opposites.repo)
    work()
    home = home_of(opposites)
    assert (home.state, home.code) == ("trouble", "not_on_hub")
    assert local.local_path(opposites.weights_sha256).exists()
    keeping.try_again(opposites.repo)
    work()
    assert home_of(opposites).state == "kept"


def test_bytes_that_are_lost_there_are_said_to_be(
    hub_here: OtherSite,
    opposites: LoraModule,
    work: Work,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    client: Client,
) -> None:
    monkeypatch.setattr(pruning, "LEAST_EVICTED", 500)
    settings.HUB_CACHE_DAYS = 0
    keeping.choose(opposites.repo, "site")
    work()
    assert pruning.prune().evicted == 1
    address = f"/{opposites.repo}/resolve/main/adapter_model.safetensors"
    hub_here.misbehave("/resolve/", status=500)
    answer = client.get(address)
    assert answer.status_code == 503 and "trouble of its own" in answer.headers["X-Error-Message"]
    hub_here.behave()
    hub_here.client("api.delete_repo('otto/alice-opposites')")
    answer = client.get(address)
    assert answer.status_code == 404 and "has no otto/alice-opposites" in answer.json()["error"]
    assert client.get(opposites.get_absolute_url()).status_code == 200


@pytest.mark.slow
def test_a_hub_killed_in_the_middle_gets_it_when_it_is_back(
    hub_here: OtherSite, opposites: LoraModule, start_worker: Any, settings: Any
) -> None:
    hub_here.misbehave("/commit/main")  # it has the commit, and says so too late
    as_here = {"HUB_ENDPOINT": hub_here.url, "HF_TOKEN": hub_here.token, "HF_HUB_OFFLINE": "0"}
    as_here |= {"BLOB_DIR": str(settings.BLOB_DIR), "CACHE_DIR": str(settings.CACHE_DIR)}
    worker: WorkerProcess = start_worker(**as_here)
    keeping.choose(opposites.repo, "site")
    wait_until(lambda: hub_here.asked("/commit/main"), "the commit to be sent")
    hub_here.kill()
    hub_here.behave()
    wait_until(lambda: home_of(opposites).is_in_trouble, "the trouble to be told")
    assert home_of(opposites).code == "hub_down"
    hub_here.start()
    ModuleOnHub.objects.update(retry_at=timezone.now())
    assert keeping.retry_due() == 1
    wait_until(lambda: home_of(opposites).state == "kept", "the module to be there")
    log = hub_here.client("""
name = "otto/alice-opposites"
print(len(api.list_repo_commits(name)), api.model_info(name).sha)
""").split()
    assert log == ["1", home_of(opposites).sha]  # sent twice, there once
    # The worker is killed in the middle, too: the job goes on with another.
    hub_here.misbehave("/preupload/")
    Repo.objects.filter(pk=opposites.repo_id).update(visibility="private")
    keeping.ask(opposites.repo)
    before = len(hub_here.asked("/preupload/"))
    wait_until(lambda: len(hub_here.asked("/preupload/")) > before, "the next push to begin")
    worker.kill()
    hub_here.behave()
    start_worker(**as_here)
    wait_until(lambda: home_of(opposites).is_private, "another worker to finish it")
    wait_until(lambda: home_of(opposites).state == "kept", "it to be said")
    assert Job.objects.filter(kind="keep_on_hub").exclude(state="done").count() == 0
