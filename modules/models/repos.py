"""Repos: named places for versions of files, and the bytes behind them."""

from collections.abc import Iterable

from django.conf import settings
from django.db import models
from django.db.models.functions import Lower
from django.urls import reverse

from hub_site.accounts.models import Namespace
from modules.querysets import RepoQuerySet


class Repo(models.Model):
    """A named place for versions of files: `{owner}/{name}`, as on the Hub."""

    LORA, BASE = "lora", "base"
    PUBLIC, LINK, PRIVATE = "public", "link", "private"
    AUTO, MANUAL = "auto", "manual"

    owner = models.ForeignKey(Namespace, models.CASCADE, related_name="repos")
    name = models.CharField(max_length=96)
    kind = models.CharField(max_length=8, choices=[(LORA, "LoRA module"), (BASE, "base model")])
    # LINK, for whoever has the address with its key, is not offered yet.
    visibility = models.CharField(
        max_length=8,
        choices=[(PUBLIC, "public"), (LINK, "by link"), (PRIVATE, "private")],
        default=PUBLIC,
    )
    link_key = models.CharField(max_length=43, blank=True)
    # Everybody sees a gated repo; its bytes are for whoever was let in (see `repos/gate.py`).
    gated = models.CharField(
        max_length=6, choices=[(AUTO, "at once"), (MANUAL, "by its owner")], blank=True
    )
    # A moderator took it from everybody's sight but the owner's.
    hidden_at = models.DateTimeField(null=True, blank=True)
    hidden_reason = models.CharField(max_length=500, blank=True)
    downloads = models.PositiveBigIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = RepoQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint("owner", Lower("name"), name="repo_name_ci")]
        indexes = [
            models.Index(Lower("name"), "id", name="repo_by_name"),
            models.Index(fields=["id"], condition=~models.Q(gated=""), name="repo_gated"),
        ]

    def __str__(self) -> str:
        return f"{self.owner.name}/{self.name}"

    def get_absolute_url(self) -> str:
        return reverse("modules:repo", args=[self.owner.name, self.name])

    @property
    def is_private(self) -> bool:
        return self.visibility == self.PRIVATE

    @property
    def needs_token(self) -> bool:
        """Whether a program must say who asks before it may have the files."""
        return self.is_private or bool(self.gated)

    @property
    def is_hidden(self) -> bool:
        return self.hidden_at is not None

    def head(self, branch: str = "main") -> "Commit | None":
        """The newest commit of a branch; None while the repo is empty."""
        ref = self.refs.filter(kind=Ref.BRANCH, name=branch).select_related("commit").first()
        return ref.commit if ref else None

    def at_revision(self, revision: str, known: "Iterable[Ref] | None" = None) -> "Commit | None":
        """The commit that a full commit id, a branch or a tag names.

        The id goes first: whoever pins one gets it, whatever branches are called later. `known` are
        refs that were read already, those of this name among them.
        """
        if "\0" in revision:
            return None
        if len(revision) == 40 and (commit := self.commits.filter(sha=revision).first()):
            return commit
        if known is None:
            known = self.refs.filter(name=revision).select_related("commit")
        named = [ref for ref in known if ref.name == revision]
        return min(named, key=lambda ref: ref.kind).commit if named else None


class OldAddress(models.Model):
    """A name that a repo had before: links to it lead on."""

    owner = models.ForeignKey(Namespace, models.CASCADE, related_name="+")
    name = models.CharField(max_length=96)
    repo = models.ForeignKey(Repo, models.CASCADE, related_name="old_addresses")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint("owner", Lower("name"), name="old_address_ci")]

    def __str__(self) -> str:
        return f"{self.owner.name}/{self.name}"


class Blob(models.Model):
    """Bytes by their hash. The store holds the bytes; this row says that it does."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    size = models.PositiveBigIntegerField()
    git_sha1 = models.CharField(max_length=40)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.sha256[:12]


class Grant(models.Model):
    """This user uploaded these bytes. A hash alone is no capability: see `services.commit`."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    blob = models.ForeignKey(Blob, models.CASCADE, related_name="grants")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint("user", "blob", name="grant_once")]

    def __str__(self) -> str:
        return f"{self.blob_id[:12]} of {self.user_id}"


class Commit(models.Model):
    """One version of a repo's files, never changed."""

    repo = models.ForeignKey(Repo, models.CASCADE, related_name="commits")
    sha = models.CharField(max_length=40)
    parent = models.ForeignKey("self", models.RESTRICT, null=True, blank=True, related_name="+")
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    title = models.CharField(max_length=200)
    message = models.TextField(blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint("repo", "sha", name="commit_sha_in_repo")]

    def __str__(self) -> str:
        return f"{self.sha[:7]} {self.title}"

    def sha256_of(self, path: str) -> str | None:
        return self.files.filter(path=path).values_list("blob_id", flat=True).first()


class CommitFile(models.Model):
    """A path of a commit and its bytes."""

    commit = models.ForeignKey(Commit, models.CASCADE, related_name="files")
    path = models.CharField(max_length=500)
    blob = models.ForeignKey(Blob, models.PROTECT, related_name="+")

    class Meta:
        ordering = ["path"]
        constraints = [models.UniqueConstraint("commit", "path", name="file_once_per_commit")]

    def __str__(self) -> str:
        return self.path


class Ref(models.Model):
    """A branch or tag: a name that points at a commit."""

    BRANCH, TAG = "branch", "tag"

    repo = models.ForeignKey(Repo, models.CASCADE, related_name="refs")
    kind = models.CharField(max_length=8, choices=[(BRANCH, "branch"), (TAG, "tag")])
    name = models.CharField(max_length=120)
    commit = models.ForeignKey(Commit, models.RESTRICT, related_name="+")

    class Meta:
        constraints = [models.UniqueConstraint("repo", "kind", "name", name="ref_once")]

    def __str__(self) -> str:
        return self.name


class UploadTicket(models.Model):
    """Bytes announced by the LFS protocol: this user may send them once, for this repo."""

    secret_sha256 = models.CharField(max_length=64, unique=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    repo = models.ForeignKey(Repo, models.CASCADE, related_name="+")
    oid = models.CharField(max_length=64)
    size = models.PositiveBigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(db_index=True)
    used_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.oid[:12]} for {self.repo_id}"
