"""Files that nginx sends (ACCEL_REDIRECT) look as if the site had sent them itself."""

from __future__ import annotations

import http.client
import io
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from hub_site.accounts import tokens
from hub_site.accounts.models import User
from modules import services
from modules.models import LoraModule, Repo
from modules.storage import local
from tests.modules.conftest import weights_bytes
from tests.modules.hub_api.conftest import CLIENT, PREAMBLE, client_environment
from tests.stack.nginx import StartNginx

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
FILE = "/alice/opposites/resolve/main/adapter_model.safetensors"
# Of the server, not of the file.
OF_THE_LINE = {"date", "server", "connection", "transfer-encoding", "keep-alive"}
Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(autouse=True)
def _own_store(settings: Any, open_folder: Path) -> None:
    settings.BLOB_DIR, settings.CACHE_DIR = open_folder / "blobs", open_folder / "cache"


class Both:
    """Asks the site without nginx and with it, and answers with both answers."""

    def __init__(self, direct: int, nginx: int, settings: Any) -> None:
        self.direct, self.nginx, self.settings = direct, nginx, settings

    def __call__(self, path: str, method: str = "GET", **headers: str) -> tuple[Answer, Answer]:
        self.settings.ACCEL_REDIRECT = ""
        without = ask(self.direct, path, method, headers)
        self.settings.ACCEL_REDIRECT = "/_blobs/"
        return without, ask(self.nginx, path, method, headers)


def ask(port: int, path: str, method: str, headers: dict[str, str]) -> Answer:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.request(method, path, headers={"Host": "localhost", **headers})
    answer = client.getresponse()
    body = answer.read()
    client.close()
    names = [name.lower() for name, _ in answer.getheaders()]
    assert len(names) == len(set(names)), names  # none twice
    kept = {n.lower(): v for n, v in answer.getheaders() if n.lower() not in OF_THE_LINE}
    return answer.status, kept, body


@pytest.fixture
def both(opposites: LoraModule, live_server: Any, start_nginx: StartNginx, settings: Any) -> Both:
    port = live_server.thread.port
    nginx = start_nginx(WEB=f"127.0.0.1:{port}", BLOB_DIR=str(settings.BLOB_DIR))
    return Both(port, nginx, settings)


RANGES = [
    *("bytes=0-9", "bytes=5-", "bytes=-7", "bytes=0-", "bytes=0-999999999", "bytes=0-0"),
    *("bytes=999999-", "bytes=-0", "bytes=9-5", "bytes=0-1,3-4", "lines=1-2", "bytes=x"),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("header", ["", *RANGES])
def test_every_range_is_answered_alike(both: Both, method: str, header: str) -> None:
    without, through = both(FILE, method, **({"Range": header} if header else {}))
    assert through == without
    if method == "GET" and header == "bytes=0-9":
        assert (through[0], through[2]) == (206, weights_bytes(0)[:10])


@pytest.mark.parametrize("header", ["If-None-Match", "If-Range"])
@pytest.mark.parametrize("is_same", [True, False])
def test_so_is_what_depends_on_the_version(both: Both, header: str, is_same: bool) -> None:
    etag = both(FILE, "HEAD")[0][1]["etag"] if is_same else '"other"'
    without, through = both(FILE, **{header: etag, "Range": "bytes=3-8"})
    assert through == without
    assert through[0] == (206 if (header == "If-Range") == is_same else 304 if is_same else 200)


def test_dates_change_nothing(both: Both) -> None:
    """nginx knows when its file was written; that is nobody's business."""
    later = "Sat, 01 Jan 2050 00:00:00 GMT"
    for headers in ({"If-Modified-Since": later}, {"If-Range": later, "Range": "bytes=3-8"}):
        without, through = both(FILE, **headers)
        assert through == without and through[0] == 200 and "last-modified" not in through[1]


@pytest.mark.parametrize(
    "path", ["README.md", "page.html", "Grüße & more.txt", "empty.txt", "nothing.txt"]
)
def test_so_are_all_kinds_of_files(both: Both, alice: User, path: str) -> None:
    repo = Repo.objects.get(name="opposites")
    files = {"page.html": b"<script>", "Grüße & more.txt": b"x", "empty.txt": b""}
    additions = {name: io.BytesIO(data) for name, data in files.items()}
    services.commit(repo=repo, author=alice, title="x", additions=additions)
    without, through = both(f"/alice/opposites/resolve/main/{quote(path)}")
    assert through == without
    assert through[0] == (404 if path == "nothing.txt" else 200)


def test_a_private_file_is_for_its_owner(
    both: Both, alice: User, bob: User, secret: LoraModule
) -> None:
    path = "/alice/secret/resolve/main/adapter_model.safetensors"
    for user, status in ((alice, 200), (bob, 404)):
        token = tokens.create_token(user, name="x", scope="read")[1]
        without, through = both(path, Authorization=f"Bearer {token}")
        assert through == without and through[0] == status
    assert through[1]["cache-control"].startswith("private") or through[0] == 404


def test_a_download_counts_when_it_is_handed_over(both: Both, settings: Any) -> None:
    def count() -> int:
        return Repo.objects.get(name="opposites").downloads

    settings.ACCEL_REDIRECT = "/_blobs/"
    ask(both.nginx, FILE, "GET", {"Range": "bytes=0-"})
    ask(both.nginx, FILE, "HEAD", {})
    assert count() == 0
    ask(both.nginx, FILE, "GET", {})
    assert count() == 1


def test_bytes_that_the_store_lost_are_our_fault(both: Both, opposites: LoraModule) -> None:
    local.delete(opposites.weights_sha256)
    without, through = both(FILE)
    assert through == without and through[0] == 500


def test_the_stock_client_downloads_and_goes_on_where_it_broke_off(
    both: Both, settings: Any, tmp_path: Path
) -> None:
    settings.ACCEL_REDIRECT = "/_blobs/"
    code = (
        PREAMBLE
        + """
path = hf_hub_download("alice/opposites", "adapter_model.safetensors")
folder = snapshot_download("alice/opposites")
print(Path(path).stat().st_size, len(list(Path(folder).iterdir())))
"""
    )
    done = subprocess.run(
        [CLIENT, "-c", code],
        cwd=tmp_path,
        env=client_environment(f"http://127.0.0.1:{both.nginx}", tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == [str(len(weights_bytes(0))), "3"], done.stderr
