"""The whole site under one supervisor: database, web and one worker. `make run` calls this."""

import contextlib
import fcntl
import ipaddress
import os
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connections, transaction

from hub_site import embedded
from hub_site.env import env_int, env_secret, env_str
from hub_site.supervisor import Child, Supervisor

DEMO_USER = "demo"
# Of the worker: where cores are few, pages go before computations.
NICENESS = 5
# Of the web: its threads hold Python's lock while they allocate, so arenas of their own (glibc's
# default, up to 8 a core) save no waiting, and each keeps the most that it ever held.
WEB_ALLOCATION = {"MALLOC_ARENA_MAX": "2"}


class Command(BaseCommand):
    help = "Runs the site and one worker until Ctrl-C, on HOST (127.0.0.1) and PORT (8000)."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        host, port = env_str("HOST", "127.0.0.1"), env_int("PORT", 8000, minimum=1, maximum=65535)
        var: Path = settings.VAR_DIR
        is_embedded = not env_secret("DATABASE_URL")
        with only_instance(var), listen(host, port) as listener:
            supervisor = Supervisor(self.say)
            try:
                if is_embedded:
                    start_database(var)
                    if not embedded.home_of(var).is_relative_to(var):
                        self.say(f"PostgreSQL keeps its data in {embedded.home_of(var)}.")
                self.say("Preparing the database and the static files ...")
                call_command("prepare")
                password = ""
                if is_embedded and is_loopback(host):
                    password = demo_password(var)
                connections.close_all()
                address = address_of(host, port)
                announced = False

                def every_second() -> None:
                    nonlocal announced
                    if is_embedded and not embedded.running(var):
                        self.restart_database(var)
                    if not announced and answers(address):
                        announced = True
                        self.announce(address, password)

                supervisor.run(children(listener.fileno(), var), every_second)
            except KeyboardInterrupt:
                self.say("Stopping ...")
            finally:
                if is_embedded:
                    embedded.stop(var)
        self.say("Stopped.")

    def restart_database(self, var: Path) -> None:
        self.say("The database stopped; starting it again.")
        try:
            embedded.start(var)
        except embedded.EmbeddedError as error:
            self.say(f"{error}\nTrying again.")

    def announce(self, address: str, password: str) -> None:
        lines = [f"LoRA Commons is ready: {address}/"]
        if password:
            lines.append(f"Sign in as {DEMO_USER} with the password {password}")
        lines.append("Ctrl-C stops everything.")
        self.say("\n" + "\n".join(f"    {line}" for line in lines) + "\n")

    def say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # a closed terminal must not keep us from stopping
            self.stdout.write(line)
            self.stdout.flush()


# --- before the start --------------------------------------------------------------------------


class only_instance:  # noqa: N801
    """Holds var/serve.lock; the system lets go of it however we end."""

    def __init__(self, var: Path) -> None:
        embedded.make_var(var)
        self.path = var / "serve.lock"

    def __enter__(self) -> None:
        try:
            self.file: TextIO = self.path.open("a+")
        except PermissionError as error:
            raise CommandError(
                f"{self.path} is not yours to write: the site was started by another user before. "
                "Start it as that user, or set VAR_DIR to a folder of your own."
            ) from error
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.file.seek(0)
            raise CommandError(
                f"Another LoRA Commons (process {self.file.read().strip() or '?'}) runs on "
                f"{self.path.parent}. Stop it first, or give this one its own VAR_DIR and PORT."
            ) from error
        self.file.truncate(0)
        self.file.write(str(os.getpid()))
        self.file.flush()

    def __exit__(self, *error: object) -> None:
        self.file.close()


def listen(host: str, port: int) -> socket.socket:
    """Our own listening socket: found taken before anything starts, kept when the web restarts."""
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(512)
    except OSError as error:
        if listener is not None:
            listener.close()
        if isinstance(error, PermissionError):
            why = f"PORT {port} needs root. Choose one above 1023: PORT=8000."
        elif isinstance(error, socket.gaierror) or "assign" in str(error):
            why = f"HOST {host} is not an address of this machine. Use 127.0.0.1 or 0.0.0.0."
        else:
            why = (
                f"Port {port} on {host} is taken by another program. "
                f"Stop that, or choose another: PORT={port + 1 if port < 65535 else 8000} make run"
            )
        raise CommandError(why) from error
    return listener


def start_database(var: Path) -> None:
    try:
        url = embedded.start(var)
    except embedded.EmbeddedError as error:
        raise CommandError(str(error)) from error
    found = embedded.parse_url(url)  # a first start makes password and socket only now
    settings.DATABASES["default"].update(found)
    connections["default"].settings_dict.update(found)


@contextlib.contextmanager
def database_running(*, alone: bool = False) -> Iterator[None]:
    """For commands that may be run while the site is down: the embedded database is started when
    it does not run, and stopped afterwards. `alone`: the caller is this folder's only instance."""
    var: Path = settings.VAR_DIR
    if env_secret("DATABASE_URL") or embedded.running(var):
        yield
        return
    with contextlib.nullcontext() if alone else only_instance(var):
        start_database(var)
        try:
            yield
        finally:
            connections.close_all()
            embedded.stop(var)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def demo_password(var: Path) -> str:
    """Make the demo user at the first start. Its password is this install's own; never staff."""
    from hub_site.accounts.models import Namespace

    User = get_user_model()
    password = embedded.own_secret(var, "demo-password", 12)
    with transaction.atomic():
        user, created = User.objects.get_or_create(username=DEMO_USER)
        if created:
            user.set_password(password)
            user.save()
            # Directly: the name is reserved, so that no stranger signs up with it.
            Namespace.objects.create(name=DEMO_USER, kind=Namespace.USER, user=user)
    usable = user.check_password(password) and not user.is_staff and not user.is_superuser
    return password if usable else ""


# --- the children ------------------------------------------------------------------------------


def children(listener: int, var: Path) -> list[Child]:
    environment = child_environment(var)
    web = [
        *(sys.executable, "-m", "gunicorn", "hub_site.wsgi:application"),
        *("--bind", f"fd://{listener}", "--worker-class", "hub_site.slow_clients.PatientWorker"),
        *("--workers", str(env_int("WEB_WORKERS", 1, minimum=1))),
        *("--threads", str(env_int("WEB_THREADS", 32, minimum=1))),
        *("--graceful-timeout", "8", "--timeout", "120", "--keep-alive", "5"),
        *("--log-level", "warning", "--no-control-socket"),
    ]
    worker = [
        *("nice", "-n", str(NICENESS)),
        *(sys.executable, "-m", "celery", "--quiet", "-A", "hub_site.celery", "worker"),
        *("--pool", "prefork", "--concurrency", "1", "--loglevel", "WARNING"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
    return [
        Child("web", web, WEB_ALLOCATION | environment, stop_seconds=12, pass_fds=[listener]),
        Child("worker", worker, environment, stop_seconds=40),
    ]


def child_environment(var: Path) -> dict[str, str]:
    """Temporary files beside the files they become: moving them is then free and atomic."""
    shutil.rmtree(var / "tmp", ignore_errors=True)
    (var / "tmp").mkdir(mode=0o700)
    environment = {**os.environ, "TMPDIR": str(var / "tmp"), "VAR_DIR": str(var)}
    if not environment.get("HOME"):
        (var / "home").mkdir(mode=0o700, exist_ok=True)
        environment["HOME"] = str(var / "home")
    environment["PYTHONPATH"] = str(settings.BASE_DIR)
    return environment


def address_of(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104
    return (
        f"http://[{shown}]:{port}"
        if ":" in shown and "[" not in shown
        else f"http://{shown}:{port}"
    )


def answers(address: str) -> bool:
    """Whether the first page comes, whatever it says."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{address}/", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
