"""PostgreSQL and Redis that only one test uses, so that it may kill them."""

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import redis

from hub_site import embedded
from tests.workers import wait_until


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """The embedded PostgreSQL of one var/; with `over_tcp`, the same programs as a server on
    127.0.0.1, as another machine's would be reached.

    Durable, unlike the suite's own: what was committed has to be there after a kill.
    """

    def __init__(self, var: Path, *, over_tcp: bool) -> None:
        self.var, self.over_tcp = var, over_tcp
        self.made: list[str] = []  # databases
        self.url = embedded.start(var)
        home = embedded.home_of(var)
        password = embedded.parse_url(self.url)["PASSWORD"]
        self.cluster = embedded.Cluster(home, embedded._binaries(home), password)
        if over_tcp:
            embedded.stop(var)
            self.port = free_port()
            found = embedded.parse_url(self.url) | {"HOST": "127.0.0.1", "PORT": str(self.port)}
            self.url = embedded.url_for(found)
            self.start()

    def start(self) -> None:
        if not self.over_tcp:
            assert embedded.start(self.var) == self.url
            return
        listen = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories=''"
        files = ("-D", str(self.cluster.data), "-l", str(self.cluster.log))
        self.cluster.run("pg_ctl", "start", "-w", "-s", *files, "-o", listen)

    def stop_at_once(self) -> None:
        """As when its machine loses power: no goodbye to anybody, nothing tidied up."""
        data = str(self.cluster.data)
        self.cluster.run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", data)

    def make_database(self, name: str, like: str) -> str:
        """A database with what the other one has; its address."""
        found = embedded.parse_url(self.url)
        with psycopg.connect(
            embedded.url_for(found | {"NAME": "postgres"}), autocommit=True
        ) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{like}"'.encode())
        self.made.append(name)
        return embedded.url_for(found | {"NAME": name})

    def close(self) -> None:
        embedded.stop(self.var)
        home = embedded.home_of(self.var)
        if self.var not in home.parents:
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def own_postgres_server(*, over_tcp: bool) -> Iterator[Postgres]:
    """In a folder that PostgreSQL's own user can reach, which pytest's are not."""
    var = Path(tempfile.mkdtemp(prefix="commons-faults-db-"))
    var.chmod(0o711)
    try:
        server = Postgres(var, over_tcp=over_tcp)
        try:
            yield server
        finally:
            server.close()
    finally:
        shutil.rmtree(var, ignore_errors=True)


class Redis:
    """It keeps nothing on disk: killed, it comes back empty."""

    def __init__(self, folder: Path) -> None:
        self.port, self.folder = free_port(), folder
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(self.answers, "Redis")

    def answers(self) -> bool:
        try:
            return bool(redis.Redis(port=self.port).ping())
        except redis.ConnectionError:
            return False

    def forget(self) -> None:
        redis.Redis(port=self.port).flushall()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
