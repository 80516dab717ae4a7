"""What people do with modules besides uploading them: like, collect, download, report."""

from django.conf import settings
from django.db import models
from django.db.models.functions import Lower
from django.urls import reverse

from hub_site.accounts.models import Namespace
from modules.models.library import LoraModule
from modules.models.repos import Commit, Repo
from modules.querysets import CollectionQuerySet


class Like(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="likes")
    lora_module = models.ForeignKey(LoraModule, models.CASCADE, related_name="liked")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint("user", "lora_module", name="like_once")]
        indexes = [models.Index(fields=["created_at"], name="like_by_time")]

    def __str__(self) -> str:
        return f"{self.user_id} likes {self.lora_module_id}"


class Download(models.Model):
    """Somebody fetched this version on this day; counted once. Kept for a month, for trending.

    `visitor` is a keyed hash of the user or address and the day: it tells two visitors of one day
    apart and nothing else.
    """

    repo = models.ForeignKey(Repo, models.CASCADE, related_name="+")
    commit = models.ForeignKey(Commit, models.CASCADE, related_name="+")
    day = models.DateField()
    visitor = models.CharField(max_length=32)

    class Meta:
        constraints = [
            models.UniqueConstraint("commit", "day", "visitor", name="download_once_a_day")
        ]
        indexes = [models.Index(fields=["day", "repo"], name="download_by_day")]

    def __str__(self) -> str:
        return f"{self.repo_id} on {self.day}"


class Collection(models.Model):
    """A named, ordered set of modules; a composition can take it as its candidates."""

    PUBLIC, PRIVATE = "public", "private"

    owner = models.ForeignKey(Namespace, models.CASCADE, related_name="collections")
    name = models.CharField(max_length=96)  # the last part of its address
    title = models.CharField(max_length=120)
    description = models.TextField(blank=True, max_length=2000)
    visibility = models.CharField(
        max_length=8, choices=[(PUBLIC, "public"), (PRIVATE, "private")], default=PUBLIC
    )
    hidden_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = CollectionQuerySet.as_manager()

    class Meta:
        ordering = ["-updated_at", "-id"]
        constraints = [models.UniqueConstraint("owner", Lower("name"), name="collection_name_ci")]

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("modules:collection", args=[self.owner.name, self.name])


class CollectionItem(models.Model):
    collection = models.ForeignKey(Collection, models.CASCADE, related_name="items")
    lora_module = models.ForeignKey(LoraModule, models.CASCADE, related_name="collected")
    position = models.PositiveIntegerField()
    note = models.CharField(max_length=300, blank=True)
    added_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["position", "id"]
        constraints = [models.UniqueConstraint("collection", "lora_module", name="collected_once")]

    def __str__(self) -> str:
        return f"{self.collection_id}: {self.lora_module_id}"


class Report(models.Model):
    """Somebody thinks that a moderator should look at this repo, or at this page of the site."""

    REASONS = [
        ("licence", "It breaks a licence or somebody's rights"),
        ("harmful", "It is made to do harm"),
        ("personal", "It holds personal data"),
        ("misleading", "It is not what it says it is"),
        ("spam", "It is spam"),
        ("other", "Something else"),
    ]

    repo = models.ForeignKey(Repo, models.SET_NULL, null=True, blank=True, related_name="reports")
    repo_name = models.CharField(max_length=200)  # stays when the repo goes
    # The path of what is reported where that is no repo: a shared task, say.
    path = models.CharField(max_length=200, blank=True)
    reporter = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    # A keyed hash of the user or address and the day, as in Download: it bounds reports a day.
    visitor = models.CharField(max_length=32, blank=True)
    reason = models.CharField(max_length=12, choices=REASONS)
    text = models.TextField(max_length=2000, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    closed_at = models.DateTimeField(null=True, blank=True)
    closed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    outcome = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                "repo",
                "reporter",
                condition=models.Q(closed_at=None, reporter__isnull=False),
                name="report_open_once",
            ),
            models.UniqueConstraint(
                "repo",
                "visitor",
                condition=models.Q(closed_at=None, reporter=None) & ~models.Q(visitor=""),
                name="report_open_once_an_address",
            ),
            models.UniqueConstraint(
                "path",
                "reporter",
                condition=models.Q(closed_at=None, reporter__isnull=False) & ~models.Q(path=""),
                name="report_path_once",
            ),
            models.UniqueConstraint(
                "path",
                "visitor",
                condition=models.Q(closed_at=None, reporter=None)
                & ~models.Q(visitor="")
                & ~models.Q(path=""),
                name="report_path_once_an_address",
            ),
        ]
        indexes = [models.Index(fields=["visitor"], name="report_by_visitor")]

    def __str__(self) -> str:
        return f"{self.repo_name}: {self.get_reason_display()}"


class ModerationEvent(models.Model):
    """The audit trail: who did what to what, when and why. Never changed."""

    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    action = models.CharField(max_length=40)
    subject = models.CharField(max_length=200)  # the name at that time
    reason = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.action} {self.subject}"
