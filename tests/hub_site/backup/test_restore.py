"""A backup becomes the same site again, in an empty place; a restore cut off is no site."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from composer.models import Recipe
from hub_site import embedded
from modules.models import CommitFile, LoraModule
from modules.storage import local
from tests.hub_site.backup.conftest import Site, kill, site_of
from tests.workers import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
ASK = """
import hashlib, json, re, sys
from django.test import Client
client = Client(HTTP_HOST="localhost")
from hub_site.accounts.models import User
client.force_login(User.objects.get(username="alice"), "django.contrib.auth.backends.ModelBackend")
def asked(path):
    answer = client.get(path)
    body = b"".join(answer.streaming_content) if answer.streaming else answer.content
    if answer["Content-Type"].startswith("text/html"):
        body = re.sub(rb'<time.*?</time>|<input type="hidden".*?>|csrf[^>]*>', b"", body)
    return [answer.status_code, len(body), hashlib.sha256(body).hexdigest()]
print(json.dumps({path: asked(path) for path in %r}))
"""


def addresses() -> list[str]:
    recipe = Recipe.objects.get()
    search = recipe.searches.get()
    modules = [module.get_absolute_url() for module in LoraModule.objects.all()]
    files = [local.url(file) for file in CommitFile.objects.select_related("commit__repo__owner")]
    own = [search.get_absolute_url(), search.task.get_absolute_url()]
    zipped = f"{recipe.get_absolute_url()}adapter.zip"
    pages = ["/", "/modules/", "/recipes/", recipe.get_absolute_url(), *modules, *own]
    return [*pages, *files, zipped]


def ask(site: Site, paths: list[str]) -> dict[str, tuple[int, int, str]]:
    found: dict[str, tuple[int, int, str]] = json.loads(site.run(ASK % (paths,)))
    return found


@pytest.fixture
def kept(here: Site, tmp_path: Path) -> Path:
    here.manage("backup", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.mark.parametrize("place", ["kept", pytest.param("kept.tar", marks=pytest.mark.slow)])
def test_every_page_and_every_download_is_the_same(
    here: Site, empty: Site, tmp_path: Path, place: str
) -> None:
    here.manage("backup", str(tmp_path / place))
    said = empty.manage("restore", str(tmp_path / place))
    assert "Every file is there" in said and "SECRET_KEY" in said
    paths = addresses()
    before, after = ask(here, paths), ask(empty, paths)
    assert {answer[0] for answer in before.values()} == {200}
    assert after == before
    assert [path.name for path in empty.blobs()] == [path.name for path in here.blobs()]
    assert not (empty.var / "restoring.json").exists()
    empty.manage("prepare")  # and so it starts


def test_a_site_that_has_something_is_refused(here: Site, empty: Site, kept: Path) -> None:
    blobs = here.blobs()
    assert "The database is not empty" in here.manage("restore", str(kept), code=1)
    assert here.blobs() == blobs
    stray = empty.var / "blobs" / "aa" / "bb" / ("aabb" + "0" * 60)
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"somebody's")
    assert "not of this backup" in empty.manage("restore", str(kept), code=1)
    assert empty.tables() == 0 and empty.blobs() == [stray]


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("what", ["a file", "the dump", "the list", "a file that is gone"])
def test_what_is_damaged_is_named_before_anything_is_written(
    empty: Site, kept: Path, what: str
) -> None:
    blob = sorted(kept.glob("blobs/??/??/*"))[1]
    (snapshot,) = kept.glob("snapshots/*")
    if what == "a file that is gone":
        blob.unlink()
    else:
        parts = {"the dump": "database.dump", "the list": "blobs.txt"}
        damage(snapshot / parts[what] if what in parts else blob)
    said = empty.manage("restore", str(kept), code=1)
    assert {"the dump": "database.dump", "the list": "blobs.txt"}.get(what, blob.name) in said
    assert empty.tables() == 0 and empty.blobs() == []
    assert not (empty.var / "restoring.json").exists()
    empty.manage("restore", str(kept), "--check", code=1)


def test_a_backup_can_be_checked_alone(empty: Site, kept: Path) -> None:
    assert "Everything in it is what it was" in empty.manage("restore", str(kept), "--check")
    assert empty.tables() == 0 and empty.blobs() == []


@pytest.mark.parametrize("moment", ["files", "database"])
def test_killed_in_the_middle_it_is_no_site_and_goes_on(
    empty: Site, kept: Path, moment: str
) -> None:
    with psycopg.connect(empty.database) as held:
        held.execute("LOCK TABLE pg_catalog.pg_class IN SHARE MODE")  # no table can be made
        process = empty.start("restore", str(kept))
        if moment == "files":
            wait_until(empty.blobs, "the first file")
        else:
            wait_until(lambda: sessions(empty, "Lock"), "the database to be loaded")
        kill(process)
    wait_until(lambda: not sessions(empty), "what it had started to end with it")
    assert empty.tables() == 0
    said = empty.manage("prepare", code=1)
    assert "did not come to its end" in said
    assert empty.tables() == 0
    assert "Every file is there" in empty.manage("restore", str(kept))
    empty.manage("prepare")


def sessions(site: Site, waiting_for: str = "") -> int:
    """Of that database; all of them, or those that wait for such a thing."""
    with psycopg.connect(re.sub("/empty_[^?]*", "/postgres", site.database)) as db:
        name = re.search("/(empty_[^?]*)", site.database)
        assert name is not None
        asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        if waiting_for:
            asked += f" AND wait_event_type = '{waiting_for}'"
        row = db.execute(asked.encode(), [name[1]]).fetchone()
        assert row is not None
        return int(row[0])


def test_another_backup_does_not_go_on_with_a_restore(here: Site, empty: Site, kept: Path) -> None:
    (empty.var / "restoring.json").write_text('{"name": "of yesterday", "rows_checked": false}')
    assert "of yesterday" in empty.manage("restore", str(kept), code=1)
    assert empty.tables() == 0


def test_a_newer_version_s_backup_is_refused(empty: Site, kept: Path) -> None:
    (path,) = kept.glob("snapshots/*/manifest.json")
    found = json.loads(path.read_text())
    found["migrations"]["modules"].append("9999_of_the_future")
    path.write_text(json.dumps(found))
    assert "modules.9999_of_the_future" in empty.manage("restore", str(kept), code=1)
    assert empty.tables() == 0


def test_a_manifest_with_a_gap_is_refused_in_words(empty: Site, kept: Path) -> None:
    (path,) = kept.glob("snapshots/*/manifest.json")
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "elsewhere": None}))
    said = empty.manage("restore", str(kept), code=1)
    assert "cannot be read: elsewhere is no object" in said and "Traceback" not in said
    assert empty.tables() == 0


def test_the_newest_is_restored_unless_another_is_named(
    here: Site, empty: Site, kept: Path
) -> None:
    LoraModule.objects.first().repo.delete()
    here.manage("backup", str(kept))
    first, second = (path.name for path in sorted(kept.glob("snapshots/*")))
    assert "no whole backup 'nonsense'" in empty.manage(
        "restore", str(kept), "--backup", "nonsense", code=1
    )
    assert first in empty.manage("restore", str(kept), "--backup", first)
    count = "from modules.models import LoraModule; print(LoraModule.objects.count())"
    assert empty.run(count).strip() == "4"
    assert here.run(count).strip() == "3"
    assert second > first


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """PostgreSQL does not run as root, and whoever it runs as must come in here."""
    folder = Path(tempfile.mkdtemp(prefix="commons-backup-"))
    folder.chmod(0o711)
    yield folder
    for site in folder.iterdir():
        embedded.stop(site)
    shutil.rmtree(folder)


def embedded_site(var: Path) -> Site:
    site = site_of(var)
    shutil.rmtree(var)
    var.mkdir()
    var.chmod(0o711)
    return site


@pytest.mark.slow
def test_an_embedded_site_is_kept_and_restored_while_it_is_down(
    open_folder: Path, tmp_path: Path
) -> None:
    """Without DATABASE_URL, each command starts the database and stops it again."""
    first, second = embedded_site(open_folder / "first"), embedded_site(open_folder / "second")
    make = """
from pathlib import Path
from django.conf import settings
from hub_site import embedded
from django.core.management import call_command
from hub_site.management.commands.serve import database_running
with database_running():
    call_command("migrate", verbosity=0)
    from hub_site.accounts.models import User
    User.objects.create_user("alice")
"""
    count = """
from hub_site.management.commands.serve import database_running
with database_running():
    from hub_site.accounts.models import User
    print(User.objects.get().username)
"""
    first.run(make)
    first.manage("backup", str(tmp_path / "kept"))
    second.manage("restore", str(tmp_path / "kept"))
    assert second.run(count).strip() == "alice"
