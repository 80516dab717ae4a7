"""Clients who stall or trickle: gunicorn's threads are not theirs for ever."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hub_site import slow_clients
from hub_site.slow_clients import PacedSocket
from tests.workers import wait_until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SIZE = 50_000_000
APP = """
import os
import tempfile
from hub_site import slow_clients

slow_clients.PATIENCE = float(os.environ["PATIENCE"])
SENT = []

class File:
    def __init__(self):
        self.file = tempfile.TemporaryFile()
        self.file.write(bytes(range(250)) * 200_000)
        self.file.seek(0)
        self.fileno, self.read, self.close = self.file.fileno, self.file.read, self.file.close

    def sent(self, count):
        SENT.append(count)

def application(environ, start_response):
    if environ["PATH_INFO"] == "/file":
        start_response("200 OK", [("Content-Length", "50000000")])
        return environ["wsgi.file_wrapper"](File())
    if environ["PATH_INFO"] == "/sent":
        text = str(sum(SENT)).encode()
        start_response("200 OK", [("Content-Length", str(len(text)))])
        return [text]
    if environ["PATH_INFO"] == "/large":
        file = tempfile.TemporaryFile()
        file.truncate(50_000_000)
        start_response("200 OK", [("Content-Length", "50000000")])
        return environ["wsgi.file_wrapper"](file)
    try:
        environ["wsgi.input"].read()
    except OSError:
        start_response("400 Bad Request", [("Content-Length", "8")])
        return [b"too slow"]
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
HEAD = b" / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[PacedSocket, socket.socket]]:
    monkeypatch.setattr(slow_clients, "PATIENCE", 0.3)
    ours, theirs = socket.socketpair()
    with PacedSocket(ours) as paced, theirs:
        yield paced, theirs


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """gunicorn with two threads and little patience, or as much as the test asks for."""
    patience = str(getattr(request, "param", 0.5))
    (tmp_path / "patient_app.py").write_text(APP)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "patient_app:application", "--threads", "2"),
            *("--bind", f"127.0.0.1:{port}", "--no-control-socket", "--log-level", "warning"),
            *("--graceful-timeout", "1"),
            *("--worker-class", "hub_site.slow_clients.PatientWorker"),
        ],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATIENCE": patience},
        cwd=tmp_path,
    )
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        yield "127.0.0.1", port
    finally:
        process.terminate()
        process.wait()


def get(site: tuple[str, int], path: str = "/") -> bytes:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://127.0.0.1:{site[1]}{path}", timeout=60) as answer:
        body: bytes = answer.read()
    return body


def test_a_client_who_says_nothing_counts_as_gone(pair: tuple[PacedSocket, socket.socket]) -> None:
    with pytest.raises(ConnectionResetError, match="too slow"):
        pair[0].recv(100)
    pair[0].sendall(b"too slow")  # there is still time to say so
    assert pair[1].recv(100) == b"too slow"


def test_so_does_one_who_trickles(pair: tuple[PacedSocket, socket.socket]) -> None:
    """A byte every tenth of a second is never silent for long."""
    ours, theirs = pair
    over = threading.Event()

    def trickle() -> None:
        while not over.wait(0.1):
            theirs.sendall(b"x")

    threading.Thread(target=trickle, daemon=True).start()
    with pytest.raises(ConnectionResetError, match="too slow"):
        while ours.recv(100):
            pass
    over.set()


def test_so_does_one_who_reads_nothing(pair: tuple[PacedSocket, socket.socket]) -> None:
    with pytest.raises(ConnectionResetError, match="too slow"):
        pair[0].sendall(bytes(50_000_000))


@pytest.mark.parametrize("how", ["bytes", "file"])
def test_a_quick_client_gets_every_byte(
    pair: tuple[PacedSocket, socket.socket], tmp_path: Path, how: str
) -> None:
    ours, theirs = pair
    content = os.urandom(3_000_001)
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("rb") as file:
        send: Callable[[], object] = {
            "bytes": lambda: ours.sendall(content[5:]),
            "file": lambda: ours.sendfile(file, 5, len(content) - 5),
        }[how]
        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        got = b""
        while len(got) < len(content) - 5:
            got += theirs.recv(1 << 20)
        sender.join()
    assert got == content[5:]


def test_a_deadline_of_gunicorns_own_is_kept(pair: tuple[PacedSocket, socket.socket]) -> None:
    pair[0].settimeout(0.01)
    with pytest.raises(TimeoutError):
        pair[0].recv(100)
    assert pair[0].gettimeout() == 0.01


@pytest.mark.parametrize(
    "begun",
    [
        b"GET",
        b"POST" + HEAD + b"Content-Length: 1000000\r\n\r\nonly so much",
        b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["half a header", "half a body", "reads nothing", "reads nothing of a file"],
)
def test_as_many_of_them_as_threads_do_not_hold_the_site(
    site: tuple[str, int], begun: bytes
) -> None:
    slow = [socket.create_connection(site) for _ in range(4)]
    for client in slow:
        client.sendall(begun)
    assert get(site) == b"ok"
    assert len(get(site, "/large")) == 50_000_000
    for client in slow:
        client.close()


def test_who_sent_too_slowly_is_told(site: tuple[str, int]) -> None:
    with socket.create_connection(site) as client:
        client.sendall(b"POST" + HEAD + b"Content-Length: 1000000\r\n\r\nonly so much")
        assert client.makefile("rb").read().endswith(b"too slow")


@pytest.mark.parametrize("site", [10_000], indirect=True)
def test_slow_downloads_of_files_hold_no_threads(site: tuple[str, int]) -> None:
    """Nobody is too slow here, and there are many more of them than threads."""
    slow = [socket.create_connection(site) for _ in range(10)]
    for client in slow:
        client.sendall(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")
    heads = [client.recv(20) for client in slow]
    assert get(site) == b"ok" and get(site, "/sent") == b"0"
    for client, head in zip(slow, heads, strict=True):
        with client.makefile("rb") as answer:
            assert head == b"HTTP/1.1 200 OK\r\nSer"
            while answer.readline() != b"\r\n":
                pass
            assert answer.read(SIZE) == bytes(range(250)) * (SIZE // 250)
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")  # and the line is free
            assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
    wait_until(lambda: get(site, "/sent") == str(10 * SIZE).encode(), "all of it to be counted")


def test_who_takes_nothing_of_a_file_is_cut_off(site: tuple[str, int]) -> None:
    with socket.create_connection(site) as client:
        client.sendall(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.recv(20)
        peer = client.getsockname()
        wait_until(lambda: peer not in connected(site), "the server to let go")
    assert get(site, "/sent") == b"0"


def connected(site: tuple[str, int]) -> set[tuple[str, int]]:
    """Whose connections the server still holds, as the system tells."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, state = line.split()[:4]
        if state == "01" and int(here.split(":")[1], 16) == site[1]:
            found.add(("127.0.0.1", int(there.split(":")[1], 16)))
    return found
