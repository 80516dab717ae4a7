"""A module's page: its facts, its states, and what is like it."""

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from hub_site.accounts.models import User
from modules import services
from modules.community import likes
from modules.models import LoraModule, Repo
from modules.repos.similar import similar_to
from modules.storage import local
from tests.modules.conftest import Publisher

PAGE = "/alice/opposites"
POLL = {"HX-Request": "true", "HX-Target": "module-status"}
CARD = """---
license: apache-2.0
tags: [{tags}]
---
# A module
"""


def names(modules: Any) -> list[str]:
    return [module.repo.name for module in modules]


def text(client: Client, url: str = PAGE) -> str:
    return client.get(url).content.decode()


def test_it_shows_the_facts(client: Client, opposites: LoraModule) -> None:
    LoraModule.objects.filter(pk=opposites.pk).update(
        task="text2text-generation", variant={"use_dora": True, "rank_pattern": {"q": 4}}
    )
    page = text(client)
    for fact in (
        "lora-commons/tiny-t5", "text2text-generation", "<dt>DoRA</dt><dd>yes</dd>", "q: 4",
        "F32", "apache-2.0", "× 2", opposites.weights_sha256[:10],
    ):  # fmt: skip
        assert fact in page, fact


def test_it_says_why_it_cannot_be_composed(client: Client, opposites: LoraModule) -> None:
    LoraModule.objects.filter(pk=opposites.pk).update(not_composable="It uses DoRA.")
    page = text(client)
    assert "It uses DoRA." in page and "Use in a composition" not in page


def test_it_turns_ready_by_itself(client: Client, opposites: LoraModule) -> None:
    rows = LoraModule.objects.filter(pk=opposites.pk)
    rows.update(status="checking")
    assert 'hx-trigger="every 2s"' in text(client)
    part = client.get(PAGE, headers=POLL)
    assert "<html" not in part.content.decode() and "HX-Refresh" not in part.headers
    rows.update(status="ready")
    part = client.get(PAGE, headers=POLL)
    assert part["HX-Refresh"] == "true" and "every 2s" not in part.content.decode()
    assert "every 2s" not in text(client) and "HX-Refresh" not in client.get(PAGE).headers


def test_the_owners_links_are_for_the_owner(
    client: Client, alice: User, bob: User, opposites: LoraModule
) -> None:
    links = (f"{PAGE}/upload", f"{PAGE}/settings")
    client.force_login(bob)
    page = text(client)
    assert not any(f'href="{link}"' in page for link in links) and f"{PAGE}/report" in page
    client.force_login(alice)
    page = text(client)
    assert all(f'href="{link}"' in page for link in links) and f"{PAGE}/report" not in page


def test_a_file_that_the_store_lost_does_not_break_the_page(
    client: Client, alice: User, base_model: Any, publish: Publisher
) -> None:
    module = publish(alice, "lost", seed=77)
    local.delete(module.weights_sha256)
    assert client.get("/alice/lost").status_code == 200


def test_similar_modules_share_base_tags_task_and_targets(
    client: Client, alice: User, base_model: Any, publish: Publisher
) -> None:
    one = publish(alice, "one", seed=1, card=CARD.format(tags="verbs, past, english"))
    publish(alice, "two-tags", seed=2, card=CARD.format(tags="verbs, past"))
    publish(alice, "one-tag", seed=3, card=CARD.format(tags="verbs"))
    publish(alice, "no-tag", seed=4, card=CARD.format(tags="numbers"))
    publish(alice, "other-base", seed=5, base_model_name_or_path="someone/else",
            card=CARD.format(tags="verbs, past, english"))  # fmt: skip
    assert names(similar_to(one)) == ["two-tags", "one-tag", "no-tag"]
    LoraModule.objects.filter(repo__name__in=["one", "no-tag"]).update(task="inflection")
    one.refresh_from_db()
    assert names(similar_to(one)) == ["two-tags", "no-tag", "one-tag"]


@pytest.mark.parametrize("change", [{"visibility": "private"}, {"hidden_at": timezone.now()}])
def test_private_and_hidden_modules_are_like_nothing(
    client: Client, alice: User, base_model: Any, publish: Publisher, change: dict[str, Any]
) -> None:
    publish(alice, "one", seed=1)
    other = publish(alice, "other", seed=2)
    Repo.objects.filter(pk=other.repo_id).update(**change)
    services.update_listed(other)
    for user in (None, alice):
        if user:
            client.force_login(user)
        assert names(client.get("/alice/one").context["similar"]) == []


def test_likes_of_others_are_counted_on_it(
    client: Client, bob: User, opposites: LoraModule
) -> None:
    likes.of_modules.set(opposites, bob, True)
    assert '<span class="num">1</span>' in text(client)


def test_the_page_costs_the_same_however_much_hangs_on_it(
    client: Client, alice: User, bob: User, opposites: LoraModule, publish: Publisher
) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            client.get(PAGE)
        return len(queries)

    publish(alice, "other", seed=1)
    before = cost()
    for number in range(2, 6):
        publish(alice, f"m{number}", seed=number)
    assert cost() == before
