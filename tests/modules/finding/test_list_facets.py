"""The list of modules: facets and their counts, orders, states as addresses, ways out."""

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from hub_site.accounts.models import User
from modules.checks import checking
from modules.finding import facets, search
from modules.models import FacetCounts, LoraModule
from tests.modules.conftest import CARD, Publisher
from tests.modules.finding.test_views import rows

LIST = "/modules/"


def choices(answer: Any) -> dict[str, dict[str, int]]:
    return {
        facet.name: {choice.label: choice.count for choice in facet.choices}
        for facet in answer.context["facets"]
    }


@pytest.fixture
def some(alice: User, base_model: Any, publish: Publisher) -> dict[str, LoraModule]:
    found = {
        name: publish(alice, name, seed=seed)
        for seed, name in enumerate(["ant", "bee", "cat", "doe"])
    }
    for place, module in enumerate(found.values()):
        module.downloads, module.likes, module.trending = 10 * place, 3 - place, place % 2
        module.save()
    LoraModule.objects.filter(pk=found["ant"].pk).update(task="translation", language="en, fr")
    LoraModule.objects.filter(pk=found["bee"].pk).update(language="fr", weights_size=5 * 10**7)
    LoraModule.objects.filter(pk=found["cat"].pk).update(licence="MIT", not_composable="DoRA")
    return found


def test_every_facet_counts_what_it_would_leave(client: Client, some: Any) -> None:
    answer = client.get(LIST)
    found = choices(answer)
    assert found["task"] == {"translation": 1}
    assert found["language"] == {"en": 3, "fr": 2}
    assert found["licence"] == {"apache-2.0": 3, "mit": 1}
    assert found["size"] == {"under 1 MB": 3, "10 to 100 MB": 1}
    assert found["only"] == {"Checked": 4, "Composable with lora-commons/tiny-t5": 3}
    for facet in answer.context["facets"]:
        for choice in facet.choices:
            narrowed = client.get(f"{LIST}?{choice.query}")
            assert len(rows(narrowed)) == choice.count, choice
            assert narrowed.context["counts"].total == choice.count


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"task": "Translation"}, ["ant"]), ({"language": "FR"}, ["ant", "bee"]),
        ({"licence": "mit"}, ["cat"]), ({"size": "3"}, ["bee"]),
        ({"checked": "1"}, ["ant", "bee", "cat", "doe"]),
        ({"composable_with": "lora-commons/tiny-t5"}, ["ant", "bee", "doe"]),
        ({"composable_with": "someone/else"}, []), ({"language": "fr", "size": "1"}, ["ant"]),
    ],
)  # fmt: skip
def test_page_and_api_filter_alike(
    client: Client, some: Any, query: dict[str, str], found: list[str]
) -> None:
    assert sorted(rows(client.get(LIST, query))) == found
    answer = client.get("/api/v1/modules/", query).json()["results"]
    assert sorted(row["name"] for row in answer) == [f"alice/{name}" for name in found]


def test_what_is_still_being_checked_is_not_checked(client: Client, some: Any) -> None:
    LoraModule.objects.filter(pk=some["ant"].pk).update(status=LoraModule.CHECKING)
    assert "ant" not in rows(client.get(LIST, {"checked": "1"}))
    assert "ant" not in rows(client.get(LIST, {"composable_with": "lora-commons/tiny-t5"}))
    assert "ant" in rows(client.get(LIST))


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("trending", ["doe", "bee", "cat", "ant"]), ("downloads", ["doe", "cat", "bee", "ant"]),
        ("likes", ["ant", "bee", "cat", "doe"]), ("newest", ["doe", "cat", "bee", "ant"]),
        ("name", ["ant", "bee", "cat", "doe"]), ("", ["doe", "bee", "cat", "ant"]),
    ],
)  # fmt: skip
def test_it_sorts(client: Client, some: Any, sort: str, names: list[str]) -> None:
    assert rows(client.get(LIST, {"sort": sort})) == names
    answer = client.get("/api/v1/modules/", {"sort": sort}).json()["results"]
    assert [row["name"] for row in answer] == [f"alice/{name}" for name in names]


def test_of_equal_matches_the_better_known_comes_first(client: Client, some: Any) -> None:
    assert rows(client.get(LIST, {"q": "eighty"})) == ["doe", "cat", "bee", "ant"]


def test_an_empty_result_says_which_filter_to_drop(client: Client, some: Any) -> None:
    answer = client.get(LIST, {"q": "bee", "size": "1", "language": "fr"})
    assert rows(answer) == []
    ways = {way.label: way for way in answer.context["ways_out"]}
    assert {label: way.count for label, way in ways.items()} == {
        "the words “bee”": 1,
        "“under 1 MB”": 1,
    }
    assert rows(client.get(f"{LIST}?{ways['“under 1 MB”'].query}")) == ["bee"]
    page = answer.content.decode()
    assert "Without the words “bee”" in page


def test_a_facets_link_keeps_the_rest_of_the_state(client: Client, some: Any) -> None:
    answer = client.get(LIST, {"q": "opposite", "sort": "name", "tag": "words"})
    licence = next(f for f in answer.context["facets"] if f.name == "licence").choices[0]
    assert licence.query == "q=opposite&sort=name&tag=words&licence=apache-2.0"
    for active in answer.context["active"]:
        assert "tag" not in active.query


def test_counts_tell_strangers_nothing_of_what_is_not_listed(
    client: Client, alice: User, bob: User, some: Any, publish: Publisher
) -> None:
    odd = CARD.replace("apache-2.0", "cc0-1.0").replace("opposites]", "unheard-of]")
    publish(alice, "own", seed=8, private=True, card=odd)
    for name, seed in (("bad", 9), ("banned", 10)):
        publish(alice, name, seed=seed, card=odd)
    bad = LoraModule.objects.get(repo__name="bad")
    bad.reject("Not finite.")
    banned = LoraModule.objects.get(repo__name="banned")
    banned.repo.hidden_at = timezone.now()
    banned.repo.save()
    for module in (bad, banned):
        checking.update_listed(module)
    facets.recount()
    assert not any("cc0" in word or "unheard" in word for word in FacetCounts.objects.get().counts)
    hidden = {"q": "unheard"}, {"tag": "unheard-of"}, {"licence": "cc0-1.0"}, {"q": "own"}
    for visitor in (None, bob):
        if visitor:
            client.force_login(visitor)
        found = choices(client.get(LIST))
        assert found["licence"] == {"apache-2.0": 3, "mit": 1} and "unheard-of" not in found["tag"]
        for query in hidden:
            assert rows(client.get(LIST, query)) == []
            assert client.get("/api/v1/modules/", query).json()["results"] == []
    client.force_login(alice)
    assert sorted(rows(client.get(LIST, {"tag": "unheard-of"}))) == ["banned", "own"]
    assert choices(client.get(LIST))["licence"]["cc0-1.0"] == 2


def test_of_many_modules_counts_are_lower_bounds(
    client: Client, some: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facets, "COUNTED", 2)
    answer = client.get(LIST, {"tag": "words"})
    assert (answer.context["counts"].total, answer.context["counts"].total_is_more) == (2, True)
    assert all(c.is_more and c.count <= 3 for f in answer.context["facets"] for c in f.choices)
    assert len(rows(answer)) == 4
    # The whole library has exact figures once the schedule has counted it.
    facets.recount()
    whole = client.get(LIST)
    assert whole.context["counts"].total == 4 and not whole.context["counts"].total_is_more
    assert choices(whole)["language"] == {"en": 3, "fr": 2}
    # And a single filter its exact total.
    assert client.get(LIST, {"tag": "words"}).context["counts"].total == 4


def test_of_very_many_matches_the_best_known_are_ranked_and_the_page_says_so(
    client: Client, some: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MOST", 3), ("RANKED", 2), ("ENOUGH", 2)):
        monkeypatch.setattr(search, name, value)
    answer = client.get(LIST, {"q": "eighty"})  # in every card, in no head
    assert rows(answer) == ["doe", "cat"] and answer.context["found"].ranked == 2
    assert "only the 2 best known of them are ranked here" in answer.content.decode()
    assert rows(client.get(LIST, {"q": "eighty", "sort": "name"})) == ["ant", "bee", "cat", "doe"]
    assert rows(client.get(LIST, {"q": "bee"})) == ["bee"]


@pytest.mark.parametrize("is_marked", [True, False])
def test_what_is_common_word_by_word_and_rare_together_is_found_whole(
    client: Client, some: Any, is_marked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MOST", 3), ("RANKED", 2), ("ENOUGH", 2), ("KNOWN", 3)):
        monkeypatch.setattr(search, name, value)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE modules_loramodule")  # so that its estimates are of this table
    if is_marked:
        assert search.mark_known() == 3  # all but the ant
    common = client.get(LIST, {"q": "eighty"})
    assert rows(common) == ["doe", "cat"] and common.context["counts"].total >= 4  # an estimate
    assert rows(client.get(LIST, {"q": "words"})) == ["doe", "cat"]
    for query in (
        {"q": "eighty words ant"}, {"q": "eighty words", "task": "translation"},
    ):  # fmt: skip
        answer = client.get(LIST, query)
        assert rows(answer) == ["ant"]
        assert not answer.context["found"].ranked and answer.context["counts"].total == 1
    fitting = {"q": "eighty", "composable_with": "lora-commons/tiny-t5"}
    assert rows(client.get(LIST, fitting)) == ["doe", "bee", "ant"]  # three are not too many


def test_a_worker_marks_the_most_downloaded_of_what_is_listed(
    some: dict[str, LoraModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    def known() -> list[str]:
        return sorted(module.repo.name for module in LoraModule.objects.known())

    monkeypatch.setattr(search, "KNOWN", 2)
    assert search.mark_known() == 2 and known() == ["cat", "doe"]
    assert search.mark_known() == 0
    LoraModule.objects.filter(pk=some["ant"].pk).update(downloads=10**6)
    LoraModule.objects.filter(pk=some["doe"].pk).update(is_listed=False)
    assert search.mark_known() == 2 and known() == ["ant", "cat"]


def test_a_few_letters_begin_a_word_of_the_name_but_not_of_the_card(
    client: Client, some: Any
) -> None:
    assert rows(client.get(LIST, {"q": "b"})) == ["bee"]
    assert rows(client.get(LIST, {"q": "eig"})) == []
    assert len(rows(client.get(LIST, {"q": "eigh"}))) == 4
    assert len(rows(client.get(LIST, {"q": "on eighty"}))) == 4


def test_it_costs_the_same_for_10_rows_and_50(
    client: Client, alice: User, base_model: Any, publish: Publisher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from modules.finding import keyset

    monkeypatch.setattr(keyset.cut, "__defaults__", ("", 50, None))
    counts: dict[str, list[int]] = {
        address: [] for address in (LIST, "/api/v1/modules/", f"{LIST}?q=alice&x=", "/tags/words/")
    }
    for start, end in ((0, 10), (10, 50)):
        for n in range(start, end):
            publish(alice, f"m{n}", seed=n)
        for address, asked in counts.items():
            with CaptureQueriesContext(connection) as queries:
                answer = client.get(address)
            shown = len(rows(answer)) or len(answer.json()["results"])
            assert shown == end, address
            asked.append(len(queries))
    for address, (few, many) in counts.items():
        assert few == many <= 11, address  # one of a search's is what counts it
