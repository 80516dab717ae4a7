"""The library: repos with commits of files, and what they hold, LoRA modules or base models."""

import math
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVectorField
from django.db import models
from django.db.models.functions import Lower
from django.urls import reverse

from composer.engine.errors import CommonsError
from hub_site.accounts.models import Namespace
from hub_site.jobs.models import Job
from modules.querysets import BaseModelQuerySet, LoraModuleQuerySet, RepoQuerySet, TagQuerySet


class Repo(models.Model):
    """A named place for versions of files: `{owner}/{name}`, as on the Hub."""

    LORA, BASE = "lora", "base"
    PUBLIC, PRIVATE = "public", "private"

    owner = models.ForeignKey(Namespace, models.CASCADE, related_name="repos")
    name = models.CharField(max_length=96)
    kind = models.CharField(max_length=8, choices=[(LORA, "LoRA module"), (BASE, "base model")])
    visibility = models.CharField(
        max_length=8, choices=[(PUBLIC, "public"), (PRIVATE, "private")], default=PUBLIC
    )
    downloads = models.PositiveBigIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = RepoQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint("owner", Lower("name"), name="repo_name_ci")]
        indexes = [models.Index(Lower("name"), "id", name="repo_by_name")]

    def __str__(self) -> str:
        return f"{self.owner.name}/{self.name}"

    def get_absolute_url(self) -> str:
        return reverse("modules:repo", args=[self.owner.name, self.name])

    @property
    def is_private(self) -> bool:
        return self.visibility == self.PRIVATE

    def head(self, branch: str = "main") -> "Commit | None":
        """The newest commit of a branch; None while the repo is empty."""
        ref = self.refs.filter(kind=Ref.BRANCH, name=branch).select_related("commit").first()
        return ref.commit if ref else None

    def at_revision(self, revision: str) -> "Commit | None":
        """The commit that a full commit id, a branch or a tag names.

        The id goes first: whoever pins one gets it, whatever branches are called later.
        """
        if "\0" in revision:
            return None
        if commit := self.commits.filter(sha=revision).first():
            return commit
        ref = self.refs.filter(name=revision).order_by("kind").select_related("commit").first()
        return ref.commit if ref else None


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


class BaseModel(models.Model):
    """A base model that workers may load. Operators add it; strangers cannot."""

    SITE, HUB, FOLDER = "site", "hub", "folder"

    name = models.CharField(max_length=200, unique=True)
    revision = models.CharField(max_length=40, blank=True)
    source = models.CharField(
        max_length=8, choices=[(SITE, "this site"), (HUB, "the Hub"), (FOLDER, "a folder")]
    )
    repo = models.OneToOneField(
        Repo, models.PROTECT, null=True, blank=True, related_name="base_model"
    )
    folder = models.CharField(max_length=500, blank=True)
    aliases = models.JSONField(default=list, blank=True)
    config = models.JSONField(default=dict, blank=True)
    tokenizer_sha256 = models.CharField(max_length=64, blank=True)
    parameters = models.PositiveBigIntegerField(default=0)
    is_encoder_decoder = models.BooleanField(default=True)
    max_tokens = models.PositiveIntegerField(default=512)
    # {layer: [d_out, d_in]} of every two-dimensional weight, from the safetensors headers.
    layers = models.JSONField(default=dict, blank=True)
    summary = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = BaseModelQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """Its page, when this site keeps its files; otherwise the list of its modules."""
        if self.repo is not None:
            return self.repo.get_absolute_url()
        return reverse("modules:list") + "?" + urlencode({"base_model": self.name})

    def pinned_commit(self, revision: str = "") -> Commit:
        """The commit that workers load, or an earlier one by its revision.

        Only a base model whose files the site keeps has one.
        """
        revision = revision or self.revision
        commit = self.repo.at_revision(revision) if self.repo is not None else None
        if commit is None:
            raise CommonsError(
                f"This site no longer holds {self.name} at revision {revision[:10]}. "
                "Whoever runs it can bring it back with `manage.py add_base_model`."
            )
        return commit


class Tag(models.Model):
    name = models.CharField(max_length=60)

    objects = TagQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(Lower("name"), name="tag_name_ci")]

    def __str__(self) -> str:
        return self.name


class LoraModule(models.Model):
    """What a LoRA repo's current commit holds, read from its config and safetensors header."""

    CHECKING, READY, REJECTED = "checking", "ready", "rejected"

    repo = models.OneToOneField(Repo, models.CASCADE, related_name="lora_module")
    commit = models.ForeignKey(Commit, models.RESTRICT, related_name="+")
    status = models.CharField(
        max_length=10, choices=[(s, s) for s in (CHECKING, READY, REJECTED)], default=CHECKING
    )
    rejected_reason = models.TextField(blank=True)
    checks = models.JSONField(default=list, blank=True)
    check_job = models.ForeignKey(Job, models.SET_NULL, null=True, blank=True, related_name="+")
    published_at = models.DateTimeField()
    # Name, owner, tags, summary and card as words, kept by services: see querysets.search_words.
    search = SearchVectorField(null=True, editable=False)

    base_model = models.ForeignKey(
        BaseModel, models.SET_NULL, null=True, blank=True, related_name="lora_modules"
    )
    base_model_name = models.CharField(max_length=200, blank=True)
    r = models.PositiveIntegerField()
    lora_alpha = models.FloatField()
    task_type = models.CharField(max_length=40, blank=True)
    use_rslora = models.BooleanField(default=False)
    target_modules = models.JSONField(default=list)
    parameters = models.PositiveBigIntegerField(default=0)
    weights_size = models.PositiveBigIntegerField(default=0)
    weights_sha256 = models.CharField(max_length=64)

    summary = models.CharField(max_length=300, blank=True)
    licence = models.CharField(max_length=60, blank=True)
    language = models.CharField(max_length=40, blank=True)
    tags = models.ManyToManyField(Tag, blank=True, related_name="lora_modules")

    objects = LoraModuleQuerySet.as_manager()

    class Meta:
        ordering = ["-published_at", "-id"]
        indexes = [
            models.Index(fields=["-published_at", "-id"], name="lora_newest"),
            models.Index(fields=["base_model", "status"], name="lora_of_base"),
            models.Index(fields=["r"], name="lora_by_r"),
            GinIndex(fields=["search"], name="lora_search"),
            GinIndex(fields=["target_modules"], name="lora_targets", opclasses=["jsonb_path_ops"]),
        ]

    def __str__(self) -> str:
        return str(self.repo)

    def get_absolute_url(self) -> str:
        return self.repo.get_absolute_url()

    @property
    def is_ready(self) -> bool:
        return self.status == self.READY

    @property
    def scaling(self) -> float:
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def published_recipes(self) -> models.QuerySet:
        """Public recipes that it is an ingredient of. The composer's rows, found by their names."""
        recipe = self.ingredients.model._meta.get_field("recipe").related_model
        return recipe.objects.published().using(self).for_cards()

    def accept(self, checks: list[dict[str, Any]]) -> None:
        self.status, self.rejected_reason, self.checks = self.READY, "", checks
        self.save(update_fields=["status", "rejected_reason", "checks"])

    def reject(self, reason: str, checks: list[dict[str, Any]] | None = None) -> None:
        self.status, self.rejected_reason = self.REJECTED, reason
        self.checks = self.checks if checks is None else checks
        self.save(update_fields=["status", "rejected_reason", "checks"])
