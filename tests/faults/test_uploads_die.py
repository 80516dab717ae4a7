"""Uploads break off, web processes die, disks are full; nothing half-written stays."""

import http.client
import os
import shutil
import socket
import subprocess
from collections.abc import Callable

import pytest
from django.test import Client

from hub_site.accounts.models import Namespace, User
from modules.models import Blob, Repo
from tests.faults.conftest import Web
from tests.modules.conftest import config_bytes, weights_bytes
from tests.workers import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
TOKEN = "a" * 32
BOUNDARY = "----what-a-browser-makes-up"
LARGE = 4_000_000


@pytest.fixture
def session() -> str:
    user = User.objects.create_user("alice", password="correct horse")
    Namespace.objects.get_or_create(user=user, defaults={"name": "alice", "kind": "user"})
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value


def body(files: dict[str, bytes]) -> bytes:
    parts = []
    for name, data in files.items():
        head = f'Content-Disposition: form-data; name="files"; filename="{name}"'
        parts.append(f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + data + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def headers(session: str, length: int) -> dict[str, str]:
    return {
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "Content-Length": str(length),
        "Cookie": f"sessionid={session}; csrftoken={TOKEN}",
        "X-CSRFToken": TOKEN,
    }


def half_sent(web: Web, session: str, data: bytes) -> socket.socket:
    """A connection that has sent most of the body and now says nothing."""
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
    connection.putrequest("POST", "/upload/")
    for name, value in headers(session, len(data)).items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(data[: len(data) * 3 // 4])
    wait_until(lambda: web.receiving() > len(data) // 2, "the upload to be under way")
    return connection.sock


def send(web: Web, session: str, files: dict[str, bytes]) -> tuple[int, str]:
    data = body(files)
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=120)
    connection.request("POST", "/upload/", data, headers(session, len(data)))
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


MODULE = {"adapter_config.json": config_bytes(), "adapter_model.safetensors": weights_bytes()}


def test_an_upload_that_breaks_off_leaves_nothing(
    start_web: Callable[..., Web], session: str
) -> None:
    web = start_web()
    line = half_sent(web, session, body({"adapter_model.safetensors": os.urandom(LARGE)}))
    line.close()
    wait_until(lambda: web.receiving() == 0, "the files to be closed")
    assert web.left_behind() == []
    assert not Blob.objects.exists()
    status, _ = send(web, session, MODULE)  # and the next one comes in
    assert status == 302 and Blob.objects.count() == 2


def test_what_is_announced_too_large_is_answered_before_it_is_sent(
    start_web: Callable[..., Web], session: str
) -> None:
    web = start_web()
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
    connection.putrequest("POST", "/upload/")
    for name, value in headers(session, 10**12).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert "1.0 TB" in answer.read().decode()


def test_a_killed_web_process_leaves_nothing(start_web: Callable[..., Web], session: str) -> None:
    web = start_web()
    half_sent(web, session, body({"adapter_model.safetensors": os.urandom(LARGE)}))
    web.kill()
    assert web.left_behind() == []
    assert not Blob.objects.exists() and not Repo.objects.exists()


@pytest.mark.parametrize("folder", ["tmp", "blobs"])
def test_a_full_disk_is_told_and_nothing_is_half_written(
    start_web: Callable[..., Web], session: str, folder: str
) -> None:
    """Where uploads come in, and where they are kept."""
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine lets nobody make file systems of their own")
    web = start_web(before=f"mount -t tmpfs -o size=1m tmpfs {{var}}/{folder}")
    module = MODULE | {"LICENSE": b"x" * 900_000, "README.md": b"y" * 200_000}
    status, page = send(web, session, module)
    assert status == 507
    assert "disk is full" in page and "Nothing was stored" in page
    assert not Blob.objects.exists()
    assert web.receiving() == 0 and web.left_behind() == []
    status, _ = send(web, session, MODULE)  # what fits still comes in
    assert status == 302
    assert Blob.objects.count() == 2
