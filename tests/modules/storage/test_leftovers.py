"""What killed processes left is cleared away after a day, and only what belongs to nobody."""

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from hub_site.jobs import queue, worker
from modules.models import BaseModel
from modules.storage import leftovers, pruning

pytestmark = pytest.mark.django_db
DAY = 86_400.0


@pytest.fixture(autouse=True)
def var(settings: Any, tmp_path: Path) -> Path:
    settings.VAR_DIR = tmp_path / "var"
    (settings.VAR_DIR / "tmp").mkdir(parents=True)
    return settings.VAR_DIR


def put(path: Path, days: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    make_old(path, days)
    return path


def make_old(path: Path, days: float) -> None:
    when = time.time() - days * DAY
    os.utime(path, (when, when))


def test_old_temporary_files_go_and_new_ones_stay(var: Path) -> None:
    old, new = put(var / "tmp" / "a" / "old", 2), put(var / "tmp" / "new", 0.5)
    inside = put(var / "tmp" / "b" / "new", 0.5)
    assert leftovers.temporary(time.time() - DAY) == 1
    assert not old.exists() and new.exists() and inside.exists()
    make_old(old.parent, 2)
    leftovers.temporary(time.time() - DAY)
    assert not old.parent.exists() and inside.parent.exists()


def test_a_socket_is_in_use_however_old_it_is(var: Path) -> None:
    path = Path(os.path.relpath(var / "tmp" / "s"))  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        make_old(path, 30)
        leftovers.temporary(time.time() - DAY)
        assert path.exists()


def test_downloads_cut_off_go(settings: Any) -> None:
    old = put(settings.CACHE_DIR / "fetching-old" / "x", 2)
    make_old(old.parent, 2)
    new = put(settings.CACHE_DIR / "fetching-new" / "x", 0.1)
    make_old(new.parent, 2)
    other = put(settings.CACHE_DIR / "something-else" / "x", 30)
    make_old(other.parent, 30)
    assert leftovers.cached(time.time() - DAY) == 1
    assert not old.parent.exists() and new.exists() and other.exists()


def test_a_tokenizer_goes_when_no_base_model_has_it(base_model: BaseModel, settings: Any) -> None:
    BaseModel.objects.filter(pk=base_model.pk).update(tokenizer_sha256="a" * 64)
    folder = settings.CACHE_DIR / "tokenizers"
    kept, gone = put(folder / ("a" * 64), 30), put(folder / ("b" * 64), 30)
    fresh = put(folder / ("c" * 64), 0.5)
    assert leftovers.cached(time.time() - DAY) == 1
    assert kept.exists() and fresh.exists() and not gone.exists()


def test_pruning_counts_them(var: Path, settings: Any) -> None:
    put(var / "tmp" / "old", 2)
    make_old(put(settings.CACHE_DIR / "fetching-x" / "x", 2).parent, 2)
    done = pruning.prune()
    assert (done.temporary, done.cached) == (1, 1)


@pytest.mark.django_db(transaction=True)
def test_the_daily_job_leaves_it_for_another_day_while_a_backup_is_made() -> None:
    import psycopg
    from django.db import connection

    from hub_site import embedded

    with psycopg.connect(embedded.url_for(connection.settings_dict), autocommit=True) as backup:
        backup.execute("SELECT pg_advisory_lock(%s)", [pruning.RUN_LOCK])
        job = queue.submit("prune_store", params={})
        worker.work_until_idle()
    job.refresh_from_db()
    assert job.state == "done" and "backed up" in job.result["left"]
