"""A machine's clock jumps an hour forward and back. Leases go by the database's clock, and waiting
goes by clocks that cannot be set, so nobody notices.

libfaketime (Debian package faketime) stands between a process and its clock.
"""

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.test import Client

from hub_site.jobs import queue
from tests.composer.conftest import make_user
from tests.counting import assert_counted_once, count_job, names, wait_for_steps
from tests.faults.conftest import Web
from tests.job_kinds import steps_of
from tests.workers import ROOT, WorkerProcess

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
JUMPS = ("+1h", "-1h", "+0")


@dataclass
class Clock:
    """What a process is told that the time is, as far from ours as the file says."""

    file: Path
    library: Path

    def jump(self, to: str) -> None:
        draft = self.file.with_suffix(".new")
        draft.write_text(f"{to}\n")
        draft.replace(self.file)

    @property
    def variables(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self.library),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            # As in a kernel: only the clock that tells the date can be set.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": f"{Path(__file__).parent / 'faked_clock'}:{ROOT}",
        }


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        pytest.skip("needs libfaketime (Debian package faketime)")
    clock = Clock(tmp_path / "clock", found[0])
    clock.jump("+0")
    return clock


def test_a_jump_is_seen_by_the_process_and_only_in_its_date(clock: Clock) -> None:
    program = "import time; time.sleep(0.1); print(time.time(), time.monotonic())"
    clock.jump("+1h")
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **clock.variables},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    date, monotonic = map(float, done.stdout.split())
    assert 3500 < date - time.time() < 3700
    assert abs(monotonic - time.monotonic()) < 100


def test_a_worker_whose_clock_jumps_does_its_jobs_as_before(
    clock: Clock, start_worker: Callable[..., WorkerProcess]
) -> None:
    worker = start_worker(**clock.variables)
    for jump in JUMPS:
        job = count_job(steps=50)
        wait_for_steps(job, 5)
        clock.jump(jump)
        assert_counted_once(job)
        assert (job.attempts, job.lost, job.crashes) == (1, 0, 0), names(job)
        after = count_job(steps=2, seconds=0)
        assert_counted_once(after)
    assert worker.process.poll() is None


def test_a_worker_of_another_time_takes_up_what_one_of_ours_left(
    clock: Clock, start_worker: Callable[..., WorkerProcess]
) -> None:
    """An hour ahead, it would take every lease for over, if it went by its own clock."""
    ours = start_worker()
    job = count_job(steps=400, seconds=0.05)
    wait_for_steps(job, 5)
    clock.jump("+1h")
    start_worker(**clock.variables)
    wait_for_steps(job, len(steps_of(job)) + 20)
    assert names(job) == ["submitted", "claimed"]
    ours.kill()
    clock.jump("-1h")
    assert_counted_once(job)
    assert names(job).count("lost") == 1


def test_a_site_whose_clock_jumps_answers_and_takes_jobs(
    clock: Clock,
    start_web: Callable[..., Web],
    start_worker: Callable[..., WorkerProcess],
) -> None:
    client = Client()
    client.force_login(make_user("alice"))
    web = start_web(**clock.variables)
    start_worker()
    for jump in JUMPS:
        clock.jump(jump)
        line = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
        line.request(
            "GET", "/upload/", headers={"Cookie": f"sessionid={client.cookies['sessionid'].value}"}
        )
        answer = line.getresponse()
        assert answer.status == 200, jump  # and not the way to the sign-in
        answer.read()
        line.request("GET", "/healthz")
        assert line.getresponse().status == 200
        assert_counted_once(queue.submit("test_count", params={"steps": 2}))
