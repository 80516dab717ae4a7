"""The library: repos with commits of files, and what they hold, LoRA modules or base models."""

from django.conf import settings
from django.db import models
from django.db.models.functions import Lower
from django.urls import reverse

from hub_site.accounts.models import Namespace


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

    class Meta:
        constraints = [models.UniqueConstraint("owner", Lower("name"), name="repo_name_ci")]

    def __str__(self) -> str:
        return f"{self.owner.name}/{self.name}"

    def get_absolute_url(self) -> str:
        return reverse("modules:repo", args=[self.owner.name, self.name])


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


class Commit(models.Model):
    """One version of a repo's files, never changed."""

    repo = models.ForeignKey(Repo, models.CASCADE, related_name="commits")
    sha = models.CharField(max_length=40)
    parent = models.ForeignKey("self", models.PROTECT, null=True, blank=True, related_name="+")
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
    commit = models.ForeignKey(Commit, models.PROTECT, related_name="+")

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
    summary = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class Tag(models.Model):
    name = models.CharField(max_length=60)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(Lower("name"), name="tag_name_ci")]

    def __str__(self) -> str:
        return self.name


class LoraModule(models.Model):
    """What a LoRA repo's current commit holds, read from its config and safetensors header."""

    CHECKING, READY, REJECTED = "checking", "ready", "rejected"

    repo = models.OneToOneField(Repo, models.CASCADE, related_name="lora_module")
    commit = models.ForeignKey(Commit, models.PROTECT, related_name="+")
    status = models.CharField(
        max_length=10, choices=[(s, s) for s in (CHECKING, READY, REJECTED)], default=CHECKING
    )
    rejected_reason = models.TextField(blank=True)
    checks = models.JSONField(default=list, blank=True)

    base_model = models.ForeignKey(
        BaseModel, models.SET_NULL, null=True, blank=True, related_name="lora_modules"
    )
    base_model_name = models.CharField(max_length=200, blank=True)
    r = models.PositiveIntegerField()
    lora_alpha = models.FloatField()
    use_rslora = models.BooleanField(default=False)
    target_modules = models.JSONField(default=list)
    parameters = models.PositiveBigIntegerField(default=0)
    weights_size = models.PositiveBigIntegerField(default=0)
    weights_sha256 = models.CharField(max_length=64)

    summary = models.CharField(max_length=300, blank=True)
    licence = models.CharField(max_length=60, blank=True)
    language = models.CharField(max_length=40, blank=True)
    tags = models.ManyToManyField(Tag, blank=True, related_name="lora_modules")

    def __str__(self) -> str:
        return str(self.repo)

    def get_absolute_url(self) -> str:
        return self.repo.get_absolute_url()
