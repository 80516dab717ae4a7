"""Filters with names; who may see what is one of them. Pages, API and admin share them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Self, TypeAlias

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.search import SearchQuery, SearchRank
from django.db.models import (
    Avg,
    BigIntegerField,
    BooleanField,
    Count,
    ExpressionWrapper,
    F,
    FloatField,
    Func,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Value,
)
from django.db.models.functions import Abs, Cast, Coalesce, Ln, Lower, Now

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser

    from hub_site.accounts.models import User
    from modules.models import BaseModel

    Visitor: TypeAlias = User | AnonymousUser

QUERY_WORDS = 8
SHORT = 4
DOWNLOADS_WEIGH = 0.001  # less than a word of the summary, for a million of them
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
    return _raw([f"{word}:*" for word in words]) if words else None


def words_query(text: str) -> Q | None:
    """What `search` asks of a module; None when the text has no word.

    A few letters begin a great many words: in a card they must be a word, and only in names, tags
    and summaries may they be the beginning of one. Scripts without spaces are not meant.
    """
    words = search_words(text)[:QUERY_WORDS]
    if not words:
        return None
    is_short = [len(word) < SHORT and word.isascii() for word in words]
    found = Q(
        search=_raw([w if short else f"{w}:*" for w, short in zip(words, is_short, strict=True)])
    )
    return found | Q(head=prefix_query(text)) if any(is_short) else found


def _raw(terms: Iterable[str], between: str = " & ") -> SearchQuery:
    return SearchQuery(between.join(terms), search_type="raw", config="simple")


class AnyOf(Func):
    template, arg_joiner = "(%(expressions)s))", " = ANY ("
    output_field = BooleanField()
    conditional = True


class RepoQuerySet(QuerySet):
    def visible_to(self, user: Visitor) -> Self:
        """Public repos, and one's own. A private or hidden one is to strangers as if it were not
        there; moderators see what was hidden, and nobody else's private ones."""
        return self.filter(_shown_to(user))

    def readable_by(self, user: Visitor) -> Self:
        """Whose files this visitor may have: of a gated repo its owner, whoever was let in, and
        moderators, who could not judge a report otherwise."""
        return self.filter(_shown_to(user) & _open_to(user))

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

    def once_named(self, owner: str, name: str) -> Self:
        """What had this name before, until a new repo took it."""
        if "\0" in owner + name:
            return self.none()
        return self.filter(
            old_addresses__owner__name__iexact=owner, old_addresses__name__iexact=name
        )


class AccessRequestQuerySet(QuerySet):
    def in_state(self, state: str) -> Self:
        return self.filter(state=state)

    def for_rows(self) -> Self:
        return self.select_related("user", "repo__owner__user")


class LoraModuleQuerySet(QuerySet):
    def visible_to(self, user: Visitor) -> Self:
        return self.filter(_shown_to(user, "repo__"))

    def readable_by(self, user: Visitor) -> Self:
        """As of repos: whose bytes this visitor may have, and so mix."""
        return self.filter(_shown_to(user, "repo__") & _open_to(user, "repo__"))

    def gated(self, wanted: bool) -> Self:
        return self.filter(~Q(repo__gated="") if wanted else Q(repo__gated=""))

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

    def known(self) -> Self:
        """The most downloaded ones, as they were when a worker last looked."""
        return self.filter(is_known=True)

    def listed_to(self, user: Visitor) -> Self:
        """What lists and searches show this visitor: all that is listed, and one's own.

        One column answers for everybody else's, so that a sorted index can be walked.
        """
        if not user.is_authenticated:
            return self.filter(is_listed=True)
        repos = self.model._meta.get_field("repo").related_model.objects
        own = Q(repo_id__in=repos.filter(owner__user=user).values("pk")) & ~Q(status="rejected")
        return self.filter(Q(is_listed=True) | own)

    def composable_on(self, base_model: BaseModel) -> Self:
        return self.ready().filter(base_model=base_model, not_composable="")

    def on_base(self, name: str) -> Self:
        """By the base model's name, also when the site does not hold that base model."""
        return self.filter(Q(base_model__name=name) | Q(base_model=None, base_model_name=name))

    def by_base_name(self, names: Iterable[str]) -> Self:
        """Modules whose config names one of these, capitals aside."""
        lowered = [name.lower() for name in names]
        return self.alias(base_lower=Lower("base_model_name")).filter(base_lower__in=lowered)

    def with_facets(self, *words: str) -> Self:
        """Modules that have every one of these: "tag:words", "r:16" (see `modules_facets`).

        A base model is asked of its column, which has indexes in the orders of the lists.
        """
        found, others = self, []
        for word in words:
            name, _, value = word.partition(":")
            if name in ("base_model", "composable"):
                found = found.filter(base_model_name=value)
            else:
                others.append(word)
            if name == "composable":
                found = found.ready().filter(base_model__isnull=False, not_composable="")
        return found.filter(facets__contains=others) if others else found

    def tagged(self, *tags: str) -> Self:
        return self.with_facets(*(f"tag:{tag.lower()}" for tag in tags))

    def search(self, text: str) -> Self:
        """Full text over name, owner, tags, summary and card."""
        query = words_query(text)
        if query is None:
            return self.none() if text.strip() else self
        return self.filter(query)

    def with_rank(self, text: str) -> Self:
        """`rank`: how many of these words its name, tags, owner and summary have, in that order of
        weight; between equals, and where only the card has them, what is downloaded more.

        The card's words are not weighed: to unpack them takes longer than all the rest.
        """
        words = search_words(text)[:QUERY_WORDS]
        if not words:
            return self.annotate(rank=Value(0.0))
        fits = SearchRank(F("head"), _raw([f"{word}:*" for word in words], " | "))
        # Exact in Python too, unlike the server's four-byte float: pages are cut at it.
        known = Ln(F("downloads") + 1.0) * Value(DOWNLOADS_WEIGH)
        return self.annotate(rank=ExpressionWrapper(Cast(fits, FloatField()) + known, FloatField()))

    def of_ids(self, ids: Iterable[int]) -> Self:
        """Like `pk__in`, with all of them as one parameter."""
        return self.filter(AnyOf(F("pk"), Value(list(ids), ArrayField(BigIntegerField()))))

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

    def with_mean_weight(self) -> Self:
        """`mean_weight`: the mean size of its weights in published recipes; None without any."""
        ingredients = self.model.ingredients.rel.related_model.objects
        sizes = (
            ingredients.filter(lora_module=OuterRef("pk"), recipe__published_at__isnull=False)
            .order_by()
            .values("lora_module")
            .annotate(mean=Avg(Abs("weight")))
            .values("mean")
        )
        return self.annotate(mean_weight=Subquery(sizes))

    def for_cards(self) -> Self:
        return (
            self.with_recipe_count()
            .select_related("repo__owner")
            .defer("search", "head", "facets", "checks")
        )

    def for_api(self) -> Self:
        return self.for_cards().select_related("commit")

    def for_page(self) -> Self:
        return (
            self.for_cards()
            .with_mean_weight()
            .select_related("base_model__repo__owner", "commit")
            .defer(None)
            .defer("search", "head", "facets", "base_model__config", "base_model__layers")
        )


class HubHomeQuerySet(QuerySet):
    def due(self) -> Self:
        """In trouble, and it is time to try again."""
        return self.filter(state="trouble", retry_at__lte=Now())


class CollectionQuerySet(QuerySet):
    def visible_to(self, user: Visitor) -> Self:
        return self.filter(_shown_to(user))

    def listed(self) -> Self:
        return self.filter(visibility="public", hidden_at=None)

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


class HubOriginQuerySet(QuerySet):
    def of_hub(self, endpoint: str, hub_id: str) -> Self:
        """Copies of this repo of this Hub; capitals aside, as the Hub has it."""
        lowered = self.alias(hub_lower=Lower("hub_id"))
        return lowered.filter(endpoint=endpoint, hub_lower=hub_id.lower())


class ImportQuerySet(QuerySet):
    def visible_to(self, user: Visitor) -> Self:
        """What somebody asked for is theirs to see, and nobody else's."""
        return self.filter(user=user) if user.is_authenticated else self.none()

    def open(self) -> Self:
        return self.filter(state__in=("waiting", "running"))

    def for_rows(self) -> Self:
        return self.select_related("repo__owner", "repo__lora_module", "namespace", "job").defer(
            "repo__lora_module__search",
            "repo__lora_module__head",
            "repo__lora_module__facets",
            "repo__lora_module__checks",
        )


class TagQuerySet(QuerySet):
    def named(self, names: Iterable[str]) -> Self:
        lowered = [name.lower() for name in names]
        return self.alias(name_lower=Lower("name")).filter(name_lower__in=lowered)

    def in_use(self) -> Self:
        """A tag that only private or hidden modules carry is nobody's business."""
        return self.filter(uses__gt=0)

    def by_uses(self) -> Self:
        return self.order_by("-uses", "name")

    def beginning(self, start: str) -> Self:
        return self.alias(name_lower=Lower("name")).filter(name_lower__startswith=start.lower())


class BaseModelQuerySet(QuerySet):
    def usable(self) -> Self:
        """Base models that a worker can load now: kept by this site, in an operator's folder, or
        pinned on the Hub."""
        kept = Q(source="site", repo__isnull=False) & ~Q(revision="")
        pinned = Q(source="hub") & ~Q(revision="") & ~Q(files={})
        return self.filter(kept | Q(source="folder") & ~Q(folder="") | pinned)

    def visible_to(self, user: Visitor) -> Self:
        """Operators add base models for everybody."""
        return self

    def for_cards(self) -> Self:
        return (
            self.select_related("repo__owner").defer("config", "layers", "files").order_by("name")
        )

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


def _shown_to(user: Visitor, repo: str = "") -> Q:
    public = Q(**{f"{repo}visibility": "public"})
    if not user.is_authenticated:
        return public & Q(**{f"{repo}hidden_at": None})
    if not user.is_staff:
        public &= Q(**{f"{repo}hidden_at": None})
    return public | Q(**{f"{repo}owner__user": user})


def _open_to(user: Visitor, repo: str = "") -> Q:
    """Of what is shown. To be listed is no access, and neither is to have asked for it."""
    if not user.is_authenticated:
        return Q(**{f"{repo}gated": ""})
    if user.is_staff:
        return Q()
    let_in = user.access_requests.filter(state="accepted").values("repo")
    return (
        Q(**{f"{repo}gated": ""})
        | Q(**{f"{repo}owner__user": user})
        | Q(**{f"{repo}pk__in": let_in})
    )
