"""/metrics: what Prometheus reads, from the database, for those who may."""

import tomllib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client import exposition, openmetrics, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import Job, Worker
from hub_site.version import VERSION

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parents[2]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(autouse=True)
def _fresh_totals(db: None) -> None:
    cache.clear()


def scraped(client: Client) -> Samples:
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.content
    assert answer["Content-Type"] == exposition.CONTENT_TYPE_PLAIN_0_0_4
    families = parser.text_string_to_metric_families(answer.content.decode())
    samples = [sample for family in families for sample in family.samples]
    return {(each.name, tuple(sorted(each.labels.items()))): each.value for each in samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"commons_{name}", tuple(sorted(labels.items()))]


def submit(kind: str = "test_idle", **fields: Any) -> Job:
    job = queue.submit(kind, params={})
    Job.objects.filter(pk=job.pk).update(**fields)
    return Job.objects.get(pk=job.pk)


def claim() -> Job:
    job = queue.claim_next("w:1:x")
    assert job is not None
    return job


def done(seconds: float, waited: float = 1.0) -> None:
    end = timezone.now() - timedelta(hours=2)
    start = end - timedelta(seconds=seconds)
    submit(
        state="done",
        finished_at=end,
        started_at=start,
        created_at=start - timedelta(seconds=waited),
    )


def test_it_tells_what_waits_and_what_runs(client: Client) -> None:
    submit()
    claim()
    submit(created_at=timezone.now() - timedelta(minutes=5))
    submit()
    found = scraped(client)
    assert value(found, "jobs_waiting", queue="cpu") == 2
    assert 299 < value(found, "jobs_waiting_oldest_seconds", queue="cpu") < 900
    assert value(found, "jobs_running", queue="cpu") == 1
    assert value(found, "jobs", kind="test_idle", state="queued") == 2
    assert value(found, "jobs", kind="compose", state="failed") == 0
    assert value(found, "leases_expired") == 0
    Job.objects.filter(state="running").update(lease_until=timezone.now() - timedelta(seconds=9))
    assert value(scraped(client), "leases_expired") == 1


def test_it_tells_which_workers_are_there(client: Client) -> None:
    for name, queues, device, silent in (
        ("a", ["cpu", "store"], "cpu", 0),
        ("b", ["gpu", "cpu"], "NVIDIA H200", 0),
        ("c", ["cpu"], "cpu", 3_600),
    ):
        seen_at = timezone.now() - timedelta(seconds=silent)
        Worker.objects.create(
            name=name, host="h", pid=1, queues=queues, device=device, seen_at=seen_at
        )
    found = scraped(client)
    assert value(found, "workers", queue="cpu", device="cpu") == 1
    assert value(found, "workers", queue="gpu", device="NVIDIA H200") == 1
    assert value(found, "workers", queue="store", device="cpu") == 1


def test_a_queue_without_a_worker_is_there_to_alert_on(client: Client) -> None:
    assert value(scraped(client), "workers", queue="cpu", device="cpu") == 0


def test_it_counts_what_happened_within_the_hour(client: Client) -> None:
    submit()
    queue.fail(claim(), "our_fault", "Something broke.")
    submit()
    queue.release(claim(), "the worker is ending")
    found = scraped(client)
    assert value(found, "job_events_last_hour", event="failed") == 1
    assert value(found, "job_events_last_hour", event="released") == 1
    assert value(found, "job_events_last_hour", event="struck") == 0
    assert value(found, "job_failures_last_hour", kind="test_idle", code="our_fault") == 1


def test_durations_are_buckets_that_add_up(client: Client) -> None:
    for seconds in (0.1, 0.2, 7.0, 100_000.0):
        done(seconds)
    found = scraped(client)
    name = "job_duration_seconds_last_day"
    bucket = {
        limit: value(found, f"{name}_bucket", kind="test_idle", le=limit)
        for limit in ("0.1", "0.5", "5.0", "10.0", "14400.0", "+Inf")
    }
    assert bucket == {"0.1": 1, "0.5": 2, "5.0": 2, "10.0": 3, "14400.0": 3, "+Inf": 4}
    assert value(found, f"{name}_gcount", kind="test_idle") == 4
    assert value(found, f"{name}_gsum", kind="test_idle") == pytest.approx(100_007.3)
    waited = value(found, "job_wait_seconds_last_day_bucket", kind="test_idle", le="1.0")
    assert waited == 4


def test_it_tells_what_the_site_holds(client: Client, django_user_model: type[User]) -> None:
    django_user_model.objects.create_user("alice")
    django_user_model.objects.create_user("guest-1", is_guest=True)
    found = scraped(client)
    assert value(found, "users") == 1
    assert value(found, "blobs") == value(found, "blob_bytes") == value(found, "modules") == 0
    assert value(found, "disk_free_bytes", folder="var") > 0
    assert [key for key in found if key[0] == "commons_site_info"]


def test_nothing_that_a_user_wrote_is_in_it(client: Client, django_user_model: type[User]) -> None:
    user = django_user_model.objects.create_user("very-personal-name")
    queue.submit("test_idle", params={"input": "very personal words"}, user=user)
    queue.fail(claim(), "our_fault", "very personal words")
    assert "personal" not in client.get("/metrics").content.decode()


def test_it_speaks_openmetrics_too(client: Client) -> None:
    submit()
    done(3.0)
    accept = "application/openmetrics-text; version=1.0.0"
    answer = client.get("/metrics", headers={"Accept": accept})
    assert answer["Content-Type"].startswith("application/openmetrics-text")
    assert openmetrics.exposition.CONTENT_TYPE_LATEST.partition(";")[0] in answer["Content-Type"]
    found = openmetrics_parser.text_string_to_metric_families(answer.content.decode())
    assert {family.name for family in found} >= {"commons_jobs", "commons_disk_free_bytes"}


STRANGERS: dict[str, Callable[[Client], Any]] = {
    "from elsewhere": lambda client: client.get("/metrics", REMOTE_ADDR="198.51.100.7"),
    "through a proxy": lambda client: client.get(
        "/metrics", headers={"X-Forwarded-For": "127.0.0.1"}
    ),
    "without an address": lambda client: client.get("/metrics", REMOTE_ADDR=""),
}


@pytest.mark.parametrize("how", STRANGERS)
def test_a_stranger_gets_nothing(client: Client, how: str) -> None:
    answer = STRANGERS[how](client)
    assert answer.status_code == 403
    assert b"commons_" not in answer.content


def test_behind_a_proxy_the_address_says_nothing(client: Client, settings: LazySettings) -> None:
    settings.BEHIND_TLS_PROXY = True
    assert client.get("/metrics").status_code == 403


@pytest.mark.parametrize("sent", ["", "Bearer wrong", "Basic right", "right", "Bearer "])
def test_with_a_token_only_the_token_counts(
    client: Client, settings: LazySettings, sent: str
) -> None:
    settings.METRICS_TOKEN = "right"
    headers = {"Authorization": sent} if sent else {}
    assert client.get("/metrics", headers=headers).status_code == 403
    right = {"Authorization": "Bearer right"}
    assert client.get("/metrics", headers=right, REMOTE_ADDR="198.51.100.7").status_code == 200


def test_it_only_answers_questions(client: Client) -> None:
    assert client.post("/metrics").status_code == 405


def test_it_asks_as_much_whatever_there_is(client: Client) -> None:
    def more() -> None:
        for _ in range(5):
            done(3.0)
            submit()
            claim()
        Worker.objects.create(
            name=str(Worker.objects.count()), host="h", pid=1, seen_at=timezone.now()
        )

    counts = []
    for _ in range(2):
        more()
        cache.clear()
        with CaptureQueriesContext(connection) as asked:
            scraped(client)
        counts.append(len(asked))
    assert counts[0] == counts[1] < 30


def test_the_version_is_the_project_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
