"""A Hub that is busy, broken, closed or wrong: every import comes to an end that says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from django.utils import timezone

from hub_site import sealed
from hub_site.accounts.models import User
from modules.importing import addresses, asking
from modules.models import Commit, HubAccount, HubOrigin, Import, LoraModule, Repo
from tests.modules.importing.conftest import (
    Command,
    adapter_folder,
    ask,
    by_name,
    text_of,
    wait_for_imports,
)
from tests.other_site import OtherSite
from tests.workers import WorkerProcess

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
Worker = Callable[..., WorkerProcess]


def test_a_busy_hub_is_asked_again_when_it_says(
    importing_worker: Worker, our_hub: OtherSite, alice: User, tmp_path: Path
) -> None:
    our_hub.upload("m", adapter_folder(tmp_path))
    our_hub.misbehave("/api/models/otto/m", status=429, times=2, headers={"Retry-After": "1"})
    (row,) = ask(alice, "otto/m")
    importing_worker()
    wait_for_imports([row])
    assert row.state == "done" and row.tries == 2


def test_a_hub_that_stays_broken_ends_in_a_failure_that_can_be_tried_again(
    importing_worker: Worker, our_hub: OtherSite, alice: User, tmp_path: Path
) -> None:
    our_hub.upload("m", adapter_folder(tmp_path))
    our_hub.misbehave("/api/models/otto/", status=503)
    rows = by_name(ask(alice, "otto/m", "otto/n"))
    importing_worker(HUB_RETRY_MS="20")
    wait_for_imports(rows.values())
    assert {row.state for row in rows.values()} == {"failed"}
    assert "has trouble of its own (status 503)" in rows["m"].reason
    # The first was tried five times; the next one need not find out all by itself.
    assert (rows["m"].tries, rows["n"].tries) == (4, 0)
    our_hub.behave()
    assert asking.again([rows["m"]]) == 1
    wait_for_imports([rows["m"]])
    assert rows["m"].state == "done" and rows["m"].reason == ""


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    importing_worker: Worker, our_hub: OtherSite, alice: User, tmp_path: Path
) -> None:
    our_hub.upload("m", adapter_folder(tmp_path))
    our_hub.misbehave("adapter_model.safetensors", cut=True, times=1)
    (row,) = ask(alice, "otto/m")
    importing_worker()
    wait_for_imports([row])
    assert (row.state, row.tries) == ("done", 0)
    first, second = our_hub.asked("adapter_model.safetensors")
    assert (first["range"], second["range"][:6]) == ("", "bytes=")


def test_an_answer_that_never_ends_is_given_up(
    importing_worker: Worker, our_hub: OtherSite, alice: User, tmp_path: Path
) -> None:
    our_hub.upload("m", adapter_folder(tmp_path))
    our_hub.misbehave("/api/models/otto/m")
    (row,) = ask(alice, "otto/m")
    importing_worker(HUB_TIMEOUT_SECONDS="1", HUB_RETRY_MS="20")
    wait_for_imports([row])
    assert row.state == "failed" and "did not answer in time" in row.reason


def test_a_gated_repo_is_refused_with_what_to_do(
    importing_worker: Worker, our_hub: OtherSite, alice: User, tmp_path: Path
) -> None:
    """Everybody sees that it is there; its files are for whoever has access."""
    our_hub.upload("m", adapter_folder(tmp_path))
    our_hub.client("api.update_repo_settings('otto/m', gated='manual')")
    (row,) = ask(alice, "otto/m")
    importing_worker()
    wait_for_imports([row])
    assert row.state == "refused" and "is gated on" in row.reason and "Ask its author" in row.reason
    assert not Repo.objects.exists()


def test_what_somebodys_own_account_may_see_there_is_private_here(
    importing_worker: Worker, our_hub: OtherSite, alice: User, tmp_path: Path
) -> None:
    our_hub.upload("gated", adapter_folder(tmp_path))
    our_hub.client("api.update_repo_settings('otto/gated', gated='manual')")
    our_hub.upload("closed", adapter_folder(tmp_path, 1), private=True)
    account = HubAccount.objects.create(user=alice, name="otto", token=sealed.seal(our_hub.token))
    rows = by_name(ask(alice, "otto/gated", "otto/closed"))
    importing_worker()
    wait_for_imports(rows.values())
    assert {row.state for row in rows.values()} == {"done"}
    found = dict(Repo.objects.values_list("name", "visibility"))
    assert found == {"gated": "private", "closed": "private"}

    # Once the token is revoked, the page of the account says so, and nothing is asked with it.
    HubAccount.objects.update(token=sealed.seal("lc_revoked"))
    asking.ask_for_newer(HubOrigin.objects.first(), alice)  # type: ignore[arg-type]
    wait_for_imports(Import.objects.all())
    row = Import.objects.latest("pk")
    assert row.state == "refused" and "does not take this token" in row.reason
    account.refresh_from_db()
    assert "Connect your Hugging Face account again" in account.broken


def test_bytes_that_are_not_those_of_the_list_are_thrown_away(
    importing_worker: Worker, our_hub: OtherSite, alice: User, tmp_path: Path
) -> None:
    our_hub.upload("m", adapter_folder(tmp_path))
    our_hub.misbehave("adapter_model.safetensors", status=200, message="not these", times=1)
    (row,) = ask(alice, "otto/m")
    importing_worker()
    wait_for_imports([row])
    assert row.state == "done" and row.tries == 1
    module = LoraModule.objects.get()
    assert json.loads(text_of(module, "adapter_config.json"))["peft_type"] == "LORA"


def test_limits_and_bans_hold_as_for_an_upload(
    importing_worker: Worker, our_hub: OtherSite, alice: User, tmp_path: Path
) -> None:
    our_hub.upload("m", adapter_folder(tmp_path))
    (row,) = ask(alice, "otto/m")
    importing_worker(USER_MAX_BYTES="100")
    wait_for_imports([row])
    assert row.state == "refused" and "the most for one person" in row.reason
    User.objects.filter(pk=alice.pk).update(uploads_banned_at=timezone.now())
    alice.refresh_from_db()
    with pytest.raises(Exception, match="A moderator has stopped uploads"):
        ask(alice, "otto/m")
    with pytest.raises(Exception, match="A moderator has stopped uploads"):
        asking.again(list(Import.objects.select_related("user")))


def test_private_is_what_its_author_or_its_importer_says(
    importing_worker: Worker,
    our_hub: OtherSite,
    alice: User,
    import_modules: Command,
    tmp_path: Path,
) -> None:
    our_hub.upload("open", adapter_folder(tmp_path))
    our_hub.upload("closed", adapter_folder(tmp_path, 1), private=True)
    asking.ask(
        user=alice,
        owner=alice.namespace,
        addresses=[addresses.parse("otto/open")],
        visibility=Repo.PRIVATE,
    )
    importing_worker()
    wait_for_imports(Import.objects.all())
    assert import_modules("otto/closed", HF_TOKEN=our_hub.token).returncode == 0
    found = dict(Repo.objects.values_list("name", "visibility"))
    assert found == {"open": "private", "closed": "private"}


def test_what_becomes_private_there_is_not_shown_to_everybody_here(
    our_hub: OtherSite, import_modules: Command, tmp_path: Path
) -> None:
    """The site's own token sees it still."""
    our_hub.upload("m", adapter_folder(tmp_path))
    assert import_modules("otto/m", HF_TOKEN=our_hub.token).returncode == 0
    our_hub.client("api.update_repo_settings('otto/m', private=True)")
    our_hub.upload("m", adapter_folder(tmp_path, 1), private=True)
    done = import_modules("otto/m", HF_TOKEN=our_hub.token)
    assert (
        done.returncode == 1
        and "is private on" in done.stdout
        and "not private here" in done.stdout
    )
    assert Commit.objects.count() == 1
