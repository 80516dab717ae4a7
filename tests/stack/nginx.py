"""nginx with the configuration that is shipped, filled in as its image does. No container."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.stack.composed import ENOUGH, read_compose
from tests.workers import wait_until

StartNginx = Callable[..., int]
TEMPLATES = "/etc/nginx/templates/"


def program(name: str) -> str:
    """Where a server of Debian's is: not on everybody's PATH."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.fail(f"These tests need {name}: apt-get install nginx gettext-base redis-server")
    return path


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def another_user() -> dict[str, Any]:
    """nginx runs as another user than the site, as in its container: it must be let in to files."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def fill_in(service: Mapping[str, Any], environment: Mapping[str, str]) -> Path:
    """What the image's entrypoint does: replaces the variables that are set, and no others."""
    folder = Path(environment["NGINX_ENVSUBST_OUTPUT_DIR"])
    for mount in service["volumes"]:
        if not mount["target"].startswith(TEMPLATES):
            continue
        done = subprocess.run(
            [program("envsubst"), " ".join(f"${{{name}}}" for name in environment)],
            input=Path(mount["source"]).read_text(),
            env=dict(environment),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        name = mount["target"].removeprefix(TEMPLATES).removesuffix(".template")
        (folder / name).write_text(done.stdout)
    return folder / "nginx.conf"


def check(configuration: Path) -> None:
    """`nginx -t`. A warning is a fault, too."""
    done = subprocess.run(
        [program("nginx"), "-e", "stderr", "-t", "-q", "-c", str(configuration)],
        capture_output=True,
        text=True,
        **another_user(),
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


def with_places(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The service's environment with what it writes under `folder`, made for its user."""
    folder.mkdir()
    (folder / "access.log").touch()
    if user := another_user():
        for path in (folder, folder / "access.log"):
            os.chown(path, user["user"], user["group"])
    written = dict.fromkeys(("NGINX_ENVSUBST_OUTPUT_DIR", "NGINX_RUN", "NGINX_SPOOL"), str(folder))
    return {**environment, **written, "NGINX_ACCESS_LOG": str(folder / "access.log")}


@contextmanager
def running(configuration: Path, status_port: int) -> Iterator[None]:
    """nginx alone, until the test is done with it."""
    log = configuration.with_name("nginx.log")
    with log.open("wb") as file:
        process = subprocess.Popen(
            [program("nginx"), "-e", "stderr", "-c", str(configuration), "-g", "daemon off;"],
            stdout=file,
            stderr=file,
            **another_user(),
        )
    try:
        wait_until(lambda: process.poll() is not None or listens(status_port), "nginx")
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait()
        print(f"--- nginx\n{log.read_text()}")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Like tmp_path, but other users get through: nginx is one."""
    path = Path(tempfile.mkdtemp(prefix="commons-stack-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start_nginx(open_folder: Path) -> Iterator[StartNginx]:
    """`start_nginx({...}, WEB=…)` runs the nginx of docker-compose.yml with these lines in .env and
    these values instead of the container's; returns its port for plain HTTP."""
    with ExitStack() as stack:

        def start(settings: dict[str, str] | None = None, **places: str) -> int:
            service = read_compose(ENOUGH | (settings or {}), open_folder)["services"]["nginx"]
            ports = {name: str(free_port()) for name in ("HTTP_PORT", "STATUS_PORT")}
            environment: dict[str, Any] = with_places(service["environment"], open_folder / "run")
            environment |= {"TLS_PORT": str(free_port()), **ports, **places}
            configuration = fill_in(service, environment)
            check(configuration)
            stack.enter_context(running(configuration, int(ports["STATUS_PORT"])))
            return int(ports["HTTP_PORT"])

        yield start
