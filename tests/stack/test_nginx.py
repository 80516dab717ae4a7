"""What nginx lets through to the site, and what it makes of it: the site here says what it got."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.stack.nginx import StartNginx
from tests.workers import wait_until

pytestmark = pytest.mark.slow
LIE = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}


class Echo(ThreadingHTTPServer):
    """A site that answers with what it was asked."""

    request_queue_size = 100

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.begun = 0


class Answers(BaseHTTPRequestHandler):
    server: Echo
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self) -> None:
        self.server.begun += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/cut":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nbegun\r\n")
            self.close_connection = True
            return
        said = {"path": self.path, "headers": self.headers.items(), "length": len(body)}
        data = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = answer  # noqa: N815


@pytest.fixture
def site() -> Iterator[Echo]:
    with Echo() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def web(site: Echo) -> str:
    return f"127.0.0.1:{site.server_address[1]}"


def ask(port: int, path: str = "/", **headers: str) -> dict[str, Any]:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.request("GET", path, headers={name.replace("_", "-"): v for name, v in headers.items()})
    found: dict[str, Any] = json.loads(client.getresponse().read())
    client.close()
    found["headers"] = {name.lower(): value for name, value in found["headers"]}
    return found


def test_nobody_can_say_where_they_come_from(start_nginx: StartNginx, site: Echo) -> None:
    port = start_nginx({"TRUSTED_PROXY": "192.0.2.99/32"}, WEB=web(site))
    more = {"Forwarded": "for=192.0.2.1", "X-Real-IP": "192.0.2.1", "X-Forwarded-Host": "evil"}
    got = ask(port, **(LIE | more))["headers"]
    assert got["x-forwarded-for"] == "127.0.0.1"
    assert got["x-forwarded-proto"] == "http"
    assert got["host"] == f"127.0.0.1:{port}"
    assert not {"forwarded", "x-real-ip", "x-forwarded-host", "x-forwarded-port"} & set(got)


def test_but_the_proxy_in_front_can_for_them(start_nginx: StartNginx, site: Echo) -> None:
    port = start_nginx({"TRUSTED_PROXY": "127.0.0.1/32"}, WEB=web(site))
    got = ask(port, **{**LIE, "X-Forwarded-For": "198.51.100.7, 192.0.2.1"})["headers"]
    assert got["x-forwarded-for"] == "192.0.2.1"  # whom the proxy saw, not what that one told it
    assert got["x-forwarded-proto"] == "https"


def test_an_address_arrives_as_it_was_sent(start_nginx: StartNginx, site: Echo) -> None:
    port = start_nginx(WEB=web(site))
    path = "/a/b/resolve/refs%2Fpr%2F1//x%20y/../z?q=a%2Fb"
    assert ask(port, path, Host="commons.example:8443")["path"] == path
    assert ask(port, Host="commons.example:8443")["headers"]["host"] == "commons.example:8443"


def test_the_store_is_closed_to_everybody(
    start_nginx: StartNginx, site: Echo, open_folder: Path
) -> None:
    (open_folder / "blobs").mkdir()
    (open_folder / "blobs" / "secret").write_text("bytes")
    port = start_nginx(WEB=web(site), BLOB_DIR=str(open_folder / "blobs"))
    for path in ("/_blobs/whole/secret", "/_blobs/part/secret", "/static/../_blobs/whole/secret"):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        client.request("GET", path)
        assert client.getresponse().status == 404
    assert site.begun == 0


def test_slow_uploads_reach_the_site_only_when_they_are_whole(
    start_nginx: StartNginx, site: Echo
) -> None:
    port = start_nginx(WEB=web(site))
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for client in slow:
        client.sendall(b"PUT /file HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n")
        client.sendall(bytes(200_000))
    ask(port)
    assert site.begun == 1
    for client in slow:
        client.sendall(bytes(100_000))
    for client in slow:
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert json.load(answer)["length"] == 300_000
        client.close()
    assert site.begun == 21


def test_it_refuses_more_than_a_module_may_have(start_nginx: StartNginx, site: Echo) -> None:
    port = start_nginx({"MAX_REQUEST_BYTES": "1000000"}, WEB=web(site))
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.request("POST", "/", body=bytes(1_000_001))
    assert client.getresponse().status == 413
    client.close()
    client.request("POST", "/", body=bytes(1_000_000))
    assert json.load(client.getresponse())["length"] == 1_000_000
    assert site.begun == 1


def test_one_address_may_not_take_all_connections(start_nginx: StartNginx, site: Echo) -> None:
    port = start_nginx(WEB=web(site))
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    for client in held:
        client.sendall(b"PUT /file HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\nx")

    def refused() -> bool:
        one_more = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        one_more.request("PUT", "/file", body=b"x")
        return one_more.getresponse().status == 429

    wait_until(refused, "one upload too many to be refused")
    assert ask(port)["path"] == "/"  # pages are still there
    for client in held:
        client.close()


def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one(
    start_nginx: StartNginx, site: Echo
) -> None:
    port = start_nginx(WEB=web(site))
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.request("GET", "/cut")
    answer = client.getresponse()
    with pytest.raises(http.client.IncompleteRead):
        answer.read()


def test_while_the_site_is_away_it_says_so(start_nginx: StartNginx, site: Echo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        gone = nobody.getsockname()[1]
    port = start_nginx(WEB=f"127.0.0.1:{gone}")
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.request("GET", "/")
    answer = client.getresponse()
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert b"Try again" in answer.read()


@pytest.mark.parametrize(
    ("path", "cached"),
    [
        ("css/site.0123456789ab.css", "public, max-age=315360000, immutable"),
        ("css/site.css", "public, max-age=60"),
    ],
)
def test_static_files_never_reach_the_site(
    start_nginx: StartNginx, site: Echo, open_folder: Path, path: str, cached: str
) -> None:
    (open_folder / "static" / "css").mkdir(parents=True)
    (open_folder / "static" / path).write_text("body {}")
    port = start_nginx(WEB=web(site), STATIC_DIR=str(open_folder / "static"))
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.request("GET", f"/static/{path}")
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (200, b"body {}")
    assert answer.headers["Content-Type"] == "text/css; charset=utf-8"
    assert answer.headers.get_all("Cache-Control") == [cached]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    client.request("GET", "/static/../manage.py")
    assert json.load(client.getresponse())["path"] == "/static/../manage.py"
    assert site.begun == 1
