"""Downloads counted once a visitor, version and day; trending made of them and of likes."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from hub_site.accounts import tokens
from hub_site.accounts.models import User
from modules import services
from modules.community import counting, likes
from modules.community.trending import update_trending
from modules.models import BaseModel, Download, Like, LoraModule, Repo
from tests.modules.conftest import make_user

FILE = "/alice/opposites/resolve/main/adapter_model.safetensors"
ZIP = "/alice/opposites/download.zip"


def counted(module: LoraModule) -> int:
    """Both counts, which are always the same."""
    module.refresh_from_db(fields=["downloads"])
    assert Repo.objects.get(pk=module.repo_id).downloads == module.downloads
    return module.downloads


def fetch(client: Client, url: str = FILE, **headers: str) -> bytes:
    answer: Any = client.get(url, headers=headers)
    assert answer.status_code in (200, 206)
    body: bytes = answer.getvalue()
    return body


def test_the_same_visitor_counts_once_a_day(client: Client, opposites: LoraModule) -> None:
    for url in (FILE, ZIP, FILE):
        fetch(client, url)
    assert counted(opposites) == 1


def test_an_address_and_two_users_are_three_visitors(
    client: Client, alice: User, bob: User, opposites: LoraModule
) -> None:
    fetch(client)
    for user in (alice, bob):
        client.force_login(user)
        fetch(client)
    assert counted(opposites) == 3


def test_new_guests_are_no_new_visitors(client: Client, opposites: LoraModule) -> None:
    fetch(client)
    for number in range(3):
        client.force_login(User.objects.create(username=f"guest-{number}", is_guest=True))
        fetch(client)
    assert counted(opposites) == 1


def test_a_users_program_and_browser_are_one_visitor(
    client: Client, bob: User, opposites: LoraModule
) -> None:
    token = tokens.create_token(bob, name="t", scope="read")[1]
    fetch(client, Authorization=f"Bearer {token}")
    client.force_login(bob)
    fetch(client)
    assert counted(opposites) == 1


def test_behind_a_proxy_visitors_are_told_apart_by_the_address_it_saw(
    client: Client, opposites: LoraModule, settings: Any
) -> None:
    def visit(*addresses: str) -> None:
        for address in addresses:
            fetch(client, **{"X-Forwarded-For": address})

    visit("203.0.113.1", "203.0.113.2")
    assert counted(opposites) == 1  # nobody vouches for these
    settings.ALLAUTH_TRUSTED_PROXY_COUNT = 1
    visit("203.0.113.1", "made-up, 203.0.113.1", "203.0.113.2")
    assert counted(opposites) == 3


def test_a_new_version_and_a_new_day_count_again(
    client: Client, alice: User, opposites: LoraModule
) -> None:
    fetch(client)
    services.commit(
        repo=opposites.repo, author=alice, title="x", additions={"a.md": io.BytesIO(b"x")}
    )
    fetch(client)
    assert counted(opposites) == 2
    Download.objects.update(day=timezone.now().date() - timedelta(days=1))
    fetch(client)
    assert counted(opposites) == 3


def test_heads_ranges_and_what_one_has_do_not_count(client: Client, opposites: LoraModule) -> None:
    client.head(FILE)
    client.head(ZIP)
    for part in ("bytes=10-", "bytes=0-9", "bytes=0-"):
        fetch(client, Range=part)
    etag = client.head(FILE)["ETag"]
    assert client.get(FILE, headers={"If-None-Match": etag}).status_code == 304
    fetch(client, "/alice/opposites/resolve/main/README.md")
    assert counted(opposites) == 0


@pytest.mark.django_db(transaction=True)
def test_a_download_that_was_broken_off_does_not_count(
    client: Client, opposites: LoraModule
) -> None:
    for url in (FILE, ZIP):
        answer: Any = client.get(url)
        next(iter(answer))
        answer.close()
    assert counted(opposites) == 0


def test_base_models_are_counted_too(client: Client, base_model: BaseModel) -> None:
    assert base_model.repo is not None
    fetch(client, f"{base_model.repo.get_absolute_url()}/download.zip")
    base_model.repo.refresh_from_db()
    assert base_model.repo.downloads == 1


def test_who_it_was_cannot_be_read_from_a_row(
    client: Client, bob: User, opposites: LoraModule
) -> None:
    client.force_login(bob)
    fetch(client)
    today = Download.objects.get()
    Download.objects.all().delete()
    counting.count_download(opposites.commit, bob, "")
    assert Download.objects.get().visitor == today.visitor
    tomorrow = timezone.now().date() + timedelta(days=1)
    other = counting.visitor_hash("modules.download", bob, "", tomorrow)
    assert other != today.visitor and len(other) == 32


@pytest.mark.django_db(transaction=True)
def test_it_counts_exactly_when_many_download_at_once(opposites: LoraModule) -> None:
    def visit(number: int) -> None:
        try:
            counting.count_download(opposites.commit, AnonymousUser(), f"192.0.2.{number % 10}")
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as visitors:
        list(visitors.map(visit, range(40)))
    assert counted(opposites) == 10 == Download.objects.count()


@pytest.mark.django_db(transaction=True)
def test_a_download_that_cannot_be_counted_is_still_a_download(
    client: Client, opposites: LoraModule
) -> None:
    """Somebody holds the repo's row, as an upload does, for as long as we look."""
    holds, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic():
                Repo.objects.select_for_update().get(pk=opposites.repo_id)
                holds.set()
                let_go.wait(60)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as other:
        other.submit(hold)
        assert holds.wait(60)
        try:
            body = fetch(client)
        finally:
            let_go.set()
    assert len(body) == opposites.weights_size
    assert counted(opposites) == 0


# --- trending ---


def days_ago(days: int) -> Any:
    return timezone.now().date() - timedelta(days=days)


def download(module: LoraModule, days: int, visitor: str) -> None:
    Download.objects.create(
        repo=module.repo, commit=module.commit, day=days_ago(days), visitor=visitor
    )


def trending(module: LoraModule) -> float:
    module.refresh_from_db(fields=["trending"])
    return module.trending


def test_a_download_is_worth_half_as_much_after_a_week(opposites: LoraModule) -> None:
    download(opposites, 0, "a")
    update_trending()
    assert trending(opposites) == pytest.approx(1)
    download(opposites, 7, "b")
    download(opposites, 14, "c")
    update_trending()
    assert trending(opposites) == pytest.approx(1.75)


def test_a_like_is_worth_more_and_fades_alike(opposites: LoraModule, bob: User) -> None:
    likes.of_modules.set(opposites, bob, True)
    update_trending()
    assert trending(opposites) == pytest.approx(3, rel=1e-3)
    Like.objects.update(created_at=timezone.now() - timedelta(days=7))
    update_trending()
    assert trending(opposites) == pytest.approx(1.5, rel=1e-3)


def test_what_nobody_wants_any_more_ends_at_nothing(opposites: LoraModule) -> None:
    download(opposites, 29, "a")
    update_trending()
    assert 0 < trending(opposites) < 0.1
    Download.objects.update(day=days_ago(31))
    assert update_trending() == 1 and trending(opposites) == 0
    assert update_trending() == 0  # and is not written again and again


def test_it_is_one_statement_however_many_modules(
    alice: User, publish: Any, django_assert_num_queries: Any
) -> None:
    for number in range(3):
        download(publish(alice, f"m{number}", seed=number), number, "a")
    with django_assert_num_queries(1):
        assert update_trending() == 3
    order = [str(module.repo.name) for module in LoraModule.objects.order_by("-trending")]
    assert order == ["m0", "m1", "m2"]


def test_old_downloads_are_forgotten_and_stay_counted(
    client: Client, opposites: LoraModule
) -> None:
    fetch(client)
    download(opposites, 30, "kept")
    Download.objects.filter(visitor__regex="^.{32}$").update(day=days_ago(31))
    assert counting.prune_downloads() == 1
    assert Download.objects.get().visitor == "kept"
    assert counted(opposites) == 1


# --- likes ---


@pytest.mark.django_db(transaction=True)
def test_likes_are_counted_exactly_when_many_press_at_once(
    opposites: LoraModule, bob: User
) -> None:
    people = [bob, *(make_user(f"fan{number}") for number in range(5))]

    def press(number: int) -> None:
        try:
            module = LoraModule.objects.get(pk=opposites.pk)
            likes.of_modules.set(module, people[number % 6], number % 4 != 3)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as fans:
        list(fans.map(press, range(48)))
    opposites.refresh_from_db()
    assert opposites.likes == Like.objects.count()
    for each in people:
        likes.of_modules.set(opposites, each, True)
        likes.of_modules.set(opposites, each, True)
    assert opposites.likes == 6 == Like.objects.count()


def test_an_account_that_goes_takes_its_likes_along(opposites: LoraModule, bob: User) -> None:
    likes.of_modules.set(opposites, bob, True)
    likes.of_modules.take_back_all(bob)
    bob.delete()
    opposites.refresh_from_db()
    assert opposites.likes == 0 == Like.objects.count()
