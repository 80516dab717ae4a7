"""Three workers that share no folder with the site or with each other: database, Redis and HTTP are
all they have. One of them is frozen in the middle of a search, and wakes up too late."""

import json
import os
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from composer.models import FewShotTask, Recipe, Search
from hub_site.accounts import tokens
from hub_site.accounts.models import User
from hub_site.jobs.models import Job, JobEvent
from hub_site.jobs.worker_name import pid_of
from modules.storage import local
from tests.faults.conftest import Web
from tests.faults.servers import Postgres, Redis
from tests.workers import WorkerProcess, wait_for, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
BUDGET = 1_200


@pytest.fixture(autouse=True)
def _on_a_database_over_tcp(tcp_postgres: Postgres) -> None:
    """Before anything is put into it."""


@pytest.fixture
def web(library: Any, server: Redis, start_web: Callable[..., Web]) -> Web:
    return start_web(
        BROKER_URL=server.url,
        BLOB_DIR=str(settings.BLOB_DIR),
        CACHE_DIR=str(settings.CACHE_DIR),
    )


@pytest.fixture
def start_machine(
    web: Web, server: Redis, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> Callable[[str], WorkerProcess]:
    def start(name: str) -> WorkerProcess:
        disk = tmp_path / name
        for folder in ("tmp", "home"):
            (disk / folder).mkdir(parents=True)
        return start_worker(
            VAR_DIR=str(disk / "var"),
            TMPDIR=str(disk / "tmp"),
            HOME=str(disk / "home"),
            HF_HOME=str(disk / "hf"),
            HF_HUB_OFFLINE="0",
            BROKER_URL=server.url,
            SECRET_KEY=settings.SECRET_KEY,
            FETCH_FROM=web.url,
            ENGINE_THREADS="1",
        )

    return start


@pytest.fixture
def submit(web: Web, task: FewShotTask, alice: User) -> Callable[[int], Job]:
    """As a program does, so that it is the site that wakes the workers."""
    _, token = tokens.create_token(alice, name="test", scope="write")

    def submit(seed: int) -> Job:
        wanted = {"budget": BUDGET, "seed": seed, "population": 4, "optimiser": "cmaes"}
        request = urllib.request.Request(
            f"{web.url}/api/v1/jobs/",
            json.dumps({"task": str(task.pk), "settings": wanted}).encode(),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return Job.objects.get(pk=json.load(answer)["id"])

    return submit


def found_by(job: Job) -> tuple[str, bytes, list[dict[str, Any]]]:
    """The recipe's id, the adapter as the site has it, and every generation but for its time."""
    search = Search.objects.select_related("recipe__adapter").get(pk=job.pk)
    assert search.recipe is not None and search.recipe.adapter is not None
    rows = search.generations.order_by("round", "number").values_list("record", flat=True)
    record = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    adapter = local.local_path(search.recipe.adapter.sha256).read_bytes()
    return search.recipe.digest, adapter, record


def names(job: Job) -> list[str]:
    return list(JobEvent.objects.filter(job=job).values_list("name", flat=True))


def machine_of(job: Job) -> int:
    job.refresh_from_db()
    return int(job.owner.split(":")[1]) if job.owner else 0


def test_one_of_three_machines_freezes_and_wakes_too_late(
    submit: Callable[[int], Job],
    start_machine: Callable[[str], WorkerProcess],
    tmp_path: Path,
) -> None:
    machines = [start_machine("first")]
    whole = wait_for(submit(3), "done", "failed")
    assert (whole.state, whole.attempts) == ("done", 1), whole.error_message
    found = found_by(whole)
    Recipe.objects.all().delete()  # so that the others build it, too

    machines += [start_machine("second"), start_machine("third")]
    job, *others = submit(3), submit(4), submit(5)
    search = Search.objects.get(pk=job.pk)
    wait_until(lambda: search.generations.count() >= 20, "some generations")
    by_pid = {machine.process.pid: machine for machine in machines}
    frozen = by_pid[machine_of(job)]
    os.killpg(frozen.process.pid, signal.SIGSTOP)
    before = search.generations.count()
    wait_until(lambda: "lost" in names(job), "the job to be taken away")
    wait_until(lambda: search.generations.count() > before, "another machine to go on")
    os.killpg(frozen.process.pid, signal.SIGCONT)

    for each in (job, *others):
        wait_for(each, "done", "failed")
        assert each.state == "done", each.error_message
        assert names(each).count("done") == 1 and "restarted" not in names(each)
    assert machine_of(job) != frozen.process.pid and job.attempts >= 2
    assert found_by(job) == found
    wait_until(lambda: "the lease of fence" in frozen.log.read_text(), "it to notice")
    assert len({search.pk for search in Search.objects.filter(recipe__isnull=False)}) == 3

    # The one that froze is as good as the others again.
    for machine in machines:
        if machine is not frozen:
            assert machine.stop() == 0
    Recipe.objects.all().delete()
    again = wait_for(submit(3), "done", "failed")
    assert again.state == "done" and machine_of(again) == frozen.process.pid
    assert pid_of(again.owner) != frozen.process.pid
    assert found_by(again) == found

    for name in ("first", "second", "third"):
        files = {p.relative_to(tmp_path / name).parts[0] for p in (tmp_path / name).rglob("*.*")}
        assert "hf" in files or name != "first"  # what it read, it fetched into a cache of its own
        assert not list((tmp_path / name).rglob("blobs/*/*"))
