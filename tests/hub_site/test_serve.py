"""The site as people start it: real processes on a free port and a folder of their own."""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from hub_site import embedded

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # a broken promise ends the test some day; nothing here measures time


class Site:
    """One `manage.py serve` and what it printed."""

    def __init__(self, var: Path, **environment: str) -> None:
        self.var = var
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.output = var.parent / f"output-{self.port}"
        given = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"}
        given |= {"VAR_DIR": str(var), "PORT": str(self.port), "DEMO": "false", "HOST": ""}
        given |= {"DJANGO_SETTINGS_MODULE": "hub_site.settings"} | environment
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "serve"],
                cwd=ROOT,
                env=given,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def printed(self) -> str:
        return self.output.read_text()

    def wait_until(self, promise: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not promise():
            assert self.process.poll() is None, self.printed()
            assert time.monotonic() < deadline, self.printed()
            time.sleep(0.1)

    def ready(self) -> "Site":
        self.wait_until(lambda: "LoRA Commons is ready" in self.printed())
        return self

    def health(self) -> tuple[int, dict[str, str]]:
        try:
            with urllib.request.urlopen(f"{self.address}/healthz", timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, {}

    def healthy(self) -> bool:
        return self.health()[0] == 200

    def child(self, word: str) -> int:
        """The process id of the child whose command line holds the word; 0 while there is none."""
        for pid in processes():
            if parent(pid) == self.process.pid and word in command_line(pid):
                return pid
        return 0

    def left_over(self) -> list[str]:
        """Living processes that were started for this site, found by what only they know."""
        return [
            command_line(pid)
            for pid in processes()
            if f"VAR_DIR={self.var}" in read(f"/proc/{pid}/environ").split("\0")
            or str(self.var) in command_line(pid)
        ]

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE)


def read(path: str) -> str:
    try:
        return Path(path).read_bytes().decode(errors="replace")
    except OSError:
        return ""


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def command_line(pid: int) -> str:
    return read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()  # empty when it is a zombie


def parent(pid: int) -> int:
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[1]) if fields else 0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def var() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="commons serve "))
    folder.chmod(0o711)
    yield folder / "var"
    embedded.stop(folder / "var")
    shutil.rmtree(folder)


@pytest.fixture
def start(var: Path) -> Iterator[Callable[..., Site]]:
    started: list[Site] = []

    def start_one(**environment: str) -> Site:
        started.append(Site(var, **environment))
        return started[-1]

    yield start_one
    for site in started:
        site.stop()


def test_it_refuses_a_second_instance_on_one_folder(var: Path, start: Callable[..., Site]) -> None:
    embedded.make_var(var)
    with (var / "serve.lock").open("w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        site = start()
        assert site.process.wait(timeout=PATIENCE) == 1
    assert "Another LoRA Commons (process 4711) runs on" in site.printed()
    assert "Traceback" not in site.printed()


def test_it_refuses_a_taken_port_before_it_starts_anything(
    var: Path, start: Callable[..., Site]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        site = start(PORT=str(port))
        assert site.process.wait(timeout=PATIENCE) == 1
    assert f"Port {port} on 127.0.0.1 is taken" in site.printed()
    assert not (var / "postgres").exists()


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"HOST": "203.0.113.7"}, "HOST 203.0.113.7 is not an address of this machine"),
        ({"JOB_LEASE_MS": "long"}, 'Wrong setting: JOB_LEASE_MS is "long"'),
        ({"PORT": "http"}, 'PORT is "http". Set it to a whole number.'),
    ],
)
def test_it_says_in_one_line_which_setting_is_wrong(
    start: Callable[..., Site], environment: dict[str, str], line: str
) -> None:
    site = start(**environment)
    assert site.process.wait(timeout=PATIENCE) == 1
    assert line in site.printed()
    assert "Traceback" not in site.printed()


@pytest.mark.slow
def test_it_serves_survives_crashes_and_leaves_nothing(start: Callable[..., Site]) -> None:
    site = start().ready()
    assert f"{site.address}/" in site.printed()
    site.wait_until(site.healthy)
    said = site.health()[1]
    assert {said[name] for name in ("status", "database", "broker", "disk")} == {"ok"}
    assert "LoRA" in urllib.request.urlopen(f"{site.address}/").read().decode()
    web, worker = (os.getpriority(os.PRIO_PROCESS, site.child(w)) for w in ("gunicorn", "celery"))
    assert worker > web  # pages go before computations
    told = read(f"/proc/{site.child('gunicorn')}/environ").split("\0")
    assert "MALLOC_ARENA_MAX=2" in told

    for word in ("gunicorn", "celery"):
        before = site.child(word)
        os.kill(before, signal.SIGKILL)
        site.wait_until(lambda word=word, before=before: site.child(word) not in (0, before))
        site.wait_until(site.healthy)

    postmaster = site.var / "postgres" / "data" / "postmaster.pid"
    before = int(postmaster.read_text().split()[0])
    os.kill(before, signal.SIGKILL)
    site.wait_until(lambda: "The database stopped; starting it again." in site.printed())
    site.wait_until(site.healthy)

    assert site.left_over()
    assert site.stop(signal.SIGINT) == 0
    assert site.left_over() == []
    assert site.printed().strip().endswith("Stopped.")


@pytest.mark.slow
def test_its_demo_login_works_and_is_not_staff(start: Callable[..., Site]) -> None:
    site = start().ready()
    found = re.search(r"Sign in as (\S+) with the password (\S+)", site.printed())
    assert found, site.printed()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    page = browser.open(f"{site.address}/accounts/login/").read().decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert token
    form = {
        "csrfmiddlewaretoken": token[1],
        "login": found[1],
        "password": found[2],
    }
    answer = browser.open(f"{site.address}/accounts/login/", urllib.parse.urlencode(form).encode())
    assert "/accounts/login" not in answer.url
    with pytest.raises(urllib.error.HTTPError, match="403"):
        browser.open(f"{site.address}/admin/")
    assert site.stop() == 0


@pytest.mark.slow
def test_it_recovers_when_the_supervisor_itself_was_killed(
    start: Callable[..., Site], var: Path
) -> None:
    first = start().ready()
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    children = ("gunicorn", "celery")
    deadline = time.monotonic() + PATIENCE
    while any(word in line for word in children for line in first.left_over()):
        assert time.monotonic() < deadline, first.left_over()
        time.sleep(0.1)
    second = start().ready()
    second.wait_until(second.healthy)
    assert second.stop() == 0
    assert second.left_over() == []


@pytest.mark.slow
def test_with_a_database_of_your_own_it_starts_none_and_makes_no_demo_user(
    start: Callable[..., Site], var: Path
) -> None:
    other = var.parent / "other"
    url = embedded.start(other, durable=False)
    try:
        site = start(DATABASE_URL=url).ready()
        site.wait_until(site.healthy)
        assert "Sign in as" not in site.printed()
        assert site.stop() == 0
        assert not (var / "postgres").exists()
        assert embedded.running(other)
    finally:
        embedded.stop(other)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("redis-server"), reason="needs the package redis-server")
def test_it_works_with_redis_and_outlives_its_restart(
    start: Callable[..., Site], var: Path
) -> None:
    port = free_port()

    def start_redis() -> "subprocess.Popen[bytes]":
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        return subprocess.Popen(
            ["redis-server", *options], cwd=var.parent, stdout=subprocess.DEVNULL
        )

    redis = start_redis()
    try:
        site = start(BROKER_URL=f"redis://127.0.0.1:{port}/0").ready()
        site.wait_until(site.healthy)
        redis.kill()
        redis.wait()
        site.wait_until(lambda: site.health()[0] == 503)
        assert site.health()[1]["broker"] == "does not answer"
        redis = start_redis()
        site.wait_until(site.healthy)
        assert site.stop() == 0
    finally:
        redis.kill()
        redis.wait()
