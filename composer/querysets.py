"""Filters with names; who may see what is one of them."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Self, TypeAlias

from django.db.models import Count, Prefetch, Q, QuerySet

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser

    from hub_site.accounts.models import User
    from modules.models import BaseModel, LoraModule

    Visitor: TypeAlias = User | AnonymousUser


class FewShotTaskQuerySet(QuerySet):
    def visible_to(self, user: Visitor) -> Self:
        """A demo task is everybody's; any other is its owner's alone."""
        demo = Q(owner=None, demo_key__isnull=False)
        return self.filter(demo | Q(owner=user) if user.is_authenticated else demo)

    def editable_by(self, user: Visitor) -> Self:
        return self.filter(owner=user) if user.is_authenticated else self.none()

    def demo(self) -> Self:
        return self.filter(owner=None, demo_key__isnull=False).order_by("created_at", "demo_key")

    def for_cards(self) -> Self:
        shots, held_out = Q(examples__split="shot"), Q(examples__split="held_out")
        return self.select_related("base_model").annotate(
            shots_count=Count("examples", filter=shots, distinct=True),
            held_out_count=Count("examples", filter=held_out, distinct=True),
            searches_count=Count("searches", distinct=True),
        )

    def newest_first(self) -> Self:
        return self.order_by("-created_at")


class SearchQuerySet(QuerySet):
    def visible_to(self, user: Visitor) -> Self:
        """A job is its owner's alone; what it found becomes public as a recipe."""
        return self.filter(job__user=user) if user.is_authenticated else self.none()

    def usual_seconds(self, base_model: BaseModel) -> float | None:
        """The median time of the last compositions on a base model, from start to result."""
        jobs = self.filter(base_model=base_model, job__state="done").order_by("-job__finished_at")
        times = jobs.values_list("job__started_at", "job__finished_at")[:9]
        seconds = [(end - start).total_seconds() for start, end in times if start and end]
        return median(seconds) if seconds else None

    def newest_first(self) -> Self:
        return self.order_by("-job__created_at")

    def for_cards(self) -> Self:
        return self.select_related("job", "recipe", "task").defer("examples")

    def for_page(self) -> Self:
        ingredients = "recipe__ingredients__lora_module__repo__owner"
        return self.select_related(
            "job", "task__base_model", "recipe__base_model"
        ).prefetch_related(ingredients)


class RecipeQuerySet(QuerySet):
    def published(self) -> Self:
        return self.filter(published_at__isnull=False).order_by("-published_at")

    def visible_to(self, user: Visitor) -> Self:
        public = Q(published_at__isnull=False)
        if not user.is_authenticated:
            return self.filter(public)
        # A subquery, not a join: two searches of one user must not list a recipe twice.
        own = self.model.objects.filter(searches__job__user=user).values("pk")
        return self.filter(public | Q(pk__in=own))

    def with_digest(self, digest: str) -> Self:
        """As it stands in an address: PostgreSQL's texts cannot hold whatever is written there."""
        return self.none() if "\0" in digest else self.filter(pk=digest)

    def using(self, lora_module: LoraModule) -> Self:
        return self.filter(ingredients__lora_module=lora_module).distinct()

    def for_cards(self) -> Self:
        from composer.models import Ingredient

        ingredients = Ingredient.objects.select_related("lora_module__repo__owner")
        return self.select_related("base_model", "published_by__namespace").prefetch_related(
            Prefetch("ingredients", ingredients)
        )
