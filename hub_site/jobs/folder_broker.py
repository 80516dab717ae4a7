"""Celery's messages as files in a folder: kombu's transport, with files that are always whole.

kombu writes under the final name, so that whoever looks into the folder at that moment reads half
a message or half a table of queues, and a worker that does so ends. Here a file gets its name when
all of it is written, and a message belongs to whoever deletes it.
"""

import fcntl
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import filesystem
from kombu.utils.encoding import bytes_to_str, str_to_bytes
from kombu.utils.json import dumps, loads

logger = logging.getLogger(__name__)


class Channel(filesystem.Channel):  # type: ignore[misc]
    # --- messages ------------------------------------------------------------------------------
    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override]
        name = f"{time.time_ns():020}_{uuid.uuid4()}.{queue}.msg"
        _write(Path(self.data_folder_out, name), payload)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        for path in self._waiting(queue):
            try:
                text = _read(path)
                path.unlink()  # of those who have read it, only one can
            except (FileNotFoundError, IsADirectoryError):
                continue
            message = _message(text)
            if message is not None:
                return message
            logger.warning("Dropped %s: no message can be read from it", path.name)
        raise Empty

    def _size(self, queue: str) -> int:
        return len(self._waiting(queue))

    def _purge(self, queue: str) -> int:
        waiting = self._waiting(queue)
        for path in waiting:
            path.unlink(missing_ok=True)
        return len(waiting)

    def _waiting(self, queue: str) -> list[Path]:
        """The oldest first."""
        try:
            paths = sorted(Path(self.data_folder_in).iterdir())
        except FileNotFoundError:  # cleared away; made again for the next message
            return []
        return [path for path in paths if path.name.partition(".")[2] == f"{queue}.msg"]

    # --- which queues an exchange leads to -----------------------------------------------------
    def get_table(self, exchange: str) -> list[filesystem.exchange_queue_t]:
        try:
            text = self._exchange_file(exchange).read_bytes()
            return [filesystem.exchange_queue_t(*row) for row in loads(bytes_to_str(text))]
        except FileNotFoundError:
            return []
        except ValueError:
            logger.warning("The table of the exchange %s cannot be read; made anew", exchange)
            return []

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        path = self._exchange_file(exchange)
        row = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        with _alone(path.parent):
            table = self.get_table(exchange)
            if row not in table:
                _write(path, [row, *table])


class Transport(filesystem.Transport):  # type: ignore[misc]
    Channel = Channel


def _read(path: Path) -> bytes:
    """Nothing of a file that is another user's: it can be cleared away all the same."""
    try:
        return path.read_bytes()
    except PermissionError:
        return b""


def _message(text: bytes) -> dict[str, Any] | None:
    """Celery ends a worker that meets anything else."""
    try:
        found = loads(bytes_to_str(text))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _write(path: Path, payload: Any) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{uuid.uuid4()}.new")  # neither a message nor a table
    try:
        draft.write_bytes(str_to_bytes(dumps(payload)))
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
