"""The services of docker-compose.yml as processes of this machine, without Docker.

Commands, environment, health checks and the order of the start are read from the file; only what
containers bring with them is put in place: names of hosts, ports, folders. What that leaves out
stands in docs/deploy.md.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from hub_site import embedded
from tests.stack import nginx
from tests.stack.composed import ROOT, read_compose
from tests.workers import PATIENCE

SECRETS = "/run/secrets/"
# The ports inside the containers.
WEB, DATABASE, BROKER, HTTP, TLS, STATUS = "8000", "5432", "6379", "8080", "8443", "8081"
# What the image sets, as docker/Dockerfile says.
OF_THE_IMAGE = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


class Stack:
    """`start(name)` brings up a service and what it depends on; `stop()` ends everything."""

    def __init__(self, folder: Path, settings: dict[str, str], secrets: dict[str, str]) -> None:
        self.folder = folder
        for name in ("var", "secrets", "home", "logs"):
            (folder / name).mkdir()
        for name, value in secrets.items():
            path = folder / "secrets" / name
            path.write_text(value)
            path.chmod(0o444)
        composed = read_compose(settings, folder)
        self.services: dict[str, Any] = composed["services"]
        self.secrets: dict[str, Any] = composed["secrets"]
        self.ports = {port: str(nginx.free_port()) for port in (WEB, DATABASE, BROKER, STATUS)}
        self.ports |= {port: settings[name] for port, name in ((HTTP, "PORT"), (TLS, "TLS_PORT"))}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.cluster: embedded.Cluster | None = None

    # --- from the file to this machine ---------------------------------------------------------

    def here(self, text: str) -> str:
        """The same on this machine: every host, port and folder of the containers replaced."""
        if text in self.ports:
            return self.ports[text]
        places = {
            **{f"{host}:{port}": f"127.0.0.1:{self.ports[port]}" for host, port in HOSTS},
            f"--port {BROKER}": f"--port {self.ports[BROKER]} --bind 127.0.0.1",
            f"-p {BROKER}": f"-p {self.ports[BROKER]}",
            SECRETS: f"{self.folder / 'secrets'}/",
            "/srv/var": str(self.folder / "var"),
            "/var/cache/nginx": str(self.folder / "nginx"),
            "/tmp/nginx.conf": str(self.folder / "nginx" / "nginx.conf"),  # noqa: S108
        }
        return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], text)

    def environment(self, name: str) -> dict[str, str]:
        given = self.services[name].get("environment", {})
        for secret in re.findall(rf"{SECRETS}([\w-]+)", repr(self.services[name])):
            mounted = [each["source"] for each in self.services[name]["secrets"]]
            assert secret in mounted, f"{name} reads the secret {secret}, which it does not get"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
        return {
            **OF_THE_IMAGE,
            "PATH": path if self.cluster is None else f"{path}:{self.cluster.binaries}",
            "HOME": str(self.folder / "home"),
            **{key: self.here(value) for key, value in given.items()},
            "ENV_FILE": os.devnull,  # the image has no .env, a checkout may have one
        }

    # --- starting ------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        if name in self.processes:
            return
        service = self.services[name]
        for needed, how in service.get("depends_on", {}).items():
            self.start(needed)
            if how["condition"] == "service_completed_successfully":
                assert self.processes[needed].wait(PATIENCE * 3) == 0, self.log(needed)
            else:
                self.wait_until_healthy(needed)
        environment = self.environment(name)
        command = [self.here(word) for word in service["command"]]
        user: dict[str, Any] = {}
        if name == "db":
            command, user = self.initialise(command, environment)
        if name == "nginx":
            environment = nginx.with_places(environment, self.folder / "nginx")
            nginx.check(nginx.fill_in(service, environment))
            user = nginx.another_user()
        self.run(name, command, environment, user)
        if name == "db":
            self.create_database(environment)

    def run(
        self, name: str, command: list[str], environment: dict[str, str], user: dict[str, Any]
    ) -> None:
        with (self.folder / "logs" / name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=ROOT if "user" not in user else "/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **user,
            )

    def initialise(
        self, command: list[str], environment: dict[str, str]
    ) -> tuple[list[str], dict[str, Any]]:
        """initdb as PostgreSQL's image does it; returns how the server is run, by TCP alone."""
        home = self.folder / "database"
        home.mkdir()
        owner = embedded._unprivileged_uid() if os.geteuid() == 0 else os.geteuid()
        embedded._give(home, owner)
        self.cluster = embedded.Cluster(home, embedded._binaries(home), "")
        self.cluster.run(
            *("initdb", "-D", str(home / "data"), "-U", environment["POSTGRES_USER"]),
            *("-A", "scram-sha-256", "--no-sync"),
            f"--pwfile={environment['POSTGRES_PASSWORD_FILE']}",
            *environment["POSTGRES_INITDB_ARGS"].split(),
        )
        port = self.ports[DATABASE]
        here = ["-D", str(home / "data"), "-p", port, "-h", "127.0.0.1", "-k", "", "-F"]
        user = {"user": owner, "group": owner, "extra_groups": []} if os.geteuid() == 0 else {}
        command = [str(self.cluster.binaries / command[0]), *command[1:], *here]
        return command, user

    def create_database(self, environment: dict[str, str]) -> None:
        login = {
            "host": "127.0.0.1",
            "port": self.ports[DATABASE],
            "user": environment["POSTGRES_USER"],
            "password": Path(environment["POSTGRES_PASSWORD_FILE"]).read_text().strip(),
        }
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with psycopg.connect(**login, dbname="postgres", autocommit=True) as connection:
                    connection.execute(f'CREATE DATABASE "{environment["POSTGRES_DB"]}"'.encode())
                return
            except psycopg.OperationalError:
                assert time.monotonic() < until, self.log("db")
                time.sleep(0.1)

    # --- looking -------------------------------------------------------------------------------

    def is_healthy(self, name: str) -> bool:
        """What the health check of the file says."""
        kind, *test = self.services[name]["healthcheck"]["test"]
        command = [self.here(word) for word in test]
        command = ["sh", "-c", *command] if kind == "CMD-SHELL" else command
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment(name), capture_output=True, timeout=60
        )
        return done.returncode == 0

    def wait_until_healthy(self, name: str) -> None:
        until = time.monotonic() + PATIENCE
        while not self.is_healthy(name):
            if self.processes[name].poll() is not None or time.monotonic() > until:
                pytest.fail(f"{name} is not healthy:\n{self.log(name)}")
            time.sleep(0.2)

    def log(self, name: str) -> str:
        return (self.folder / "logs" / name).read_text(errors="replace")[-8000:]

    # --- stopping ------------------------------------------------------------------------------

    def end(self, name: str) -> int:
        """SIGTERM to the service's first process, as Docker does; its exit status."""
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(PATIENCE)

    def stop(self) -> None:
        """What needs others goes first."""
        for name, process in reversed(list(self.processes.items())):
            process.send_signal(signal.SIGINT if name == "db" else signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            print(f"--- {name}\n{self.log(name)}")


HOSTS = (
    *(("db", DATABASE), ("redis", BROKER), ("web", WEB), ("0.0.0.0", WEB)),  # noqa: S104
    *(("127.0.0.1", WEB), ("127.0.0.1", STATUS)),
)
