"""Stock clients and the site die in each other's midst; two clients write at once."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from hub_site.accounts import tokens
from hub_site.accounts.models import User
from modules import services
from modules.models import Blob, Commit, Grant, Ref, Repo
from modules.storage import pruning
from tests.faults.conftest import Web
from tests.line import line_to
from tests.modules.conftest import adapter, make_user
from tests.modules.hub_api.conftest import CLIENT, PREAMBLE, client_environment
from tests.workers import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
# Old versions of the client give up sooner than new ones: then their user starts again.
UNTIL_DONE = """
import io, time
def until_done(call):
    for _ in range(60):
        try:
            return call()
        except Exception as error:
            print("again:", error, file=sys.stderr)
            time.sleep(1)
    return call()
"""
LARGE = 14_000_000  # far more than what a dead client's connection still holds
# How a client sends a file, and the request that carries its bytes.
WAYS = {
    "inline": (10 * LARGE, "POST", "/commit/", "str(path)"),
    "lfs": (0, "PUT", "/lfs/", "io.BytesIO(path.read_bytes())"),
    "lfs in parts": (0, "PUT", "/lfs/.*/2", "io.BytesIO(path.read_bytes())"),
    "xet": (0, "POST", "/xorbs/", "str(path)"),
}


class Stock:
    """Processes with the stock client, for one user of the site at `web`."""

    def __init__(self, web: Web, user: User, folder: Path) -> None:
        self.web, self.folder = web, folder
        self.token = tokens.create_token(user, name="t", scope="write")[1]
        self.started: list[subprocess.Popen[str]] = []

    def start(self, code: str, url: str = "") -> subprocess.Popen[str]:
        folder = self.folder / f"client-{len(self.started)}"
        folder.mkdir()
        process = subprocess.Popen(
            [CLIENT, "-c", PREAMBLE + UNTIL_DONE + code], cwd=folder, text=True,
            env=client_environment(url or self.web.url, folder, self.token),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=(self.folder / "client.log").open("ab"),
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, code: str, url: str = "") -> list[str]:
        process = self.start(code, url)
        out, _ = process.communicate(timeout=240)
        assert process.returncode == 0, (self.folder / "client.log").read_text()
        return out.splitlines()

    def wait(self, client: subprocess.Popen[str], holds: Callable[[], object], what: str) -> None:
        def either() -> object:
            assert client.poll() is None, (self.folder / "client.log").read_text()
            return holds()

        wait_until(either, what)


@pytest.fixture
def stock(
    start_web: Callable[..., Web], tmp_path: Path, settings: Any, request: pytest.FixtureRequest
) -> Iterator[Stock]:
    """alice's client, her module `work` on a site with small parts, and the store before us."""
    way = getattr(request, "param", "inline")
    part = LARGE // 2 if way == "lfs in parts" else 1 << 26
    web = start_web(app="tests.faults.small_parts", INLINE_LIMIT=str(WAYS[way][0]), PART=str(part))
    settings.BLOB_DIR = web.var / "blobs"
    alice = make_user("alice")
    repo = services.create_repo(owner=alice.namespace, name="work", kind=Repo.LORA)
    services.publish_module(repo=repo, author=alice, title="First", additions=adapter())
    stock = Stock(web, alice, tmp_path)
    yield stock
    for process in stock.started:
        process.kill()
        process.communicate()


def history() -> list[Commit]:
    """From the newest version back; every one must be in it."""
    here, line = Repo.objects.get(name="work").head(), []
    while here is not None:
        line.append(here)
        here = here.parent
    assert len(line) == Commit.objects.count()
    return line


def files() -> set[str]:
    return set(history()[0].files.values_list("path", flat=True)) - set(adapter())


@contextmanager
def held(rows: Any) -> Iterator[None]:
    """Nobody gets further than to these rows."""
    with transaction.atomic():
        assert list(rows.select_for_update(no_key=True))
        yield


def waiting() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")  # one is kept for each transaction
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(cursor.fetchone()[0])


# --- two writers -------------------------------------------------------------------------------


def test_two_writers_at_once_lose_nothing(stock: Stock) -> None:
    code = """
who = sys.stdin.readline().strip()
for n in range(8):
    print(api.upload_file(repo_id="alice/work", path_or_fileobj=str(n).encode(),
                          path_in_repo=f"{who}/{n}.txt").oid)
"""
    writers = [stock.start(code) for _ in range(2)]
    for who, writer in zip("ab", writers, strict=True):
        print(who, file=writer.stdin, flush=True)
    made = [set(writer.communicate(timeout=240)[0].split()) for writer in writers]
    assert [len(oids) for oids in made] == [8, 8]
    assert {commit.sha for commit in history()[:-1]} == made[0] | made[1]
    assert files() == {f"{who}/{n}.txt" for who in "ab" for n in range(8)}


def test_of_two_changes_of_the_same_version_one_is_told_that_it_is_stale(stock: Stock) -> None:
    """Both get past every look at the newest version before either holds the module."""
    code = """
for line in sys.stdin:
    parent, name = line.split()
    try:
        done = api.create_commit("alice/work", [CommitOperationAdd(name, name.encode())],
                                 commit_message=name, parent_commit=parent)
        print(done.oid, flush=True)
    except HfHubHTTPError as error:
        print(error.response.status_code, flush=True)
"""
    writers = [stock.start(code) for _ in range(2)]
    for n in range(4):
        before = history()[0].sha
        with held(Repo.objects.filter(name="work")):
            for who, writer in zip("ab", writers, strict=True):
                print(before, f"{who}{n}", file=writer.stdin, flush=True)
            stock.wait(writers[0], lambda: waiting() == 2, "both to wait for the module")
        said = [writer.stdout.readline().strip() for writer in writers]  # type: ignore[union-attr]
        winner = said[0] if said[1] == "412" else said[1]
        assert sorted(said) == sorted([winner, "412"])
        assert history()[0].sha == winner and history()[1].sha == before
    assert len(files()) == 4


# --- killed clients ----------------------------------------------------------------------------


@pytest.mark.parametrize(("stock", "way"), [(w, w) for w in WAYS], indirect=["stock"], ids=WAYS)
def test_a_client_killed_in_the_midst_leaves_nothing(stock: Stock, way: str) -> None:
    _, method, path, source = WAYS[way]
    code = f"""
path = Path("large.gz")
path.write_bytes(os.urandom({LARGE}))
api.upload_file(repo_id="alice/work", path_or_fileobj={source}, path_in_repo="large.gz")
print(Path(hf_hub_download("alice/work", "large.gz")).read_bytes() == path.read_bytes())
"""
    before, there = history(), stock.web.left_behind()
    with line_to(stock.web.port) as line:
        rule = line.hold_requests(method, path, 400_000)
        client = stock.start(code, line.url)
        stock.wait(client, rule.reached.is_set, "the upload to be under way")
        client.kill()
        client.wait()
        rule.go_on.set()
        wait_until(lambda: not half_files(stock.web), "half files to go")
    assert history() == before and not Blob.objects.filter(size__gt=10_000).exists()
    assert not Grant.objects.filter(blob__size__gt=10_000).exists()
    # Whole parts wait for their client to come back, and are cleared away when it does not.
    names = [name for name in stock.web.left_behind() if name not in there]
    assert all("/part-" in name or "/xorbs/" in name for name in names), names
    assert bool(names) == (way == "lfs in parts")
    pruning.prune(before=time.time() + 32 * 86_400)
    assert {path.name for path in stock.web.var.rglob("*") if "part-" in path.name} == set()
    assert stock.run(code) == ["True"] and files() == {"large.gz"}


def half_files(web: Web) -> bool:
    incoming = [path for path in (web.var / "blobs").rglob("tmp*") if path.is_file()]
    return bool(incoming) or web.receiving() > 0


# --- a killed site -----------------------------------------------------------------------------

UPLOAD = """
path = Path("large.gz")
path.write_bytes(os.urandom(%d))
until_done(lambda: api.create_commit("alice/work", [
    CommitOperationAdd("large.gz", %s), CommitOperationAdd("small.txt", b"small"),
    CommitOperationDelete("README.md")], commit_message="Both"))
print(Path(hf_hub_download("alice/work", "large.gz")).read_bytes() == path.read_bytes())
print(api.list_repo_files("alice/work"))
"""


@pytest.mark.parametrize(
    ("stock", "way", "when"),
    [
        *((way, way, "bytes come in") for way in WAYS),
        *(
            (way, way, when)
            for way in ("inline", "lfs")
            for when in ("the commit begins", "it ends")
        ),
    ],
    indirect=["stock"],
)
def test_a_site_killed_in_the_midst_has_all_or_nothing(stock: Stock, way: str, when: str) -> None:
    """A commit first takes the module's row; at its end, all else written, its branch's."""
    _, method, path, source = WAYS[way]
    before = history()
    with line_to(stock.web.port) as line:
        if when == "bytes come in":
            hold = line.hold_requests(method, path, 400_000)
            client = stock.start(UPLOAD % (LARGE, source), line.url)
            stock.wait(client, hold.reached.is_set, "the bytes to come in")
            stock.web.kill()
            hold.go_on.set()
        else:
            begins = when == "the commit begins"
            with held(Repo.objects.all() if begins else Ref.objects.all()):
                client = stock.start(UPLOAD % (LARGE, source), line.url)
                stock.wait(client, lambda: waiting() == 1, "the commit to get there")
                stock.web.kill()
        assert history() == before and len(before) == 1
        stock.web.start_again()
        out, _ = client.communicate(timeout=240)
    kept = "['adapter_config.json', 'adapter_model.safetensors', 'large.gz', 'small.txt']"
    assert out.splitlines() == ["True", kept]
    assert len(history()) == 2 and history()[1:] == before
    pruning.prune(before=time.time() + 60)
    assert not half_files(stock.web)


def test_what_was_acknowledged_outlives_the_site(stock: Stock) -> None:
    """Killed at the very moment when the client hears that its change is made."""
    client = stock.start("""
for n in range(5):
    Path(f"{n}.gz").write_bytes(os.urandom(1_000_000))
    print(api.upload_file(repo_id="alice/work", path_or_fileobj=f"{n}.gz",
                          path_in_repo=f"{n}.gz").oid, flush=True)
    sys.stdin.readline()
print(all(Path(hf_hub_download("alice/work", f"{n}.gz")).read_bytes()
          == Path(f"{n}.gz").read_bytes() for n in range(5)))
""")
    assert client.stdin and client.stdout
    for n in range(5):
        oid = client.stdout.readline().strip()
        stock.web.kill()
        assert history()[0].sha == oid and len(history()) == n + 2
        stock.web.start_again()
        print(file=client.stdin, flush=True)
    assert client.stdout.readline().strip() == "True"
