"""A job's row is the truth; a Celery message is only the doorbell. Transitions: `queue.py`."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

# Counted up when jobs are written otherwise than the workers of before can read.
SCHEMA = 2  # folds to measure by, rounds of generations
STATES = ["queued", "running", "done", "failed", "cancelled"]
OVER = ["done", "failed", "cancelled"]


class Job(models.Model):
    """One piece of long work, whatever it does: the registry knows its kind's handler.

    `needs` may say "store", the site's disk; "memory" and "gpu_memory", bytes on a worker without a
    GPU and with one; and "warm", what a worker would rather have loaded already. `turn` is the
    user's place in the rounds that give everybody one job after the other.
    `crashes` counts worker processes that died while running it, `lost` the leases that ran out;
    progress sets both back to zero.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=40)
    state = models.CharField(max_length=12, default="queued", choices=[(s, s) for s in STATES])
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, null=True, blank=True, related_name="jobs"
    )
    priority = models.SmallIntegerField(default=0)
    turn = models.BigIntegerField(default=0)
    queue = models.CharField(max_length=10, default="cpu")
    needs = models.JSONField(default=dict)
    params = models.JSONField(default=dict)
    result = models.JSONField(default=dict)
    schema = models.PositiveSmallIntegerField(default=SCHEMA)

    fence = models.PositiveBigIntegerField(default=0)
    owner = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    crashes = models.PositiveIntegerField(default=0)
    lost = models.PositiveIntegerField(default=0)
    cancel_requested = models.BooleanField(default=False)
    idempotency_key = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001

    error_code = models.CharField(max_length=60, blank=True)
    error_message = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    is_new = False  # set by `queue.submit`: false when the key had been used before

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(state__in=STATES), name="job_state_known"),
            models.UniqueConstraint("user", "idempotency_key", name="job_once_per_key"),
            models.UniqueConstraint(
                "idempotency_key", name="job_of_nobody_once", condition=Q(user__isnull=True)
            ),
        ]
        indexes = [
            models.Index(
                fields=["-priority", "crashes", "turn", "created_at", "id"],
                name="job_next",
                condition=Q(state="queued"),
            ),
            models.Index(fields=["lease_until"], name="job_expired", condition=Q(state="running")),
            models.Index(
                fields=["user"],
                name="job_unfinished",
                condition=Q(state__in=["queued", "running"]),
            ),
            models.Index(
                fields=["kind", "-finished_at"], name="job_done", condition=Q(state="done")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id} ({self.state})"

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    def queue_position(self) -> int | None:
        """1 is next; None when the job does not wait."""
        from hub_site.jobs import queue

        return queue.position(self)


class JobEvent(models.Model):
    """What happened to a job, in order, never changed; written in the transition's transaction."""

    job = models.ForeignKey(Job, models.CASCADE, related_name="events")
    at = models.DateTimeField(db_default=Now())
    fence = models.PositiveBigIntegerField()
    name = models.CharField(max_length=30)
    detail = models.JSONField(default=dict)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.name} of {self.job_id}"


class Worker(models.Model):
    """A worker process that said it is there, and what it has.

    queues: "cpu", "gpu", and "store" where it shares the site's disk. memory: bytes, of its GPU if
    it has one. warm: what it has loaded, by the names in `Job.needs`. schema: the newest it reads.
    """

    name = models.CharField(max_length=120, unique=True)
    host = models.CharField(max_length=120)
    pid = models.PositiveIntegerField()
    device = models.CharField(max_length=120, default="cpu")
    queues = models.JSONField(default=list)
    memory = models.BigIntegerField(default=0)
    warm = models.JSONField(default=list)
    schema = models.PositiveSmallIntegerField(default=0)
    started_at = models.DateTimeField(auto_now_add=True)
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class ScheduledJob(models.Model):
    """When a kind of job is due again: see `schedule.py`."""

    kind = models.CharField(max_length=40, primary_key=True)
    next_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.kind
