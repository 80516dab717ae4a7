"""Tags: what modules carry, what visitors see of them, and what moderators tidy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from django.db import connection, transaction

from composer.engine.errors import CommonsError
from modules.cards import TAG
from modules.models import LoraModule, ModerationEvent, Tag, TagAlias
from modules.querysets import search_words

if TYPE_CHECKING:
    from hub_site.accounts.models import User

SUGGESTED, RELATED, SHOWN = 8, 12, 60
COUNTED_AT_ONCE = 1_000  # the uses of a tag with more are counted on the schedule alone
BATCH = 1_000

# The tags' part of a module's search words made anew: everything but the lexemes of weight B stays.
REINDEX = """
UPDATE modules_loramodule m SET
    tag_names = s.names,
    search = ts_filter(m.search, '{a,c,d}') || setweight(to_tsvector('simple', s.words), 'B'),
    head = ts_filter(m.head, '{a,c,d}') || setweight(to_tsvector('simple', s.words), 'B')
FROM unnest(%s::bigint[], %s::jsonb[], %s::text[]) AS given (id, list, words), LATERAL (
    SELECT ARRAY(SELECT jsonb_array_elements_text(given.list)) AS names, given.words
) s
WHERE m.id = given.id
"""

RECOUNT = """
UPDATE modules_tag t SET uses = counted.n
FROM (
    SELECT k.id, (
        SELECT count(*) FROM modules_loramodule m
        WHERE m.is_listed AND m.facets @> ARRAY['tag:' || lower(k.name)]
    ) AS n
    FROM modules_tag k WHERE k.id = ANY(%s)
) counted
WHERE t.id = counted.id AND t.uses <> counted.n
"""


class BadTag(CommonsError):
    code = "bad_tag"


# --- what a module carries ---------------------------------------------------------------------


def set_tags(module: LoraModule, names: Iterable[str]) -> list[Tag]:
    """Give the module these tags and no others; the caller indexes its words."""
    before = set(module.tags.all())
    tags = find_or_make(names)
    module.tags.set(tags)
    module.tag_names = sorted((tag.name for tag in tags), key=str.lower)
    module.save(update_fields=["tag_names"])
    recount(before | set(tags))
    return tags


def find_or_make(names: Iterable[str]) -> list[Tag]:
    """Tags by name, capitals aside. The first spelling stays; a merged name means its new tag."""
    wanted = {name.lower(): name for name in names}
    if not wanted:
        return []
    merged = {
        alias.name.lower(): alias.tag
        for alias in TagAlias.objects.named(wanted).select_related("tag")
    }
    new = sorted(wanted.keys() - merged.keys())
    Tag.objects.bulk_create([Tag(name=wanted[lower]) for lower in new], ignore_conflicts=True)
    found = {tag.pk: tag for tag in [*Tag.objects.named(new), *merged.values()]}
    return sorted(found.values(), key=lambda tag: tag.name.lower())


def recount(tags: Iterable[Tag]) -> None:
    """Bring `uses` up to date, now for rare tags; for common ones the schedule is soon enough."""
    few = [tag.pk for tag in tags if tag.uses < COUNTED_AT_ONCE]
    if few:
        with connection.cursor() as cursor:
            cursor.execute(RECOUNT, [sorted(few)])


# --- what visitors see -------------------------------------------------------------------------


def suggest(text: str, limit: int = SUGGESTED) -> list[Tag]:
    """Tags in use that begin so, the most used first; then those that hold it further on."""
    start = " ".join(text.split()).lower()[:60]
    if "\0" in start:
        return []
    used = Tag.objects.in_use().by_uses()
    if not start:
        return list(used[:limit])
    beginning = list(used.beginning(start)[:limit])
    if len(beginning) == limit or len(start) < 2:
        return beginning
    known = [tag.pk for tag in beginning]
    within = used.filter(name__icontains=start).exclude(pk__in=known)
    return beginning + list(within[: limit - len(beginning)])


def find(name: str) -> Tag | None:
    """The tag of this name, or the one that it was merged into."""
    if "\0" in name:
        return None
    tag: Tag | None = Tag.objects.named([name]).first()
    if tag is None:
        alias = TagAlias.objects.named([name]).select_related("tag").first()
        tag = alias.tag if alias else None
    return tag


# --- what moderators tidy ----------------------------------------------------------------------


@transaction.atomic
def merge(tag: Tag, into: Tag, *, actor: User | None, reason: str = "") -> Tag:
    """Let `into` stand wherever `tag` stood, in cards that are uploaded later too.

    The files keep what their authors wrote. Search finds the modules by the new name at once.
    """
    if tag.pk == into.pk:
        raise BadTag(f"{tag.name!r} cannot be merged into itself. Choose another tag.")
    Tag.objects.select_for_update().filter(pk__in=[tag.pk, into.pk]).order_by("pk").first()
    through = LoraModule.tags.through.objects
    carriers = list(through.filter(tag_id=tag.pk).values_list("loramodule_id", flat=True))
    rows = [LoraModule.tags.through(loramodule_id=pk, tag_id=into.pk) for pk in carriers]
    through.bulk_create(rows, ignore_conflicts=True, batch_size=BATCH)
    TagAlias.objects.filter(tag=tag).update(tag=into)
    TagAlias.objects.create(name=tag.name, tag=into)
    ModerationEvent.objects.create(
        actor=actor, action="merge_tag", subject=f"{tag.name} into {into.name}", reason=reason
    )
    tag.delete()
    _reindex(carriers)
    _count_now(into)
    return into


@transaction.atomic
def rename(tag: Tag, name: str, *, actor: User | None, reason: str = "") -> Tag:
    """Call the tag otherwise; its old name goes on meaning it. A name that is taken merges."""
    name = checked_name(name)
    if name == Tag.objects.values_list("name", flat=True).get(pk=tag.pk):
        return tag
    other = Tag.objects.named([name]).exclude(pk=tag.pk).first()
    if other is not None:
        return merge(tag, other, actor=actor, reason=reason)
    tag = Tag.objects.select_for_update().get(pk=tag.pk)
    old, tag.name = tag.name, name
    TagAlias.objects.named([name]).delete()  # it is a tag again
    tag.save(update_fields=["name"])
    if old.lower() != name.lower():
        TagAlias.objects.create(name=old, tag=tag)
    ModerationEvent.objects.create(
        actor=actor, action="rename_tag", subject=f"{old} to {name}", reason=reason
    )
    _reindex(list(tag.lora_modules.values_list("pk", flat=True)))
    return tag


def checked_name(name: str) -> str:
    name = " ".join(name.split())
    if not TAG.fullmatch(name):
        raise BadTag(
            f"{name!r} cannot be a tag. Use 1 to 60 letters, digits, spaces or . : / + - signs, "
            "beginning with a letter or digit."
        )
    return name


def _count_now(tag: Tag) -> None:
    with connection.cursor() as cursor:
        cursor.execute(RECOUNT, [[tag.pk]])
    tag.refresh_from_db(fields=["uses"])


def _reindex(modules: Sequence[int]) -> None:
    """Read the tags of these modules anew into their own columns."""
    for start in range(0, len(modules), BATCH):
        batch = modules[start : start + BATCH]
        names: dict[int, list[str]] = {pk: [] for pk in batch}
        pairs = LoraModule.tags.through.objects.filter(loramodule_id__in=batch)
        for pk, name in pairs.values_list("loramodule_id", "tag__name"):
            names[pk].append(name)
        _write(names)


def _write(names: dict[int, list[str]]) -> None:
    from psycopg.types.json import Jsonb

    ordered = {pk: sorted(given, key=str.lower) for pk, given in names.items()}
    words = [" ".join(search_words(" ".join(given))) for given in ordered.values()]
    with connection.cursor() as cursor:
        cursor.execute(REINDEX, [list(ordered), [Jsonb(g) for g in ordered.values()], words])
