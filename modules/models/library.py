"""What the library holds: base models, and LoRA modules with what was read from their files."""

import math
from typing import Any
from urllib.parse import urlencode

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVectorField
from django.db import models
from django.db.models.functions import Lower
from django.urls import reverse

from composer.engine.adapter_file import WEIGHTS_NAME
from composer.engine.errors import CommonsError
from hub_site.jobs.models import Job
from modules.models.repos import Commit, Repo
from modules.querysets import BaseModelQuerySet, LoraModuleQuerySet, TagQuerySet


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
    # {path: sha256} of what workers fetch, where the Hub keeps it.
    files = models.JSONField(default=dict, blank=True)
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
    # How many listed modules carry it, kept by `finding/tags.py`. Without any it is shown nowhere.
    uses = models.PositiveIntegerField(default=0)

    objects = TagQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(Lower("name"), name="tag_name_ci")]
        indexes = [models.Index(fields=["-uses", "name"], name="tag_by_uses")]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("modules:tag", args=[self.name])


class TagAlias(models.Model):
    """A name that a moderator merged into a tag: cards that still say it mean that tag."""

    name = models.CharField(max_length=60)
    tag = models.ForeignKey(Tag, models.CASCADE, related_name="aliases")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TagQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "tag aliases"
        ordering = ["name"]
        constraints = [models.UniqueConstraint(Lower("name"), name="tag_alias_ci")]

    def __str__(self) -> str:
        return f"{self.name} means {self.tag}"


class FacetCounts(models.Model):
    """How many of all listed modules have each facet; one row, counted anew on a schedule."""

    modules = models.PositiveIntegerField()
    counts = models.JSONField()  # {"tag:words": 12, ...}
    counted_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "facet counts"

    def __str__(self) -> str:
        return f"{self.modules} modules"


class Facets(models.Func):
    """`modules_facets` of the database, made by a migration: "tag:words", "r:16", ..."""

    function = "modules_facets"
    arity = 11


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
    published_at = models.DateTimeField()  # when its weights came; its card may be newer
    # Public, not hidden and not rejected: what lists show to everybody. Kept by services.
    is_listed = models.BooleanField(default=True)
    # Among the most downloaded ones, by which searches begin: see `finding/search.py`.
    is_known = models.BooleanField(default=False, editable=False)
    # The repo's downloads and the likes, counted here too so that one table sorts the lists.
    downloads = models.PositiveBigIntegerField(default=0)
    likes = models.PositiveIntegerField(default=0)
    # Recent downloads and likes, decayed: see `community/trending.py`.
    trending = models.FloatField(default=0)
    # Name, owner, tags, summary and card as words, kept by services: see querysets.search_words.
    search = SearchVectorField(null=True, editable=False)
    # The words of name, tags, owner and summary alone, small enough to be read without a detour.
    head = SearchVectorField(null=True, editable=False)
    # The repo's name in small letters and the tags' names: one table filters and sorts the lists.
    name_key = models.CharField(max_length=96, blank=True, editable=False)
    tag_names = ArrayField(models.TextField(), default=list, blank=True, editable=False)

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
    # The tensors' names, types, shapes and values, whatever else the file holds.
    tensors_sha256 = models.CharField(max_length=64, blank=True)
    # What else the config says: bias, use_dora, rank_pattern, alpha_pattern, modules_to_save, ...
    variant = models.JSONField(default=dict, blank=True)
    # Why it can be kept and shared but not composed exactly; empty when it can.
    not_composable = models.CharField(max_length=500, blank=True)

    summary = models.CharField(max_length=300, blank=True)
    licence = models.CharField(max_length=60, blank=True)
    language = models.CharField(max_length=40, blank=True)
    task = models.CharField(max_length=60, blank=True)
    tags = models.ManyToManyField(Tag, blank=True, related_name="lora_modules")
    # Everything that lists narrow by, as words; PostgreSQL keeps it, so no change can forget it.
    facets = models.GeneratedField(
        expression=Facets(
            "base_model_name", "task", "language", "licence", "r", "target_modules",
            "weights_size", "tag_names", "status", "not_composable", "base_model_id",
        ),
        output_field=ArrayField(models.TextField()),
        db_persist=True,
    )  # fmt: skip

    objects = LoraModuleQuerySet.as_manager()

    class Meta:
        ordering = ["-published_at", "-id"]
        indexes = [
            models.Index(fields=["-published_at", "-id"], name="lora_newest"),
            models.Index(fields=["-trending", "-id"], name="lora_trending"),
            models.Index(fields=["-downloads", "-id"], name="lora_downloads"),
            models.Index(fields=["-likes", "-id"], name="lora_likes"),
            models.Index(fields=["name_key", "id"], name="lora_by_name"),
            models.Index(fields=["base_model", "status"], name="lora_of_base"),
            # The filter that most people set, in the two orders that are walked most.
            models.Index(
                fields=["base_model_name", "-trending", "-id"], name="lora_base_by_trending"
            ),
            models.Index(
                fields=["base_model_name", "-downloads", "-id"], name="lora_base_by_downloads"
            ),
            models.Index(fields=["tensors_sha256"], name="lora_by_tensors"),
            # Uploads are rare and searches are not: no list of pending words to read through.
            GinIndex(fields=["search"], name="lora_search", fastupdate=False),
            GinIndex(fields=["head"], name="lora_head", fastupdate=False),
            GinIndex(fields=["facets"], name="lora_facets", fastupdate=False),
            GinIndex(
                fields=["head", "search"], name="lora_known", fastupdate=False,
                condition=models.Q(is_known=True),
            ),
        ]  # fmt: skip

    def __str__(self) -> str:
        return str(self.repo)

    def get_absolute_url(self) -> str:
        return self.repo.get_absolute_url()

    @property
    def is_ready(self) -> bool:
        return self.status == self.READY

    @property
    def is_as_imported(self) -> bool:
        """Whether these very weights came from the Hub."""
        origin = getattr(self.repo, "hub_origin", None)
        weights = origin.files.get(WEIGHTS_NAME, {}) if origin else {}
        return bool(weights.get("here") == self.weights_sha256)

    @property
    def is_composable(self) -> bool:
        """Whether a search may mix it now: see also `composable_on`."""
        return self.is_ready and self.base_model_id is not None and not self.not_composable

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
