"""A pool whose locks end with the process that holds them.

Where the broker has no event loop (the folder under `var/`), Celery's children wait for work at one
pipe, and whoever waits holds its lock. The lock is a semaphore: a child that is killed while it
waits, for lack of memory say, takes it along, and no child ever gets work again. Record locks of
a file are given back by the kernel.
"""

import fcntl
import tempfile
from types import TracebackType
from typing import Any

from celery.concurrency import prefork


class RecordLock:
    """A lock between processes that fork from the one which made it; not between threads."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the pool)

    def acquire(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_EX)

    def release(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class Pool(prefork.BlockingPool):  # type: ignore[misc]
    def _setup_queues(self) -> None:
        super()._setup_queues()
        self._inqueue._rlock = RecordLock()
        self._outqueue._wlock = RecordLock()


class TaskPool(prefork.TaskPool):  # type: ignore[misc]
    BlockingPool: Any = Pool
