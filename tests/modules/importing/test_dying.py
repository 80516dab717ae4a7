"""Imports whose Hub or whose worker dies in the middle: they end, and nothing is there by half."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import settings

from hub_site.accounts.models import User
from hub_site.jobs.models import Job
from modules.importing import asking
from modules.models import Commit, HubOrigin, Import, LoraModule, Repo
from tests.modules.conftest import weights_bytes
from tests.modules.importing.conftest import adapter_folder, ask, wait_for_imports
from tests.other_site import OtherSite
from tests.workers import ROOT, WorkerProcess, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
Worker = Callable[..., WorkerProcess]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def held(our_hub: OtherSite, alice: User, tmp_path: Path) -> Import:
    """An import whose weights come by half and then no further, until the Hub behaves."""
    our_hub.upload("m", adapter_folder(tmp_path))
    our_hub.misbehave(f"/{WEIGHTS}")
    (row,) = ask(alice, "otto/m")
    return row


def is_fetching(row: Import) -> bool:
    row.refresh_from_db()
    return WEIGHTS in row.step


def assert_it_is_whole(row: Import) -> None:
    assert (row.state, row.outcome) == ("done", "new"), row.reason
    module = LoraModule.objects.get()
    assert module.repo == row.repo and Commit.objects.count() == 1
    assert HubOrigin.objects.get().repo == row.repo


def assert_nothing_is_there() -> None:
    assert not Repo.objects.exists() and not HubOrigin.objects.exists()
    assert not Commit.objects.exists()
    assert list(Path(settings.FILE_UPLOAD_TEMP_DIR).iterdir()) == []


def test_the_hub_is_killed_in_the_middle_and_comes_back(
    importing_worker: Worker,
    held: Import,
    our_hub: OtherSite,
) -> None:
    importing_worker(HUB_RETRY_MS="1000")
    wait_until(lambda: is_fetching(held), "the weights to be fetched")
    our_hub.kill()
    our_hub.behave()
    wait_until(lambda: Import.objects.get().tries, "the fault to be noticed")
    assert_nothing_is_there()
    our_hub.start()
    wait_for_imports([held])
    assert_it_is_whole(held)


def test_the_worker_is_killed_in_the_middle(
    importing_worker: Worker,
    held: Import,
    our_hub: OtherSite,
) -> None:
    worker = importing_worker()
    wait_until(lambda: is_fetching(held), "the weights to be fetched")
    assert held.job is not None
    worker.kill_child(held.job)
    assert_nothing_is_there()
    our_hub.behave()
    wait_for_imports([held])
    assert_it_is_whole(held)
    held.job.refresh_from_db()
    assert held.job.attempts == 2


def test_an_import_that_brings_down_every_worker_fails_and_can_be_tried_again(
    importing_worker: Worker,
    held: Import,
    our_hub: OtherSite,
) -> None:
    worker = importing_worker()
    for crash in range(settings.JOB_MAX_CRASHES):
        wait_until(
            lambda n=crash: Job.objects.filter(pk=held.job_id, state="running", attempts=n + 1),
            "the next try",
        )
        assert held.job is not None
        worker.kill_child(held.job)
    wait_for_imports([held])
    assert held.state == "failed" and "worker process died" in held.reason
    assert_nothing_is_there()
    our_hub.behave()
    asking.again([held])
    wait_for_imports([held])
    assert_it_is_whole(held)


def test_one_that_runs_is_cancelled_and_leaves_nothing(
    importing_worker: Worker,
    held: Import,
    our_hub: OtherSite,
) -> None:
    importing_worker()
    wait_until(lambda: is_fetching(held), "the weights to be fetched")
    asking.cancel([held])
    our_hub.behave()  # the rest comes, and nobody wants it any more
    wait_for_imports([held])
    assert held.state == "cancelled"
    assert_nothing_is_there()


def test_a_worker_that_is_asked_to_stop_leaves_its_import_to_the_next(
    importing_worker: Worker,
    held: Import,
    our_hub: OtherSite,
) -> None:
    our_hub.behave()
    our_hub.misbehave("/api/models/otto/", status=503)
    worker = importing_worker(HUB_RETRY_MS="60000")
    wait_until(lambda: Import.objects.get().tries, "the first pause")
    assert worker.stop() == 0
    our_hub.behave()
    Import.objects.update(next_try_at=None)
    importing_worker()
    wait_for_imports([held])
    assert_it_is_whole(held)


def test_a_command_that_is_interrupted_goes_on_when_it_is_called_again(
    our_hub: OtherSite,
    hub_settings: dict[str, str],
    tmp_path: Path,
) -> None:
    our_hub.upload_all({f"m{n}": adapter_folder(tmp_path, n) for n in range(3)})
    our_hub.misbehave("otto/m1/resolve/")
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.worker_settings", **hub_settings}
    command = [sys.executable, "manage.py", "import_modules", "otto", "--jobs", "1"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    first = start()
    wait_until(lambda: our_hub.asked("otto/m1/resolve"), "the one that hangs")
    first.send_signal(signal.SIGINT)
    assert first.stderr is not None
    said = iter(first.stderr.readline, "")
    assert any("Stopping" in line for line in said)  # only then does the Hub go on
    our_hub.behave()
    out, errors = first.communicate(timeout=120)
    assert first.returncode == 130 and "Nothing is half imported" in errors, out + errors
    assert "not tried" not in out  # which are left is what the second run is for
    there = set(Repo.objects.values_list("name", flat=True))
    assert "m1" not in there and len(there) < 3
    assert HubOrigin.objects.count() == Commit.objects.count() == len(there)

    second = start()
    out, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert f"{3 - len(there)} imported" in out
    assert set(Repo.objects.values_list("name", flat=True)) == {"m0", "m1", "m2"}
    assert {m.weights_size for m in LoraModule.objects.all()} == {len(weights_bytes())}


def test_a_second_ctrl_c_does_not_wait_for_a_hub_that_hangs(
    our_hub: OtherSite,
    hub_settings: dict[str, str],
    tmp_path: Path,
) -> None:
    our_hub.upload("m", adapter_folder(tmp_path))
    our_hub.misbehave(f"/{WEIGHTS}")
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.worker_settings", **hub_settings}
    command = [sys.executable, "manage.py", "import_modules", "otto/m"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: our_hub.asked(WEIGHTS), "the weights to be fetched")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert any("Stopping" in line for line in iter(process.stderr.readline, ""))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == -signal.SIGINT
    process.stderr.close()
    assert_nothing_is_there()


def test_a_command_that_is_killed_leaves_no_half_module(
    our_hub: OtherSite,
    hub_settings: dict[str, str],
    tmp_path: Path,
) -> None:
    our_hub.upload("m", adapter_folder(tmp_path))
    our_hub.misbehave(f"/{WEIGHTS}")
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.worker_settings", **hub_settings}
    command = [sys.executable, "manage.py", "import_modules", "otto/m"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    wait_until(lambda: our_hub.asked(WEIGHTS), "the weights to be fetched")
    process.kill()
    process.wait()
    assert_nothing_is_there()
