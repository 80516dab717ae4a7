"""Tasks, jobs and recipes for programs."""

import io
import json
import zipfile
from typing import Any

import pytest
import torch
from django.core.management import call_command
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from composer import model_cache, services, task_writing
from composer.models import FewShotTask
from hub_site.accounts import tokens
from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import Job
from hub_site.jobs.worker import run
from modules.models import BaseModel, LoraModule

STRANGE = "00000000-0000-0000-0000-000000000000"


class Program:
    """A client with a token, speaking JSON."""

    def __init__(self, user: User | None, scope: str = "write") -> None:
        self.client = Client()
        self.headers: dict[str, str] = {}
        if user:
            _, plain = tokens.create_token(user, name="test", scope=scope)
            self.headers["Authorization"] = f"Bearer {plain}"

    def send(self, method: str, path: str, data: Any = None, **headers: str) -> Any:
        return self.client.generic(
            method,
            f"/api/v1/{path}",
            b"" if data is None else json.dumps(data).encode(),
            content_type="application/json",
            headers={**self.headers, **headers},
        )

    def get(self, path: str) -> Any:
        return self.send("GET", path)

    def post(self, path: str, data: Any = None, **headers: str) -> Any:
        return self.send("POST", path, data, **headers)


@pytest.fixture
def program(alice: User) -> Program:
    return Program(alice)


@pytest.fixture
def document(base_model: BaseModel) -> dict[str, Any]:
    return {
        "name": "Opposites",
        "base_model": base_model.name,
        "template": "opposite of {input} :",
        "examples": [{"input": "big", "target": "small"}, {"input": "hot", "target": "cold"}],
        "held_out": [{"input": "old", "target": "new"}],
    }


def work() -> None:
    torch.set_num_threads(1)
    model_cache.forget()
    job = queue.claim_next("test")
    assert job is not None
    run(job)


def is_error(response: Any, status: int, code: str | None = None) -> bool:
    body = response.json()
    assert set(body) == {"code", "message", "fields"}, body
    assert body["message"]
    return response.status_code == status and code in (None, body["code"])


# --- tasks -------------------------------------------------------------------------------------


def test_it_writes_reads_changes_and_deletes_a_task(
    program: Program, document: dict[str, Any]
) -> None:
    made = program.post("tasks/", document)
    assert made.status_code == 201, made.content
    place = made["Location"].removeprefix("/api/v1/")
    assert program.get(place).json() == made.json()
    assert made.json()["examples"] == document["examples"]

    changed = program.send("PUT", place, document | {"name": "Changed", "held_out": []})
    assert changed.status_code == 200
    assert (changed.json()["name"], changed.json()["held_out"]) == ("Changed", [])
    listed = program.get("tasks/").json()
    assert [(row["name"], row["examples"], row["held_out"]) for row in listed["results"]] == [
        ("Changed", 2, 0)
    ]
    assert program.send("DELETE", place).status_code == 204
    assert is_error(program.get(place), 404, "not_found")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"examples": []}, "bad_examples", "1 to 200"),
        ({"examples": [{"input": "big"}]}, "invalid", "target"),
        ({"examples": "big"}, "invalid", "examples"),
        ({"held_out": [{"input": "big", "target": "x"}]}, "bad_examples", "line 1"),
        ({"template": "none"}, "bad_examples", "{input}"),
        ({"base_model": "nobody/nothing"}, "invalid", "base_model"),
        ({"base_model": "a\0b"}, "invalid", "base_model"),
        ({"base_model": "\ud800"}, "invalid", "base_model"),
        ({"name": ""}, "invalid", "name"),
        ({"answer_options": ["a", "b"]}, "bad_examples", "answer option"),
        ({"answer_options": ["small"]}, "bad_examples", "two answer options"),
        ({"answer_options": [str(n) for n in range(201)]}, "bad_examples", "at most 200"),
    ],
)
def test_it_says_what_is_wrong_with_a_task(
    program: Program, document: dict[str, Any], change: dict[str, Any], code: str, words: str
) -> None:
    answer = program.post("tasks/", document | change)
    assert is_error(answer, 422, code), answer.content
    assert words in answer.json()["message"]
    assert not FewShotTask.objects.exists()


def test_strangers_do_not_find_a_task(
    program: Program, document: dict[str, Any], task: FewShotTask, bob: User
) -> None:
    bobs = Program(bob)
    assert is_error(bobs.get(f"tasks/{task.pk}/"), 404)
    assert is_error(bobs.send("PUT", f"tasks/{task.pk}/", document), 404)
    assert is_error(bobs.send("DELETE", f"tasks/{task.pk}/"), 404)
    assert is_error(bobs.post("jobs/", {"task": str(task.pk)}), 422, "invalid")
    assert bobs.get("tasks/").json()["count"] == 0
    assert is_error(Program(None).get(f"tasks/{task.pk}/"), 404)


def test_everybody_reads_demo_tasks_and_nobody_writes_them(
    program: Program, document: dict[str, Any], demo_task: FewShotTask
) -> None:
    anybody = Program(None)
    assert anybody.get(f"tasks/{demo_task.pk}/").json()["is_demo"] is True
    assert anybody.get("tasks/").json()["count"] == 1
    assert is_error(program.send("PUT", f"tasks/{demo_task.pk}/", document), 404)
    assert is_error(program.send("DELETE", f"tasks/{demo_task.pk}/"), 404)


def test_writing_needs_a_token_of_write_scope(
    alice: User, document: dict[str, Any], task: FewShotTask
) -> None:
    reader = Program(alice, scope="read")
    assert reader.get(f"tasks/{task.pk}/").status_code == 200
    assert is_error(reader.post("tasks/", document), 403)
    assert is_error(reader.post("jobs/", {"task": str(task.pk)}), 403)
    nobody = Program(None)
    assert is_error(nobody.post("tasks/", document), 401)
    assert is_error(nobody.get("jobs/"), 401)
    assert is_error(nobody.post("jobs/", {"task": str(task.pk)}), 401)


# --- jobs --------------------------------------------------------------------------------------


def test_it_accepts_a_job_once_for_a_key(program: Program, task: FewShotTask) -> None:
    wanted = {"task": str(task.pk), "settings": {"budget": 20, "seed": 4}}
    first = program.post("jobs/", wanted, **{"Idempotency-Key": "abc"})
    again = program.post("jobs/", wanted, **{"Idempotency-Key": "abc"})
    assert first.status_code == again.status_code == 202
    assert first["Location"] == again["Location"] == f"/api/v1/jobs/{first.json()['id']}/"
    assert Job.objects.count() == 1
    assert first.json()["state"] == "queued"
    assert first.json()["progress"]["queue_position"] == 1
    assert first.json()["spec"]["search"]["budget"] == 20
    other = program.post("jobs/", wanted | {"preset": "paper"}, **{"Idempotency-Key": "abc"})
    assert is_error(other, 409, "idempotency_key_reused")
    long = program.post("jobs/", wanted, **{"Idempotency-Key": "x" * 201})
    assert is_error(long, 422, "invalid")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"task": STRANGE}, "invalid"),
        ({"task": "x"}, "invalid"),
        ({"preset": "best"}, "invalid"),
        ({"preset": "\ud800"}, "invalid"),
        ({"budget": 20}, "invalid"),
        ({"settings": {"bugdet": 20}}, "invalid"),
        ({"settings": {"budget": 0}}, "invalid"),
        ({"settings": {"bound": 0.5}}, "bad_config"),
        ({"settings": {"budget": 5000}}, "over_limit"),
        ({"modules": {"how": "hand", "modules": ["nobody/nothing"]}}, "invalid"),
        ({"modules": {"how": "hand"}}, "incompatible_modules"),
        ({"modules": {"how": "hand", "modules": ["a/b"] * 101}}, "invalid"),
        ({"modules": {"how": "best"}}, "invalid"),
    ],
)
def test_it_says_what_is_wrong_with_a_job(
    program: Program, task: FewShotTask, change: dict[str, Any], code: str
) -> None:
    answer = program.post("jobs/", {"task": str(task.pk)} | change)
    assert is_error(answer, 429 if code == "over_limit" else 422, code), answer.content
    assert not Job.objects.exists()


def test_it_names_what_it_does_not_know(program: Program, task: FewShotTask) -> None:
    answer = program.post("jobs/", {"task": str(task.pk), "budget": 20})
    assert answer.json()["fields"]["budget"] == [
        "Unknown field. Known here: task, preset, modules, settings, test_folds."
    ]


@pytest.mark.parametrize("key", ["x" * 201, "a\0b"])
def test_it_says_what_is_wrong_with_a_key(program: Program, task: FewShotTask, key: str) -> None:
    answer = program.post("jobs/", {"task": str(task.pk)}, **{"Idempotency-Key": key})
    assert is_error(answer, 422, "invalid")


def test_it_takes_modules_by_name(
    program: Program, task: FewShotTask, lora_modules: list[LoraModule]
) -> None:
    names = [str(lora_modules[3]), str(lora_modules[1])]
    chosen = {"how": "hand", "modules": names}
    made = program.post("jobs/", {"task": str(task.pk), "modules": chosen})
    assert made.status_code == 202, made.content
    assert [each["repo"] for each in made.json()["spec"]["ingredients"]] == sorted(names)


def test_it_refuses_a_module_that_cannot_be_composed_and_says_why(
    program: Program, task: FewShotTask, lora_modules: list[LoraModule]
) -> None:
    dora = lora_modules[1]
    dora.not_composable = "It cannot be composed exactly: it uses DoRA."
    dora.save()
    chosen = {"how": "hand", "modules": [str(lora_modules[3]), str(dora)]}
    answer = program.post("jobs/", {"task": str(task.pk), "modules": chosen})
    assert is_error(answer, 422, "incompatible_modules")
    assert f"{dora} cannot be mixed here" in answer.json()["message"]
    assert "it uses DoRA" in answer.json()["message"]
    all_that_fit = program.post("jobs/", {"task": str(task.pk)}).json()["spec"]["ingredients"]
    assert str(dora) not in [each["repo"] for each in all_that_fit] and len(all_that_fit) > 1


def test_strangers_do_not_find_a_job(task: FewShotTask, alice: User, bob: User) -> None:
    job = services.submit_job(task=task, user=alice)
    bobs = Program(bob)
    for path in ("", "adapter.zip"):
        assert is_error(bobs.get(f"jobs/{job.pk}/{path}"), 404)
    for path in ("cancel/", "publish/", "try/"):
        assert is_error(bobs.post(f"jobs/{job.pk}/{path}", {"title": "T", "input": "x"}), 404)
    assert bobs.get("jobs/").json()["count"] == 0
    assert Job.objects.get().state == "queued"


def test_it_cancels_a_job(program: Program, task: FewShotTask, alice: User) -> None:
    job = services.submit_job(task=task, user=alice)
    assert program.post(f"jobs/{job.pk}/cancel/").json()["state"] == "cancelled"
    assert program.post(f"jobs/{job.pk}/cancel/").status_code == 200
    assert is_error(program.send("GET", f"jobs/{job.pk}/cancel/"), 405)


def test_nothing_can_be_had_from_a_job_that_has_not_finished(
    program: Program, task: FewShotTask, alice: User
) -> None:
    job = services.submit_job(task=task, user=alice)
    assert is_error(program.get(f"jobs/{job.pk}/adapter.zip"), 409, "not_ready")
    assert is_error(program.post(f"jobs/{job.pk}/publish/", {"title": "T"}), 409, "not_ready")
    assert is_error(program.post(f"jobs/{job.pk}/try/", {"input": "big"}), 409, "not_ready")


@pytest.mark.django_db(transaction=True)
def test_a_program_goes_the_whole_way(
    program: Program, document: dict[str, Any], bob: User
) -> None:
    task = program.post("tasks/", document).json()
    job = program.post("jobs/", {"task": task["id"], "settings": {"budget": 12}})
    place = job["Location"].removeprefix("/api/v1/")
    work()
    done = program.get(place).json()
    assert (done["state"], done["error"]) == ("done", None)
    assert done["progress"]["evaluations"] == 12 and len(done["progress"]["weights"]) == 4
    assert done["verdict"]
    zipped = b"".join(program.get(f"{place}adapter.zip").streaming_content)
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        assert "adapter_model.safetensors" in archive.namelist()

    trial = program.post(f"{place}try/", {"input": "big"})
    assert trial.status_code == 202
    work()
    answered = program.get(trial["Location"].removeprefix("/api/v1/")).json()
    assert answered["kind"] == "predict" and set(answered["result"]) >= {"base", "composed"}

    bobs, digest = Program(bob), done["recipe"]
    assert is_error(bobs.get(f"recipes/{digest}/"), 404)
    assert is_error(bobs.get(f"recipes/{digest}/adapter.zip"), 404)
    published = program.post(f"{place}publish/", {"title": "Opposites for all"})
    assert published.status_code == 201
    recipe = bobs.get(f"recipes/{digest}/").json()
    assert recipe["title"] == "Opposites for all" and recipe["published_by"] == "alice"
    assert recipe["document"]["id"] == digest
    assert recipe["document"]["evidence"]["verdict"]["sentence"] == done["verdict"]
    text = bobs.get(f"recipes/{digest}/").content.decode()
    assert '"predictions"' not in text and '"answers"' not in text and '"shots"' not in text
    assert bobs.get("recipes/").json()["count"] == 1
    assert bobs.get(f"recipes/{digest}/adapter.zip").status_code == 200


def test_lists_ask_the_same_number_of_questions_for_ten_rows_and_twenty(
    program: Program,
    task: FewShotTask,
    alice: User,
    settings: Any,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    settings.USER_QUEUED_JOBS = 100

    def ten_more() -> None:
        for _ in range(10):
            task_writing.duplicate_task(task, user=alice)
            services.submit_job(task=task, user=alice)

    ten_more()
    program.get("tasks/")  # notes, once a minute, that the token was used
    for path in ("tasks/", "jobs/"):
        with django_assert_num_queries(3):  # token, count, rows
            assert program.get(path).status_code == 200
    ten_more()
    for path in ("tasks/", "jobs/"):
        with django_assert_num_queries(3):
            assert len(program.get(path).json()["results"]) >= 20


def test_the_schema_has_no_gaps(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("spectacular", validate=True, fail_on_warn=True)
    assert "/api/v1/jobs/{id}/adapter.zip" in capsys.readouterr().out
