"""A site with a library and a result, and an empty one; commands run as processes of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.utils import timezone

from composer.models import FewShotTask, Recipe
from hub_site import embedded
from hub_site.accounts.models import User
from tests.composer import finished
from tests.composer.conftest import (  # noqa: F401
    alice,
    base_model,
    kept_library,
    library,
    lora_modules,
    task,
    tiny_folder,
)
from tests.workers import ROOT

PATIENCE = 300
SETUP = "import django\ndjango.setup()\n"
OURS = ("BLOB_DIR", "CACHE_DIR", "DATABASE_URL", "VAR_DIR", "SECRET_KEY")


@dataclass
class Site:
    """A database and folders; nothing of it runs."""

    environment: dict[str, str]
    var: Path

    @property
    def database(self) -> str:
        return self.environment["DATABASE_URL"]

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def manage(self, *arguments: str, code: int = 0) -> str:
        """What the command said, when it ends as it should."""
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, said
        return said

    def run(self, code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", SETUP + code],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def tables(self) -> int:
        with psycopg.connect(self.database) as connection:
            asked = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
            row = connection.execute(asked).fetchone()
        assert row is not None
        return int(row[0])

    def blobs(self) -> list[Path]:
        return sorted((self.var / "blobs").glob("??/??/*"))


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def site_of(var: Path, **variables: str) -> Site:
    var.mkdir()
    (var / "static").mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    environment = kept | {
        "DJANGO_SETTINGS_MODULE": "tests.web_settings",
        "PYTHONPATH": str(ROOT),
        "VAR_DIR": str(var),
        "SECRET_KEY": "the key of the site that is backed up",
        "DEMO": "false",
    }
    return Site(environment | variables, var)


@pytest.fixture
def here(
    transactional_db: None,
    alice: User,  # noqa: F811
    task: FewShotTask,  # noqa: F811
    settings: Any,
    tmp_path: Path,
) -> Site:
    """Four modules, a task, and a composition that came to a published recipe."""
    search = finished.finish(finished.start(task, alice))
    Recipe.objects.filter(pk=search.recipe_id).update(
        published_at=timezone.now(), published_by=alice
    )
    site = site_of(tmp_path / "here", DATABASE_URL=os.environ["DATABASE_URL"])
    settings.BLOB_DIR.rename(site.var / "blobs")
    settings.BLOB_DIR = site.var / "blobs"
    return site


@pytest.fixture
def empty(own_postgres: str, tmp_path: Path) -> Iterator[Site]:
    """A database without a table, on the same server, and a folder with nothing in it."""
    found = embedded.parse_url(own_postgres)
    name = f"empty_{found['NAME']}_{os.getpid()}"
    with psycopg.connect(embedded.url_for({**found, "NAME": "postgres"}), autocommit=True) as db:
        db.execute(f'CREATE DATABASE "{name}"'.encode())
        try:
            url = embedded.url_for({**found, "NAME": name})
            yield site_of(tmp_path / "there", DATABASE_URL=url)
        finally:
            db.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
