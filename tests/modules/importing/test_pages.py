"""The pages of imports: asking, watching, and what a module's page says of where it came from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from hub_site.accounts.models import User
from hub_site.jobs import queue
from modules.importing import asking
from modules.models import BaseModel, HubOrigin, Import, LoraModule
from tests.modules.conftest import Publisher, make_user
from tests.modules.importing.conftest import adapter_folder, ask
from tests.other_site import OtherSite
from tests.workers import ROOT

pytestmark = pytest.mark.django_db
FORM = "/import/"


@pytest.fixture(autouse=True)
def hub(settings: Any) -> None:
    settings.HUB_ENDPOINT = "https://hub.example"


def send(client: Client, repos: str, **more: str) -> Any:
    return client.post(FORM, {"repos": repos, "visibility": "public", **more})


def test_it_asks_for_each_line_and_leads_to_where_they_are_watched(
    page: Client, alice: User
) -> None:
    answer = send(page, "otto/a\n\n https://hub.example/otto/b \nOTTO/A\n", visibility="private")
    rows = list(Import.objects.all())
    assert [(row.hub_id, row.visibility) for row in rows] == [
        ("otto/a", "private"), ("otto/b", "private"),
    ]  # fmt: skip
    assert {row.user for row in rows} == {alice} and {row.namespace for row in rows} == {
        alice.namespace
    }
    assert answer.status_code == 302 and answer.url == rows[0].get_absolute_url()
    watched = page.get(answer.url).content.decode()
    assert "Of 2 modules, 2 are waiting." in watched and "No worker is running" in watched
    assert "otto/a" in page.get(FORM).content.decode()


@pytest.mark.parametrize(
    ("repos", "why"),
    [
        ("", "This field is required"),
        ("gpt2", "names no repo"),
        ("https://huggingface.co/a/b", "This site imports from hub.example alone"),
        ("\n".join(f"a{n}/b" for n in range(201)), "200 are the most at once"),
        ("\n".join("x y z" for _ in range(9)), "And 4 more lines are wrong"),
        ("otto/a as b/c", "cannot be a name"),
    ],
)
def test_it_says_what_is_wrong_with_a_line_and_asks_for_nothing(
    page: Client, repos: str, why: str
) -> None:
    answer = send(page, repos)
    text = answer.content.decode()
    assert answer.status_code == 422 and why in text
    assert repos.partition("\n")[0] in text  # nothing that was typed is lost
    assert not Import.objects.exists()


def test_what_nobody_may_import_is_said_in_the_form(page: Client, alice: User) -> None:
    ask(alice, "otto/a")
    answer = send(page, "otto/a")
    assert answer.status_code == 409 and "being imported already" in answer.content.decode()
    User.objects.update(uploads_banned_at=timezone.now(), uploads_banned_reason="spam")
    answer = send(page, "otto/b")
    assert answer.status_code == 403 and "stopped uploads" in answer.content.decode()


def test_guests_and_strangers_are_led_to_an_account(client: Client, alice: User) -> None:
    assert client.get(FORM).url == f"/accounts/login/?next={FORM}"
    assert send(client, "otto/a").url == f"/accounts/login/?next={FORM}"
    guest = User.objects.create_user("guest-1", is_guest=True)
    client.force_login(guest)
    assert client.get(FORM).url == f"/accounts/signup/?next={FORM}"
    assert client.get("/upload/").status_code == 302
    client.force_login(alice)
    assert f'href="{FORM}"' in client.get("/upload/").content.decode()
    assert not Import.objects.exists()


def test_a_list_is_its_owners_alone(client: Client, alice: User, bob: User) -> None:
    (row,) = ask(alice, "otto/a")
    client.force_login(bob)
    address = row.get_absolute_url()
    for method, path in (("get", ""), ("post", "cancel/"), ("post", "again/")):
        assert getattr(client, method)(address + path).status_code == 404
    row.refresh_from_db()
    assert row.state == "waiting"
    client.force_login(alice)
    assert client.get(f"{address}cancel/").status_code == 405
    assert "otto/a" in client.get(FORM).content.decode()
    client.force_login(bob)
    assert "otto/a" not in client.get(FORM).content.decode()


def test_one_or_all_are_cancelled_and_asked_for_again(page: Client, alice: User) -> None:
    first, second, third = ask(alice, "otto/a", "otto/b", "otto/c")
    address = first.get_absolute_url()
    page.post(f"{address}cancel/", {"import": first.pk})
    assert states() == ["cancelled", "waiting", "waiting"]
    page.post(f"{address}cancel/")
    assert states() == ["cancelled"] * 3
    text = page.get(address).content.decode()
    assert "Of 3 modules, 3 are cancelled." in text and "hx-get" not in text.partition("<main")[2]
    page.post(f"{address}again/", {"import": second.pk})
    assert states() == ["cancelled", "waiting", "cancelled"]
    page.post(f"{address}again/")
    assert states() == ["waiting"] * 3
    for odd in ("x", "0", "9" * 30):
        assert page.post(f"{address}cancel/", {"import": odd}).status_code == 302
    assert states() == ["waiting"] * 3


def states() -> list[str]:
    return list(Import.objects.order_by("pk").values_list("state", flat=True))


def test_the_part_is_asked_for_until_all_have_ended(page: Client, alice: User) -> None:
    (row,) = ask(alice, "otto/a")
    part = {"HTTP_HX_TARGET": "import-rows"}
    answer = page.get(row.get_absolute_url(), **part)
    assert answer.content.decode().lstrip().startswith("<section") and "every 2s" in (
        answer.content.decode()
    )
    asking.cancel([row])
    answer = page.get(row.get_absolute_url(), **part)
    assert "every 2s" not in answer.content.decode() and answer["HX-Refresh"] == "true"


def test_a_long_list_takes_as_few_queries_as_a_short_one(
    page: Client, alice: User, django_assert_max_num_queries: Any
) -> None:
    rows = ask(alice, *(f"otto/m{n}" for n in range(60)))
    with django_assert_max_num_queries(8):
        page.get(rows[0].get_absolute_url())


# --- a module's page ---------------------------------------------------------------------------


@pytest.fixture
def origin(alice: User, base_model: BaseModel, publish: Publisher) -> HubOrigin:
    module = publish(alice, "opposites")
    return HubOrigin.objects.create(
        repo=module.repo,
        endpoint="https://hub.example",
        hub_id="otto/opposites",
        hub_sha="a" * 40,
        files={},
        imported_at=timezone.now(),
        checked_at=timezone.now(),
    )


def test_it_says_where_a_module_came_from(client: Client, origin: HubOrigin, page: Client) -> None:
    address = origin.repo.get_absolute_url()
    text = client.get(address).content.decode()
    assert 'href="https://hub.example/otto/opposites"' in text
    assert f"https://hub.example/otto/opposites/tree/{'a' * 40}" in text
    assert "Look for a newer version" not in text and "Weights came as" not in text
    module = LoraModule.objects.get()
    HubOrigin.objects.update(
        trouble="It is gone.",
        converted={
            "file": "adapter_model.bin", "size": 5, "sha256": "b" * 64, "tensors": 4,
            "result_sha256": module.weights_sha256,
        },
    )  # fmt: skip
    text = page.get(address).content.decode()
    assert "It is gone. The module here stays." in text and "b" * 64 in text
    assert "Look for a newer version" in text
    # New weights were uploaded here since: those were never a pickle.
    HubOrigin.objects.update(converted={"result_sha256": "c" * 64})
    assert "Weights came as" not in page.get(address).content.decode()


def test_its_owner_looks_for_a_newer_version_and_says_whether_it_follows(
    client: Client, page: Client, origin: HubOrigin, bob: User
) -> None:
    look = reverse("modules:origin_look", args=["alice", "opposites"])
    follow = reverse("modules:origin_follow", args=["alice", "opposites"])
    answer = page.post(look)
    row = Import.objects.get()
    assert answer.url == row.get_absolute_url()
    assert (row.hub_id, row.name, row.namespace) == (
        "otto/opposites", "opposites", origin.repo.owner,
    )  # fmt: skip
    assert page.post(look).url == origin.repo.get_absolute_url()  # it is under way
    assert Import.objects.count() == 1

    page.post(follow, {"follows": "no"})
    origin.refresh_from_db()
    assert not origin.follows
    assert (
        "are not taken by themselves" in page.get(origin.repo.get_absolute_url()).content.decode()
    )
    page.post(follow, {"follows": "yes"})
    origin.refresh_from_db()
    assert origin.follows

    for address in (look, follow):
        assert page.get(address).status_code == 405
        assert client.post(address).url.startswith("/accounts/login/?next=/alice/opposites")
        client.force_login(bob)
        assert client.post(address).status_code == 404
        client.logout()
    origin.refresh_from_db()
    assert origin.follows and Import.objects.count() == 1


def test_a_module_that_was_not_imported_has_nothing_to_look_for(
    page: Client, opposites: LoraModule
) -> None:
    look = reverse("modules:origin_look", args=["alice", "opposites"])
    assert page.post(look).status_code == 404
    assert "Imported from" not in page.get(opposites.get_absolute_url()).content.decode()


def test_leaving_takes_imports_along_and_ends_what_is_under_way(alice: User) -> None:
    from hub_site.accounts import leaving

    ask(alice, "otto/a")
    leaving.delete_account(alice, keep_public=True)
    assert not Import.objects.exists() and queue.claim_next("test") is None


def test_an_imported_module_that_stays_when_its_owner_leaves_follows_nobody(
    alice: User, origin: HubOrigin
) -> None:
    from hub_site.accounts import leaving
    from modules.importing import following

    HubOrigin.objects.update(checked_at=timezone.now() - 2 * following.EVERY)
    assert list(following._due()) == [origin]
    leaving.delete_account(alice, keep_public=True)
    assert HubOrigin.objects.exists() and list(following._due()) == []


# --- all of an author's --------------------------------------------------------------------------

FIND = """
import django
django.setup()
from django.test import Client
from hub_site.accounts.models import User
client = Client(HTTP_HOST="127.0.0.1")
client.force_login(User.objects.get(username="alice"))
import sys
answer = client.get("/import/", {"author": sys.argv[1], "search": sys.argv[2]})
print(answer.status_code)
print(answer.content.decode())
"""


def find(hub_settings: dict[str, str], author: str, search: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", FIND, author, search],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.web_settings", **hub_settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_all_of_an_authors_are_listed_to_look_through_first(
    our_hub: OtherSite, hub_settings: dict[str, str], tmp_path: Path
) -> None:
    make_user("alice")
    our_hub.upload_all({f"m-{n}": adapter_folder(tmp_path, n) for n in range(3)})
    text = find(hub_settings, "otto", "m")
    assert text.startswith("200") and "3 repos of otto stand below" in text
    assert all(f"otto/m-{n}\n" in text or f"otto/m-{n}<" in text for n in range(3))
    assert "has no repo on" in find(hub_settings, "nobody")
    assert find(hub_settings, "a b").startswith("422")
    our_hub.kill()
    text = find(hub_settings | {"HUB_TIMEOUT_SECONDS": "2"}, "otto")
    assert text.startswith("503") and "cannot be reached" in text
    assert not Import.objects.exists()
