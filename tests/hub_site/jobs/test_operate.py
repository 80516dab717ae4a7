"""The operator's page and command: the same of both, for those who may see it."""

import json
import uuid
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from hub_site.accounts.models import User
from hub_site.jobs import overview, queue
from hub_site.jobs.models import SCHEMA, Job, Worker
from tests.composer.conftest import make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator(db: None) -> User:
    user = make_user("olga", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_job"))
    return user


@pytest.fixture
def page(client: Client, operator: User) -> Iterator[Any]:
    client.force_login(operator)

    def page() -> str:
        answer = client.get("/operate/")
        assert answer.status_code == 200
        return answer.content.decode()

    yield page


def sign_on(name: str = "host:1:abc", **fields: Any) -> Worker:
    given: dict[str, Any] = {
        "host": "host",
        "pid": 1,
        "seen_at": timezone.now(),
        "queues": ["cpu", "store"],
    }
    given |= {"memory": 8 << 30, "schema": SCHEMA}
    return Worker.objects.create(name=name, **{**given, **fields})


def submit(kind: str = "test_idle", user: User | None = None, **fields: Any) -> Job:
    job = queue.submit(kind, params={"secret": "words of a user"}, user=user)
    Job.objects.filter(pk=job.pk).update(**fields)
    return Job.objects.get(pk=job.pk)


def claim(worker: str = "host:1:abc") -> Job:
    job = queue.claim_next(f"{worker}:7")
    assert job is not None
    return job


def said(*arguments: str) -> str:
    out = StringIO()
    call_command("jobs", *arguments, stdout=out)
    return out.getvalue()


# --- who may see it ------------------------------------------------------------------------------


def test_a_visitor_is_asked_to_sign_in(client: Client) -> None:
    answer = client.get("/operate/")
    assert answer.status_code == 302 and "/login/" in answer["Location"]


@pytest.mark.parametrize("fields", [{}, {"is_staff": True}])
def test_to_others_there_is_no_such_page(client: Client, fields: dict[str, Any]) -> None:
    client.force_login(make_user("eve", **fields))
    assert client.get("/operate/").status_code == 404
    assert "/operate/" not in client.get("/tasks/").content.decode()


def test_it_only_answers_questions(client: Client, operator: User) -> None:
    client.force_login(operator)
    assert client.post("/operate/").status_code == 405


def test_who_may_see_it_finds_it_in_the_menu(client: Client, operator: User) -> None:
    client.force_login(operator)
    assert 'href="/operate/"' in client.get("/tasks/").content.decode()


# --- what it shows -------------------------------------------------------------------------------


def test_an_empty_site_says_what_would_stand_there(page: Any) -> None:
    text = page()
    assert "No worker has signed on: start one with" in text
    assert "No job is running" in text and "Nothing waits" in text
    assert "No job has failed within a day" in text and "Nothing yet" in text


def test_it_shows_workers_and_what_they_do(page: Any, operator: User) -> None:
    sign_on(warm=["lab/t5"])
    sign_on("other:2:def", seen_at=timezone.now() - timedelta(minutes=5))
    submit(user=operator)
    claim()
    text = page()
    assert "host:1:abc" in text and "lab/t5" in text and "olga" in text
    assert "silent" in text and "other:2:def" in text
    assert "words of a user" not in text


def test_it_shows_a_lease_that_ran_out(page: Any) -> None:
    submit()
    claim()
    assert "ran out" not in page()
    Job.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert "ran out" in page()


def test_it_shows_how_long_the_first_has_waited(page: Any) -> None:
    submit(created_at=timezone.now() - timedelta(minutes=30))
    text = page()
    assert "has waited for 30 min" in text and "No worker takes jobs from it" in text


def test_a_job_that_nobody_can_do_is_said_with_its_reason(page: Any) -> None:
    sign_on()
    submit(queue="gpu")
    assert "needs a GPU" in page()


def test_a_job_that_nobody_can_do_is_said_behind_many_others_too(page: Any) -> None:
    sign_on()
    for _ in range(12):
        submit()
    submit(queue="gpu")
    assert "needs a GPU" in page()


def test_it_shows_what_failed_and_why(page: Any) -> None:
    submit()
    queue.fail(claim(), "our_fault", "Something broke on our side.")
    submit(state="failed", error_message="last week", finished_at=timezone.now() - timedelta(8))
    text = page()
    assert "Something broke on our side." in text and "our_fault" in text
    assert "last week" not in text


def test_htmx_gets_the_part_alone(client: Client, operator: User) -> None:
    client.force_login(operator)
    headers = {"HX-Request": "true", "HX-Target": "overview"}
    part = client.get("/operate/", headers=headers).content.decode()
    assert part.startswith('<div class="stack is-loose" id="overview"') and "<html" not in part


def test_it_asks_as_much_for_many_rows_as_for_few(page: Any, operator: User) -> None:
    def more() -> None:
        for place in range(5):
            sign_on(f"host:{Worker.objects.count()}:x")
            submit(user=make_user(f"user-{User.objects.count()}"))
            claim(f"host:{place}:x")
            submit(user=operator)
            queue.fail(claim(), "bad", "No.")
            submit(user=operator)

    counts = []
    for _ in range(2):
        more()
        with CaptureQueriesContext(connection) as asked:
            page()
        counts.append(len(asked))
    assert counts[0] == counts[1]


# --- the command ---------------------------------------------------------------------------------


def test_the_command_shows_the_same(operator: User) -> None:
    assert "No worker has signed on" in said()
    sign_on()
    submit(user=operator)
    claim()
    text = said()
    assert "host:1:abc" in text and "olga" in text and "left" in text and "claimed" in text
    assert "words of a user" not in text


def test_programs_get_json(operator: User) -> None:
    sign_on()
    job = submit(user=operator)
    found = json.loads(said("--json"))
    assert found["queues"] == [
        {"queue": "cpu", "waiting": 1, "oldest": "less than 1 s", "running": 0, "workers": 1}
    ]
    assert [row["id"] for row in found["waiting"]] == [str(job.pk)]
    assert [row["event"] for row in found["events"]] == ["submitted"]


def test_jobs_are_found_by_state_kind_user_and_id(operator: User) -> None:
    mine = submit(user=operator)
    other = submit("test_count", state="failed", finished_at=timezone.now())

    def found(*arguments: str) -> set[str]:
        return {row["id"] for row in json.loads(said("--json", *arguments))["jobs"]}

    assert found("--state", "failed") == {str(other.pk)}
    assert found("--kind", "test_idle") == {str(mine.pk)}
    assert found("--user", "OLGA") == {str(mine.pk)}
    assert found("--id", str(other.pk)) == {str(other.pk)}
    assert found("--user", "olga", "--state", "failed") == set()
    assert "submitted" in said("--id", str(mine.pk))


def test_a_job_is_cancelled_by_its_id() -> None:
    waiting = submit()
    assert "The job is cancelled." in said("cancel", str(waiting.pk))
    with pytest.raises(CommandError, match="is cancelled already"):
        call_command("jobs", "cancel", str(waiting.pk))
    running = submit()
    claim()
    assert "stops at its next step" in said("cancel", str(running.pk))
    assert Job.objects.get(pk=running.pk).cancel_requested
    with pytest.raises(CommandError, match="There is no job"):
        call_command("jobs", "cancel", str(uuid.uuid4()))


# --- the queries behind both ---------------------------------------------------------------------


def test_only_the_newest_events_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    submit()
    submit("test_count")
    assert overview.count_events(timedelta(hours=1), ["submitted", "lost"]) == {
        "submitted": 2,
        "lost": 0,
    }
    monkeypatch.setattr(overview, "EVENTS_LOOKED_AT", 1)
    assert overview.count_events(timedelta(hours=1), ["submitted"]) == {"submitted": 1}


def test_queues_that_are_expected_are_shown_without_a_worker(settings: Any) -> None:
    settings.EXPECT_QUEUES = ["cpu", "gpu", "store"]
    assert [line.name for line in overview.Overview().queues] == ["cpu", "gpu"]
