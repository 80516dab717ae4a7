"""Filters with names; who may see what is one of them. Pages, API and admin share them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from django.contrib.postgres.search import SearchQuery, SearchRank
from django.db.models import (
    Count,
    F,
    FloatField,
    Func,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    TextField,
    Value,
)
from django.db.models.functions import Cast, Coalesce, Lower

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser

    from hub_site.accounts.models import Namespace, User
    from modules.models import BaseModel

    Visitor: TypeAlias = User | AnonymousUser

QUERY_WORDS = 8
WORD_LENGTH = 64  # PostgreSQL refuses words of more than 2,046 bytes


def search_words(text: str) -> list[str]:
    """Words as the index keeps them: small letters, no accents, every sign a gap."""
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)
    return [word[:WORD_LENGTH] for word in re.findall(r"[^\W_]+", plain.lower())]


def prefix_query(text: str) -> SearchQuery | None:
    """All words must be there, each as the beginning of one; None when the text has no word."""
    words = search_words(text)[:QUERY_WORDS]
    if not words:
        return None
    raw = " & ".join(f"{word}:*" for word in words)
    return SearchQuery(raw, search_type="raw", config="simple")


class RepoQuerySet(QuerySet):
    def visible_to(self, user: Visitor) -> Self:
        """Public repos, and one's own. A private or hidden one is to strangers as if it were not
        there."""
        public = Q(visibility="public", hidden_at=None)
        return self.filter(public | Q(owner__user=user) if user.is_authenticated else public)

    def editable_by(self, user: Visitor) -> Self:
        return self.filter(owner__user=user) if user.is_authenticated else self.none()

    def named(self, owner: str, name: str) -> Self:
        if "\0" in owner + name:  # PostgreSQL's texts cannot hold it
            return self.none()
        return (
            self.select_related("owner")
            .alias(owner_lower=Lower("owner__name"), name_lower=Lower("name"))
            .filter(owner_lower=owner.lower(), name_lower=name.lower())
        )


class LoraModuleQuerySet(QuerySet):
    def visible_to(self, user: Visitor) -> Self:
        public = Q(repo__visibility="public", repo__hidden_at=None)
        return self.filter(public | Q(repo__owner__user=user) if user.is_authenticated else public)

    def editable_by(self, user: Visitor) -> Self:
        return self.filter(repo__owner__user=user) if user.is_authenticated else self.none()

    def named(self, owner: str, name: str) -> Self:
        if "\0" in owner + name:
            return self.none()
        return self.alias(
            owner_lower=Lower("repo__owner__name"), name_lower=Lower("repo__name")
        ).filter(owner_lower=owner.lower(), name_lower=name.lower())

    def of_owner(self, name: str) -> Self:
        return self.alias(owner_key=Lower("repo__owner__name")).filter(owner_key=name.lower())

    def ready(self) -> Self:
        return self.filter(status="ready")

    def listed(self) -> Self:
        """What lists show: everything but what the checks refused."""
        return self.exclude(status="rejected")

    def composable_on(self, base_model: BaseModel) -> Self:
        return self.ready().filter(base_model=base_model, not_composable="")

    def on_base(self, name: str) -> Self:
        """By the base model's name, also when the site does not hold that base model."""
        return self.filter(Q(base_model__name=name) | Q(base_model=None, base_model_name=name))

    def by_base_name(self, names: Iterable[str]) -> Self:
        """Modules whose config names one of these, capitals aside."""
        lowered = [name.lower() for name in names]
        return self.alias(base_lower=Lower("base_model_name")).filter(base_lower__in=lowered)

    def tagged(self, *tags: str) -> Self:
        """Modules that carry every one of these tags."""
        found = self
        for tag in tags:
            with_tag = self.model.tags.through.objects.alias(lower=Lower("tag__name")).filter(
                lower=tag.lower()
            )
            found = found.filter(pk__in=with_tag.values("loramodule_id"))
        return found

    def of_rank(self, r: int) -> Self:
        return self.filter(r=r)

    def targeting(self, *target_modules: str) -> Self:
        found = self
        for target in target_modules:
            found = found.filter(target_modules__contains=[target])
        return found

    def search(self, text: str) -> Self:
        """Full text over name, owner, tags, summary and card; `rank` says how well it fits."""
        query = prefix_query(text)
        if query is None:
            return self.none().annotate(rank=Value(0.0)) if text.strip() else self
        return self.filter(search=query).annotate(
            # Exact in Python too, unlike the server's four-byte float: pages are cut at it.
            rank=Cast(SearchRank(F("search"), query), FloatField())
        )

    def with_recipe_count(self) -> Self:
        """`recipe_count`: in how many published recipes it is an ingredient."""
        ingredients = self.model.ingredients.rel.related_model.objects
        recipes = (
            ingredients.filter(lora_module=OuterRef("pk"), recipe__published_at__isnull=False)
            .order_by()
            .values("lora_module")
            .annotate(n=Count("recipe", distinct=True))
            .values("n")
        )
        return self.annotate(recipe_count=Coalesce(Subquery(recipes), Value(0)))

    def for_cards(self) -> Self:
        return (
            self.with_recipe_count()
            .select_related("repo__owner", "base_model__repo__owner", "commit")
            .prefetch_related("tags")
            .defer("search", "checks", "base_model__config", "base_model__layers")
        )

    def for_page(self) -> Self:
        return (
            self.for_cards().defer(None).defer("search", "base_model__config", "base_model__layers")
        )

    def facets(self) -> dict[str, list[tuple[Any, int]]]:
        """For each facet, its values and how many of these modules have them; a query each."""
        found = self.order_by()
        targets = Count("pk", distinct=True)
        return {
            "base_model": list(
                found.exclude(base_model=None, base_model_name="")
                .values_list(Coalesce("base_model__name", "base_model_name"))
                .annotate(n=Count("pk"))
                .order_by("-n", "base_model__name")[:20]
            ),
            "r": list(found.values_list("r").annotate(n=Count("pk")).order_by("r")[:20]),
            "tag": list(
                found.filter(tags__isnull=False)
                .values_list("tags__name")
                .annotate(n=targets)
                .order_by("-n", "tags__name")[:12]
            ),
            "target": _targets(found),
        }


class OldAddressQuerySet(QuerySet):
    def named(self, owner: Namespace, name: str) -> Self:
        return self.alias(name_lower=Lower("name")).filter(owner=owner, name_lower=name.lower())


class CollectionQuerySet(QuerySet):
    def visible_to(self, user: Visitor) -> Self:
        public = Q(visibility="public", hidden_at=None)
        return self.filter(public | Q(owner__user=user) if user.is_authenticated else public)

    def editable_by(self, user: Visitor) -> Self:
        return self.filter(owner__user=user) if user.is_authenticated else self.none()

    def named(self, owner: str, name: str) -> Self:
        if "\0" in owner + name:
            return self.none()
        return (
            self.select_related("owner")
            .alias(owner_lower=Lower("owner__name"), name_lower=Lower("name"))
            .filter(owner_lower=owner.lower(), name_lower=name.lower())
        )


class TagQuerySet(QuerySet):
    def named(self, names: Iterable[str]) -> Self:
        lowered = [name.lower() for name in names]
        return self.alias(name_lower=Lower("name")).filter(name_lower__in=lowered)


class BaseModelQuerySet(QuerySet):
    def usable(self) -> Self:
        """Base models that a worker can load now: kept by this site, or in an operator's folder."""
        kept = Q(source="site", repo__isnull=False) & ~Q(revision="")
        return self.filter(kept | Q(source="folder") & ~Q(folder=""))

    def visible_to(self, user: Visitor) -> Self:
        """Operators add base models for everybody."""
        return self

    def for_cards(self) -> Self:
        return self.select_related("repo__owner").defer("config", "layers").order_by("name")

    def of_owner(self, name: str) -> Self:
        """Those whose files the site keeps under this owner."""
        return (
            self.for_cards()
            .alias(owner_key=Lower("repo__owner__name"))
            .filter(owner_key=name.lower())
        )

    def find_by_name(self, name: str | None) -> BaseModel | None:
        """By name or alias, capitals aside."""
        wanted = (name or "").strip().lower()
        if not wanted:
            return None
        named = self.alias(lower=Lower("name")).filter(lower=wanted)
        return named.first() or self.filter(aliases__contains=[wanted]).first()


def _targets(found: LoraModuleQuerySet) -> list[tuple[str, int]]:
    """Each target module's name with its count: a function that unfolds the JSON list."""
    target = Func(
        F("target_modules"), function="jsonb_array_elements_text", output_field=TextField()
    )
    target.set_returning = True
    return list(
        found.annotate(target=target)
        .values_list("target")
        .annotate(n=Count("pk", distinct=True))
        .order_by("-n", "target")[:20]
    )
