"""Files as the real web process sends them, whole and in parts; and when it dies over one."""

from __future__ import annotations

import http.client
import io
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hub_site.accounts.models import User
from modules import services
from modules.models import Repo
from modules.storage import local
from tests.faults.conftest import Web
from tests.faults.test_hub_dies import Stock
from tests.line import line_to
from tests.modules.conftest import make_user
from tests.workers import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
NAME = "adapter_model.safetensors"
SIZE = 25_000_000  # more than what the connection holds


@pytest.fixture
def web(start_web: Callable[..., Web], settings: Any) -> Web:
    web = start_web()
    settings.BLOB_DIR = web.var / "blobs"
    return web


@pytest.fixture
def alice(web: Web) -> User:
    return make_user("alice")


@pytest.fixture
def data(alice: User) -> bytes:
    """alice/work holds it, as a file that counts when it is downloaded."""
    data = os.urandom(SIZE)
    repo = services.create_repo(owner=alice.namespace, name="work", kind=Repo.LORA)
    services.commit(repo=repo, author=alice, title="x", additions={NAME: io.BytesIO(data)})
    return data


@pytest.fixture
def line(web: Web) -> Iterator[http.client.HTTPConnection]:
    line = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
    line.connect()
    yield line
    line.close()


def get(line: http.client.HTTPConnection, way: str = "GET", **headers: str) -> Any:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    line.request(way, f"/alice/work/resolve/main/{NAME}", headers=sent)
    answer = line.getresponse()
    return answer.status, answer.headers, answer.read()


def downloads() -> int:
    return Repo.objects.get(name="work").downloads


def test_every_part_is_exact_and_the_line_stays_open(
    line: http.client.HTTPConnection, data: bytes
) -> None:
    sock = line.sock
    _, head, nothing = get(line, "HEAD")
    assert nothing == b"" and head["Content-Length"] == str(SIZE)
    for asked, start, end in (
        ("0-0", 0, 1),
        ("7-", 7, SIZE),
        ("-9", SIZE - 9, SIZE),
        ("3000000-9000000", 3_000_000, 9_000_001),
        (f"5-{SIZE * 9}", 5, SIZE),
    ):
        status, headers, body = get(line, Range=f"bytes={asked}")
        assert status == 206 and body == data[start:end]
        assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{SIZE}"
    status, headers, body = get(line, Range=f"bytes={SIZE}-")
    assert (status, headers["Content-Range"], body) == (416, f"bytes */{SIZE}", b"")
    same = get(line, Range="bytes=9-99", If_Range=head["ETag"])
    other = get(line, Range="bytes=9-99", If_Range='"other"')
    assert same[0] == 206 and same[2] == data[9:100]
    assert other[0] == 200 and other[2] == data
    assert get(line, If_None_Match=head["ETag"])[0] == 304
    assert line.sock is sock


def test_it_counts_once_all_of_it_is_gone(
    line: http.client.HTTPConnection, web: Web, data: bytes
) -> None:
    get(line, "HEAD")
    get(line, Range="bytes=5-")
    broken = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
    broken.request("GET", f"/alice/work/resolve/main/{NAME}")
    broken.getresponse().read(1_000_000)
    broken.close()
    get(line, "HEAD")
    assert downloads() == 0
    assert get(line)[2] == data
    wait_until(lambda: downloads() == 1, "the download to be counted")


def test_a_file_that_became_shorter_is_not_waited_for(
    line: http.client.HTTPConnection, data: bytes
) -> None:
    """The disk's fault; the client must not take a part for the whole, nor wait for ever."""
    head = Repo.objects.get(name="work").head()
    assert head is not None
    path = local.local_path(head.files.get().blob_id)
    path.chmod(0o600)
    os.truncate(path, SIZE // 2)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        get(line)
    assert downloads() == 0


def test_a_site_killed_over_a_download_is_asked_for_the_rest(
    web: Web, alice: User, data: bytes, tmp_path: Any
) -> None:
    stock = Stock(web, alice, tmp_path)
    (tmp_path / "expected").write_bytes(data)
    with line_to(web.port) as line:
        cut = line.cut_answers("GET", "/resolve/", 15_000_000)
        client = stock.start(
            f"""
path = until_done(lambda: hf_hub_download("alice/work", {NAME!r}))
print(Path(path).read_bytes() == Path({str(tmp_path / "expected")!r}).read_bytes())
""",
            line.url,
        )
        stock.wait(client, cut.reached.is_set, "the download to break")
        web.kill()
        web.start_again()
        out, _ = client.communicate(timeout=240)
    assert out.split() == ["True"]
    assert "bytes=10485760-" in [asked for _, _, asked in line.asked]
