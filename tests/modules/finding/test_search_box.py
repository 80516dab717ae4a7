"""The search box in the head of every page."""

from typing import Any

import pytest
from django.test import Client

from hub_site.accounts.models import User
from modules.checks import checking
from modules.models import LoraModule
from tests.modules.conftest import Publisher, make_user

SEARCH = "/search/"


def test_it_finds_modules_people_and_tags(client: Client, opposites: LoraModule) -> None:
    page = client.get(SEARCH, {"q": "opp"}).content.decode()
    assert 'href="/alice/opposites"' in page and 'href="/tags/opposites/"' in page
    assert 'href="/modules/?q=opp"' in page
    page = client.get(SEARCH, {"q": "ALI"}).content.decode()
    assert 'class="row-name" href="/alice"' in page and "1 module<" in page


def test_it_finds_recipes_and_tasks_that_one_may_see(
    client: Client, opposites: LoraModule, alice: User, bob: User
) -> None:  # fmt: skip
    from composer.models import FewShotTask
    from tests.modules.finding.test_views import publish_recipe

    publish_recipe(opposites, alice, 17)
    task = FewShotTask.objects.create(owner=bob, name="Bob's 17", base_model=opposites.base_model)
    page = client.get(SEARCH, {"q": "17"}).content.decode()
    assert "Recipe 17" in page and task.get_absolute_url() not in page
    client.force_login(bob)
    assert task.get_absolute_url() in client.get(SEARCH, {"q": "17"}).content.decode()


def test_it_shows_nothing_that_is_private_hidden_or_a_guests(
    client: Client, secret: LoraModule, opposites: LoraModule, alice: User, bob: User
) -> None:  # fmt: skip
    from django.utils import timezone

    opposites.repo.hidden_at = timezone.now()
    opposites.repo.save()
    checking.update_listed(opposites)
    guest = make_user("passer-by")
    guest.is_guest = True
    guest.save()
    for text in ("opposites", "secret", "passer"):
        page = client.get(SEARCH, {"q": text}).content.decode()
        assert "Nothing fits" in page, text
    client.force_login(alice)
    assert 'href="/alice/secret"' in client.get(SEARCH, {"q": "secret"}).content.decode()


@pytest.mark.parametrize("text", ["", "?!", "a\0b", "x" * 5000, "%_\\", "<script>"])
def test_it_answers_whatever_is_typed(client: Client, opposites: LoraModule, text: str) -> None:
    answer = client.get(SEARCH, {"q": text})
    assert answer.status_code == 200 and b"<script>" not in answer.content


def test_it_sends_only_the_part_when_htmx_asks(client: Client, opposites: LoraModule) -> None:
    answer = client.get(SEARCH, {"q": "opp"}, headers={"HX-Target": "results"})
    assert answer.content.decode().lstrip().startswith('<div id="results">')


def test_every_page_has_the_box(client: Client, db: Any) -> None:
    page = client.get("/").content.decode()
    assert 'action="/search/"' in page and "data-search-key" in page
    assert client.post(SEARCH).status_code == 405


def test_it_costs_the_same_however_much_fits(
    client: Client, base_model: Any, publish: Publisher, alice: User,
    django_assert_max_num_queries: Any,
) -> None:  # fmt: skip
    for n in range(8):
        publish(alice, f"twin-{n}", seed=n)
    with django_assert_max_num_queries(14):
        page = client.get(SEARCH, {"q": "twin"}).content.decode()
    assert page.count('href="/alice/twin-') == 5
