"""What nothing names any more is cleared away after a day, and nothing else."""

import io
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone

from composer.models import Recipe
from hub_site.accounts.models import User
from modules import services
from modules.models import Blob, Grant, LoraModule, Repo
from modules.storage import local, pruning
from modules.upload import intake


def make_old(path: Path, days: float = 2) -> None:
    when = time.time() - days * 86400
    os.utime(path, (when, when))


def put_aside(user: User, data: bytes, old: bool = True) -> Blob:
    blob = intake.keep(user, {"x": io.BytesIO(data)})["x"]
    if old:
        make_old(local.local_path(blob.sha256))
        Grant.objects.filter(blob=blob).update(created_at=timezone.now() - timedelta(days=2))
    return blob


def wait_for_locks(count: int) -> None:
    """Until that many others wait for one."""
    for _ in range(600):
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0] >= count:
                return
        time.sleep(0.05)
    raise AssertionError(f"fewer than {count} wait for a lock")


def test_it_takes_what_no_version_names(alice: User, opposites: LoraModule) -> None:
    used = local.local_path(opposites.weights_sha256)
    make_old(used)
    gone, fresh = put_aside(alice, b"left behind"), put_aside(alice, b"just came", old=False)
    done = pruning.prune()
    assert (done.blobs, done.size) == (1, 11)
    assert used.exists() and local.local_path(fresh.sha256).exists()
    assert not local.local_path(gone.sha256).exists()
    assert not Blob.objects.filter(pk=gone.pk).exists()
    assert Grant.objects.filter(blob=fresh).exists()


def test_bytes_that_came_again_yesterday_are_young(alice: User) -> None:
    blob = put_aside(alice, b"twice")
    intake.keep(alice, {"x": io.BytesIO(b"twice")})
    assert pruning.prune().blobs == 0
    assert local.local_path(blob.sha256).exists()


def test_what_was_put_aside_again_can_still_be_published(alice: User) -> None:
    """Its first grant is days old, and nothing came of it."""
    put_aside(alice, b"twice")
    blob = intake.keep(alice, {"x": io.BytesIO(b"twice")})["x"]
    assert pruning.prune().grants == 0
    repo = services.create_repo(owner=alice.namespace, name="x", kind=Repo.BASE)
    services.commit(repo=repo, author=alice, title="x", additions={"x": blob})


@pytest.mark.django_db
def test_it_takes_a_file_whose_commit_never_came() -> None:
    stored = local.put(io.BytesIO(b"a commit that failed"))
    make_old(local.local_path(stored.sha256))
    assert pruning.prune().blobs == 1
    assert not local.local_path(stored.sha256).exists()


def test_a_recipe_keeps_its_adapter(alice: User, base_model: Any) -> None:
    blob = put_aside(alice, b"an adapter")
    Recipe.objects.create(
        digest="a" * 64, document={}, title="Mix", base_model=base_model, adapter=blob
    )
    assert pruning.prune().blobs == 0
    assert local.local_path(blob.sha256).exists()


def test_a_deleted_module_stops_counting_for_its_author(alice: User, opposites: LoraModule) -> None:
    Grant.objects.update(created_at=timezone.now() - timedelta(days=2))
    pruning.prune()
    assert intake.room(alice).used > 0
    opposites.repo.delete()
    pruning.prune()
    assert intake.room(alice).used == 0
    assert Blob.objects.filter(pk=opposites.weights_sha256).exists()  # a day's grace


@pytest.mark.django_db
def test_it_takes_what_killed_uploads_left(settings: Any) -> None:
    incoming = settings.BLOB_DIR / "incoming"
    incoming.mkdir(parents=True)
    for name, days in (("old", 2.0), ("new", 0.1)):
        (incoming / name).write_bytes(b"half")
        make_old(incoming / name, days)
    assert pruning.prune().leftovers == 1
    assert [path.name for path in incoming.iterdir()] == ["new"]


def test_it_takes_unpacked_versions_of_deleted_repos(opposites: LoraModule) -> None:
    folder = local.materialise(opposites.commit)
    make_old(folder)
    assert pruning.prune().folders == 0 and folder.is_dir()
    opposites.repo.delete()
    assert pruning.prune().folders == 1 and not folder.exists()


@pytest.mark.django_db(transaction=True)
def test_it_waits_for_a_version_under_way(alice: User) -> None:
    """Its bytes are stored, look old enough, and have no row yet."""
    repo = services.create_repo(owner=alice.namespace, name="x", kind=Repo.BASE)
    done: list[pruning.Pruned] = []

    def prune() -> None:
        try:
            done.append(pruning.prune(before=time.time() + 60))
        finally:
            connection.close()

    stored = local.put(io.BytesIO(b"on its way"))
    other = threading.Thread(target=prune)
    with transaction.atomic():
        intake.hold_store()
        other.start()
        other.join(1)
        assert other.is_alive() and not done
        files = {"x": io.BytesIO(b"on its way")}
        services.commit(repo=repo, author=alice, title="x", additions=files)
    other.join(60)
    assert done[0].blobs == 0
    assert local.local_path(stored.sha256).exists()


@pytest.mark.django_db(transaction=True)
def test_bytes_that_come_again_while_they_are_cleared_away_are_kept(alice: User) -> None:
    """Pruning has chosen them and waits for a lock on their row; then the upload brings them."""
    repo = services.create_repo(owner=alice.namespace, name="x", kind=Repo.BASE)
    blob = put_aside(alice, b"again")
    done: dict[str, Any] = {}

    def run(name: str, what: Callable[[], Any]) -> threading.Thread:
        def ran() -> None:
            try:
                done[name] = what()
            finally:
                connection.close()

        thread = threading.Thread(target=ran)
        thread.start()
        return thread

    def commit() -> Any:
        files = {"x": io.BytesIO(b"again")}
        return services.commit(repo=repo, author=alice, title="x", additions=files)

    with transaction.atomic():
        Blob.objects.select_for_update().get(pk=blob.pk)
        pruning_it = run("pruned", pruning.prune)
        wait_for_locks(1)
        committing = run("commit", commit)
        wait_for_locks(2)
        assert not done
    pruning_it.join(60)
    committing.join(60)
    assert done["pruned"].blobs == 0
    assert [file.blob_id for file in done["commit"].files.all()] == [blob.sha256]
    assert Blob.objects.filter(pk=blob.pk).exists() and local.local_path(blob.sha256).exists()


@pytest.mark.django_db(transaction=True)
def test_bytes_that_are_gone_are_never_named(alice: User) -> None:
    """They came, and were cleared away before the version was written."""
    stored = local.put(io.BytesIO(b"gone"))
    local.delete(stored.sha256)
    with pytest.raises(local.BytesMissing, match="Try again"), transaction.atomic():
        intake.hold_store()
        intake.own(alice, {"x": stored})
    assert not Blob.objects.exists() and not Grant.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_two_runs_at_once_are_one(alice: User) -> None:
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_lock(%s)", [pruning.RUN_LOCK])
                held.set()
                let_go.wait(60)
        finally:
            connection.close()

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(60)
    try:
        with pytest.raises(CommandError, match="already"):
            call_command("prune_blobs")
    finally:
        let_go.set()
        other.join()


@pytest.mark.django_db
def test_the_command_tells_what_it_did(capsys: Any) -> None:
    call_command("prune_blobs")
    assert "0 files (0 B)" in capsys.readouterr().out
