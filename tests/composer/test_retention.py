"""Checkpoints of searches that ended long ago go; what their pages and recipes need stays."""

from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from composer import retention
from composer.models import FewShotTask, Generation, Recipe, Search
from composer.progress import progress
from hub_site.accounts.models import User
from hub_site.jobs import queue, worker
from hub_site.jobs.models import Job
from tests.composer import finished

pytestmark = pytest.mark.django_db
LONG_AGO = timedelta(days=40)


def search_of(task: FewShotTask, user: User, state: str) -> Search:
    search = finished.start(task, user)
    if state == "done":
        search = finished.finish(search)
    else:
        finished.add_generations(search)
    when = timezone.now() - LONG_AGO
    is_over = state in ("done", "failed", "cancelled")
    Job.objects.filter(pk=search.pk).update(
        state=state, created_at=when, started_at=when, finished_at=when if is_over else None
    )
    for generation in search.generations.all():
        generation.record |= {"losses": [float(n).hex() for n in range(40)], "weights": [["0x1"]]}
        generation.save()
    return Search.objects.get(pk=search.pk)


def records(search: Search) -> list[dict[str, Any]]:
    return list(search.generations.values_list("record", flat=True))


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_the_page_of_a_thinned_search_shows_what_it_showed(
    client: Client, alice: User, task: FewShotTask, state: str
) -> None:
    search = search_of(task, alice, state)
    client.force_login(alice)
    before, page = progress(search), client.get(search.get_absolute_url())
    assert retention.thin()[0] == 3
    first, middle, last = records(search)
    assert first == middle == {} and last.keys() == {"best_weights", "digest"}
    assert progress(Search.objects.get(pk=search.pk)) == before
    again = client.get(search.get_absolute_url())
    assert again.status_code == 200
    assert _plain(again) == _plain(page)
    assert client.get(f"/api/v1/jobs/{search.pk}/").status_code == 200


def _plain(page: Any) -> list[str]:
    lines = page.content.decode().splitlines()
    return [line for line in lines if "csrf" not in line and "<time" not in line]


def test_what_shows_that_a_search_can_be_run_again_stays(alice: User, task: FewShotTask) -> None:
    search = search_of(task, alice, "done")
    recipe = Recipe.objects.get()
    before = (recipe.document, search.spec, search.examples, search.evidence, search.fingerprint)
    figures = list(search.generations.values_list("number", "evaluations", "best_loss", "seconds"))
    retention.thin()
    search, recipe = Search.objects.get(pk=search.pk), Recipe.objects.get()
    after = (recipe.document, search.spec, search.examples, search.evidence, search.fingerprint)
    assert after == before
    now = list(search.generations.values_list("number", "evaluations", "best_loss", "seconds"))
    assert now == figures


@pytest.mark.parametrize("state", ["running", "queued"])
def test_a_search_that_goes_on_keeps_every_checkpoint(
    alice: User, task: FewShotTask, state: str
) -> None:
    """However old it is: it needs them to go on from."""
    search = search_of(task, alice, state)
    before = records(search)
    assert retention.thin()[0] == 0
    assert records(search) == before


def test_a_search_of_yesterday_keeps_them(alice: User, task: FewShotTask, settings: Any) -> None:
    search = search_of(task, alice, "done")
    settings.KEEP_CHECKPOINTS_DAYS = 41
    assert retention.thin()[0] == 0
    settings.KEEP_CHECKPOINTS_DAYS = 39
    assert retention.thin()[0] == 3
    assert retention.thin()[0] == 0
    assert Generation.objects.filter(search=search).count() == 3


@pytest.mark.django_db(transaction=True)
def test_a_worker_does_it_and_the_command_tells(
    alice: User, task: FewShotTask, capsys: Any
) -> None:
    search_of(task, alice, "done")
    job = queue.submit("thin_searches", params={})
    worker.work_until_idle()
    job.refresh_from_db()
    assert (job.state, job.result["thinned"]) == ("done", 3)
    call_command("thin_searches")
    assert "0 generations were thinned" in capsys.readouterr().out
