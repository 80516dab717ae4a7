"""What is kept on the Hugging Face Hub, and whose accounts there are connected."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from hub_site.jobs.models import Job
from modules.models.repos import Blob, Commit, CommitFile, Repo
from modules.querysets import HubHomeQuerySet


class HubAccount(models.Model):
    """A user's own account on the Hub. Tokens are sealed: see `hub_site/sealed.py`."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="hub_account"
    )
    name = models.CharField(max_length=96)
    token = models.TextField()
    # What buys the next token where this one ends by itself; empty for a token that was typed in.
    refresh_token = models.TextField(blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    connected_at = models.DateTimeField(auto_now_add=True)
    # Why it cannot be used; empty while it can.
    broken = models.CharField(max_length=300, blank=True)

    def __str__(self) -> str:
        return f"{self.name} of {self.user_id}"


class HubHome(models.Model):
    """A repo on the Hub in which something of this site is kept, and how that goes.

    SITE's repos belong to the organisation whose token the site has: the bytes live there, and the
    site's own copy may go. OWN ones belong to a user, who may do with them what they like, so the
    site keeps its bytes.
    """

    HERE, SITE, OWN = "here", "site", "own"
    WAITING, KEPT, TROUBLE = "waiting", "kept", "trouble"

    place = models.CharField(
        max_length=4, choices=[(SITE, "the site's account"), (OWN, "its owner's account")]
    )
    hub_id = models.CharField(max_length=200, blank=True)  # empty until the first push begins
    is_made = models.BooleanField(default=False)  # by us: nobody's repo of that name was there
    is_private = models.BooleanField(default=True)  # as the Hub was last told
    sha = models.CharField(max_length=40, blank=True)  # the commit there that was pushed last
    pushed_at = models.DateTimeField(null=True, blank=True)
    state = models.CharField(
        max_length=8, choices=[(s, s) for s in (WAITING, KEPT, TROUBLE)], default=WAITING
    )
    code = models.CharField(max_length=40, blank=True)
    reason = models.CharField(max_length=600, blank=True)
    tries = models.PositiveIntegerField(default=0)
    retry_at = models.DateTimeField(null=True, blank=True)
    # One push at a time; what changes meanwhile asks for another.
    job = models.ForeignKey(Job, models.SET_NULL, null=True, blank=True, related_name="+")
    again = models.BooleanField(default=False)
    # Where its owner wants it instead: "here", or another place.
    move_to = models.CharField(max_length=4, blank=True)

    objects = HubHomeQuerySet.as_manager()

    KIND = ""  # of the jobs that bring it up to date
    what, address = "", ""  # what is kept in it, and that thing's page here

    class Meta:
        abstract = True

    @property
    def is_in_trouble(self) -> bool:
        return self.state == self.TROUBLE

    @property
    def url(self) -> str:
        """Its page on the Hub, once there is one."""
        return f"{settings.HUB_ENDPOINT}/{self.hub_id}" if self.sha else ""


class ModuleOnHub(HubHome):
    """Where a module's files are kept besides, or instead of, the site's own store."""

    # Gone when the module is deleted: what the site's organisation kept of it is then to go, too.
    repo = models.OneToOneField(
        Repo, models.SET_NULL, null=True, blank=True, related_name="hub_home"
    )
    # The version that was pushed last.
    commit = models.ForeignKey(Commit, models.SET_NULL, null=True, blank=True, related_name="+")

    class Meta:
        constraints = [
            models.UniqueConstraint("hub_id", name="hub_home_once", condition=~models.Q(hub_id=""))
        ]

    def __str__(self) -> str:
        return f"{self.repo_id} in {self.hub_id}"

    KIND = "keep_on_hub"

    @property
    def what(self) -> str:  # type: ignore[override]
        return str(self.repo) if self.repo else self.hub_id

    @property
    def address(self) -> str:  # type: ignore[override]
        return self.repo.get_absolute_url() if self.repo else ""

    def needed_blobs(self) -> models.QuerySet[BlobOnHub]:
        """What stands there of any version that is here: of this module, or of another one with
        the same bytes."""
        files = CommitFile.objects.filter(blob=models.OuterRef("blob"))
        return self.blobs.filter(models.Exists(files))


class BlobOnHub(models.Model):
    """These bytes are at this path of a module's repo on the Hub, at this commit: seen there, with
    their hash, when they were pushed."""

    home = models.ForeignKey(ModuleOnHub, models.CASCADE, related_name="blobs")
    blob = models.ForeignKey(Blob, models.CASCADE, related_name="on_hub")
    path = models.CharField(max_length=500)
    sha = models.CharField(max_length=40)

    class Meta:
        constraints = [models.UniqueConstraint("home", "blob", name="blob_once_in_home")]

    def __str__(self) -> str:
        return f"{self.path} at {self.sha[:10]}"
