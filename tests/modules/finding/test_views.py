import json
import re
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from django.test import Client
from django.urls import get_resolver

from hub_site.accounts import names
from hub_site.accounts.models import User
from modules import services
from modules.checks import checking
from modules.models import LoraModule, Repo
from modules.querysets import search_words
from tests.modules.conftest import CARD, Publisher, make_user

LIST = "/modules/"


def rows(answer: Any) -> list[str]:
    """The names in a list, in their order."""
    return re.findall(r'class="row-name" href="[^"]*">([^<]*)<', answer.content.decode())


@pytest.fixture
def three(alice: User, base_model: Any, publish: Publisher) -> list[LoraModule]:
    """zebra (oldest), apple, middle (newest)."""
    card = CARD.replace("opposites", "beasts").replace("opposite of", "plural of")
    return [
        publish(alice, "zebra-tail", seed=1),
        publish(alice, "apple-pie", seed=2, r=4, card=card),
        publish(alice, "middle-way", seed=3, base_model_name_or_path="someone/else"),
    ]


# --- the list ---


def test_it_lists_modules_newest_first(client: Client, three: Any) -> None:
    answer = client.get(LIST)
    assert answer.status_code == 200
    assert rows(answer) == ["middle-way", "apple-pie", "zebra-tail"]


def test_it_lists_modules_in_other_orders(client: Client, three: Any) -> None:
    assert rows(client.get(LIST, {"sort": "name"})) == ["apple-pie", "middle-way", "zebra-tail"]
    assert rows(client.get(LIST, {"sort": "best"})) == ["middle-way", "apple-pie", "zebra-tail"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": "zeb"}, ["zebra-tail"]),
        ({"q": "ZEBRA tail"}, ["zebra-tail"]),
        ({"q": "alice/apple"}, ["apple-pie"]),
        ({"q": "beasts"}, ["apple-pie"]),
        ({"q": "plural"}, ["apple-pie"]),
        ({"q": "opposite zeb"}, ["zebra-tail"]),
        ({"q": "eighty wörds"}, ["middle-way", "apple-pie", "zebra-tail"]),
        ({"q": "nothing like this"}, []),
        ({"q": "?!"}, []),
        ({"q": "' & ! <-> :*"}, []),
        ({"r": "4"}, ["apple-pie"]),
        ({"tag": "Beasts"}, ["apple-pie"]),
        ({"tag": ["beasts", "words"]}, ["apple-pie"]),
        ({"tag": ["beasts", "opposites"]}, []),
        ({"target": ["q", "v"]}, ["middle-way", "apple-pie", "zebra-tail"]),
        ({"target": "k"}, []),
        ({"base_model": "lora-commons/tiny-t5"}, ["apple-pie", "zebra-tail"]),
        ({"base_model": "someone/else"}, ["middle-way"]),
        ({"owner": "ALICE", "sort": "name"}, ["apple-pie", "middle-way", "zebra-tail"]),
        ({"owner": "bob"}, []),
    ],
)
def test_it_finds_modules(client: Client, three: Any, query: Any, found: list[str]) -> None:
    answer = client.get(LIST, query)
    assert answer.status_code == 200
    assert sorted(rows(answer)) == sorted(found)


@pytest.mark.parametrize(
    "text",
    [
        "㌀" * 200,
        "ﷺ" * 200,
        "x" * 200,
        "1e5 0x1f -3 1.5",
        "½ ² ª",
        "a'b\\c",
        ":* | !",
        "日本語 ไทย",
        "a_b-c/d.e@f",
    ],
)  # fmt: skip
def test_it_survives_any_words(client: Client, three: Any, text: str) -> None:
    assert client.get(LIST, {"q": text}).status_code == 200


def test_a_name_weighs_more_than_a_card(
    client: Client, alice: User, base_model: Any, publish: Publisher
) -> None:
    publish(alice, "capital", seed=1)
    publish(alice, "other", seed=2, card=CARD + "\nNot the capital.\n")
    assert rows(client.get(LIST, {"q": "capital"})) == ["capital", "other"]


def test_words_are_found_without_accents_and_capitals() -> None:
    assert search_words("Élan_vitalT5 №5-a/b") == ["elan", "vital", "t5", "no5", "a", "b"]


@pytest.mark.parametrize(
    "query",
    [
        {"r": "many"}, {"r": "0"}, {"sort": "sideways"}, {"q": "x" * 201}, {"q": "a\0b"},
        {"tag": ["a"] * 3 + [str(n) for n in range(11)]}, {"target": "y" * 61}, {"tag": "a\0b"},
    ],
)  # fmt: skip
def test_it_says_which_filter_it_could_not_read(client: Client, three: Any, query: Any) -> None:
    answer = client.get(LIST, query)
    assert answer.status_code == 422
    assert "was left out" in answer.content.decode()
    assert len(rows(answer)) == 3


@pytest.mark.parametrize(
    "cursor",
    ["nonsense", "W10", "eyJhIjoxfQ", "WyJhZnRlciIsICJwdWJsaXNoZWRfYXQiLCAieCIsIDFd", "é"],
)
def test_it_says_that_a_page_link_is_damaged(client: Client, three: Any, cursor: str) -> None:
    answer = client.get(LIST, {"after": cursor})
    assert answer.status_code == 422
    assert "damaged" in answer.content.decode()


@pytest.mark.parametrize(
    ("query", "key", "value"),
    [
        ({}, "published_at", {"time": "0001-01-01T00:00:00+23:59"}),
        ({}, "published_at", {"time": "9999-12-31T23:59:59-23:59"}),
        ({"sort": "likes"}, "likes", float("inf")),
        ({"sort": "downloads"}, "downloads", 2**70),
        ({"sort": "name"}, "name_key", "\ud800"),
        ({"q": "module"}, "rank", 10**400),
    ],
)
def test_a_page_link_with_an_impossible_value_is_damaged(
    client: Client, three: Any, query: dict[str, str], key: str, value: Any
) -> None:
    cursor = urlsafe_b64encode(json.dumps(["after", key, value, 1]).encode()).decode()
    assert client.get(LIST, query | {"after": cursor}).status_code == 422


def test_a_page_link_of_another_order_is_refused(
    client: Client, alice: User, base_model: Any, publish: Publisher
) -> None:
    for n in range(21):
        publish(alice, f"m{n:02}", seed=n)
    after = client.get(LIST).context["page"].next
    assert client.get(LIST, {"after": after, "sort": "name"}).status_code == 422


def test_its_pages_hold_every_module_once(
    client: Client, alice: User, base_model: Any, publish: Publisher
) -> None:
    for n in range(45):
        publish(alice, f"m{(n * 7) % 45:02}")
    for sort in ("trending", "downloads", "likes", "newest", "name", "best"):
        query = {"sort": sort, "q": "alice"}
        pages = []
        after: str | None = ""
        while after is not None:
            answer = client.get(LIST, query | ({"after": after} if after else {}))
            pages.append(rows(answer))
            after = answer.context["page"].next or None
        assert [len(page) for page in pages] == [20, 20, 5]
        seen = [name for page in pages for name in page]
        assert len(set(seen)) == 45
        if sort == "name":
            assert seen == sorted(seen)
        back = client.get(LIST, query | {"after": answer.context["page"].previous})
        assert rows(back) == pages[1]
        first = client.get(LIST, query | {"after": back.context["page"].previous})
        assert rows(first) == pages[0]
        assert first.context["page"].previous == ""


def test_the_list_costs_the_same_for_10_rows_and_20(
    client: Client, alice: User, base_model: Any, publish: Publisher,
    django_assert_num_queries: Any,
) -> None:  # fmt: skip
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    counts = []
    for start in (0, 10):
        for n in range(start, start + 10):
            publish(alice, f"m{n}", seed=n)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert len(rows(client.get(LIST))) == start + 10
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 8


def test_its_facets_are_links_that_narrow(client: Client, three: Any) -> None:
    facets = {facet.name: facet for facet in client.get(LIST).context["facets"]}
    assert {c.label: c.count for c in facets["base_model"].choices} == {
        "lora-commons/tiny-t5": 2,
        "someone/else": 1,
    }
    assert {c.label: c.count for c in facets["target"].choices} == {"q": 3, "v": 3}
    assert {c.label: c.count for c in facets["r"].choices} == {"2": 2, "4": 1}
    assert {c.label: c.count for c in facets["tag"].choices} == {
        "words": 3, "opposites": 2, "beasts": 1,
    }  # fmt: skip
    for facet in facets.values():
        for choice in facet.choices:
            narrowed = client.get(f"{LIST}?{choice.query}")
            assert len(rows(narrowed)) == choice.count
            again = next(f for f in narrowed.context["facets"] if f.name == facet.name)
            on = next(c for c in again.choices if c.label == choice.label)
            assert on.is_on and on.query == ""


def test_it_keeps_the_other_filters_when_you_search(client: Client, three: Any) -> None:
    page = client.get(LIST, {"tag": "words", "sort": "name"}).content.decode()
    assert '<input type="hidden" name="tag" value="words">' in page
    assert '<input type="hidden" name="sort" value="name">' in page


def test_it_sends_only_the_part_when_htmx_asks(client: Client, three: Any) -> None:
    answer = client.get(LIST, headers={"HX-Request": "true", "HX-Target": "found"})
    assert answer.content.decode().lstrip().startswith('<div class="facets-and-list" id="found">')


def test_an_empty_library_says_what_would_stand_here(client: Client, db: None) -> None:
    assert "The library is empty" in client.get(LIST).content.decode()


def test_a_search_without_result_offers_a_way_on(client: Client, three: Any) -> None:
    assert "Show all modules" in client.get(LIST, {"q": "xyz"}).content.decode()


def test_it_escapes_what_visitors_and_authors_write(
    client: Client, alice: User, base_model: Any, publish: Publisher
) -> None:
    evil = "<script>alert(1)</script>"
    publish(
        alice, "evil", card=f"---\nlicense: '{evil}'\n---\nHello {evil} <img src=x onerror=y>\n"
    )
    for url in (LIST, f"{LIST}?q={evil}", "/alice/evil"):
        page = client.get(url).content.decode()
        assert evil not in page and "<img src=x" not in page


def test_strangers_do_not_see_private_or_rejected_modules(
    client: Client, bob: User, alice: User, secret: LoraModule, opposites: LoraModule
) -> None:
    opposites.reject("Not finite.")
    checking.update_listed(opposites)
    for visitor, seen in ((None, []), (bob, []), (alice, ["secret"])):
        if visitor:
            client.force_login(visitor)
        answer = client.get(LIST)
        assert rows(answer) == seen
        assert sum(
            c.count for f in answer.context["facets"] for c in f.choices if f.name == "r"
        ) == (len(seen))


# --- a module's page ---


def test_a_modules_page_says_what_it_is(client: Client, opposites: LoraModule) -> None:
    answer = client.get("/alice/opposites")
    page = answer.content.decode()
    assert answer.status_code == 200
    assert "Trained on <em>eighty</em> words." in page
    for said in (
        "apache-2.0",
        "lora-commons/tiny-t5",
        "adapter_model.safetensors",
        "All 64 values",
    ):
        assert said in page
    assert opposites.weights_sha256 in page
    assert "/tasks/new/?module=alice/opposites" in page
    assert f"/alice/opposites/resolve/{opposites.commit.sha}/README.md" in page
    assert "No published recipe uses it yet" in page


def test_capitals_do_not_matter_in_an_address(client: Client, opposites: LoraModule) -> None:
    assert client.get("/Alice/OPPOSITES").status_code == 200


def test_it_shows_an_older_version(client: Client, opposites: LoraModule, alice: User) -> None:
    import io

    old = opposites.commit.sha
    services.commit(
        repo=opposites.repo, author=alice, title="Say more",
        additions={"README.md": io.BytesIO(b"Entirely new words.")},
    )  # fmt: skip
    page = client.get("/alice/opposites").content.decode()
    assert "Entirely new words." in page and "Say more" in page
    older = client.get("/alice/opposites", {"revision": old}).content.decode()
    assert "eighty" in older and "older version" in older
    for revision in ("f" * 40, "nope", "a\0b"):
        assert client.get("/alice/opposites", {"revision": revision}).status_code == 404


def test_a_slash_at_the_end_leads_to_the_page(client: Client, opposites: LoraModule) -> None:
    answer = client.get("/alice/opposites/?revision=main")
    assert (answer.status_code, answer["Location"]) == (302, "/alice/opposites?revision=main")
    assert client.get("/alice/")["Location"] == "/alice"


def test_only_the_owner_of_a_rejected_module_sees_why(
    client: Client, alice: User, bob: User, opposites: LoraModule
) -> None:
    found = {"name": "finite", "title": "Values", "state": "failed", "detail": "Look at q."}
    opposites.reject("3 values are NaN.", [found])
    for user in (None, bob):
        if user:
            client.force_login(user)
        page = client.get("/alice/opposites").content.decode()
        assert "It did not pass its checks" in page and "/tasks/new/?module=" not in page
        told = client.get("/api/v1/modules/alice/opposites/").content.decode()
        for text in (page, told):
            assert "3 values are NaN." not in text and "Look at q." not in text
    client.force_login(alice)
    told = client.get("/api/v1/modules/alice/opposites/").content.decode()
    assert "3 values are NaN." in told and "Look at q." in told
    page = client.get("/alice/opposites").content.decode()
    assert "3 values are NaN." in page and "Look at q." in page


def test_a_module_that_cannot_be_composed_says_so(
    client: Client, alice: User, base_model: Any, publish: Publisher
) -> None:
    publish(alice, "foreign", base_model_name_or_path="someone/else")
    page = client.get("/alice/foreign").content.decode()
    assert "not composed here" in page and "/tasks/new/?module=" not in page


def test_a_repo_without_files_has_a_page(client: Client, alice: User) -> None:
    for kind in (Repo.LORA, Repo.BASE):
        services.create_repo(owner=alice.namespace, name=kind, kind=kind)
        answer = client.get(f"/alice/{kind}")
        assert answer.status_code == 200 and "No files yet" in answer.content.decode()


def test_a_private_module_is_to_others_as_if_it_were_not_there(
    client: Client, alice: User, bob: User, secret: LoraModule
) -> None:
    missing = client.get("/alice/missing")
    for visitor in (None, bob):
        if visitor:
            client.force_login(visitor)
        assert client.get("/alice/secret").status_code == missing.status_code == 404
    client.force_login(alice)
    page = client.get("/alice/secret").content.decode()
    assert "private" in page and "COMMONS_TOKEN" in page


def test_a_modules_page_costs_the_same_with_many_recipes(
    client: Client, opposites: LoraModule, alice: User
) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    counts = []
    for made in (1, 5):
        for n in range(made):
            publish_recipe(opposites, alice, made * 10 + n)
        with CaptureQueriesContext(connection) as queries:
            page = client.get("/alice/opposites").content.decode()
        counts.append(len(queries))
        assert f"Recipe {made * 10}" in page
    assert counts[0] == counts[1] <= 15
    assert "in 6 recipes" in client.get(LIST).content.decode()


def publish_recipe(module: LoraModule, user: User, number: int) -> Any:
    from django.apps import apps
    from django.utils import timezone

    recipe = apps.get_model("composer", "Recipe").objects.create(
        digest=f"{number:064x}",
        document={},
        title=f"Recipe {number}",
        base_model=module.base_model,
        published_at=timezone.now(),
        published_by=user,
    )
    recipe.ingredients.create(
        position=0,
        lora_module=module,
        name=str(module),
        revision=module.commit.sha,
        weights_sha256=module.weights_sha256,
        weight=0.5,
    )
    return recipe


def test_an_unpublished_recipe_is_nobodys_business(
    client: Client, opposites: LoraModule, alice: User
) -> None:
    recipe = publish_recipe(opposites, alice, 1)
    recipe.published_at = None
    recipe.save()
    assert "Recipe 1" not in client.get("/alice/opposites").content.decode()
    assert "in no recipe yet" in client.get(LIST).content.decode()


# --- base models and profiles ---


def test_a_base_models_page_lists_its_modules(client: Client, opposites: LoraModule) -> None:
    page = client.get("/lora-commons/tiny-t5").content.decode()
    for said in ("encoder-decoder", "152", "opposites", "model.safetensors", "A tiny base model."):
        assert said in page


def test_a_profile_shows_what_somebody_shares(
    client: Client, alice: User, bob: User, opposites: LoraModule, secret: LoraModule
) -> None:
    publish_recipe(opposites, alice, 7)
    answer = client.get("/alice")
    assert rows(answer) == ["opposites", "Recipe 7"]
    client.force_login(bob)
    assert rows(client.get("/alice")) == ["opposites", "Recipe 7"]
    client.force_login(alice)
    assert "secret" in rows(client.get("/ALICE"))
    assert rows(client.get("/lora-commons")) == ["tiny-t5"]
    assert client.get("/nobody").status_code == 404


def test_a_guest_has_no_profile(client: Client, db: None) -> None:
    guest = make_user("guest-123")
    guest.is_guest = True
    guest.save()
    assert client.get("/guest-123").status_code == 404


# --- addresses ---


@pytest.mark.parametrize("url", [LIST, "/alice", "/alice/opposites", "/lora-commons/tiny-t5"])
def test_pages_only_answer_questions(client: Client, opposites: LoraModule, url: str) -> None:
    assert client.post(url).status_code == 405
    assert client.delete(url).status_code == 405
    assert client.head(url).status_code == 200


def test_our_own_addresses_are_nobodys_name(client: Client, db: None) -> None:
    """Every first segment that the URLconf knows is a name that nobody can take."""
    firsts = set()
    for pattern in get_resolver().url_patterns:
        for inner in getattr(pattern, "url_patterns", [pattern]):
            full = str(pattern.pattern) if pattern is not inner else ""
            route = (full + str(inner.pattern)).lstrip("^")
            first = re.split(r"[/$]", route)[0].replace("\\", "")
            if first and not first.startswith("<"):
                firsts.add(first)
    assert {"modules", "tasks", "jobs", "recipes", "accounts", "admin", "api", "try"} <= firsts
    assert firsts <= names.OURS
    for name in sorted(firsts):
        assert names.problem(name) is not None
    assert client.get("/modules").status_code == 301  # not somebody called "modules"


def test_the_filters_that_are_on_can_be_taken_away(client: Client, three: Any) -> None:
    query = {"tag": ["words", "beasts"], "r": "4", "base_model": "lora-commons/tiny-t5", "q": "a"}
    answer = client.get(LIST, query)
    assert rows(answer) == ["apple-pie"]
    active = answer.context["active"]
    assert [choice.label for choice in active] == [
        "lora-commons/tiny-t5", "rank 4", "words", "beasts",
    ]  # fmt: skip
    for choice in active:
        left = client.get(f"{LIST}?{choice.query}").context["active"]
        assert choice.label not in [one.label for one in left] and len(left) == 3


def test_moderators_see_the_library_in_the_administration(
    admin_client: Client, opposites: LoraModule
) -> None:
    for name in ("repo", "loramodule", "basemodel", "tag", "commit"):
        assert admin_client.get(f"/admin/modules/{name}/", {"q": "o"}).status_code == 200
    assert admin_client.get(f"/admin/modules/loramodule/{opposites.pk}/change/").status_code == 200
    commit = f"/admin/modules/commit/{opposites.commit_id}"
    assert admin_client.post(f"{commit}/delete/", {"post": "yes"}).status_code == 403
