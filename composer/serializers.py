"""What the API takes and answers: tasks, jobs and recipes as JSON."""

from typing import Any

from rest_framework import serializers

from composer import artifacts
from composer.engine.config import (
    COMBINATIONS,
    OBJECTIVES,
    OPTIMISERS,
    PRESETS,
    REDUCTIONS,
    SELECTIONS,
)
from composer.engine.examples import Example
from composer.job_words import interruptions
from composer.models import Example as StoredExample
from composer.models import FewShotTask, Recipe, Verification
from composer.module_choice import MOST_MODULES
from composer.progress import progress
from composer.search_checks import MOST_TEST_FOLDS
from composer.services import MOST_TRIAL_CHARACTERS
from composer.verdict import verdict
from hub_site.api import Given
from hub_site.jobs import capacity
from hub_site.jobs.models import Job
from modules.models import BaseModel


class ExampleSerializer(Given):
    input = serializers.CharField(trim_whitespace=False, allow_blank=True)
    target = serializers.CharField(trim_whitespace=False, allow_blank=True)


class BaseModelField(serializers.SlugRelatedField):
    """By its name; PostgreSQL's texts cannot hold whatever may be sent as one."""

    def to_internal_value(self, data: Any) -> BaseModel:
        if "\0" in str(data):
            self.fail("invalid")
        found: BaseModel = super().to_internal_value(data)
        return found


class TaskSerializer(Given):
    """A few-shot task with its examples."""

    id = serializers.UUIDField(read_only=True)
    name = serializers.CharField(max_length=120)
    description = serializers.CharField(max_length=2000, required=False, allow_blank=True)
    base_model = BaseModelField("name", queryset=BaseModel.objects.all())
    template = serializers.CharField(
        max_length=2000, required=False, trim_whitespace=False, default="{input}"
    )
    answer_options = serializers.ListField(
        child=serializers.CharField(max_length=500), required=False, default=list
    )
    examples = ExampleSerializer(many=True, source="shots")
    held_out = ExampleSerializer(many=True, required=False)
    is_demo = serializers.BooleanField(read_only=True)
    owner = serializers.CharField(
        source="owner.username", read_only=True, default=None, help_text="Null for a demo task."
    )
    is_public = serializers.BooleanField(read_only=True)
    published_at = serializers.DateTimeField(read_only=True)
    hidden_reason = serializers.CharField(
        read_only=True, help_text="Why a moderator has hidden it from everybody else."
    )
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)

    def to_representation(self, instance: FewShotTask) -> dict[str, Any]:
        instance.shots = instance.pairs(StoredExample.SHOT)
        instance.held_out = instance.pairs(StoredExample.HELD_OUT)
        return super().to_representation(instance)

    def fields_for_service(self) -> dict[str, Any]:
        data = dict(self.validated_data)
        for split in ("shots", "held_out"):
            data[split] = [Example(**row) for row in data.get(split, [])]
        return data


class TaskSummarySerializer(serializers.Serializer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    base_model = serializers.CharField(source="base_model.name")
    examples = serializers.IntegerField(source="shots_count")
    held_out = serializers.IntegerField(source="held_out_count")
    is_demo = serializers.BooleanField()
    owner = serializers.CharField(source="owner.username", default=None, allow_null=True)
    is_public = serializers.BooleanField()
    published_at = serializers.DateTimeField(allow_null=True)
    compositions = serializers.IntegerField(source="searches_count")
    created_at = serializers.DateTimeField()


class TaskFilterSerializer(serializers.Serializer):
    public = serializers.BooleanField(
        default=False, help_text="Those that anybody shares, instead of yours and the demo tasks."
    )
    owner = serializers.CharField(
        required=False, help_text="Those of this user: all of your own, what others share."
    )
    sort = serializers.ChoiceField(["new", "used"], default="new")


class ModuleChoiceSerializer(Given):
    how = serializers.ChoiceField(
        ["all", "ranked", "random", "hand", "tag", "collection"],
        default="all",
        help_text='"ranked" measures each module alone on the examples and mixes the `count` best.',
    )
    count = serializers.IntegerField(min_value=1, max_value=MOST_MODULES, default=20)
    seed = serializers.IntegerField(min_value=0, default=0)
    modules = serializers.ListField(
        child=serializers.CharField(),
        default=list,
        max_length=MOST_MODULES,
        help_text='Names, as "owner/name".',
    )
    tag = serializers.CharField(
        required=False, help_text='For how "tag": those that carry it, and fit, are mixed.'
    )
    collection = serializers.CharField(
        required=False,
        help_text='For how "collection": its name, as "owner/name". What does not fit is left out; '
        "the answer's `left_out` says why.",
    )


class SettingsSerializer(Given):
    """Settings that differ from the preset's."""

    budget = serializers.IntegerField(min_value=1, required=False)
    seed = serializers.IntegerField(min_value=0, required=False)
    combination = serializers.ChoiceField(COMBINATIONS, required=False)
    objective = serializers.ChoiceField(OBJECTIVES, required=False)
    reduction = serializers.ChoiceField(REDUCTIONS, required=False)
    x0 = serializers.FloatField(required=False)
    sigma = serializers.FloatField(required=False)
    bound = serializers.FloatField(required=False)
    penalty = serializers.FloatField(required=False)
    population = serializers.IntegerField(required=False)
    optimiser = serializers.ChoiceField(OPTIMISERS, required=False)
    restarts = serializers.IntegerField(required=False)
    blocks = serializers.CharField(
        required=False, help_text="all, sides (encoder and decoder), or layers:K for K groups."
    )
    selection = serializers.ChoiceField(SELECTIONS, required=False)
    folds = serializers.IntegerField(required=False)
    patience = serializers.IntegerField(required=False)
    rank = serializers.IntegerField(
        required=False, help_text="`sum` only: the rank the adapter is cut down to, by SVD."
    )


class NewJobSerializer(Given):
    task = serializers.UUIDField()
    preset = serializers.ChoiceField(list(PRESETS), default="recommended")
    modules = ModuleChoiceSerializer(required=False)
    settings = SettingsSerializer(required=False)
    test_folds = serializers.IntegerField(
        min_value=0,
        max_value=MOST_TEST_FOLDS,
        default=0,
        help_text="For a task without held-out examples: measure by so many folds of its examples. "
        "Each is a search of its own, and one over randomised modules.",
    )


class WeightSerializer(serializers.Serializer):
    name = serializers.CharField()
    weight = serializers.FloatField()


class LossPointSerializer(serializers.Serializer):
    generation = serializers.IntegerField()
    evaluations = serializers.IntegerField()
    best_loss = serializers.FloatField()


class ProgressSerializer(serializers.Serializer):
    stage = serializers.CharField(allow_blank=True)
    queue_position = serializers.IntegerField(allow_null=True)
    starts_in = serializers.FloatField(
        allow_null=True, help_text="A guess, in seconds, while the job is queued."
    )
    generation = serializers.IntegerField()
    evaluations = serializers.IntegerField()
    budget = serializers.IntegerField()
    best_loss = serializers.FloatField(allow_null=True)
    evaluations_per_second = serializers.FloatField(allow_null=True)
    seconds_left = serializers.FloatField(allow_null=True)
    curve = LossPointSerializer(many=True)
    weights = WeightSerializer(many=True)


class JobErrorSerializer(serializers.Serializer):
    code = serializers.CharField()
    message = serializers.CharField()


class JobSummarySerializer(serializers.Serializer):
    """A job: a composition ("compose"), one input answered by its result ("predict"), other weights
    of it measured ("weigh"), or a recipe run again ("verify")."""

    id = serializers.UUIDField()
    kind = serializers.CharField()
    state = serializers.CharField(help_text="queued, running, done, failed or cancelled.")
    title = serializers.CharField(allow_null=True)
    task = serializers.UUIDField(allow_null=True)
    recipe = serializers.CharField(allow_null=True, help_text="Digest of the recipe found.")
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)


class LeftOutSerializer(serializers.Serializer):
    module = serializers.CharField()
    reason = serializers.CharField()


class JobSerializer(JobSummarySerializer):
    error = JobErrorSerializer(allow_null=True)
    progress = ProgressSerializer(allow_null=True)
    waits_for = serializers.CharField(
        allow_blank=True, help_text="What a queued job waits for that no worker running now has."
    )
    interruptions = serializers.CharField(
        allow_blank=True, help_text="How often it was taken up again, and why."
    )
    verdict = serializers.CharField(allow_null=True)
    matched = serializers.BooleanField(
        help_text="An earlier search had found the same recipe: this one confirms it."
    )
    spec = serializers.JSONField(allow_null=True)
    evidence = serializers.JSONField(allow_null=True)
    result = serializers.JSONField(allow_null=True)
    left_out = LeftOutSerializer(
        many=True,
        required=False,
        help_text="Only in the answer to a new job of a collection: what is not mixed, and why.",
    )


class PublishSerializer(Given):
    title = serializers.CharField(max_length=120)
    description = serializers.CharField(max_length=2000, required=False, allow_blank=True)
    show_examples = serializers.BooleanField(
        default=False, help_text="Publish the examples and predictions too."
    )
    version_of = serializers.RegexField(
        "^[0-9a-f]{64}$",
        required=False,
        help_text="Digest of the published recipe that this is a version of.",
    )


class TrialSerializer(Given):
    input = serializers.CharField(max_length=MOST_TRIAL_CHARACTERS, trim_whitespace=False)


class IngredientSerializer(serializers.Serializer):
    name = serializers.CharField()
    revision = serializers.CharField()
    sha256 = serializers.CharField(source="weights_sha256")
    weight = serializers.FloatField()


class RecipeSummarySerializer(serializers.Serializer):
    digest = serializers.CharField()
    title = serializers.CharField()
    base_model = serializers.CharField(source="base_name")
    published_by = serializers.CharField(source="published_by.username", default=None)
    published_at = serializers.DateTimeField(allow_null=True)
    likes = serializers.IntegerField()
    ingredients = IngredientSerializer(many=True, source="ingredients.all")


class RecipeSerializer(RecipeSummarySerializer):
    description = serializers.CharField()
    version_of = serializers.CharField(
        source="parent_id", allow_null=True, help_text="Digest of the recipe it goes on from."
    )
    document = serializers.SerializerMethodField()

    def get_document(self, recipe: Recipe) -> dict[str, Any]:
        """The recipe itself: id, schema, spec, weights, evidence."""
        return artifacts.recipe_json(recipe)


class NewVerificationSerializer(Given):
    kind = serializers.ChoiceField(
        [Verification.EVALUATION, Verification.SEARCH],
        default=Verification.EVALUATION,
        help_text="`evaluation` measures it again, `search` repeats the whole search.",
    )


class DifferenceSerializer(serializers.Serializer):
    what = serializers.CharField(help_text="Which part: weight, seed, template, …")
    stated = serializers.CharField()
    found = serializers.CharField()


class UncheckedSerializer(serializers.Serializer):
    what = serializers.CharField()
    why = serializers.CharField()


class VerificationSerializer(serializers.Serializer):
    """A run of a recipe, and what came of it."""

    id = serializers.IntegerField()
    job = serializers.UUIDField(source="job_id", allow_null=True)
    kind = serializers.CharField(help_text="evaluation or search.")
    state = serializers.CharField(
        source="job.state", default="done", help_text="As of a job. The stamp outlives its job."
    )
    outcome = serializers.CharField(
        allow_blank=True, help_text="matched, within tolerance or differs; empty until it is done."
    )
    by = serializers.SerializerMethodField()
    environment = serializers.JSONField(help_text="What it ran on.")
    checked = serializers.ListField(child=serializers.CharField())
    differs = DifferenceSerializer(many=True)
    unchecked = UncheckedSerializer(many=True)
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)

    def get_by(self, row: Verification) -> str | None:
        """The user's name; null for a guest, and for whoever has left."""
        return row.user.username if row.user and not row.user.is_guest else None


class LikedRecipeSerializer(serializers.Serializer):
    liked = serializers.BooleanField()
    likes = serializers.IntegerField()


class NewRecipeImportSerializer(Given):
    document = serializers.JSONField(help_text="What `recipe.json` holds.")
    title = serializers.CharField(max_length=120, required=False, allow_blank=True, default="")


class MissingSerializer(serializers.Serializer):
    name = serializers.CharField()
    sha256 = serializers.CharField(allow_blank=True)
    address = serializers.CharField(allow_blank=True, help_text="Where it might be had.")


class RecipeImportSerializer(serializers.Serializer):
    digest = serializers.CharField()
    title = serializers.CharField()
    missing = MissingSerializer(many=True, help_text="What of it is not on this site.")


def job_document(job: Job, *, whole: bool = True) -> dict[str, Any]:
    search = getattr(job, "search", None)
    document: dict[str, Any] = {
        "id": job.pk,
        "kind": job.kind,
        "state": job.state,
        "title": search.title if search else None,
        "task": search.task_id if search else None,
        "recipe": search.recipe_id if search else None,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
    }
    if not whole:
        return document
    found = verdict(search.evidence) if search and job.state == "done" else None
    failed = job.state == "failed"
    return {
        **document,
        "error": {"code": job.error_code, "message": job.error_message} if failed else None,
        "progress": progress(search) if search else None,
        "waits_for": capacity.why_nobody(job) if job.state == "queued" else "",
        "interruptions": interruptions(job),
        "verdict": found.sentence if found else None,
        "matched": bool(search and search.matched),
        "spec": search.spec if search else None,
        "evidence": search.evidence if search else None,
        "result": job.result or None,
    }
