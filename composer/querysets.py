"""Filters with names; who may see what is one of them."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Self, TypeAlias

from django.db.models import (
    Count,
    F,
    IntegerField,
    OuterRef,
    Prefetch,
    Q,
    QuerySet,
    Subquery,
)
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Coalesce

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser

    from hub_site.accounts.models import User
    from modules.models import BaseModel, LoraModule

    Visitor: TypeAlias = User | AnonymousUser


DEMO = Q(owner=None, demo_key__isnull=False)
SHARED = Q(owner__isnull=False, published_at__isnull=False)


class FewShotTaskQuerySet(QuerySet):
    def visible_to(self, user: Visitor) -> Self:
        """Demo tasks and shared ones are everybody's, any other is its owner's alone. What a
        moderator has hidden, only its owner and moderators see."""
        listed = SHARED & Q(hidden_at=None)
        if not user.is_authenticated:
            return self.filter(DEMO | listed)
        return self.filter(DEMO | Q(owner=user) | (SHARED if user.is_staff else listed))

    def editable_by(self, user: Visitor) -> Self:
        return self.filter(owner=user) if user.is_authenticated else self.none()

    def demo(self) -> Self:
        return self.filter(DEMO).order_by("created_at", "demo_key")

    def shared(self) -> Self:
        """Made public by their owners, whether or not a moderator has hidden them since."""
        return self.filter(SHARED).order_by("-published_at", "pk")

    def listed(self) -> Self:
        """What stands in public lists."""
        return self.shared().filter(hidden_at=None)

    def of_owner(self, name: str) -> Self:
        return self.filter(owner__username__iexact=name)

    def for_cards(self) -> Self:
        from composer.models import Example, Search

        # Counted apart: joined, examples and searches would multiply.
        examples = Example.objects.filter(task=OuterRef("pk"))
        return self.select_related("base_model", "owner").annotate(
            shots_count=_count(examples.filter(split="shot"), "task"),
            held_out_count=_count(examples.filter(split="held_out"), "task"),
            searches_count=_count(Search.objects.filter(task=OuterRef("pk")), "task"),
        )

    def most_used_first(self) -> Self:
        """After `for_cards`."""
        newest = F("published_at").desc(nulls_last=True)
        return self.order_by("-searches_count", newest, "pk")

    def newest_first(self) -> Self:
        return self.order_by("-created_at")


class TaskScoreQuerySet(QuerySet):
    """Cells of the module × task matrix."""

    def of_public_tasks(self) -> Self:
        """Tasks that anybody can see: what a module is good at, told to everybody."""
        demo = Q(task__owner=None, task__demo_key__isnull=False)
        shared = Q(task__published_at__isnull=False, task__hidden_at=None)
        return self.filter(demo | shared)

    def current(self) -> Self:
        """Of the version that a module has now."""
        return self.filter(revision=F("lora_module__commit__sha"))

    def helping(self) -> Self:
        """Those where the module takes something of the base model's loss away."""
        return self.filter(loss__lt=F("base_loss"))

    def of_modules_shown_to(self, user: Visitor) -> Self:
        modules = self.model._meta.get_field("lora_module").related_model.objects
        return self.filter(lora_module__in=modules.visible_to(user).values("pk"))

    def largest_gain_first(self) -> Self:
        return self.annotate(gained=F("base_loss") - F("loss")).order_by("-gained", "pk")


class SearchQuerySet(QuerySet):
    def visible_to(self, user: Visitor) -> Self:
        """A job is its owner's alone; what it found becomes public as a recipe."""
        return self.filter(job__user=user) if user.is_authenticated else self.none()

    def usual_seconds(self, base_model: BaseModel, folds: int = 0) -> float | None:
        """The median time of the last compositions on a base model that were measured by so many
        folds, from start to result."""
        done = self.filter(base_model=base_model, job__state="done")
        by_folds = Q(job__params__test_folds=folds)
        if not folds:
            by_folds |= Q(job__params__test_folds=None)  # of before there were any
        jobs = done.filter(by_folds).order_by("-job__finished_at")
        times = jobs.values_list("job__started_at", "job__finished_at")[:9]
        seconds = [(end - start).total_seconds() for start, end in times if start and end]
        return median(seconds) if seconds else None

    def newest_first(self) -> Self:
        return self.order_by("-job__created_at")

    def for_cards(self) -> Self:
        return self.select_related("job", "recipe", "task").defer("examples")

    def for_page(self) -> Self:
        ingredients = "recipe__ingredients__lora_module__repo__owner"
        return self.select_related("job", "recipe__base_model").prefetch_related(ingredients)


# Where a published recipe's own score stands: it is the first way that is measured.
COMPOSED = KeyTransform("0", KeyTransform("methods", "published_search__evidence"))


class RecipeQuerySet(QuerySet):
    def published(self) -> Self:
        return self.filter(published_at__isnull=False).order_by("-published_at")

    def visible_to(self, user: Visitor) -> Self:
        public = Q(published_at__isnull=False)
        if not user.is_authenticated:
            return self.filter(public)
        # A subquery, not a join: two searches of one user must not list a recipe twice.
        own = self.model.objects.filter(searches__job__user=user).values("pk")
        brought = self.model.objects.filter(imports__user=user).values("pk")
        return self.filter(public | Q(pk__in=own) | Q(pk__in=brought))

    def with_digest(self, digest: str) -> Self:
        """As it stands in an address: PostgreSQL's texts cannot hold whatever is written there."""
        return self.none() if "\0" in digest else self.filter(pk=digest)

    def using(self, lora_module: LoraModule) -> Self:
        return self.filter(ingredients__lora_module=lora_module).distinct()

    def for_cards(self) -> Self:
        """`newest_outcome`: what came of it when it was run again last. `right` of `measured`: how
        many held-out examples it answers, as texts. None where nobody did."""
        from composer.models import Ingredient, Verification

        ingredients = Ingredient.objects.select_related("lora_module__repo__owner")
        stamps = Verification.objects.filter(recipe=OuterRef("pk"), imported=None).over()
        newest = stamps.order_by("-created_at", "-id").values("outcome")[:1]
        return (
            self.annotate(
                newest_outcome=Subquery(newest),
                right=KeyTextTransform("correct", COMPOSED),
                measured=KeyTextTransform("total", COMPOSED),
            )
            .select_related("base_model", "published_by__namespace")
            .prefetch_related(Prefetch("ingredients", ingredients))
        )


class VerificationQuerySet(QuerySet):
    def visible_to(self, user: Visitor) -> Self:
        """Of a published recipe everybody's, but for what was compared with a file that somebody
        brought; anything else is its own user's."""
        public = Q(recipe__published_at__isnull=False, imported=None)
        return self.filter(public | Q(user=user) if user.is_authenticated else public)

    def over(self) -> Self:
        return self.exclude(outcome="")

    def for_rows(self) -> Self:
        """Those that ended with a stamp, and those whose job still says something."""
        shown = ~Q(outcome="") | Q(job__isnull=False)
        return self.filter(shown).select_related("user", "job").defer("records")


def _count(rows: QuerySet, by: str) -> Coalesce:
    counted = rows.order_by().values(by).annotate(count=Count("pk")).values("count")
    return Coalesce(Subquery(counted, output_field=IntegerField()), 0)
