"""A few-shot task is searched for by a job; the search yields a recipe of ingredients."""

import uuid
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models
from django.urls import reverse

from composer.engine.examples import Example as PlainExample
from composer.querysets import FewShotTaskQuerySet, RecipeQuerySet, SearchQuerySet
from hub_site.jobs.models import Job
from modules.models import BaseModel, Blob, HubHome, LoraModule

if TYPE_CHECKING:
    from composer.querysets import Visitor


class FewShotTask(models.Model):
    """What a user wants, shown by examples. Its owner's alone until it is shared (`sharing.py`);
    a demo task is everybody's."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, null=True, blank=True, related_name="tasks"
    )
    demo_key = models.CharField(max_length=60, null=True, blank=True, unique=True)  # noqa: DJ001
    name = models.CharField(max_length=120)
    description = models.TextField(blank=True, max_length=2000)
    template = models.CharField(max_length=2000, default="{input}")
    answer_options = models.JSONField(default=list, blank=True)
    base_model = models.ForeignKey(BaseModel, models.PROTECT, related_name="tasks")
    # Part of the examples' hash while they are private: five short strings could be guessed.
    salt = models.CharField(max_length=64, blank=True)
    published_at = models.DateTimeField(null=True, blank=True)
    hidden_at = models.DateTimeField(null=True, blank=True)
    hidden_reason = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = FewShotTaskQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(
                fields=["-published_at"],
                condition=models.Q(published_at__isnull=False),
                name="task_by_published",
            )
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("composer:task", args=[self.pk])

    @property
    def is_demo(self) -> bool:
        return self.demo_key is not None and self.owner_id is None

    @property
    def is_hidden(self) -> bool:
        return self.hidden_at is not None

    @property
    def is_public(self) -> bool:
        return self.is_demo or (self.published_at is not None and not self.is_hidden)

    @property
    def salt_used(self) -> str:
        """What everybody can read needs no salt: the same search of two people is one recipe."""
        return "" if self.is_public else self.salt

    def pairs(self, split: str) -> list[PlainExample]:
        """The examples of a split ("shot" or "held_out"), as the engine takes them."""
        rows = self.examples.filter(split=split).order_by("position")
        return [
            PlainExample(given, wanted) for given, wanted in rows.values_list("input", "target")
        ]


class Example(models.Model):
    """An input and the answer wanted. Shots are searched on; held-out examples only measure."""

    SHOT, HELD_OUT = "shot", "held_out"

    task = models.ForeignKey(FewShotTask, models.CASCADE, related_name="examples")
    split = models.CharField(max_length=8, choices=[(SHOT, "example"), (HELD_OUT, "held out")])
    position = models.PositiveIntegerField()
    input = models.TextField()
    target = models.TextField()

    class Meta:
        ordering = ["split", "position"]
        constraints = [
            models.UniqueConstraint("task", "split", "position", name="example_position_once")
        ]

    def __str__(self) -> str:
        return f"{self.input[:40]} -> {self.target[:40]}"


class Recipe(models.Model):
    """Weights over pinned modules, named by the hash of everything that decides them.

    Two identical searches yield one recipe; the second confirms the first.
    """

    digest = models.CharField(max_length=64, primary_key=True)
    document = models.JSONField()
    title = models.CharField(max_length=120)
    description = models.TextField(blank=True, max_length=2000)
    base_model = models.ForeignKey(BaseModel, models.PROTECT, related_name="recipes")
    adapter = models.ForeignKey(Blob, models.PROTECT, null=True, blank=True, related_name="+")
    adapter_config = models.JSONField(default=dict)
    # Rank, size and hash of the adapter file, and what PEFT computed from it.
    adapter_facts = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)
    published_at = models.DateTimeField(null=True, blank=True)
    published_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="recipes"
    )
    published_search = models.ForeignKey(
        "Search", models.SET_NULL, null=True, blank=True, related_name="+"
    )
    shows_examples = models.BooleanField(default=False)
    # A moderator lets the adapter be handed out although a module in it was hidden.
    adapter_allowed = models.BooleanField(default=False)

    objects = RecipeQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("composer:recipe", args=[self.digest])

    @property
    def withdrawn(self) -> list[str]:
        """Names of the ingredients that a moderator has hidden since."""
        return [each.name for each in self.ingredients.all() if each.is_hidden]


class Ingredient(models.Model):
    """A module's part in a recipe, pinned by revision and hash; kept when the module goes away."""

    recipe = models.ForeignKey(Recipe, models.CASCADE, related_name="ingredients")
    position = models.PositiveIntegerField()
    lora_module = models.ForeignKey(
        LoraModule, models.SET_NULL, null=True, blank=True, related_name="ingredients"
    )
    name = models.CharField(max_length=200)
    revision = models.CharField(max_length=40)
    weights_sha256 = models.CharField(max_length=64)
    weight = models.FloatField()

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint("recipe", "position", name="ingredient_position_once")
        ]

    def __str__(self) -> str:
        return f"{self.weight:+.3f} {self.name}"

    @property
    def is_hidden(self) -> bool:
        return self.lora_module is not None and self.lora_module.repo.is_hidden


class RecipeOnHub(HubHome):
    """A repo on the Hub with a recipe's adapter, put there by this user."""

    KIND = "push_recipe"

    recipe = models.ForeignKey(Recipe, models.CASCADE, related_name="hub_homes")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")

    class Meta:
        constraints = [
            models.UniqueConstraint("recipe", "user", "place", name="recipe_once_in_place"),
            models.UniqueConstraint(
                "hub_id", name="recipe_home_once", condition=~models.Q(hub_id="")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.recipe_id[:12]} in {self.hub_id}"

    @property
    def what(self) -> str:  # type: ignore[override]
        return f"The recipe “{self.recipe}”"

    @property
    def address(self) -> str:  # type: ignore[override]
        return self.recipe.get_absolute_url()


class Search(models.Model):
    """What a composition job searches, frozen when it was submitted, and what it found.

    `spec` is the recipe's spec (base model, ingredients, objective, search, template, seed);
    `examples` holds {"shots": [[input, target], …], "held_out": […]}: the task may be edited later.
    """

    job = models.OneToOneField(Job, models.CASCADE, primary_key=True, related_name="search")
    task = models.ForeignKey(
        FewShotTask, models.SET_NULL, null=True, blank=True, related_name="searches"
    )
    title = models.CharField(max_length=120)
    preset = models.CharField(max_length=20)
    base_model = models.ForeignKey(BaseModel, models.PROTECT, related_name="searches")
    spec = models.JSONField()
    examples = models.JSONField()
    # What the worker is doing, for the page: "preparing", "searching", "measuring", "building".
    stage = models.CharField(max_length=20, blank=True)
    stage_detail = models.CharField(max_length=120, blank=True)
    # Parts of the evidence are kept as they are measured, so that a resumed job goes on from them.
    evidence = models.JSONField(default=dict)
    # The machine and versions of the generations below; others would not give the same bits.
    fingerprint = models.JSONField(default=dict)
    recipe = models.ForeignKey(
        Recipe, models.SET_NULL, null=True, blank=True, related_name="searches"
    )
    # The recipe was there already: an earlier search had found the same weights.
    matched = models.BooleanField(default=False)

    objects = SearchQuerySet.as_manager()

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("composer:job", args=[self.pk])

    def task_shown_to(self, user: "Visitor") -> FewShotTask | None:
        """The task, unless it was deleted, or taken back by somebody who had shared it."""
        return FewShotTask.objects.visible_to(user).filter(pk=self.task_id).first()


class Generation(models.Model):
    """One generation of a search: its checkpoint, and the progress that the page shows."""

    search = models.ForeignKey(Search, models.CASCADE, related_name="generations")
    number = models.PositiveIntegerField()
    evaluations = models.PositiveIntegerField()
    best_loss = models.FloatField()
    seconds = models.FloatField()
    # The engine's own record of the generation: losses and best weights as hex floats, digest.
    record = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint("search", "number", name="generation_once")]

    def __str__(self) -> str:
        return f"generation {self.number}: {self.best_loss:.3f}"
