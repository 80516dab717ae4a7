"""The ablation on a result's page, and weights moved by hand."""

from typing import Any

import pytest

from composer import services
from composer.engine.errors import BadConfig
from composer.models import FewShotTask, Search
from composer.module_choice import ModuleChoice
from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import Job
from hub_site.jobs.worker import run
from modules.models import LoraModule
from tests.composer import finished
from tests.composer.test_runner import work

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def search(task: FewShotTask, alice: User) -> Search:
    return finished.finish(finished.start(task, alice))


def moved(search: Search, **weights: Any) -> dict[str, Any]:
    found = search.recipe.document["weights"]
    return {f"w_{n}": weights.get(f"w_{n}", weight) for n, weight in enumerate(found)}


def test_weights_moved_by_hand_are_measured_on_the_examples(
    client: Any, task: FewShotTask, alice: User, lora_modules: list[LoraModule]
) -> None:
    every = ModuleChoice("all")
    job = services.submit_job(task=task, user=alice, modules=every, overrides={"budget": 12})
    search = work(job)
    assert search.job.state == "done"
    whole = search.evidence["ablation"]["whole"]
    client.force_login(alice)
    page = client.get(search.get_absolute_url()).content.decode()
    assert "What each module does in it" in page and "Move the weights yourself" in page

    def measured(**weights: Any) -> dict[str, Any]:
        address = f"{search.get_absolute_url()}weights/"
        answer = client.post(address, moved(search, **weights))
        assert answer.status_code == 302 and answer["Location"].endswith("#weights")
        claimed = queue.claim_next("test")
        assert claimed is not None and claimed.kind == services.WEIGH
        run(claimed)
        claimed.refresh_from_db()
        assert claimed.state == "done", claimed.error_message
        shown = client.get(answer["Location"]).content.decode()
        assert "Weights moved by hand have no verdict" in shown and "Show the answers" in shown
        return claimed.result

    same = measured()
    assert (same["loss"], same["exact"]) == (pytest.approx(whole["loss"], rel=1e-5), whole["exact"])
    assert len(same["answers"]) == same["examples"] == 3
    none = measured(**{f"w_{n}": 0 for n in range(len(lora_modules))})
    assert none["loss"] == pytest.approx(search.evidence["search"]["loss_before"], rel=1e-5)
    # What was found, and its verdict, are as they were.
    search.refresh_from_db()
    assert search.evidence["ablation"]["whole"] == whole


def test_a_short_question_goes_before_searches(search: Search, alice: User) -> None:
    finished.start(search.task, alice)
    asked = services.submit_weights(
        search=search, user=alice, weights=search.recipe.document["weights"]
    )
    claimed = queue.claim_next("test")
    assert claimed is not None and claimed.pk == asked.pk


@pytest.mark.parametrize("typed", ["", "much", "nan", "inf", "11", "-10.5", "1e400"])
def test_bad_weights_are_told_and_nothing_is_asked(
    client: Any, search: Search, alice: User, typed: str
) -> None:
    client.force_login(alice)
    address = f"{search.get_absolute_url()}weights/"
    answer = client.post(address, moved(search, w_0=typed))
    assert answer.status_code == 422 and "notice is-danger" in answer.content.decode()
    part = client.post(address, moved(search, w_0=typed), headers={"HX-Request": "true"})
    assert part.status_code == 422 and "<html" not in part.content.decode()
    assert not Job.objects.filter(kind=services.WEIGH).exists()


def test_too_few_weights_are_refused(search: Search, alice: User) -> None:
    with pytest.raises(BadConfig, match="There are 1 weights; this composition has 4"):
        services.submit_weights(search=search, user=alice, weights=[0.5])


def test_strangers_and_whoever_is_signed_out_move_nothing(
    client: Any, search: Search, bob: User
) -> None:
    address = f"{search.get_absolute_url()}weights/"
    assert client.post(address, moved(search)).status_code == 302
    assert client.get(address).status_code == 405
    client.force_login(bob)
    assert client.post(address, moved(search)).status_code == 404
    assert not Job.objects.filter(kind=services.WEIGH).exists()


def test_somebody_elses_question_is_not_shown(
    client: Any, search: Search, alice: User, bob: User
) -> None:
    asked = services.submit_weights(
        search=search, user=alice, weights=search.recipe.document["weights"]
    )
    Job.objects.filter(pk=asked.pk).update(user=bob)
    client.force_login(alice)
    page = client.get(f"{search.get_absolute_url()}?weighed={asked.pk}").content.decode()
    assert "Measuring…" not in page
    assert client.get(f"{search.get_absolute_url()}?weighed=odd").status_code == 200


def test_the_part_that_is_asked_for_again_and_again_is_cheap(
    client: Any, search: Search, alice: User
) -> None:
    """A few queries, whatever the rest of the page needs."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    asked = services.submit_weights(
        search=search, user=alice, weights=search.recipe.document["weights"]
    )
    client.force_login(alice)
    address = f"{search.get_absolute_url()}?weighed={asked.pk}"
    counts = []
    for headers in ({}, {"HX-Request": "true", "HX-Target": "weighed"}):
        with CaptureQueriesContext(connection) as queries:
            answer = client.get(address, headers=headers)
        assert answer.status_code == 200 and 'id="weighed"' in answer.content.decode()
        counts.append(len(queries))
    assert counts[1] < counts[0] - 10
    assert answer.content.decode().lstrip().startswith('<div class="stack is-tight" id="weighed"')


def test_what_a_search_without_a_bound_found_can_be_measured_again(
    task: FewShotTask, alice: User
) -> None:
    search = finished.start(task, alice)
    finished.finish(search)
    search.refresh_from_db()
    document = search.recipe.document
    weights = [25.5, *document["weights"][1:]]
    search.recipe.document = {**document, "weights": weights}
    job = services.submit_weights(search=search, user=alice, weights=weights)
    assert job.params["weights"] == weights
    with pytest.raises(BadConfig, match="from -26 to 26"):
        services.submit_weights(search=search, user=alice, weights=[27, *weights[1:]])


def test_weights_that_overflow_are_told(client: Any, search: Search, alice: User) -> None:
    asked = services.submit_weights(
        search=search, user=alice, weights=search.recipe.document["weights"]
    )
    result = {"loss": None, "exact": 0, "examples": 3, "answers": ["", "", ""]}
    Job.objects.filter(pk=asked.pk).update(state="done", result=result)
    client.force_login(alice)
    answer = client.get(f"{search.get_absolute_url()}?weighed={asked.pk}")
    assert answer.status_code == 200 and "infinite" in answer.text
