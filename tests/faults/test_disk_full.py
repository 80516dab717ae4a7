"""A worker's disk is full when it has found something: the search waits for room and goes on.

Uploads and full disks: test_uploads_die.py.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import settings

from composer import services
from composer.models import FewShotTask, Search
from hub_site.accounts.models import User
from hub_site.jobs.models import JobEvent
from modules.models import Blob
from tests.faults.conftest import OWN_MOUNTS, Web
from tests.workers import WorkerProcess, wait_for, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
# The store as it is, on a small disk, and a file that takes up the rest of it.
FILL = (
    "cp -a {store} {copy} && mount -t tmpfs -o size=32m tmpfs {store} && cp -a {copy}/. {store}/ "
    "&& (dd if=/dev/zero of={store}/filler bs=4k 2>/dev/null || true)"
)


@pytest.fixture
def small_disks() -> None:
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine lets nobody make file systems of their own")


def seen_by(process: int, path: Path) -> Path:
    """A path in the file systems of another process."""
    return Path(f"/proc/{process}/root{path}")


def test_an_adapter_that_finds_no_room_is_built_when_there_is_some(
    small_disks: None,
    task: FewShotTask,
    alice: User,
    start_worker: Callable[..., WorkerProcess],
    tmp_path: Path,
) -> None:
    store = Path(settings.BLOB_DIR)
    fill = FILL.format(store=store, copy=tmp_path / "copy")
    worker = start_worker(
        before=[*OWN_MOUNTS, "sh", "-c", f'{fill} && exec "$@"', "sh"],
        BLOB_DIR=str(store),
        CACHE_DIR=str(settings.CACHE_DIR),
        ENGINE_THREADS="1",
        JOB_LEASE_MS="20000",
    )
    overrides = {"budget": 40, "seed": 3, "population": 4, "optimiser": "cmaes"}
    job = services.submit_job(task=task, user=alice, overrides=overrides)
    released = JobEvent.objects.filter(job=job, name="released")
    wait_until(lambda: released.count() >= 2, "it to step back, twice")
    assert "disk is full" in released[0].detail["reason"]
    job.refresh_from_db()
    assert (job.crashes, job.lost, job.error_message) == (0, 0, "")
    generations = Search.objects.get(pk=job.pk).generations.count()
    before = Blob.objects.count()

    seen_by(worker.process.pid, store / "filler").unlink()
    wait_for(job, "done", "failed")
    assert job.state == "done", job.error_message
    search = Search.objects.select_related("recipe__adapter").get(pk=job.pk)
    assert search.recipe is not None and search.recipe.adapter is not None
    assert Blob.objects.count() == before + 1
    assert search.generations.count() == generations  # nothing was searched again
    stored = seen_by(worker.process.pid, store)
    assert len(list(stored.rglob(search.recipe.adapter.sha256))) == 1
    assert not list((stored / "incoming").iterdir())


def test_a_site_whose_disk_is_full_lets_a_worker_elsewhere_wait(
    small_disks: None,
    task: FewShotTask,
    alice: User,
    start_web: Callable[..., Web],
    start_worker: Callable[..., WorkerProcess],
    tmp_path: Path,
) -> None:
    store = Path(settings.BLOB_DIR)
    web = start_web(
        before=FILL.format(store=store, copy=tmp_path / "copy"),
        BLOB_DIR=str(store),
        CACHE_DIR=str(settings.CACHE_DIR),
    )
    start_worker(
        VAR_DIR=str(tmp_path / "elsewhere"),
        HF_HOME=str(tmp_path / "elsewhere" / "hf"),
        HF_HUB_OFFLINE="0",
        SECRET_KEY=settings.SECRET_KEY,
        FETCH_FROM=web.url,
        ENGINE_THREADS="1",
        JOB_LEASE_MS="20000",
    )
    overrides = {"budget": 40, "seed": 3, "population": 4, "optimiser": "cmaes"}
    job = services.submit_job(task=task, user=alice, overrides=overrides)
    released = JobEvent.objects.filter(job=job, name="released")
    wait_until(lambda: released.exists(), "it to step back")
    assert "disk is full" in released[0].detail["reason"]
    seen_by(web.process.pid, store / "filler").unlink()
    wait_for(job, "done", "failed")
    assert job.state == "done", job.error_message
