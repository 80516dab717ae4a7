"""What a job's page reads while a search runs."""

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from composer import services
from composer.models import FewShotTask, Generation, Search
from composer.progress import progress
from hub_site.accounts.models import User
from hub_site.jobs import queue
from tests.composer import finished


@pytest.fixture
def search(task: FewShotTask, alice: User) -> Search:
    return services.submit_job(task=task, user=alice, overrides={"budget": 100}).search


def generation(search: Search, number: int, evaluations: int, loss: float) -> Generation:
    weights = [0.1 * number, -0.4, 0.0, 0.2]
    return Generation.objects.create(
        search=search,
        number=number,
        evaluations=evaluations,
        best_loss=loss,
        seconds=0.5,
        record={"best_weights": [weight.hex() for weight in weights]},
    )


def test_it_counts_the_queue(search: Search, task: FewShotTask, alice: User) -> None:
    later = services.submit_job(task=task, user=alice).search
    assert progress(search).queue_position == 1
    assert progress(later).queue_position == 2
    assert progress(later).weights == [] and progress(later).seconds_left is None


def test_it_says_how_far_how_fast_and_how_long(search: Search) -> None:
    assert queue.claim_next("test") is not None
    assert progress(Search.objects.select_related("job").get(pk=search.pk)).stage == "preparing"
    generation(search, 0, 20, 2.0)
    generation(search, 1, 40, 1.5)
    Search.objects.filter(pk=search.pk).update(stage="searching")
    now = progress(Search.objects.select_related("job").get(pk=search.pk))
    assert (now.state, now.stage, now.stage_name) == (
        "running",
        "searching",
        "Searching for weights",
    )
    assert (now.generation, now.evaluations, now.budget, now.fraction) == (1, 40, 100, 0.4)
    assert (now.first_loss, now.best_loss) == (2.0, 1.5)
    assert now.evaluations_per_second == 40.0
    assert now.seconds_left == 1.5
    assert [(point.generation, point.best_loss) for point in now.curve] == [(0, 2.0), (1, 1.5)]


def test_a_loss_that_is_not_finite_is_left_out(search: Search, client: Client) -> None:
    generation(search, 0, 20, float("inf"))
    now = progress(search)
    assert (now.generation, now.best_loss, now.first_loss, now.curve) == (0, None, None, [])
    assert now.evaluations == 20
    client.force_login(search.job.user)
    answer = client.get(f"/api/v1/jobs/{search.pk}/")
    assert answer.status_code == 200 and answer.json()["progress"]["best_loss"] is None
    assert client.get(search.get_absolute_url()).status_code == 200


def test_it_names_the_weights_largest_first(search: Search) -> None:
    generation(search, 1, 40, 1.5)
    names = [(each.name, each.weight) for each in progress(search).weights]
    assert names == [
        ("tiny-lab/module-1", -0.4),
        ("tiny-lab/module-3", 0.2),
        ("tiny-lab/module-0", 0.1),
        ("tiny-lab/module-2", 0.0),
    ]


def test_it_shows_no_stage_once_the_job_is_over(search: Search) -> None:
    Search.objects.filter(pk=search.pk).update(stage="measuring", stage_detail="uniform")
    services.cancel(search)
    over = progress(Search.objects.select_related("job").get(pk=search.pk))
    assert (over.state, over.stage, over.stage_detail, over.is_over) == ("cancelled", "", "", True)


def test_polling_asks_little(
    search: Search, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(30):
        generation(search, number, 20 + number, 2.0)
    found = Search.objects.select_related("job").get(pk=search.pk)
    with django_assert_max_num_queries(5):  # with its place, its user's, and who is there
        progress(found)
    finished.run(search)
    with django_assert_max_num_queries(2):
        progress(Search.objects.select_related("job").get(pk=search.pk))
