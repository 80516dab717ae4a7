"""Facets: what lists are narrowed by, with how many modules each value would leave.

Counts are exact up to COUNTED modules found. Of more, as many are counted and each figure is a
lower bound, shown as "120+". For the whole library, which is what most visitors look at, exact
figures are kept in one row and counted anew on a schedule.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.core.exceptions import EmptyResultSet
from django.db import connection, transaction
from django.http import QueryDict

from modules.finding.search import MOST, Found, find, some_of
from modules.models import BaseModel, FacetCounts

if TYPE_CHECKING:
    from modules.finding.forms import ModuleFilterForm
    from modules.querysets import Visitor

SIZES = {
    "1": "under 1 MB", "2": "1 to 10 MB", "3": "10 to 100 MB", "4": "100 MB to 1 GB",
    "5": "over 1 GB",
}  # fmt: skip
GATED = {"true": "gated", "false": "not gated"}
# In the order of the page: title, its term, how many values are shown.
FACETS = {
    "base_model": ("Base model", "base model", 10),
    "task": ("Task", "", 8),
    "tag": ("Tags", "", 12),
    "r": ("Rank", "rank", 10),
    "size": ("Size", "", 5),
    "target": ("Target modules", "target modules", 8),
    "licence": ("Licence", "", 8),
    "language": ("Language", "", 8),
}
KEPT = 300  # values of each facet in the row of counts
CHECKED = "checked:yes"
BASES_OFFERED = 3
MOST_WAYS = 6
COUNTED = 250

COUNT = """
WITH s AS MATERIALIZED ({rows})
SELECT '', count(*) FROM s
UNION ALL
SELECT f, count(*) FROM s, unnest(s.facets) f GROUP BY f
"""
COUNT_ALL = """
WITH found AS (
    SELECT f, count(*) AS n,
        row_number() OVER (PARTITION BY split_part(f, ':', 1) ORDER BY count(*) DESC, f) AS place
    FROM modules_loramodule m, unnest(m.facets) f WHERE m.is_listed GROUP BY f
)
SELECT coalesce(jsonb_object_agg(f, n), '{}'),
    (SELECT count(*) FROM modules_loramodule WHERE is_listed)
FROM found WHERE place <= %s
"""
COUNT_TAGS = """
UPDATE modules_tag t SET uses = coalesce(counted.n, 0)
FROM modules_tag k LEFT JOIN (
    SELECT f, count(*) AS n FROM modules_loramodule m, unnest(m.facets) f
    WHERE m.is_listed AND f LIKE 'tag:%' GROUP BY f
) counted ON counted.f = 'tag:' || lower(k.name)
WHERE t.id = k.id AND t.uses <> coalesce(counted.n, 0)
"""


@dataclass(frozen=True)
class Choice:
    """A value of a facet: following its link turns it on or off."""

    label: str
    count: int
    query: str
    is_on: bool
    is_more: bool = False  # the count is a lower bound


@dataclass(frozen=True)
class Facet:
    name: str
    title: str
    term: str
    choices: list[Choice]


@dataclass(frozen=True)
class Counts:
    """How many of what was found have each word ("tag:words"), and how many were found."""

    words: Mapping[str, int]
    total: int
    words_are_more: bool = False  # lower bounds
    total_is_more: bool = False
    is_about: bool = False


def count(form: ModuleFilterForm, found: Found) -> Counts:
    words = form.words
    kept = None
    others = form.cleaned_data["owner"] or form.cleaned_data["gated"]
    if not form.has_words and not others and len(words) < 2:
        kept = FacetCounts.objects.order_by("pk").first()
        if kept is not None and kept.modules > COUNTED and not words:
            return Counts(kept.counts, kept.modules)
    try:
        rows = found.sample.order_by().values("facets")[: COUNTED + 1].query
        sql, parameters = rows.sql_with_params()
    except EmptyResultSet:  # a search without a word in it
        return Counts({}, 0)
    with connection.cursor() as cursor:
        cursor.execute(COUNT.format(rows=sql), parameters)
        counted: dict[str, int] = dict(cursor.fetchall())
    total = counted.pop("")
    if found.about:
        about = int(float(f"{found.about:.2g}"))
        return Counts(counted, about, words_are_more=True, is_about=True)
    is_more = total > COUNTED
    if is_more and kept is not None and words and words[0] in kept.counts:
        return Counts(counted, max(total, kept.counts[words[0]]), words_are_more=True)
    return Counts(counted, min(total, COUNTED), is_more, is_more)


@transaction.atomic
def recount() -> int:
    """Count facets and tags of the whole library, on the schedule; returns how many modules."""
    with connection.cursor() as cursor:
        cursor.execute(COUNT_ALL, [KEPT])
        counts, modules = cursor.fetchone()
        cursor.execute(COUNT_TAGS)
    counts = json.loads(counts) if isinstance(counts, str) else counts
    row = FacetCounts.objects.order_by("pk").first() or FacetCounts()
    row.modules, row.counts = modules, counts
    row.save()
    return row.modules


def facets(form: ModuleFilterForm, counts: Counts) -> list[Facet]:
    """Links that narrow what was found, each with how much it would leave."""
    by_name: dict[str, list[tuple[str, int]]] = {name: [] for name in FACETS}
    for word, n in counts.words.items():
        name, _, value = word.partition(":")
        if name in by_name:
            by_name[name].append((value, n))
    found = [_only(form, counts)]
    for name, (title, term, most) in FACETS.items():
        on = set(map(str.lower, form.chosen(name)))
        values = sorted(by_name[name], key=lambda pair: (-pair[1], pair[0]))
        values.sort(key=lambda pair: pair[0].lower() not in on)
        values = values[: max(most, len(on))]
        if name == "r":
            values.sort(key=lambda pair: int(pair[0]))
        if name == "size":
            values.sort()
        choices = [
            Choice(
                label(name, value), n, form.toggled(name, value), value.lower() in on,
                counts.words_are_more,
            )
            for value, n in values
        ]  # fmt: skip
        found.append(Facet(name, title, term, choices))
    return [facet for facet in found if facet.choices]


def label(name: str, value: str) -> str:
    words = {"size": SIZES, "gated": GATED}.get(name, {})
    return words.get(value, value)


def _only(form: ModuleFilterForm, counts: Counts) -> Facet:
    """What can be asked besides a module's facts: that it was checked, that it can be mixed."""
    wanted, more = form.cleaned_data, counts.words_are_more
    choices = []
    if n := counts.words.get(CHECKED):
        choices.append(Choice("Checked", n, form.toggled("checked", "1"), wanted["checked"], more))
    on = wanted["composable_with"]
    bases = [on or wanted["base_model"]]
    if not bases[0]:
        usable = BaseModel.objects.usable().order_by("name")
        bases = list(usable.values_list("name", flat=True)[:BASES_OFFERED])
    for base in bases:
        if (n := counts.words.get(f"composable:{base}", 0)) or on:
            query = form.toggled("composable_with", base)
            choices.append(Choice(f"Composable with {base}", n, query, bool(on), more))
    return Facet("only", "Only", "", choices)


def related_tags(counts: Counts, name: str, most: int) -> list[tuple[str, int]]:
    """Tags that modules with this one carry too, the most frequent first."""
    others = [
        (word.removeprefix("tag:"), n)
        for word, n in counts.words.items()
        if word.startswith("tag:") and word != f"tag:{name.lower()}"
    ]
    return sorted(others, key=lambda pair: (-pair[1], pair[0]))[:most]


def ways_out(form: ModuleFilterForm, user: Visitor) -> list[Choice]:
    """Where nothing fits: what to take away, one thing at a time, so that something does."""
    given = [(f"the words “{form.cleaned_data['q']}”", form.without("q"))] * form.has_words
    given += [(f"“{way.label}”", way.query) for way in form.active()]
    if len(given) < 2:
        return []  # what is left is the whole library
    found = []
    for shown, query in given[:MOST_WAYS]:
        other = type(form)(QueryDict(query))
        if other.is_valid() and (many := len(some_of(find(other, user).sample))):
            found.append(Choice(shown, min(many, MOST), query, False, many > MOST))
    return found
