"""A few-shot task is searched for by a job; the search yields a recipe of ingredients."""

import uuid
from typing import TYPE_CHECKING

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.urls import reverse

from composer.engine.examples import Example as PlainExample
from composer.querysets import (
    FewShotTaskQuerySet,
    RecipeQuerySet,
    SearchQuerySet,
    TaskScoreQuerySet,
    VerificationQuerySet,
)
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


class ExampleScores(models.Model):
    """What modules do alone on one example: the rows of the module × example matrix that is filled
    by whoever ranks, and read by everybody who ranks the same again.

    `key` is the hash of the example as one base model reads it (`score_matrix.key_of`). `versions`
    are ids of commits, 0 for the base model alone; `losses` and `exact` go with them, place by
    place.
    """

    key = models.CharField(max_length=64, primary_key=True)
    versions = ArrayField(models.BigIntegerField())
    losses = ArrayField(models.FloatField())
    exact = ArrayField(models.BooleanField())
    used_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["used_at"], name="scores_by_use")]

    def __str__(self) -> str:
        return f"{len(self.versions)} modules on {self.key[:12]}"


class TaskScore(models.Model):
    """A module alone on a task's examples: a cell of the module × task matrix."""

    task = models.ForeignKey(FewShotTask, models.CASCADE, related_name="scores")
    lora_module = models.ForeignKey(LoraModule, models.CASCADE, related_name="task_scores")
    revision = models.CharField(max_length=40)
    loss = models.FloatField()
    base_loss = models.FloatField()
    exact = models.PositiveIntegerField()
    base_exact = models.PositiveIntegerField()
    examples = models.PositiveIntegerField()
    measured_at = models.DateTimeField(auto_now=True)

    objects = TaskScoreQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint("task", "lora_module", name="task_score_once")]
        indexes = [models.Index(fields=["lora_module", "loss"], name="task_score_of_module")]

    def __str__(self) -> str:
        return f"{self.lora_module} on {self.task}: {self.gain:+.3f}"

    @property
    def gain(self) -> float:
        """How much of the base model's loss the module takes away."""
        return self.base_loss - self.loss


class Recipe(models.Model):
    """Weights over pinned modules, named by the hash of everything that decides them.

    Two identical searches yield one recipe; the second confirms the first.
    """

    digest = models.CharField(max_length=64, primary_key=True)
    document = models.JSONField()
    title = models.CharField(max_length=120)
    description = models.TextField(blank=True, max_length=2000)
    # Empty where an imported recipe names a base model that is not here.
    base_model = models.ForeignKey(
        BaseModel, models.PROTECT, null=True, blank=True, related_name="recipes"
    )
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
    # The published recipe that this one is a version of, as its publisher says.
    parent = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, related_name="versions"
    )
    likes = models.PositiveIntegerField(default=0)

    objects = RecipeQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("composer:recipe", args=[self.digest])

    @property
    def base_name(self) -> str:
        if self.base_model is not None:
            return self.base_model.name
        return str(self.document["spec"]["base_model"]["repo"])

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


class RecipeLike(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    recipe = models.ForeignKey(Recipe, models.CASCADE, related_name="liked")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint("user", "recipe", name="recipe_like_once")]

    def __str__(self) -> str:
        return f"{self.user_id} likes {self.recipe_id[:12]}"


class RecipeImport(models.Model):
    """A recipe file that somebody brought here. What it states of itself stays apart: nobody has
    checked it here."""

    recipe = models.ForeignKey(Recipe, models.CASCADE, related_name="imports")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    title = models.CharField(max_length=120)
    evidence = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint("recipe", "user", name="recipe_imported_once")]

    def __str__(self) -> str:
        return self.title


class Verification(models.Model):
    """Somebody had a recipe run again: what came of it. The stamp outlives its job.

    differs    [{"what", "stated", "found"}, …]: the parts that are not as the recipe states them
    unchecked  [{"what", "why"}, …]
    records    generations of a search that goes on, as in `Generation`, until it is over
    """

    EVALUATION, SEARCH = "evaluation", "search"
    MATCHED, WITHIN, DIFFERS = "matched", "within tolerance", "differs"

    recipe = models.ForeignKey(Recipe, models.CASCADE, related_name="verifications")
    job = models.OneToOneField(
        Job, models.SET_NULL, null=True, blank=True, related_name="verification"
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    # Whose evidence is compared: that of the search, or that of the file somebody brought.
    search = models.ForeignKey(
        "Search", models.SET_NULL, null=True, blank=True, related_name="verifications"
    )
    imported = models.ForeignKey(
        RecipeImport, models.CASCADE, null=True, blank=True, related_name="verifications"
    )
    kind = models.CharField(max_length=10, choices=[(k, k) for k in (EVALUATION, SEARCH)])
    outcome = models.CharField(
        max_length=20, blank=True, choices=[(o, o) for o in (MATCHED, WITHIN, DIFFERS)]
    )
    differs = models.JSONField(default=list, blank=True)
    checked = models.JSONField(default=list, blank=True)
    unchecked = models.JSONField(default=list, blank=True)
    environment = models.JSONField(default=dict, blank=True)
    records = models.JSONField(default=list, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = VerificationQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.kind} of {self.recipe_id[:12]}: {self.outcome or 'not done'}"


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
    # What the held-out examples are known by when they are opened again: `leaks.hash_of_test`.
    held_out_hash = models.CharField(max_length=64, blank=True)
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

    class Meta:
        indexes = [
            models.Index(
                fields=["held_out_hash"],
                condition=~models.Q(held_out_hash=""),
                name="search_by_held_out",
            )
        ]

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("composer:job", args=[self.pk])

    def task_shown_to(self, user: "Visitor") -> FewShotTask | None:
        """The task, unless it was deleted, or taken back by somebody who had shared it."""
        return FewShotTask.objects.visible_to(user).filter(pk=self.task_id).first()


class Generation(models.Model):
    """One generation of a search: its checkpoint, and the progress that the page shows.

    `round` is empty for the search that makes the recipe; others only measure: "control" is the
    same search over randomised modules, "1" to "k" are those of the folds, "1 control" and so on.
    """

    search = models.ForeignKey(Search, models.CASCADE, related_name="generations")
    round = models.CharField(max_length=20, blank=True)
    number = models.PositiveIntegerField()
    evaluations = models.PositiveIntegerField()
    best_loss = models.FloatField()
    seconds = models.FloatField()
    # The engine's own record of the generation: losses and best weights as hex floats, digest.
    record = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint("search", "round", "number", name="generation_once")]

    def __str__(self) -> str:
        return f"generation {self.number}: {self.best_loss:.3f}"
