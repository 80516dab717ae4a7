"""A worker on another machine: real Celery workers that share nothing with the site but the
database and HTTP."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command

from composer import services
from composer.models import FewShotTask, Recipe, Search
from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import Job, JobEvent
from modules.checks import checking
from modules.models import BaseModel, LoraModule, Repo
from modules.storage import local
from tests.gate import Gate, gate_to
from tests.workers import WorkerProcess, wait_for, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
Start = Callable[..., WorkerProcess]
# Nothing here is about leases: a machine that is slow to load torch should not lose one.
PATIENT = {"JOB_LEASE_MS": "20000"}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The disk of the other machine."""
    return tmp_path / "elsewhere"


@pytest.fixture
def gate(live_server: Any) -> Iterator[Gate]:
    with gate_to(live_server.url) as gate:
        yield gate


@pytest.fixture
def start_remote(start_worker: Start, gate: Gate, elsewhere: Path) -> Start:
    """What its environment says of a Hub must not matter."""

    def start(**variables: str) -> WorkerProcess:
        return start_worker(
            **{
                "VAR_DIR": str(elsewhere),
                "HF_HOME": str(elsewhere / "hf"),
                "HF_HUB_OFFLINE": "0",
                "HF_ENDPOINT": "http://127.0.0.1:9",
                "HF_TOKEN": "hf_of_somebody_else",
                "SECRET_KEY": settings.SECRET_KEY,
                "FETCH_FROM": gate.url,
                "ENGINE_THREADS": "1",
                **PATIENT,
                **variables,
            }
        )

    return start


@pytest.fixture
def start_near(start_worker: Start) -> Callable[[], WorkerProcess]:
    """A worker beside the site, which shares its disk."""

    def start() -> WorkerProcess:
        return start_worker(
            BLOB_DIR=str(settings.BLOB_DIR),
            CACHE_DIR=str(settings.CACHE_DIR),
            ENGINE_THREADS="1",
            **PATIENT,
        )

    return start


@pytest.fixture
def private(alice: User, lora_modules: list[LoraModule]) -> LoraModule:
    """One of the modules is alice's, and nobody else's to see."""
    module = lora_modules[0]
    Repo.objects.filter(pk=module.repo_id).update(owner=alice.namespace, visibility=Repo.PRIVATE)
    module.refresh_from_db()
    return module


def submit(task: FewShotTask, user: User, budget: int = 25) -> Job:
    # CMA-ES, because Cobyla has converged on so few modules before a site can go away.
    overrides = {"budget": budget, "seed": 3, "population": 4, "optimiser": "cmaes"}
    return services.submit_job(task=task, user=user, overrides=overrides)


def found_by(job: Job) -> tuple[str, bytes]:
    """The recipe's id, and the adapter as the site hands it out."""
    recipe = Search.objects.select_related("recipe__adapter").get(pk=job.pk).recipe
    assert recipe is not None and recipe.adapter is not None
    return recipe.digest, local.local_path(recipe.adapter.sha256).read_bytes()


def events(job: Job) -> list[str]:
    return list(JobEvent.objects.filter(job=job).values_list("name", flat=True))


def test_it_finds_the_same_recipe_and_the_same_bytes_as_one_beside_the_site(
    task: FewShotTask,
    alice: User,
    private: LoraModule,
    start_remote: Start,
    start_near: Callable[[], WorkerProcess],
    elsewhere: Path,
) -> None:
    far = start_remote()
    job = wait_for(submit(task, alice), "done", "failed")
    assert job.error_message == ""
    names = {each["repo"] for each in job.search.spec["ingredients"]}
    assert len(names) == 4 and str(private.repo) in names
    remote = found_by(job)

    trial = services.submit_trial(
        search=Search.objects.select_related("recipe").get(pk=job.pk), user=alice, given="big"
    )
    trial = wait_for(trial, "done", "failed")
    assert trial.error_message == "" and trial.result["composed"] is not None

    log = far.log.read_text()
    assert "lcj_" not in log and "is not what was pinned" not in log
    kept = {path.relative_to(elsewhere).parts[0] for path in elsewhere.rglob("*") if path.is_file()}
    assert kept <= {"hf", "broker"}  # neither a store nor unpacked versions
    assert (elsewhere / "hf" / "hub" / f"models--{str(private.repo).replace('/', '--')}").is_dir()
    assert {repo.downloads for repo in Repo.objects.all()} == {0}
    assert far.stop() == 0

    Recipe.objects.all().delete()  # so that the other one builds it, too
    start_near()
    job = wait_for(submit(task, alice), "done", "failed")
    assert job.error_message == ""
    assert found_by(job) == remote


def test_lines_that_break_in_mid_file_cost_nothing_but_time(
    task: FewShotTask, alice: User, gate: Gate, start_remote: Start
) -> None:
    gate.cut_answers, gate.cut_uploads = 3, 2
    start_remote()
    job = wait_for(submit(task, alice), "done", "failed")
    assert job.error_message == "" and job.attempts == 1
    assert (gate.cut_answers, gate.cut_uploads) == (0, 0)
    assert found_by(job)


def test_a_job_waits_without_a_strike_while_the_site_is_away(
    task: FewShotTask, alice: User, gate: Gate, start_remote: Start
) -> None:
    gate.shut()
    start_remote()
    job = submit(task, alice)
    wait_until(lambda: "released" in events(job), "the worker to give the job back")
    job.refresh_from_db()
    assert (job.crashes, job.lost) == (0, 0)
    assert gate.url in JobEvent.objects.filter(job=job, name="released")[0].detail["reason"]
    gate.open()
    job = wait_for(job, "done", "failed")
    assert job.error_message == ""


def test_a_job_whose_site_goes_away_in_mid_search_ends_with_the_same_recipe(
    task: FewShotTask, alice: User, gate: Gate, start_remote: Start
) -> None:
    """The result cannot be sent; the search goes on from its last generation when the site is
    back."""
    start_remote()
    whole = wait_for(submit(task, alice, budget=200), "done", "failed")
    assert whole.error_message == ""
    found = found_by(whole)
    Recipe.objects.all().delete()

    job = submit(task, alice, budget=200)
    search = Search.objects.get(pk=job.pk)
    wait_until(lambda: search.generations.count() >= 5, "some generations")
    gate.shut()
    wait_until(lambda: "released" in events(job), "the worker to give the job back")
    gate.open()
    job = wait_for(job, "done", "failed")
    assert job.error_message == "" and job.attempts >= 2
    assert "restarted" not in events(job)
    assert found_by(job) == found


def test_a_byte_that_changed_in_its_cache_is_noticed_by_the_next_process(
    task: FewShotTask, alice: User, private: LoraModule, start_remote: Start, elsewhere: Path
) -> None:
    first = start_remote()
    job = wait_for(submit(task, alice), "done", "failed")
    found = found_by(job)
    assert first.stop() == 0
    (file,) = elsewhere.rglob(f"snapshots/{private.commit.sha}/adapter_model.safetensors")
    right = file.read_bytes()
    file.resolve().write_bytes(right[:-1] + bytes([right[-1] ^ 1]))

    Recipe.objects.all().delete()
    second = start_remote()
    job = wait_for(submit(task, alice), "done", "failed")
    assert job.error_message == "" and found_by(job) == found
    assert f"adapter_model.safetensors of {private.repo} is not what" in second.log.read_text()
    assert file.read_bytes() == right


def test_it_checks_a_private_upload_and_leaves_the_store_to_others(
    private: LoraModule, start_remote: Start, start_near: Callable[[], WorkerProcess]
) -> None:
    far = start_remote()
    store_job = queue.submit("prune_store", params={}, priority=9)
    LoraModule.objects.filter(pk=private.pk).update(status=LoraModule.CHECKING, checks=[])
    private.refresh_from_db()
    checking.check_later(private)
    assert private.check_job is not None
    job = wait_for(private.check_job, "done", "failed")
    assert (job.error_message, job.result["outcome"]) == ("", "checked")
    private.refresh_from_db()
    assert private.status == LoraModule.READY and private.checks
    store_job.refresh_from_db()
    assert store_job.state == "queued"
    assert "left to a worker beside the site" in far.log.read_text()
    start_near()
    assert wait_for(store_job, "done", "failed").state == "done"


def test_a_worker_with_another_key_gets_nothing_and_harms_no_job(
    task: FewShotTask,
    alice: User,
    start_remote: Start,
    start_near: Callable[[], WorkerProcess],
    elsewhere: Path,
) -> None:
    wrong = start_remote(SECRET_KEY="of another site")
    job = submit(task, alice)
    wait_until(lambda: "released" in events(job), "the worker to give the job back")
    assert "SECRET_KEY must be the site's own" in wrong.log.read_text()
    assert not list(elsewhere.rglob("*.safetensors"))
    wrong.kill()
    start_near()
    job = wait_for(job, "done", "failed")
    assert (job.error_message, job.crashes) == ("", 0)


def test_a_base_model_on_the_hub_comes_from_there_pinned(
    task: FewShotTask,
    alice: User,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
    start_remote: Start,
    start_near: Callable[[], WorkerProcess],
    elsewhere: Path,
) -> None:
    """The Hub is this site, which has the base model's files in a repo."""
    near = start_near()
    job = wait_for(submit(task, alice), "done", "failed")
    found = found_by(job)
    near.kill()
    Recipe.objects.all().delete()

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(settings, "HUB_ENDPOINT", gate.url)
    call_command("add_base_model", str(task.base_model), hub=True)
    task.refresh_from_db()
    assert task.base_model.source == BaseModel.HUB and task.base_model.repo is None
    start_remote(HUB_ENDPOINT=gate.url, HF_TOKEN="")
    job = wait_for(submit(task, alice), "done", "failed")
    assert job.error_message == "" and found_by(job) == found
    base = f"models--{str(task.base_model).replace('/', '--')}"
    assert (elsewhere / "hf" / "hub" / base / "snapshots" / task.base_model.revision).is_dir()
