"""What a visitor asked for, found in bounded time however many modules there are.

Filters are words in one array column with one index, and every order has an index to walk, so a
page of a list costs the same everywhere. Words of a search need more care: a common one is in half
of all cards. Of more than MOST matches only some are ranked: the most downloaded of those with the
words in name, tags, owner or summary, and where these are few, of those with them in the card. The
page says so. In every other order all matches are shown.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import connection, transaction

from modules.models import LoraModule
from modules.querysets import LoraModuleQuerySet, prefix_query

if TYPE_CHECKING:
    from modules.finding.forms import ModuleFilterForm
    from modules.querysets import Visitor

MOST = 1_000
RANKED, ENOUGH = 100, 40
SURELY_MANY = 5  # times MOST


@dataclass(frozen=True)
class Found:
    """`rows` go into pages in the form's order; `sample` is what facets are counted in."""

    rows: LoraModuleQuerySet
    sample: LoraModuleQuerySet
    about: int = 0  # so many match by PostgreSQL's estimate, and only `sample` was looked at
    ranked: int = 0  # and so many of them are ranked


def find(form: ModuleFilterForm, user: Visitor) -> Found:
    listed = form.narrow(LoraModule.objects.listed_to(user))
    text = form.cleaned_data["q"]
    if not text.strip():
        return Found(listed, listed)
    matches = listed.search(text)
    query = prefix_query(text)
    if query is None:
        return Found(matches.with_rank(text), matches)
    about = _estimate(matches)
    if about <= SURELY_MANY * MOST:
        some = some_of(matches)
        if len(some) <= MOST:
            few = LoraModule.objects.of_ids(some)
            return Found(few.with_rank(text), few)
    best = _most_downloaded(listed.filter(head=query), RANKED)
    if len(best) < ENOUGH:
        best |= _most_downloaded(matches, ENOUGH)
    sample = LoraModule.objects.of_ids(best)
    if len(best) < ENOUGH:  # the estimate was wrong: these are all
        return Found(sample.with_rank(text), sample)
    rows = sample.with_rank(text) if form.is_ranked else matches
    return Found(rows, sample, max(about, MOST), len(best) if form.is_ranked else 0)


def _estimate(matches: LoraModuleQuerySet) -> int:
    """How many there are by the table's statistics: to look a common word up, only to learn that
    it is common, would take longer than all the rest."""
    plan = json.loads(matches.order_by().values("pk").explain(format="json"))
    return int(plan[0]["Plan"]["Plan Rows"])


def some_of(matches: LoraModuleQuerySet) -> list[int]:
    """Up to MOST + 1 matches, in no order. By the index: to read through the table would mean to
    unpack the words of every module on the way."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('enable_seqscan', 'off', true)")
        found = list(matches.order_by().values_list("pk", flat=True)[: MOST + 1])
        cursor.execute("SELECT set_config('enable_seqscan', 'on', true)")  # within another's block
    return found


def _most_downloaded(matches: LoraModuleQuerySet, most: int) -> set[int]:
    return set(matches.order_by("-downloads", "-pk").values_list("pk", flat=True)[:most])
