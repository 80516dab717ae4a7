"""The suite's own PostgreSQL, one for each process, started only when a test asks for the database.

TEST_DATABASE_URL names a server to use instead; its role must be allowed to create databases.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from hub_site import embedded

pytest_plugins = ["tests.workers", "tests.other_site", "tests.stack.nginx"]

# No example may fail because the machine is slow; nothing is written beside the tests.
hypothesis.settings.register_profile(
    "commons",
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("commons")

ROOT = Path(__file__).resolve().parent.parent
MOST_PROCESSES = 4  # each has torch and a PostgreSQL of its own, together up to 1 GB


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: the processors that we may use, within reason."""
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return min(len(ours) or os.cpu_count() or 1, MOST_PROCESSES)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What `--dist loadscope` means: the browser's tests in one process, the others as it comes.

    The mark xdist_group would say the same, but pytest-xdist 3.8 puts it where pytest 9.2 does not
    look.
    """
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class BrowserTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "browser" if nodeid.startswith("tests/browser/") else nodeid

    return BrowserTogether(config, log)


@pytest.fixture(scope="session")
def own_postgres() -> Iterator[str]:
    """The address of a PostgreSQL that only this test run uses."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    keeper = subprocess.Popen(
        [sys.executable, "-m", "tests.own_postgres"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for us
    )
    assert keeper.stdin is not None and keeper.stdout is not None
    try:
        url = keeper.stdout.readline().strip()
        if not url:
            pytest.fail("The PostgreSQL of the tests did not start; see its stderr.", pytrace=False)
        yield url
    finally:
        keeper.stdin.close()
        keeper.wait()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(own_postgres: str) -> None:
    """Point Django at it before pytest-django makes the test database there."""
    from django.conf import settings
    from django.db import connections

    found = embedded.parse_url(own_postgres)
    test_name = f"test_{found['NAME']}_{os.getpid()}"
    settings.DATABASES["default"].update(found)
    connections["default"].settings_dict.update(found)
    connections["default"].settings_dict["TEST"]["NAME"] = test_name
    # For the workers and servers that tests start as processes.
    os.environ["DATABASE_URL"] = embedded.url_for({**found, "NAME": test_name})
