"""manage.py prepare: two containers that start together do it one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from hub_site import embedded
from hub_site.management.commands.prepare import PREPARING
from tests.workers import PATIENCE, ROOT, wait_until

pytestmark = pytest.mark.slow
WAITS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@pytest.fixture
def empty_database(own_postgres: str) -> Iterator[str]:
    found = embedded.parse_url(own_postgres)
    name = f"empty_{found['NAME']}_{os.getpid()}"
    with psycopg.connect(embedded.url_for({**found, "NAME": "postgres"}), autocommit=True) as db:
        db.execute(f'CREATE DATABASE "{name}"'.encode())
        yield embedded.url_for({**found, "NAME": name})
        db.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def prepare(database: str, var: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "DATABASE_URL": database,
        "VAR_DIR": str(var),
        "DEMO": "false",
        "DJANGO_SETTINGS_MODULE": "hub_site.settings",
    }
    return subprocess.Popen(
        [sys.executable, "manage.py", "prepare"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_of_two_that_start_together_one_migrates_and_the_other_waits(
    empty_database: str, tmp_path: Path
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as starter:
        starter.execute("SELECT pg_advisory_lock(%s)", [PREPARING])
        both = [prepare(empty_database, tmp_path) for _ in range(2)]
        wait_until(lambda: starter.execute(WAITS).fetchone() == (2,), "both to stand in line")
        [made] = starter.execute("SELECT to_regclass('django_migrations')").fetchall()
        assert made == (None,)
        starter.execute("SELECT pg_advisory_unlock(%s)", [PREPARING])
        said = [process.communicate(timeout=PATIENCE)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        assert all("Another process is preparing this database" in text for text in said)
        twice = "SELECT app, name FROM django_migrations GROUP BY app, name HAVING count(*) > 1"
        assert starter.execute(twice).fetchall() == []
        assert starter.execute("SELECT count(*) FROM jobs_job").fetchone() == (0,)


def test_two_at_once_without_any_order_both_come_through(
    empty_database: str, tmp_path: Path
) -> None:
    both = [prepare(empty_database, tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert (tmp_path / "static" / "staticfiles.json").exists()
    assert (tmp_path / "tmp").is_dir()


def test_one_that_was_killed_holds_nobody_up(empty_database: str, tmp_path: Path) -> None:
    with psycopg.connect(empty_database, autocommit=True) as other:
        first = prepare(empty_database, tmp_path)
        holds = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        wait_until(
            lambda: first.poll() is not None or other.execute(holds).fetchone() != (0,),
            "the first to begin",
        )
        first.kill()
        first.communicate()
    second = prepare(empty_database, tmp_path)
    said, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, said
