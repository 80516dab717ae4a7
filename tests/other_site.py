"""A second site as the Hub of ours: a server of its own, with its own database, files and people.

`other_site.url` is its address, `.user_name` and `.token` an account there that may write.
`.upload(name, folder)` and `.client(code)` go the way of the stock client; `.run(code)` is a
program of the site's own, for what no client can do. `.kill()` is a SIGKILL, `.start()` brings it
back on the same port. `.misbehave(path, …)` has it answer badly, `.asked()` says what it was asked.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from hub_site import embedded
from tests.workers import ROOT, wait_until

if TYPE_CHECKING:
    from hub_site.jobs.models import Job

NAME = "otto"
PATIENCE = 300
CLIENT = """
import json, os, sys
from pathlib import Path
from huggingface_hub import *
from huggingface_hub.errors import *
from huggingface_hub.utils import disable_progress_bars
disable_progress_bars()
api = HfApi()
"""
PROGRAM = """
import django
django.setup()
"""
PREPARE = f"""
from django.core.management import call_command
call_command("migrate", verbosity=0, interactive=False)
from hub_site.accounts import tokens
from hub_site.accounts.models import User
print(tokens.create_token(User.objects.create_user({NAME!r}), name="test", scope="write")[1])
"""


class OtherSite:
    user_name = NAME

    def __init__(self, database_url: str, var: Path) -> None:
        self.var = var
        (var / "static").mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUB_", "DJANGO"))}
        self.environment = kept | {
            "DJANGO_SETTINGS_MODULE": "tests.web_settings",
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": database_url,
            "VAR_DIR": str(var),
            "SECRET_KEY": "the other site's own",
        }
        self.database_url = database_url
        self.process: subprocess.Popen[bytes] | None = None
        self.token = self.run(PREPARE).strip()

    # --- the server ----------------------------------------------------------------------------

    def start(self) -> None:
        """Bring it up, or back; returns when it answers."""
        if self.process is not None and self.process.poll() is None:
            return
        command = [
            *(sys.executable, "-m", "gunicorn", "tests.other_wsgi:application"),
            *("--bind", f"127.0.0.1:{self.port}", "--threads", "8"),
            *("--worker-class", "hub_site.slow_clients.PatientWorker"),
            *("--no-control-socket", "--log-level", "warning"),
            *("--worker-tmp-dir", str(self.var)),
        ]
        with (self.var / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        wait_until(self._answers, "the other site")

    def kill(self) -> None:
        """As when its machine goes away: nothing is finished, nothing is said."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"The other site ended at once:\n{(self.var / 'log').read_text()}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            connection.request("GET", "/api/models")
            return connection.getresponse().status == 200
        except OSError:
            return False

    # --- what is on it -------------------------------------------------------------------------

    def run(self, code: str) -> str:
        """A program of the site's own, with its models and its store; what it printed."""
        return self._output([sys.executable, "-c", PROGRAM + code], self.environment)

    def client(self, code: str, *, token: str | None = None) -> str:
        """The stock client, with this site as its Hub."""
        with tempfile.TemporaryDirectory() as home:
            kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
            environment = kept | {
                "HOME": home,
                "HF_HOME": home,
                "HF_ENDPOINT": self.url,
                "HF_TOKEN": self.token if token is None else token,
                "HF_HUB_DISABLE_TELEMETRY": "1",
            }
            return self._output([sys.executable, "-c", CLIENT + code], environment)

    def upload(self, name: str, folder: Path, *, private: bool = False, message: str = "") -> str:
        """A folder as a repo of the account there, or as its next version; returns the commit."""
        return self.client(f"""
api.create_repo("{NAME}/{name}", private={private}, exist_ok=True)
print(api.upload_folder(repo_id="{NAME}/{name}", folder_path={str(folder)!r},
                        commit_message={message or "Upload"!r}).oid)
""").strip()

    def upload_all(self, folders: dict[str, Path]) -> None:
        """Many at once, which takes one client instead of many."""
        self.client(f"""
for name, folder in {[(name, str(folder)) for name, folder in folders.items()]!r}:
    api.create_repo("{NAME}/" + name, exist_ok=True)
    api.upload_folder(repo_id="{NAME}/" + name, folder_path=folder)
""")

    def empty(self) -> None:
        """No repos, no misbehaviour; people and tokens stay."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute("TRUNCATE modules_repo, modules_blob, jobs_job CASCADE")
        for path in ("blobs", "cache"):
            shutil.rmtree(self.var / path, ignore_errors=True)
        self.behave()
        (self.var / "asked.jsonl").unlink(missing_ok=True)

    # --- what it does wrong --------------------------------------------------------------------

    def misbehave(
        self,
        path: str,
        *,
        status: int | None = None,
        times: int | None = None,
        cut: bool = False,
        **more: Any,
    ) -> None:
        """To requests whose path holds `path`: answer with this status (and `headers=`,
        `message=`); or, without one, send half of the bytes and wait for `behave()`, or `cut`
        the connection there."""
        wanted: dict[str, Any] = {"path": path, **more}
        wanted |= {} if times is None else {"times": times}
        if cut:
            wanted["cut"] = True
        elif status is None:
            (self.var / "hold").touch()
            wanted["hold"] = str(self.var / "hold")
        else:
            wanted["status"] = status
        draft = self.var / "misbehave.new"
        draft.write_text(json.dumps(wanted))
        draft.rename(self.var / "misbehave.json")

    def behave(self) -> None:
        (self.var / "misbehave.json").unlink(missing_ok=True)
        (self.var / "hold").unlink(missing_ok=True)

    def asked(self, path: str = "") -> list[dict[str, str]]:
        """The requests whose path holds `path`: method, path, and the token that came along."""
        log = self.var / "asked.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [line for line in lines if path in line["path"]]

    @staticmethod
    def _output(command: list[str], environment: dict[str, str]) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        if done.returncode:
            pytest.fail(f"{command[-1]}\n{done.stdout}{done.stderr}")
        return done.stdout


@contextmanager
def _database(server: str) -> Iterator[str]:
    """A database of its own on the suite's PostgreSQL."""
    found = embedded.parse_url(server)
    name = f"other_{found['NAME']}_{os.getpid()}"
    with psycopg.connect(embedded.url_for({**found, "NAME": "postgres"}), autocommit=True) as db:
        db.execute(f'CREATE DATABASE "{name}"'.encode())
        try:
            yield embedded.url_for({**found, "NAME": name})
        finally:
            db.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


@pytest.fixture(scope="session")
def _the_other_site(own_postgres: str) -> Iterator[OtherSite]:
    with (
        tempfile.TemporaryDirectory(prefix="commons-other-") as var,
        _database(own_postgres) as database_url,
    ):
        site = OtherSite(database_url, Path(var))
        try:
            yield site
        finally:
            site.kill()


@pytest.fixture
def other_site(_the_other_site: OtherSite) -> Iterator[OtherSite]:
    """Up, and with no repos. It is started once; a test that killed it leaves it to the next."""
    _the_other_site.empty()
    _the_other_site.start()
    (_the_other_site.var / "log").write_text("")
    yield _the_other_site
    print(f"--- the other site\n{(_the_other_site.var / 'log').read_text()}")


Work = Callable[[], list["Job"]]


@pytest.fixture
def hub_here(other_site: OtherSite, settings: Any, monkeypatch: pytest.MonkeyPatch) -> OtherSite:
    """The other site is our Hub in this very process, and we have its account's token."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    settings.HUB_ENDPOINT, settings.HF_TOKEN = other_site.url, other_site.token
    settings.HF_ORGANISATION, settings.HUB_TIMEOUT_SECONDS = "", 10
    return other_site


@pytest.fixture
def work(transactional_db: None) -> Work:
    """Do the waiting jobs here and now, as a worker does; returns those that went to the Hub."""
    from hub_site.jobs import queue, worker

    def work() -> list[Job]:
        done = []
        while job := queue.claim_next("a worker of the test"):
            worker.run(job)
            job.refresh_from_db()
            done.append(job)
        return [job for job in done if job.kind in ("keep_on_hub", "push_recipe")]

    return work
