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


def add_worker(silent_for: timedelta = timedelta()) -> None:
    seen_at = timezone.now() - silent_for
    Worker.objects.create(name="w1", host="here", pid=1, seen_at=seen_at)


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


def test_it_is_healthy_with_database_broker_and_worker(client: Client) -> None:
    add_worker()
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json() == dict.fromkeys(("status", "database", "broker", "worker"), "ok")
    assert "no-store" in answer["Cache-Control"]
    assert client.head("/healthz").status_code == 200


def test_it_misses_a_worker_that_never_came(client: Client) -> None:
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["worker"] == "none has reported for 30 seconds"


def test_it_misses_a_worker_that_fell_silent(client: Client) -> None:
    add_worker(silent_for=timedelta(minutes=1))
    assert client.get("/healthz").status_code == 503


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
    assert answer.json() == {
        "status": "failing",
        "database": "does not answer",
        "broker": "ok",
        "worker": "unknown",
    }


def test_it_only_answers_questions(client: Client) -> None:
    assert client.post("/healthz").status_code == 405
