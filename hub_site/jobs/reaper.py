"""A thread in every worker's main process that looks after jobs nobody looks after.

It takes expired leases away, wakes workers for waiting jobs whose doorbell was lost, strikes the
jobs of children that died, submits the site's own jobs when they are due, and says that this
worker is there. There is no central scheduler that could be down.
"""

import logging
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

from celery import bootsteps
from celery.signals import task_failure, worker_shutting_down
from django.conf import settings
from kombu import Exchange, Queue
from kombu.exceptions import KombuError

from hub_site.jobs import bells, capacity
from hub_site.jobs.worker_name import NAME_VARIABLE, new_name, pid_of, say_ending

logger = logging.getLogger(__name__)

TICK = 0.25  # seconds between looks at the children; the database is asked far less often
FORGOTTEN = timedelta(days=1)


def is_alive(pid: int) -> bool:
    """Does this child of ours run? Looks without reaping: collecting it is Celery's part."""
    if pid == os.getpid():  # pools without processes of their own
        return True
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


class Reaper(bootsteps.StartStopStep):
    """Celery starts it after the pool and stops it before."""

    requires = {"celery.worker.components:Pool"}

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.name = new_name()
        os.environ[NAME_VARIABLE] = self.name  # children inherit it
        self.has = capacity.of_this_process()
        self._app: Any = None
        self._pool: Any = None
        # Plain flags: a signal handler must not wait for a lock.
        self._stopping = self._look_now = False
        self._told: set[int] = set()
        # The job that we ring for, and since when: it stays first only while nobody claims.
        self._unheard: tuple[Any, float] | None = None
        self._thread = threading.Thread(target=self._watch, name="reaper", daemon=True)

    def create(self, parent: Any) -> None:
        """Before the pool forks its children and the consumer begins to listen."""
        self.has = capacity.hand_to_children()
        self._app = parent.app
        self._hear_bells(parent.app)

    def _hear_bells(self, app: Any) -> None:
        queues = app.amqp.queues
        names = bells.heard_by(self.has)
        for name in names:
            queues.add(Queue(name, Exchange(name), routing_key=name))
        if bells.are_single():
            own = bells.of_worker(self.name)
            queues.add(Queue(own, Exchange(own), routing_key=own, auto_delete=True))
            names.append(own)
        queues.select(names)

    def start(self, parent: Any) -> None:
        self._pool = parent.pool
        if hub := getattr(parent, "hub", None):
            # On brokers with an event loop Celery may see a child's death only after 5 seconds.
            hub.call_repeatedly(0.5, parent.pool.maintain_pool)
        worker_shutting_down.connect(self._shutting_down)
        task_failure.connect(self._task_failed)
        if settings.FETCH_FROM:
            self._say_what_is_left_to_others()
        self._thread.start()

    def _say_what_is_left_to_others(self) -> None:
        from hub_site.jobs import registry

        logger.info(
            "This worker has not the site's disk: its files come from %s. Jobs that need the disk "
            "are left to a worker beside the site: %s, and whatever reads a base model's folder.",
            settings.FETCH_FROM,
            ", ".join(registry.store_kinds()),
        )

    def stop(self, parent: Any) -> None:
        """Wait until the children have let go of their jobs, and only then let the pool close.

        A child's parent is the thread that forked it. After a crash that was a thread of the
        pool, which ends when the pool closes, and Linux then kills the child in mid-job.
        """
        self._shutting_down()
        self._thread.join(timeout=settings.JOB_LEASE_SECONDS + 5)

    def terminate(self, parent: Any) -> None:
        self._shutting_down()

    def _shutting_down(self, **_: Any) -> None:
        """Celery waits for running tasks without telling them; tell them, once.

        What every child can read is for those that are forked only now, and for bells that have
        rung before.

        A second SIGTERM would kill a child that is on its way out, perhaps while it holds the lock
        of the pool's pipe, and the main process would then wait for that lock for ever.
        """
        self._stopping = True
        say_ending()
        for pid in self._children() - self._told:
            self._told.add(pid)
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue

    def _task_failed(self, **_: Any) -> None:
        """A child that died (WorkerLostError); the list of children tells which."""
        self._look_now = True

    def _children(self) -> set[int]:
        """The pids of the pool's processes."""
        processes = getattr(getattr(self._pool, "_pool", None), "_pool", ())
        return {process.pid for process in list(processes) if process.pid is not None}

    # --- the thread ----------------------------------------------------------------------------
    def _watch(self) -> None:
        from django.db import connection

        try:
            known: set[int] = set()
            reap_at = wake_at = 0.0
            while not self._stopping:
                alive, now = {pid for pid in self._children() if is_alive(pid)}, time.monotonic()
                try:
                    if alive != known or self._look_now or now >= reap_at:
                        self._look_now = False
                        self._strike_the_dead()
                        self._note_children(known - alive)
                        known = alive
                    if now >= reap_at:
                        reap_at = now + settings.JOB_REAPER_SECONDS
                        self._reap()
                    if now >= wake_at:
                        wake_at = now + settings.JOB_REWAKE_SECONDS
                        self._wake()
                except Exception:
                    # The thread must outlive whatever happens: without it, lost jobs stay lost.
                    logger.exception("The reaper goes on after an error")
                    connection.close()
                    self._unheard = None  # a child that waits for the database is not deaf
                time.sleep(TICK)
            self._see_off()
        finally:
            connection.close()

    def _strike_the_dead(self) -> None:
        from hub_site.jobs import queue

        for job in queue.running_on(self.name):
            pid = pid_of(job.owner)
            if is_alive(pid) or self._stopping:
                continue
            try:
                queue.strike(job, f"process {pid} died")
            except queue.LeaseLost:
                logger.info("Job %s has moved on already", job.pk)

    def _note_children(self, gone: set[int]) -> None:
        """What a child that is gone had loaded is gone with it."""
        from hub_site.jobs.models import Worker

        if gone:
            Worker.objects.filter(name=self.name).update(warm=[])

    def _reap(self) -> None:
        from django.db.models.functions import Now

        from hub_site.jobs import queue, schedule
        from hub_site.jobs.models import SCHEMA, Worker

        stores = [capacity.STORE] if self.has.has_store else []
        Worker.objects.update_or_create(
            name=self.name,
            defaults={
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "device": self.has.device,
                "memory": self.has.gpu_memory or self.has.memory,
                "queues": [*self.has.queues, *stores],
                "schema": SCHEMA,
                "seen_at": Now(),
            },
        )
        forgotten = Worker.objects.filter(seen_at__lt=Now() - FORGOTTEN)
        for name in list(forgotten.values_list("name", flat=True)):
            self._take_down_bell(name)
        forgotten.delete()
        queue.reap()
        if settings.JOB_SCHEDULE:
            schedule.submit_due()

    def _take_down_bell(self, name: str) -> None:
        """A worker that signs off takes its own along; of one that died it is left."""
        if not bells.are_single():
            return
        try:
            with self._app.connection_for_write() as broker:
                broker.default_channel.queue_delete(bells.of_worker(name))
        except (KombuError, OSError) as error:
            logger.warning("The bell of %s stays: %s", name, error)

    def _wake(self) -> None:
        """Ring for jobs that wait while a child of ours is free, and replace a child that is deaf.

        A free child claims within moments. One that does not is stuck where no signal of ours
        reaches it, so it is ended, and the pool starts another.
        """
        from hub_site.jobs import queue

        busy = {pid_of(job.owner) for job in queue.running_on(self.name)}
        free = self._children() - busy
        first = queue.next_claimable(queue.waiting())
        if not free or first is None:
            self._unheard = None
            return
        now = time.monotonic()
        if self._unheard is None or self._unheard[0] != first.pk:
            self._unheard = (first.pk, now)
        elif now - self._unheard[1] > settings.JOB_DEAF_SECONDS:
            logger.error("No free child answers; ending %s", ", ".join(map(str, sorted(free))))
            self._unheard = None
            for pid in free:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        queue.ring(first, anybody=True)

    def _see_off(self) -> None:
        from django.db import Error

        from hub_site.jobs import queue
        from hub_site.jobs.models import Worker

        give_up = time.monotonic() + settings.JOB_LEASE_SECONDS
        try:
            while queue.running_on(self.name).exists() and time.monotonic() < give_up:
                time.sleep(0.1)
            Worker.objects.filter(name=self.name).delete()
        except Error:
            logger.warning("Could not sign off; the database does not answer")
