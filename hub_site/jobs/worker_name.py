"""How worker processes are called; the owner of a claim is `{host}:{main pid}:{random}:{pid}:…`.
And whether their main process is ending.

No project import: Celery's main process reads this before Django is set up.
"""

import mmap
import os
import secrets
import socket

NAME_VARIABLE = "COMMONS_WORKER_NAME"  # set by the main process for its children

# A byte that the main process and the children it forks share, also those it forks later.
_ending = mmap.mmap(-1, 1)


def say_ending() -> None:
    _ending[0] = 1


def is_ending() -> bool:
    return _ending[0] == 1


def new_name() -> str:
    """Unique over restarts: in a container every main process has the same host and pid."""
    return f"{socket.gethostname()[:20].replace(':', '-')}:{os.getpid()}:{secrets.token_hex(3)}"


def name_of_this_process() -> str:
    return f"{os.environ.get(NAME_VARIABLE) or new_name()}:{os.getpid()}"


def main_name() -> str:
    """The worker that this process belongs to; empty outside of one."""
    return os.environ.get(NAME_VARIABLE, "")


def main_name_of(owner: str) -> str:
    """The worker that made a claim."""
    return ":".join(owner.split(":")[:3])


def is_pool_child() -> bool:
    """Is this a process that a worker's main process started for its jobs?"""
    name = os.environ.get(NAME_VARIABLE)
    return name is not None and int(name.split(":")[1]) != os.getpid()


def pid_of(owner: str) -> int:
    """The process that made a claim."""
    return int(owner.split(":")[3])
