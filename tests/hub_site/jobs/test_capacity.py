"""What a worker has, what a job needs, and what a page says when the two do not meet."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db.models.functions import Now

from hub_site.jobs import bells, capacity, queue
from hub_site.jobs.models import SCHEMA, Job, Worker

pytestmark = pytest.mark.django_db
GB = 10**9


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    yield
    capacity._found.cache_clear()
    capacity._warm = ()


def worker(name: str = "a:1:x", **has: Any) -> Worker:
    fields = {"queues": ["cpu", "store"], "memory": 8 * GB, "schema": SCHEMA, **has}
    return Worker.objects.create(name=name, host="a", pid=1, seen_at=Now(), **fields)


def submit(**options: Any) -> Job:
    return queue.submit("test_idle", params={}, **options)


def be(monkeypatch: pytest.MonkeyPatch, **has: Any) -> None:
    """This process claims as a worker which has that."""
    found = {"device": "cpu", "memory": 8 * GB, "gpu_memory": 0, "queues": ["cpu"]}
    told = {**found, "has_store": True, **has}
    monkeypatch.setenv(capacity.VARIABLE, json.dumps(told))  # as a main process tells its children


# --- claiming ----------------------------------------------------------------------------------
def test_a_job_for_a_gpu_is_left_to_those_that_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit(queue="gpu")
    be(monkeypatch)
    assert queue.claim_next("a:1:x:2") is None
    be(monkeypatch, gpu_memory=80 * GB, queues=["gpu", "cpu"])
    assert queue.claim_next("b:1:x:2") == job


def test_a_job_that_is_too_large_is_left_to_a_larger_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = submit(needs={"memory": 16 * GB, "gpu_memory": 9 * GB})
    be(monkeypatch, memory=8 * GB)
    assert queue.claim_next("a:1:x:2") is None
    small = submit(needs={"memory": 1 * GB, "gpu_memory": 1 * GB})
    assert queue.claim_next("a:1:x:2") == small
    be(monkeypatch, gpu_memory=10 * GB, queues=["gpu", "cpu"])
    assert queue.claim_next("b:1:x:2") == job


def test_a_job_of_a_newer_version_is_left_alone() -> None:
    job = submit()
    Job.objects.filter(pk=job.pk).update(schema=SCHEMA + 1)
    assert queue.claim_next("a:1:x:2") is None
    worker()
    job.refresh_from_db()
    assert "newer version" in capacity.why_nobody(job)


def test_a_kind_that_this_version_does_not_know_is_left_alone() -> None:
    job = submit()
    Job.objects.filter(pk=job.pk).update(kind="of_tomorrow")
    assert queue.claim_next("a:1:x:2") is None


# --- warmth ------------------------------------------------------------------------------------
def test_a_young_job_is_left_to_a_free_worker_that_is_warm_for_it() -> None:
    worker("warm:1:x", warm=["big@1"])
    job, other = submit(needs={"warm": "big@1"}), submit(needs={"warm": "small@1"})
    assert queue.claim_next("cold:1:x:2") == other
    assert queue.claim_next("cold:1:x:2") is None
    assert queue.claim_next("warm:1:x:2") == job


def test_it_is_not_left_to_one_that_is_busy() -> None:
    worker("warm:1:x", warm=["big@1"])
    first, second = submit(needs={"warm": "big@1"}), submit(needs={"warm": "big@1"})
    assert queue.claim_next("warm:1:x:2") == first
    assert queue.claim_next("cold:1:x:2") == second


def test_it_is_not_left_for_long(settings: Any) -> None:
    settings.JOB_WARM_SECONDS = 0
    worker("warm:1:x", warm=["big@1"])
    job = submit(needs={"warm": "big@1"})
    assert queue.claim_next("cold:1:x:2") == job


def test_it_is_not_left_to_one_that_is_gone() -> None:
    Worker.objects.filter(pk=worker("warm:1:x", warm=["big@1"]).pk).update(
        seen_at="2020-01-01T00:00:00Z"
    )
    job = submit(needs={"warm": "big@1"})
    assert queue.claim_next("cold:1:x:2") == job


def test_among_equals_a_worker_takes_what_it_is_warm_for() -> None:
    cold, warm = submit(needs={"warm": "small@1"}), submit(needs={"warm": "big@1"})
    capacity.keep_warm(("big@1",))
    assert queue.claim_next("a:1:x:2") == warm
    assert queue.claim_next("a:1:x:2") == cold


def test_a_worker_says_what_it_keeps_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    row = worker("a:1:x")
    monkeypatch.setenv("COMMONS_WORKER_NAME", "a:1:x")
    capacity.keep_warm(("big@1",))
    row.refresh_from_db()
    assert row.warm == ["big@1"]
    assert capacity.idle_and_warm() == {"big@1": "a:1:x"}
    assert capacity.idle_and_warm(but="a:1:x") == {}


def test_one_that_is_warm_has_a_bell_of_its_own_on_redis(settings: Any) -> None:
    worker("warm:1:x", warm=["big@1"])
    job = submit(needs={"warm": "big@1"})
    assert bells.of_warm(job) is None  # the folder broker has none
    settings.CELERY_BROKER_URL = "redis://127.0.0.1:1/0"
    assert bells.of_warm(job) == "worker-warm:1:x"
    assert bells.of_warm(submit(needs={"warm": "small@1"})) is None
    assert bells.of_warm(submit()) is None


# --- what a page says --------------------------------------------------------------------------
def test_it_says_that_no_worker_is_running() -> None:
    assert "No worker is running" in capacity.why_nobody(submit())


def test_it_says_nothing_while_somebody_can_do_it() -> None:
    worker()
    worker("b:1:x", memory=1 * GB)
    assert capacity.why_nobody(submit(needs={"memory": 5 * GB})) == ""


def test_it_says_that_a_gpu_is_missing() -> None:
    worker()
    assert "needs a GPU" in capacity.why_nobody(submit(queue="gpu"))


def test_it_says_how_much_memory_is_missing_on_the_largest() -> None:
    worker()
    worker("b:1:x", memory=12 * GB)
    said = capacity.why_nobody(submit(needs={"memory": 40 * GB}))
    assert "about 40 GB" in said and "has 12 GB" in said


def test_it_says_that_the_disk_is_missing() -> None:
    worker(queues=["cpu"])
    assert "the site's own disk" in capacity.why_nobody(submit(needs={"store": True}))


# --- what this machine has ---------------------------------------------------------------------
@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's program that tells of one GPU."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_without_a_gpu_it_takes_the_queue_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = capacity.of_this_process()
    assert (found.device, found.queues, found.has_gpu) == ("cpu", ("cpu",), False)
    assert found.memory > 1 << 30


def test_it_finds_a_gpu_by_its_driver(gpu: None) -> None:
    found = capacity.of_this_process()
    assert (found.device, found.queues) == ("NVIDIA H200", ("gpu", "cpu"))
    assert found.gpu_memory == 143771 << 20


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_is_hidden_from_it_is_none(
    gpu: None, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not capacity.of_this_process().has_gpu


def test_the_operator_may_keep_a_worker_to_one_queue(gpu: None, settings: Any) -> None:
    settings.WORKER_QUEUES = ["cpu"]
    found = capacity.of_this_process()
    assert (found.device, found.queues, found.has_gpu) == ("cpu", ("cpu",), False)
    settings.WORKER_QUEUES = ["gpu"]
    assert capacity.of_this_process().queues == ("gpu",)


def test_children_have_what_their_main_process_found(
    gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(capacity.VARIABLE, "restored afterwards")
    monkeypatch.delenv(capacity.VARIABLE)
    found = capacity.hand_to_children()
    monkeypatch.setenv("PATH", "/nowhere")
    capacity._found.cache_clear()
    assert capacity.of_this_process() == found
