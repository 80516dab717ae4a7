"""Modules from the Hub: what was asked for, and what a repo remembers of where it came from."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.urls import reverse

from hub_site.accounts.models import Namespace
from hub_site.jobs.models import Job
from modules.models.repos import Repo
from modules.querysets import HubOriginQuerySet, ImportQuerySet


class HubOrigin(models.Model):
    """The repo on the Hub that this one is a copy of, at the commit that was imported last."""

    repo = models.OneToOneField(Repo, models.CASCADE, related_name="hub_origin")
    endpoint = models.CharField(max_length=200)  # which Hub that was
    hub_id = models.CharField(max_length=200)
    revision = models.CharField(max_length=200, blank=True)  # empty: its main branch
    hub_sha = models.CharField(max_length=40)
    # {path here: {"hub": its id on the Hub, "here": the sha256 that it got here}}: what differs
    # from "here" by now was changed here, and a newer version from the Hub leaves it alone.
    files = models.JSONField(default=dict)
    converted = models.JSONField(default=dict, blank=True)  # see importing/converting.py
    follows = models.BooleanField(default=True)  # new versions there become versions here
    imported_at = models.DateTimeField()
    checked_at = models.DateTimeField()
    trouble = models.CharField(max_length=500, blank=True)  # of the last look

    objects = HubOriginQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(Lower("hub_id"), name="hub_origin_by_id"),
            models.Index(
                fields=["checked_at"], name="hub_origin_followed", condition=Q(follows=True)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.hub_id} at {self.hub_sha[:10]}"

    @property
    def site(self) -> str:
        """The Hub as people call it."""
        return self.endpoint.partition("://")[2] or self.endpoint

    @property
    def url(self) -> str:
        return f"{self.endpoint}/{self.hub_id}"

    @property
    def version_url(self) -> str:
        return f"{self.endpoint}/{self.hub_id}/tree/{self.hub_sha}"


class Import(models.Model):
    """One repo of the Hub that somebody asked for, or a newer version of one; a job brings it."""

    WAITING, RUNNING, DONE = "waiting", "running", "done"
    REFUSED, FAILED, CANCELLED = "refused", "failed", "cancelled"
    STATES = (WAITING, RUNNING, DONE, REFUSED, FAILED, CANCELLED)
    OPEN = (WAITING, RUNNING)
    NEW, VERSION, SAME = "new", "version", "same"

    batch = models.UUIDField(db_index=True)  # what was asked for at once
    user = models.ForeignKey(  # nobody: the site follows the Hub for an organisation
        settings.AUTH_USER_MODEL, models.CASCADE, null=True, blank=True, related_name="imports"
    )
    namespace = models.ForeignKey(Namespace, models.CASCADE, related_name="+")
    hub_id = models.CharField(max_length=200)
    revision = models.CharField(max_length=200, blank=True)
    name = models.CharField(max_length=96, blank=True)  # wanted here; empty: as on the Hub
    visibility = models.CharField(max_length=8, default=Repo.PUBLIC)
    hub_sha = models.CharField(max_length=40, blank=True)
    state = models.CharField(max_length=10, choices=[(s, s) for s in STATES], default=WAITING)
    outcome = models.CharField(max_length=8, blank=True)  # of one that is done
    step = models.CharField(max_length=160, blank=True)  # of one that runs, in words
    reason = models.TextField(blank=True)
    tries = models.PositiveSmallIntegerField(default=0)
    next_try_at = models.DateTimeField(null=True, blank=True)
    size = models.PositiveBigIntegerField(default=0)
    converted = models.JSONField(default=dict, blank=True)
    repo = models.ForeignKey(Repo, models.SET_NULL, null=True, blank=True, related_name="imports")
    job = models.ForeignKey(Job, models.SET_NULL, null=True, blank=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = ImportQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                "namespace",
                Lower("hub_id"),
                condition=Q(state__in=("waiting", "running")),
                name="import_open_once",
            )
        ]
        indexes = [models.Index(fields=["user", "-id"], name="import_by_user")]

    def __str__(self) -> str:
        return f"{self.hub_id} ({self.state})"

    def get_absolute_url(self) -> str:
        return reverse("modules:import_batch", args=[self.batch])

    @property
    def is_over(self) -> bool:
        return self.state not in self.OPEN
