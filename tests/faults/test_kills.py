"""The kill test in both pairings. `python -m tests.faults.kills --kills 300` does more of it."""

import shutil
import subprocess
import sys

import pytest

from tests.faults.stand import PAIRINGS
from tests.workers import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_no_job_minds_whatever_is_killed(pairing: str) -> None:
    if pairing == "redis" and shutil.which("redis-server") is None:
        pytest.skip("needs redis-server (Debian package redis-server)")
    command = [sys.executable, "-m", "tests.faults.kills", "--kills", "50", "--pairing", pairing]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout
