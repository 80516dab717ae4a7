"""What a Celery child does when the doorbell rings: claim jobs and run them until none waits."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from django.conf import settings
from django.db import connection

from composer.engine.errors import CommonsError
from hub_site.jobs import queue, registry
from hub_site.jobs.models import Job
from hub_site.jobs.queue import DatabaseLost, JobCancelled, LeaseLost
from hub_site.jobs.worker_name import is_ending, is_pool_child, name_of_this_process

logger = logging.getLogger(__name__)

OUR_FAULT = "Something broke on our side, and we have a note of it. Your input was not the reason."
_stop = threading.Event()
_stopped_at = 0.0
_rest_until = 0.0


class Stepping(Exception):
    """Leave this job for now; it goes back to the queue without a strike."""


class ShuttingDown(Stepping):
    """The worker was asked to end."""


class GivingWay(Stepping):
    """A job of higher priority waits."""


class OutOfReach(Stepping):
    """The site, where all files of this worker come from, does not answer. That is no job's fault,
    and another worker may reach it: this one rests before it claims again."""


class Hindered(Exception):
    """Something outside failed, perhaps for this job alone: it goes back to the queue like one
    whose lease ran out, and not for ever."""


def work_until_idle() -> None:
    """Run waiting jobs, one after the other."""
    name = name_of_this_process()
    if _stop.is_set() and time.monotonic() - _stopped_at > 2 * settings.JOB_LEASE_SECONDS:
        _stop.clear()  # the main process lives and still rings, so only this child was meant
    with _sigterm_stops():
        while not _has_to_stop() and time.monotonic() >= _rest_until:
            job = queue.claim_next(name)
            if job is None:
                return
            run(job)


def _has_to_stop() -> bool:
    return _stop.is_set() or is_ending()


def _rest(why: str) -> None:
    """The main process rings again while jobs wait; until then others may have them."""
    global _rest_until
    logger.error("%s This worker claims nothing for a while.", why)
    _rest_until = time.monotonic() + settings.JOB_REWAKE_SECONDS


def ask_to_stop() -> None:
    global _stopped_at
    _stopped_at = time.monotonic()
    _stop.set()


@contextmanager
def _sigterm_stops() -> Iterator[None]:
    """SIGTERM ends the loop at the next check instead of ending the process in mid-sentence.

    A child of a pool keeps this handler: the pool itself tells it when to exit. Ended by a signal
    while it says goodbye, it could take the lock of the pool's pipe with it (a process with
    threads, as torch starts them, cannot mask a signal), and the main process would wait for that
    lock for ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: ask_to_stop())
    try:
        yield
    finally:
        if not is_pool_child():
            signal.signal(signal.SIGTERM, before)


def run(job: Job) -> None:
    """Run one claimed job to wherever it gets; never raises because of the job."""
    logger.info("Job %s (%s) starts, fence %s", job.pk, job.kind, job.fence)
    try:
        with Lease(job) as lease:
            _run(job, lease)
    except LeaseLost as lost:
        logger.warning("%s", lost)
    except DatabaseLost:
        logger.exception("Job %s: the database stays away; its lease will run out", job.pk)
    else:
        logger.info("Job %s is now %s", job.pk, job.state)


def _run(job: Job, lease: "Lease") -> None:
    try:
        registry.handler_of(job.kind)(job, lease)
        if job.state == "running":
            with queue.finish(job, {}):
                pass
    except LeaseLost:
        raise
    except JobCancelled:
        queue.stop_cancelled(job)
    except Stepping as reason:
        if isinstance(reason, OutOfReach):
            _rest(str(reason))
        queue.release(job, str(reason) or type(reason).__name__)
    except Hindered as reason:
        logger.warning("Job %s: %s", job.pk, reason)
        queue.interrupt(job, str(reason))
    except DatabaseLost as error:
        logger.warning("Job %s: database lost (%s)", job.pk, error)
        connection.close()
        queue.interrupt(job, "the database went away")
    except CommonsError as error:
        queue.fail(job, error.code, error.user_message)
    except Exception:
        logger.exception("Job %s (%s) hit a bug", job.pk, job.kind)
        queue.fail(job, "our_fault", OUR_FAULT)


class Lease:
    """Keeps a claimed job ours: a thread renews the lease, `check` tells when to stop.

    The thread cannot beat while other code holds Python's interpreter lock; native code that
    does so for longer than the lease loses it.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._ended: Exception | None = None
        self._good_until = time.monotonic() + settings.JOB_LEASE_SECONDS
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease {job.pk}", daemon=True)

    def check(self) -> None:
        """Call it often. Raises LeaseLost, JobCancelled or ShuttingDown."""
        if self._ended is not None:
            raise self._ended
        if time.monotonic() > self._good_until:
            raise LeaseLost(f"Job {self.job.pk}: no heartbeat got through for a whole lease.")
        if _has_to_stop():
            raise ShuttingDown(queue.SHUTTING_DOWN)

    def give_way(self) -> None:
        """Call it where stopping is cheap. Raises GivingWay when a job of higher priority waits."""
        self.check()
        if queue.waits_higher(self.job):
            raise GivingWay(queue.GIVING_WAY)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join(timeout=5)  # it may hang on a database that is gone

    def _beat(self) -> None:
        pause = settings.JOB_HEARTBEAT_SECONDS
        try:
            while not self._done.wait(pause):
                pause = self._beat_once()
        finally:
            connection.close()

    def _beat_once(self) -> float:
        """Renew the lease and say how long to wait for the next time."""
        started = time.monotonic()
        try:
            queue.heartbeat(self.job)
        except (LeaseLost, JobCancelled) as ended:
            self._ended = ended
            self._done.set()
        except DatabaseLost as error:
            logger.warning("Job %s: heartbeat failed (%s)", self.job.pk, error)
            connection.close()
            return min(0.5, settings.JOB_HEARTBEAT_SECONDS)
        else:
            self._good_until = started + settings.JOB_LEASE_SECONDS
        return settings.JOB_HEARTBEAT_SECONDS
