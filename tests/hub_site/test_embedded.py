import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from hub_site import embedded

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root must step aside")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a space in its name, which an unprivileged user can enter."""
    found = Path(tempfile.mkdtemp(prefix="commons test "))
    found.chmod(0o711)
    yield found
    for state in found.rglob("postgres.json"):
        embedded.stop(state.parent)
    shutil.rmtree(found)


@pytest.fixture
def var(folder: Path) -> Path:
    return folder / "var"


def start(var: Path) -> str:
    return embedded.start(var, durable=False)


def ask(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def main_process(var: Path) -> int:
    home = Path(json.loads((var / "postgres.json").read_text())["home"])
    return int((home / "data" / "postmaster.pid").read_text().split()[0])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_starts_a_database_that_folds_accents_and_speaks_utc(var: Path) -> None:
    url = start(var)
    assert ask(url, "SELECT lower('ÉCOLE Ångström')") == "école ångström"
    assert ask(url, "SHOW timezone") == "UTC"
    assert ask(url, "SHOW server_encoding") == "UTF8"
    assert ask(url, "SELECT current_database()") == "lora_commons"
    assert ask(url, "SELECT 1 FROM pg_available_extensions WHERE name = 'vector'") == 1


def test_it_lets_nobody_in_without_the_password(var: Path) -> None:
    found = embedded.parse_url(start(var))
    with pytest.raises(psycopg.OperationalError, match="password"):
        ask(embedded.url_for({**found, "PASSWORD": "guess"}), "SELECT 1")
    assert ask(start(var), "SHOW listen_addresses") == ""
    assert mode(var / "postgres-password") == 0o600
    assert mode(Path(found["HOST"])) == 0o700
    assert mode(var / "postgres") == 0o700
    assert len(found["HOST"] + "/.s.PGSQL.5432") <= 107


def test_it_finds_the_running_one_and_keeps_data_over_a_restart(var: Path) -> None:
    url = start(var)
    ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    before = main_process(var)
    assert start(var) == url
    assert main_process(var) == before
    embedded.stop(var)
    assert not embedded.running(var)
    embedded.stop(var)
    assert ask(start(var), "SELECT answer FROM kept") == 42


def test_it_keeps_what_was_committed_over_sigkill(var: Path) -> None:
    ask(embedded.start(var), "CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(main_process(var), signal.SIGKILL)
    while embedded.running(var):
        time.sleep(0.05)
    assert ask(embedded.start(var), "SELECT answer FROM kept") == 42


def test_it_starts_though_a_stale_pid_file_names_a_living_process(var: Path) -> None:
    """After a power cut the old number may belong to anything."""
    url = start(var)
    owner = (var / "postgres").stat().st_uid
    pid_file = var / "postgres" / "data" / "postmaster.pid"
    text = pid_file.read_text()
    embedded.stop(var)
    stranger = subprocess.Popen(
        ["/bin/sleep", "600"], user=owner if os.geteuid() == 0 else None, cwd="/"
    )
    try:
        pid_file.write_text(f"{stranger.pid}\n" + text.partition("\n")[2])
        os.chown(pid_file, owner, -1)
        assert not embedded.running(var)
        embedded.stop(var)
        assert stranger.poll() is None
        url = start(var)
        assert ask(url, "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_it_makes_its_socket_again_when_the_temporary_folder_was_cleaned(var: Path) -> None:
    first = embedded.parse_url(start(var))["HOST"]
    shutil.rmtree(first)
    assert ask(start(var), "SELECT 1") == 1
    embedded.stop(var)
    Path(first).symlink_to("/var/empty")  # somebody else was quicker after a restart
    again = embedded.parse_url(start(var))
    Path(first).unlink()
    assert again["HOST"] != first
    assert ask(embedded.url_for(again), "SELECT 1") == 1


def test_it_finishes_a_first_start_that_was_interrupted(var: Path) -> None:
    embedded.make_var(var)
    start(var)
    embedded.stop(var)
    (var / "postgres" / "data").rename(var / "postgres" / "data.new")
    assert ask(start(var), "SELECT 1") == 1


def test_it_refuses_data_of_another_version(var: Path) -> None:
    start(var)
    embedded.stop(var)
    (var / "postgres" / "data" / "PG_VERSION").write_text("12\n")
    with pytest.raises(embedded.EmbeddedError, match="was made by PostgreSQL 12"):
        start(var)
    (var / "postgres" / "data" / "PG_VERSION").write_text("18\n")


def test_it_says_why_it_does_not_start(var: Path) -> None:
    start(var)
    embedded.stop(var)
    with (var / "postgres" / "data" / "postgresql.conf").open("a") as conf:
        conf.write("no_such_setting = 1\n")
    with pytest.raises(embedded.EmbeddedError, match="no_such_setting"):
        start(var)


@root_only
def test_it_steps_aside_when_root_keeps_its_folder_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = folder / "shared home"
    monkeypatch.setattr(embedded, "SHARED_HOME", shared)
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    var = closed / "checkout" / "var"
    assert ask(start(var), "SELECT 1") == 1
    assert mode(closed) == 0o700
    assert not (var / "postgres").exists()
    assert len(list(shared.iterdir())) == 1
    embedded.stop(var)
    assert ask(start(var), "SELECT 1") == 1
    embedded.stop(var)

    copy = closed / "copy"
    shutil.copytree(var, copy)
    with pytest.raises(embedded.EmbeddedError, match="is a copy of"):
        start(copy)
    shutil.rmtree(var)
    assert ask(start(copy), "SELECT 1") == 1  # moved, not copied


@root_only
def test_it_brings_its_own_programs_when_the_environment_is_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment under /root cannot be entered by the user that PostgreSQL runs as."""
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    package = embedded._wheel_binaries().parents[1]
    shutil.copytree(package, closed / package.name)
    shutil.copytree(f"{package}.libs", closed / f"{package.name}.libs")
    binaries = closed / embedded._wheel_binaries().relative_to(package.parent)
    monkeypatch.setattr(embedded, "_wheel_binaries", lambda: binaries)
    var = folder / "var"
    assert ask(start(var), "SELECT 1") == 1
    assert (var / "postgres" / "programs" / "whole").exists()
    embedded.stop(var)
    assert ask(start(var), "SELECT 1") == 1


def test_it_makes_a_secret_once(var: Path) -> None:
    key = embedded.secret_key(var)
    assert len(key) > 50
    assert embedded.secret_key(var) == key
    assert mode(var / "secret-key") == 0o600


def test_it_gives_settings_before_anything_was_started(
    var: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    found = embedded.database_settings(var)
    assert found["ENGINE"] == "django.db.backends.postgresql"
    assert found["HOST"].startswith(str(var))
    url = start(var)
    assert embedded.url_for(embedded.database_settings(var)) == url


def test_it_reads_a_database_url(monkeypatch: pytest.MonkeyPatch, var: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:p%40ss@db:6543/site?sslmode=require")
    found = embedded.database_settings(var)
    assert [found[key] for key in ("USER", "PASSWORD", "HOST", "PORT", "NAME")] == [
        *("me", "p@ss", "db", "6543", "site")
    ]
    assert found["OPTIONS"]["sslmode"] == "require"
    assert embedded.parse_url(embedded.url_for(found)) == {
        **found,
        "OPTIONS": {**found["OPTIONS"], "connect_timeout": "10"},
    }


def test_the_databases_password_may_be_a_file_of_its_own(
    monkeypatch: pytest.MonkeyPatch, var: Path, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("p@/:% ss\n")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me@db:6543/site?sslmode=require")
    monkeypatch.setenv("DATABASE_PASSWORD_FILE", str(tmp_path / "password"))
    found = embedded.database_settings(var)
    assert [found[key] for key in ("USER", "PASSWORD", "HOST", "NAME")] == [
        *("me", "p@/:% ss", "db", "site")
    ]
    assert found["OPTIONS"]["sslmode"] == "require"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqlite:///db.sqlite3", "must begin with postgresql://"),
        ("postgresql://me:secret@db/", "names no database"),
        ("postgresql://me:secret@db:port/site?no_such=1", "cannot be read"),
    ],
)
def test_it_refuses_a_database_url_without_showing_its_password(url: str, why: str) -> None:
    with pytest.raises(embedded.BadSetting, match=why) as error:
        embedded.parse_url(url)
    assert "secret" not in str(error.value)
