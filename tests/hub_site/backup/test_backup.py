"""A site is kept while it runs: whole or not at all, and what is new each time."""

import io
import json
import os
import threading
import time
from pathlib import Path

import pytest
from django.db import connection

from hub_site.accounts.models import User
from hub_site.backup import postgres
from hub_site.backup.errors import BackupError
from modules import services
from modules.models import Blob, Repo
from modules.storage import local, pruning
from tests.hub_site.backup.conftest import Site, kill
from tests.workers import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def manifests(folder: Path) -> list[Path]:
    return sorted(folder.glob("snapshots/*/manifest.json"))


def stored(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("blobs/??/??/*")}


def upload(user: User, name: str, data: bytes) -> str:
    repo = services.create_repo(owner=user.namespace, name=name, kind=Repo.BASE)
    commit = services.commit(repo=repo, author=user, title="Add", additions={"x": io.BytesIO(data)})
    sha256 = commit.sha256_of("x")
    assert sha256 is not None
    return sha256


def test_it_says_what_it_holds_and_what_it_does_not(here: Site, tmp_path: Path) -> None:
    said = here.manage("backup", str(tmp_path / "kept"))
    (path,) = manifests(tmp_path / "kept")
    found = json.loads(path.read_text())
    assert found["blobs"] == Blob.objects.count() > 0
    assert found["tables"]["modules_loramodule"] == 4 and found["tables"]["composer_recipe"] == 1
    assert "0012_patterns_compose" in found["migrations"]["modules"]
    assert stored(tmp_path / "kept") == set(Blob.objects.values_list("pk", flat=True))
    assert "is whole" in said and "SECRET_KEY" in said
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "kept").rglob("*"))


def test_the_second_one_copies_only_what_is_new(here: Site, alice: User, tmp_path: Path) -> None:
    kept = str(tmp_path / "kept")
    here.manage("backup", kept)
    assert "(0 new" in here.manage("backup", kept)
    new = upload(alice, "another", b"something new")
    assert "(1 new, 13 B)" in here.manage("backup", kept)
    assert new in stored(tmp_path / "kept") and len(manifests(tmp_path / "kept")) == 3


def test_the_oldest_go_with_the_files_that_only_they_name(
    here: Site, alice: User, tmp_path: Path
) -> None:
    kept = str(tmp_path / "kept")
    old = upload(alice, "old", b"nobody wants it any more")
    here.manage("backup", kept)
    Repo.objects.filter(name="old").delete()
    Blob.objects.filter(pk=old).delete()
    here.manage("backup", kept)
    assert old in stored(tmp_path / "kept")
    here.manage("backup", kept, "--keep", "1")
    assert len(manifests(tmp_path / "kept")) == 1
    assert stored(tmp_path / "kept") == set(Blob.objects.values_list("pk", flat=True))


def test_verify_names_what_has_rotted_in_the_backup(here: Site, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    here.manage("backup", str(kept))
    rotten = sorted(kept.glob("blobs/??/??/*"))[2]
    data = bytearray(rotten.read_bytes())
    data[0] ^= 1
    rotten.write_bytes(data)
    here.manage("backup", str(kept))  # its size is right, and nobody asked
    assert rotten.name in here.manage("backup", str(kept), "--verify", code=1)


def test_a_file_that_is_nowhere_is_named_and_the_backup_is_none(here: Site, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    gone = here.blobs()[3]
    gone.unlink()
    said = here.manage("backup", str(kept), code=1)
    assert gone.name in said and "Beginning again with a newer snapshot" in said
    assert manifests(kept) == [] and list(kept.glob("snapshots/*")) == []
    said = here.manage("backup", str(kept), "--despite-missing")
    assert f"Not in the backup, because the store has it not: {gone.name}" in said
    assert json.loads(manifests(kept)[0].read_text())["missing"].keys() == {gone.name}


def test_a_file_that_is_damaged_in_the_store_is_named(here: Site, tmp_path: Path) -> None:
    wrong = here.blobs()[1]
    wrong.chmod(0o644)
    wrong.write_bytes(b"x" * wrong.stat().st_size)
    for place in ("kept", "kept.tar"):
        assert wrong.name in here.manage("backup", str(tmp_path / place), code=1)
    assert not (tmp_path / "kept.tar").exists()


def test_killed_while_it_copies_it_is_none_and_can_be_made_again(
    here: Site, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    held = here.blobs()[len(here.blobs()) // 2]
    data = held.read_bytes()
    held.unlink()
    os.mkfifo(held)  # whoever opens it waits
    process = here.start("backup", str(kept))
    wait_until(lambda: len(stored(kept)) >= len(here.blobs()) // 2, "half of the files")
    kill(process)
    assert manifests(kept) == [] and len(list(kept.glob("snapshots/*"))) == 1
    assert "no whole backup" in here.manage("restore", str(kept), code=1)
    held.unlink()
    held.write_bytes(data)
    already = len(stored(kept))
    said = here.manage("backup", str(kept))
    assert f"({len(here.blobs()) - already} new" in said
    assert len(list(kept.glob("snapshots/*"))) == 1 and list(kept.glob("incoming/*")) == []


def test_nothing_is_pruned_meanwhile(here: Site, tmp_path: Path) -> None:
    """Whichever of the two comes first, the other waits or steps back."""
    held = here.blobs()[0]
    data = held.read_bytes()
    held.unlink()
    os.mkfifo(held)
    process = here.start("backup", str(tmp_path / "kept"))
    wait_until(lambda: _run_lock_is_held(), "the backup to begin")
    with pytest.raises(pruning.AlreadyPruning, match="backed up"):
        pruning.prune()
    with held.open("wb") as file:  # the reader goes on
        file.write(data)
    assert process.wait(300) == 0
    process.communicate()


def test_it_waits_for_pruning_to_end(here: Site, tmp_path: Path) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [pruning.RUN_LOCK])
        process = here.start("backup", str(tmp_path / "kept"))
        assert process.stdout is not None
        assert "waiting for that to end" in process.stdout.readline()
        cursor.execute("SELECT pg_advisory_unlock(%s)", [pruning.RUN_LOCK])
    assert process.wait(300) == 0
    process.communicate()


def test_uploads_go_on_meanwhile_and_it_is_whole(
    here: Site, empty: Site, alice: User, tmp_path: Path
) -> None:
    over, sent = threading.Event(), []

    def upload_many() -> None:
        try:
            while not over.is_set():
                sent.append(upload(alice, f"many-{len(sent)}", b"%d" % time.monotonic_ns()))
        finally:
            connection.close()

    other = threading.Thread(target=upload_many)
    other.start()
    try:
        wait_until(lambda: len(sent) >= 3, "some uploads")
        here.manage("backup", str(tmp_path / "kept"))
        after = len(sent)
        wait_until(lambda: len(sent) > after, "an upload after it")
    finally:
        over.set()
        other.join()
    said = empty.manage("restore", str(tmp_path / "kept"))
    assert "Every file is there" in said
    names = {path.name for path in empty.blobs()}
    assert set(sent[:3]) <= names and sent[-1] not in names


def test_a_dump_that_takes_longer_than_a_transaction_may_idle(here: Site, tmp_path: Path) -> None:
    """The snapshot is held open by a connection of ours that says nothing meanwhile."""
    program, _ = postgres.find("pg_dump", postgres.server_version())
    slow = tmp_path / "bin" / "pg_dump"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\n[ "$1" = --version ] || sleep 3\nexec {program} "$@"\n')
    slow.chmod(0o755)
    here.environment["PATH"] = f"{slow.parent}:{os.environ['PATH']}"
    here.environment["JOB_LEASE_MS"] = "500"
    assert "is whole" in here.manage("backup", str(tmp_path / "kept"))


def test_only_one_is_written_to_a_folder_at_a_time(here: Site, tmp_path: Path) -> None:
    held = here.blobs()[0]
    data = held.read_bytes()
    held.unlink()
    os.mkfifo(held)
    process = here.start("backup", str(tmp_path / "kept"))
    wait_until(lambda: (tmp_path / "kept" / "lock").exists() and _run_lock_is_held(), "the first")
    assert "Another backup" in here.manage("backup", str(tmp_path / "kept"), code=1)
    with held.open("wb") as file:
        file.write(data)
    assert process.wait(300) == 0
    process.communicate()


def test_it_leaves_a_folder_alone_that_holds_something_else(here: Site, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"me")
    assert "something else" in here.manage("backup", str(tmp_path / "photos"), code=1)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"]


def test_a_program_too_old_for_the_server_is_said_in_words() -> None:
    with pytest.raises(BackupError, match="pg_dump of PostgreSQL 99 or newer, and there is"):
        postgres.find("pg_dump", 99)
    path, version = postgres.find("pg_dump", postgres.server_version())
    assert version >= postgres.server_version() and path.exists()


def _run_lock_is_held() -> bool:
    with connection.cursor() as cursor:
        asked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s"
        cursor.execute(asked, [pruning.RUN_LOCK])
        return bool(cursor.fetchone()[0])


def test_what_only_the_hub_has_is_told_apart(here: Site, alice: User, tmp_path: Path) -> None:
    from modules.models import BlobOnHub, ModuleOnHub

    far = here.blobs()[2]
    repo = Repo.objects.filter(commits__files__blob=far.name).first()
    home = ModuleOnHub.objects.create(repo=repo, place="site", hub_id="lab/x", state="kept")
    BlobOnHub.objects.create(home=home, blob_id=far.name, path="x", sha="a" * 40)
    far.unlink()
    assert "1 files" in here.manage("backup", str(tmp_path / "kept"))
    (path,) = manifests(tmp_path / "kept")
    assert json.loads(path.read_text())["elsewhere"].keys() == {far.name}
    assert not local.local_path(far.name).exists()
