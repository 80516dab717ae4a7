"""A check in a real worker, killed at every level. No module is being checked for ever."""

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from safetensors.numpy import save

from hub_site.accounts.models import Namespace, User
from hub_site.jobs.worker_name import pid_of
from modules import services
from modules.models import LoraModule, Repo
from modules.storage import local
from tests.modules.conftest import config_bytes, factors
from tests.workers import WorkerProcess, wait_for, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
Start = Callable[..., WorkerProcess]
STORE = ("BLOB_DIR", "CACHE_DIR")


@pytest.fixture(autouse=True)
def store(settings: Any, tmp_path: Path) -> dict[str, str]:
    settings.BLOB_DIR, settings.CACHE_DIR = tmp_path / "blobs", tmp_path / "cache"
    return {name: str(getattr(settings, name)) for name in STORE}


@pytest.fixture
def module() -> LoraModule:
    """Uploaded; its weights are then a pipe that nobody writes to, so that no check of it ends."""
    alice = User.objects.create_user("alice")
    Namespace.objects.get_or_create(user=alice, defaults={"name": "alice", "kind": Namespace.USER})
    repo = services.create_repo(owner=alice.namespace, name="m", kind=Repo.LORA)
    files = {"adapter_config.json": config_bytes(), "adapter_model.safetensors": save(factors())}
    additions = {path: io.BytesIO(data) for path, data in files.items()}
    made = services.publish_module(repo=repo, author=alice, title="First", additions=additions)
    path = local.local_path(made.weights_sha256)
    path.rename(path.with_suffix(".kept"))
    os.mkfifo(path)
    return made


def mend(module: LoraModule) -> None:
    path = local.local_path(module.weights_sha256)
    for place in (path, *settings.CACHE_DIR.glob("commits/*/adapter_model.safetensors")):
        place.unlink()
        place.write_bytes(path.with_suffix(".kept").read_bytes())


def child_of(module: LoraModule) -> int:
    """The worker's child that has the module's check; 0 when none has."""
    assert module.check_job is not None
    module.check_job.refresh_from_db()
    return pid_of(module.check_job.owner) if module.check_job.state == "running" else 0


def checkers(module: LoraModule) -> list[int]:
    """The checking processes that this child has started."""
    pid = child_of(module)
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir()) if pid else []
        below = [int(p) for task in tasks for p in (task / "children").read_text().split()]
        return [p for p in below if b"checks.process" in Path(f"/proc/{p}/cmdline").read_bytes()]
    except FileNotFoundError:
        return []


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_check_that_is_killed_ends_in_rejection(
    start_worker: Start, module: LoraModule, store: dict[str, str]
) -> None:
    start_worker(**store)
    wait_until(lambda: checkers(module), "the check to start")
    os.kill(checkers(module)[0], signal.SIGKILL)
    assert module.check_job is not None
    wait_for(module.check_job, "done")
    module.refresh_from_db()
    assert module.status == LoraModule.REJECTED and "signal 9" in module.rejected_reason


def test_a_check_whose_worker_is_killed_is_taken_up_again(
    start_worker: Start, module: LoraModule, store: dict[str, str]
) -> None:
    worker = start_worker(**store)
    wait_until(lambda: checkers(module), "the check to start")
    (checker,) = checkers(module)
    assert module.check_job is not None
    mend(module)  # the next one finds the file whole
    worker.kill_child(module.check_job)
    wait_until(lambda: not runs(checker), "the check to die with its worker")
    wait_for(module.check_job, "done")
    module.refresh_from_db()
    assert module.is_ready and module.check_job.attempts == 2


def test_a_check_that_brings_down_every_worker_ends_in_rejection(
    start_worker: Start, module: LoraModule, store: dict[str, str]
) -> None:
    worker = start_worker(**store)
    seen: set[int] = set()
    for _ in range(settings.JOB_MAX_CRASHES):
        wait_until(lambda: set(checkers(module)) - seen, "the next check to start")  # noqa: B023
        seen |= set(checkers(module))
        assert module.check_job is not None
        worker.kill_child(module.check_job)
    assert module.check_job is not None
    wait_for(module.check_job, "failed")
    module.refresh_from_db()
    assert module.status == LoraModule.REJECTED and "did not come to an end" in (
        module.rejected_reason
    )
    assert not module.is_listed
    wait_until(lambda: not any(map(runs, seen)), "the last check to die with its worker")


def test_a_worker_that_is_asked_to_stop_leaves_its_check_to_the_next(
    start_worker: Start, module: LoraModule, store: dict[str, str]
) -> None:
    worker = start_worker(**store)
    wait_until(lambda: checkers(module), "the check to start")
    (checker,) = checkers(module)
    assert worker.stop() == 0
    wait_until(lambda: not runs(checker), "the check to end")
    module.refresh_from_db()
    assert module.status == LoraModule.CHECKING
    mend(module)
    start_worker(**store)
    assert module.check_job is not None
    wait_for(module.check_job, "done")
    module.refresh_from_db()
    assert module.is_ready and module.check_job.crashes == 0


def test_a_check_that_takes_too_long_ends_in_rejection(
    start_worker: Start, module: LoraModule, store: dict[str, str]
) -> None:
    start_worker(**store, CHECK_SECONDS="2")
    assert module.check_job is not None
    wait_for(module.check_job, "done")
    module.refresh_from_db()
    assert module.status == LoraModule.REJECTED
    assert "longer than the 2 seconds" in module.rejected_reason
