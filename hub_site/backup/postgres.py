"""PostgreSQL's own dump and restore: which program fits a server, and how it is called."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from django.db import connection
from psycopg.conninfo import make_conninfo

from hub_site import embedded
from hub_site.backup.errors import BackupError
from hub_site.supervisor import die_with_parent

LOOK_SECONDS = 5.0  # between two lines about work that goes on
DEBIANS = Path("/usr/lib/postgresql")


def server_version() -> int:
    """The major version of the server that the site uses."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version_num")
        return int(cursor.fetchone()[0]) // 10_000


def dump(snapshot: str, target: Path, say: Callable[[str], None]) -> int:
    """The whole database as that snapshot sees it, in the custom format; says with which version
    of pg_dump."""
    program, version = find("pg_dump", server_version())
    arguments = [f"--snapshot={snapshot}", "--format=custom", f"--file={target}"]
    _run([str(program), *arguments, *_plainly()], lambda: say(_written(target)))
    return version


def restore(source: Path, dumped_by: int, say: Callable[[str], None]) -> None:
    """All of it or nothing: in one transaction, into a database without tables."""
    program, _ = find("pg_restore", max(dumped_by, server_version()))
    arguments = ["--single-transaction", "--exit-on-error", *_plainly(), str(source)]
    _run([str(program), *arguments], lambda: say("The database is being loaded"))


def find(name: str, needed: int) -> tuple[Path, int]:
    """The program of the lowest version that will do: of the PATH, of Debian's folders, or of the
    embedded PostgreSQL. An older one than the server cannot read it."""
    found = [(_major(path), path) for path in _candidates(name)]
    fitting = [(major, path) for major, path in found if major >= needed]
    if fitting:
        major, path = min(fitting, key=lambda each: each[0])
        return path, major
    others = ", ".join(f"{major} ({path})" for major, path in found if major) or "none at all"
    raise BackupError(
        f"This needs {name} of PostgreSQL {needed} or newer, and there is {others}. Install the "
        f"client programs of version {needed} (Debian: postgresql-client-{needed}) and have them "
        "on the PATH."
    )


def _candidates(name: str) -> Iterator[Path]:
    if on_path := shutil.which(name):
        yield Path(on_path)
    yield from sorted(DEBIANS.glob(f"*/bin/{name}"))
    yield from embedded.client_programs(name)


def _major(program: Path) -> int:
    """18 for "pg_dump (PostgreSQL) 18.4"; 0 for what does not run."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30)
        return int(said.stdout.partition("(PostgreSQL)")[2].split()[0].split(".")[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return 0


def _plainly() -> list[str]:
    """Owners and grants belong to the place, not to the data. The password is not in the list of
    processes: see `_environment`."""
    return ["--no-owner", "--no-privileges", f"--dbname={_address(connection.settings_dict)}"]


def _address(database: Mapping[str, Any]) -> str:
    parts = {
        "dbname": database["NAME"],
        "user": database["USER"],
        "host": database["HOST"],
        "port": database["PORT"],
        **database["OPTIONS"],
    }
    return make_conninfo(**{name: value for name, value in parts.items() if value})


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    password = connection.settings_dict["PASSWORD"]
    return kept | {"LC_ALL": "C"} | ({"PGPASSWORD": password} if password else {})


def _run(command: list[str], look: Callable[[], None]) -> None:
    """Run it to its end; `look` says every few seconds how far it is."""
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=complaints,
            stderr=subprocess.STDOUT,
            # Left alone it would go on, and a restore would be there although nobody saw its end.
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )
        try:
            while True:
                try:
                    code = process.wait(LOOK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    look()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        complaints.seek(0)
        said = complaints.read().decode(errors="replace").strip()
    if code:
        raise BackupError(f"{Path(command[0]).name} ended with {code}: {said}")


def _written(target: Path) -> str:
    from hub_site.figures import size

    written = target.stat().st_size if target.exists() else 0
    return f"The database is being dumped: {size(written)} so far"
