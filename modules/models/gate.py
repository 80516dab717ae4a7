"""Who asked to be let through a repo's gate, and what came of it."""

from django.conf import settings
from django.db import models

from modules.models.repos import Repo
from modules.querysets import AccessRequestQuerySet


class AccessRequest(models.Model):
    """One user's request for a gated repo's files; its owner may also let somebody in unasked.

    It is personal: nobody but the repo's owner and this user sees it.
    """

    PENDING, ACCEPTED, REJECTED = "pending", "accepted", "rejected"

    repo = models.ForeignKey(Repo, models.CASCADE, related_name="access_requests")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="access_requests"
    )
    state = models.CharField(
        max_length=8, choices=[(s, s) for s in (PENDING, ACCEPTED, REJECTED)], default=PENDING
    )
    message = models.CharField(max_length=300, blank=True)  # of whoever asks
    reason = models.CharField(max_length=200, blank=True)  # why it was turned down
    is_granted = models.BooleanField(default=False)  # the owner let them in unasked
    created_at = models.DateTimeField(auto_now_add=True)
    decided_at = models.DateTimeField(null=True, blank=True)

    objects = AccessRequestQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [models.UniqueConstraint("repo", "user", name="access_asked_once")]
        indexes = [models.Index(fields=["repo", "state", "id"], name="access_by_state")]

    def __str__(self) -> str:
        return f"{self.user_id} at {self.repo_id}: {self.state}"
