"""What somebody deletes while somebody else is busy with it."""

import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from hub_site.accounts.models import User
from hub_site.jobs import queue
from modules import services
from modules.checks import checking
from modules.community import collections, counting, likes, moderation
from modules.finding import keyset
from modules.locks import Gone
from modules.models import Blob, Collection, CollectionItem, Like, LoraModule, Repo
from modules.repos import ownership
from modules.storage import local
from tests.modules.conftest import Publisher, make_user

LATE: dict[str, Callable[[LoraModule, User], Any]] = {
    "delete": lambda module, user: ownership.delete(module.repo),
    "rename": lambda module, user: ownership.rename(module.repo, "antonyms"),
    "hide from others": lambda module, user: ownership.set_visibility(module.repo, "private"),
    "like": lambda module, user: likes.of_modules.set(module, user, True),
    "collect": lambda module, user: collections.add(
        collections.create(owner=user.namespace, title="Best"), module
    ),
    "moderate": lambda module, user: moderation.hide(module.repo, moderator=user, reason="spam"),
    "add a version": lambda module, user: services.commit(
        repo=module.repo, author=user, title="t", additions={"LICENSE": io.BytesIO(b"MIT")}
    ),
}


@pytest.mark.parametrize("what", LATE)
def test_whoever_comes_too_late_is_told_so(opposites: LoraModule, alice: User, what: str) -> None:
    module = LoraModule.objects.select_related("repo__owner").get(pk=opposites.pk)
    ownership.delete(Repo.objects.get(pk=module.repo_id))
    with pytest.raises(Gone, match="alice/opposites"):
        LATE[what](module, alice)


def test_a_collection_deleted_meanwhile_takes_nothing_in(
    opposites: LoraModule, alice: User
) -> None:
    best = collections.create(owner=alice.namespace, title="Best")
    Collection.objects.all().delete()
    with pytest.raises(Gone, match="Best"):
        collections.add(best, opposites)


def test_an_edit_brings_no_deleted_collection_back_and_shows_no_hidden_one(alice: User) -> None:
    best = collections.create(owner=alice.namespace, title="Best")
    moderation.hide_collection(Collection.objects.get(), moderator=alice, reason="Rude.")
    collections.change(best, title="Better")
    found = Collection.objects.get()
    assert found.title == "Better" and found.hidden_at is not None
    found.delete()
    with pytest.raises(Gone, match="Better"):
        collections.change(best, title="Best of all")
    assert not Collection.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_module_can_be_deleted_while_many_like_and_collect_it(
    alice: User, bob: User, base_model: Any, publish: Publisher
) -> None:
    people = [make_user(f"fan{number}") for number in range(6)]
    sets = [collections.create(owner=each.namespace, title="Best") for each in people]

    def act(number: int) -> bool:
        module = LoraModule.objects.select_related("repo__owner").get(repo__name=name)
        try:
            start.wait()
            if number == 0:
                ownership.delete(module.repo)
            elif number % 2:
                likes.of_modules.set(module, people[number % 6], True)
            else:
                collections.add(sets[number % 6], module)
        except Gone:
            return False
        finally:
            connection.close()
        return True

    for turn in range(4):
        name, start = f"turn-{turn}", threading.Barrier(9)
        publish(alice, name, seed=turn)
        with ThreadPoolExecutor(9) as hands:
            done = list(hands.map(act, range(9)))
        assert done[0]
        assert not LoraModule.objects.exists()
        assert not Like.objects.exists() and not CollectionItem.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_module_can_be_deleted_while_its_check_ends_and_it_is_downloaded(
    alice: User, base_model: Any, publish: Publisher
) -> None:
    """All of them write its row and look at its repo's: none may wait for another in a circle."""

    def act(number: int) -> None:
        module = LoraModule.objects.select_related("repo__owner", "commit").get(repo__name=name)
        job = queue.claim_next("test") if number == 1 else None
        try:
            start.wait()
            if number == 0:
                ownership.delete(module.repo)
            elif job is not None:
                queue.fail(job, "crashed", "It died.")
            else:
                counting.count_download(module.commit, alice, f"10.0.0.{number}")
        finally:
            connection.close()

    for turn in range(6):
        name, start = f"turn-{turn}", threading.Barrier(4)
        module = publish(alice, name, seed=turn)
        LoraModule.objects.filter(pk=module.pk).update(status=LoraModule.CHECKING)
        checking.check_later(LoraModule.objects.get(pk=module.pk), alice)
        with ThreadPoolExecutor(4) as hands:
            list(hands.map(act, range(4)))
        assert not LoraModule.objects.exists()


def test_a_list_leaves_out_what_goes_while_it_is_read(
    opposites: LoraModule, alice: User, publish: Publisher
) -> None:
    """A page is read in two steps, and rows may be deleted between them."""
    publish(alice, "other", seed=7)
    page = keyset.cut(
        LoraModule.objects.all(),
        keyset.Order("published_at"),
        load=lambda rows: rows.exclude(pk=opposites.pk),
    )
    assert [row.repo.name for row in page.items] == ["other"]


def test_a_second_press_on_delete_finds_nothing(
    client: Client, alice: User, opposites: LoraModule
) -> None:
    client.force_login(alice)
    address = "/alice/opposites/settings/delete"
    assert client.post(address, {"confirm": "opposites"}).status_code == 302
    assert client.post(address, {"confirm": "opposites"}).status_code == 404


def test_a_download_of_what_is_deleted_meanwhile_is_cut_and_told_in_one_line(
    client: Client, opposites: LoraModule, caplog: pytest.LogCaptureFixture
) -> None:
    parts = iter(client.get("/alice/opposites/download.zip").streaming_content)  # type: ignore[attr-defined]
    assert next(parts)
    ownership.delete(Repo.objects.get(pk=opposites.repo_id))
    for sha256 in Blob.objects.values_list("pk", flat=True):
        local.delete(sha256)
    with pytest.raises(ConnectionResetError):  # what the web server ends without a word
        list(parts)
    [line] = [record for record in caplog.records if record.name.startswith("modules")]
    assert "download of alice/opposites broke off" in line.getMessage() and not line.exc_info


@pytest.mark.django_db(transaction=True)
def test_whoever_has_begun_to_read_a_deleted_module_gets_all_of_it(
    client: Client, opposites: LoraModule, caplog: pytest.LogCaptureFixture
) -> None:
    before = client.get("/alice/opposites/download.zip").getvalue()
    answer = client.get("/alice/opposites/download.zip")
    ownership.delete(Repo.objects.get(pk=opposites.repo_id))
    assert answer.getvalue() == before
    assert not [record for record in caplog.records if record.exc_info]
