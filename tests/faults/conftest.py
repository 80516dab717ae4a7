"""The web process as `make run` starts it, for tests that kill it or those who talk to it."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection

from hub_site import embedded
from tests.composer.conftest import (  # noqa: F401
    alice,
    base_model,
    kept_library,
    library,
    lora_modules,
    task,
    tiny_folder,
)
from tests.faults.servers import Postgres, Redis, own_postgres_server
from tests.workers import ROOT, wait_until

# Root keeps its rights over the database's socket; others get to mount only as a root of their own.
OWN_MOUNTS = ["unshare", "-m" if os.geteuid() == 0 else "-Urm"]


@dataclass
class Web:
    """A gunicorn as `make run` starts it, and the folders it writes to."""

    command: list[str]
    environment: dict[str, str]
    port: int
    var: Path
    log: Path
    process: "subprocess.Popen[bytes]" = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=self.environment, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL master and workers at once, as when the machine goes away."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def start_again(self) -> None:
        """At the same address, with the same folders."""
        self.start()
        wait_until(self.answers, "the web process to be back")

    @property
    def pids(self) -> list[int]:
        found = subprocess.run(
            ["pgrep", "-g", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in found.stdout.split()]

    def answers(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"The web process ended at once:\n{self.log.read_text()}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            connection.request("GET", "/accounts/login/")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def receiving(self) -> int:
        """Bytes of uploads under way: in files that have no name."""
        size = 0
        for pid in self.pids:
            for link in Path(f"/proc/{pid}/fd").glob("*"):
                try:
                    if str(self.var / "tmp") in str(link.readlink()):
                        size += link.stat().st_size
                except OSError:
                    continue
        return size

    def left_behind(self) -> list[str]:
        """Files under var/, as the web process sees them."""
        var = Path(f"/proc/{self.process.pid}/root{self.var}") if self.pids else self.var
        return sorted(
            path.relative_to(var).as_posix()
            for path in var.rglob("*")
            if path.is_file() and path.name != "secret-key"
        )


@pytest.fixture
def start_web(transactional_db: None, tmp_path: Path) -> Iterator[Callable[..., Web]]:
    started: list[Web] = []

    def start(*, before: str = "", app: str = "hub_site.wsgi", **variables: str) -> Web:
        """`before` is a shell line that runs first, in file systems of the process's own."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        var = tmp_path / f"var-{len(started)}"
        (var / "tmp").mkdir(parents=True)
        (var / "blobs").mkdir()
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.web_settings",
            "PYTHONPATH": str(ROOT),
            "SECRET_KEY": settings.SECRET_KEY,
            "VAR_DIR": str(var),
            "TMPDIR": str(var / "tmp"),
            **variables,
        }
        command = [
            *(sys.executable, "-m", "gunicorn", f"{app}:application"),
            *("--bind", f"127.0.0.1:{port}", "--threads", "8"),
            *("--worker-class", "hub_site.slow_clients.PatientWorker"),
            *("--no-control-socket", "--log-level", "warning"),
            *("--worker-tmp-dir", str(tmp_path)),
        ]
        if before:
            script = f'{before.format(var=var)} && exec "$@"'
            command = [*OWN_MOUNTS, "sh", "-c", script, "sh", *command]
        web = Web(command, environment, port, var, tmp_path / f"web-{len(started)}.log")
        started.append(web)
        wait_until(web.answers, "the web process")
        return web

    yield start
    for web in started:
        if web.process.poll() is None:
            web.kill()
        print(f"--- {web.log.name}\n{web.log.read_text()}")  # shown when the test failed


# --- servers that a test may stop ----------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server (Debian package redis-server)")
    server = Redis(tmp_path)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def _tcp_postgres() -> Iterator[Postgres]:
    with own_postgres_server(over_tcp=True) as server:
        (server.var / "tmp").mkdir()
        environment = {
            **os.environ,
            "DATABASE_URL": server.url,
            "VAR_DIR": str(server.var),
            "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
        }
        command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        yield server


@pytest.fixture
def tcp_postgres(
    transactional_db: None, _tcp_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Postgres]:
    """A PostgreSQL over TCP, for this process and those that the test starts. It may be stopped."""
    found = embedded.parse_url(_tcp_postgres.url)
    url = _tcp_postgres.make_database(f"test_{len(_tcp_postgres.made)}", like=found["NAME"])
    suite = dict(connection.settings_dict)
    connection.close()
    connection.settings_dict.update(embedded.parse_url(url))
    monkeypatch.setenv("DATABASE_URL", url)
    with connection.cursor() as cursor:  # what is kept for tests brings its ids along
        cursor.execute(
            "SELECT setval(format('%I.%I', schemaname, sequencename), 1000000) FROM pg_sequences"
        )
    yield _tcp_postgres
    connection.close()
    connection.settings_dict.update(suite)
    if not _tcp_postgres.cluster.running():
        _tcp_postgres.start()
