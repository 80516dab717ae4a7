from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.conf import LazySettings
from django.db import connection
from django.test import Client
from django.utils import timezone

from hub_site.celery import app
from hub_site.jobs.models import Worker

pytestmark = pytest.mark.django_db
NOBODY = "none has reported for 30 seconds"


def add_worker(*queues: str, silent_for: timedelta = timedelta()) -> None:
    Worker.objects.create(
        name=f"w{Worker.objects.count()}",
        host="here",
        pid=1,
        seen_at=timezone.now() - silent_for,
        queues=list(queues or ("cpu", "store")),
    )


@pytest.fixture
def dead_broker(settings: LazySettings) -> Iterator[None]:
    before = app.conf.broker_write_url
    settings.CELERY_BROKER_URL = app.conf.broker_write_url = "redis://127.0.0.1:1/0"
    yield
    app.conf.broker_write_url = before


@pytest.fixture
def dead_database() -> Iterator[None]:
    before = connection.settings_dict["HOST"]
    connection.close()
    connection.settings_dict["HOST"] = "/nowhere"
    yield
    connection.close()
    connection.settings_dict["HOST"] = before


def test_it_is_healthy_with_database_broker_disk_and_worker(client: Client) -> None:
    add_worker()
    answer = client.get("/healthz")
    assert answer.status_code == 200
    found = answer.json()
    assert {found.pop(name) for name in ("status", "database", "broker", "disk")} == {"ok"}
    assert found.pop("workers") == {"cpu": "ok"}
    assert "no-store" in answer["Cache-Control"]
    assert client.head("/healthz").status_code == 200


def test_it_misses_a_worker_that_never_came(client: Client) -> None:
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["workers"] == {"cpu": NOBODY}


def test_it_misses_a_worker_that_fell_silent(client: Client) -> None:
    add_worker(silent_for=timedelta(minutes=1))
    assert client.get("/healthz").status_code == 503


def test_it_asks_for_a_worker_for_each_queue_that_is_expected(
    client: Client, settings: LazySettings
) -> None:
    settings.EXPECT_QUEUES = ["cpu", "gpu", "store"]
    add_worker("cpu", "store")
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["workers"] == {"cpu": "ok", "gpu": NOBODY, "store": "ok"}
    add_worker("gpu")
    assert client.get("/healthz").status_code == 200


def test_it_misses_the_broker(client: Client, dead_broker: None) -> None:
    add_worker()
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["broker"] == "does not answer"
    assert answer.json()["database"] == "ok"


@pytest.mark.django_db(transaction=True)
def test_it_misses_the_database(client: Client, dead_database: None) -> None:
    answer = client.get("/healthz")
    assert answer.status_code == 503
    found = answer.json()
    assert (found["database"], found["broker"]) == ("does not answer", "ok")
    assert found["workers"] == {"cpu": "unknown"}


def test_it_misses_room_on_the_disk(client: Client, settings: LazySettings) -> None:
    add_worker()
    settings.DISK_LOW_BYTES = 1 << 60
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["disk"] == "is nearly full"


def test_a_store_that_is_not_made_yet_is_on_the_disk_where_it_will_be(
    client: Client, settings: LazySettings
) -> None:
    add_worker()
    settings.BLOB_DIR = settings.VAR_DIR / "not" / "made" / "yet"
    free = client.get("/healthz").json()["free"]
    assert free["blobs"]["bytes"] > 0 and 0 < free["blobs"]["share"] < 1


def test_figures_are_for_those_who_may_watch(client: Client, settings: LazySettings) -> None:
    assert client.get("/healthz").json()["free"]["var"]["bytes"] > 0  # from this machine
    assert "free" not in client.get("/healthz", REMOTE_ADDR="198.51.100.7").json()
    settings.METRICS_TOKEN = "a secret of some length"
    assert "free" not in client.get("/healthz").json()
    right = {"Authorization": "Bearer a secret of some length"}
    assert "free" in client.get("/healthz", headers=right).json()


def test_it_only_answers_questions(client: Client) -> None:
    assert client.post("/healthz").status_code == 405
