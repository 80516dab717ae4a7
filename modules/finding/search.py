"""What a visitor asked for, found in bounded time however many modules there are.

Filters are words in one array column with one index, and every order has an index to walk, so a
page of a list costs the same everywhere. Words of a search need more care: a common one is in half
of all cards, and two can be common one by one and rare together, which the table's statistics
cannot know. So the KNOWN most downloaded modules have an index of their own, and are looked through
first. If a fair number of them match, many of all do, and the best known ones are ranked: those
with the words in name, tags, owner or summary, and where these are few, with them in the card. The
page says so. If not, matches are few, and all are looked up and ranked. In every other order all
matches are shown.
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

MOST, SURELY = 1_000, 10_000
KNOWN = 5_000
RANKED, ENOUGH = 100, 40

# Few change from one time to the next. Rows that somebody else is changing wait for the next time.
MARK_KNOWN = """
WITH best AS MATERIALIZED (
    SELECT id FROM modules_loramodule WHERE is_listed ORDER BY downloads DESC, id DESC LIMIT %s
), changed AS (
    SELECT id FROM modules_loramodule WHERE is_known <> (id IN (SELECT id FROM best))
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE modules_loramodule SET is_known = NOT is_known WHERE id IN (SELECT id FROM changed)
"""


@dataclass(frozen=True)
class Found:
    """`rows` go into pages in the form's order; `sample` is what facets are counted in."""

    rows: LoraModuleQuerySet
    sample: LoraModuleQuerySet
    about: int = 0  # about so many match, and only `sample` was looked at
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
    best = _most_downloaded(matches.known(), RANKED)
    are_many = len(best) >= ENOUGH
    about = _estimate(matches) if are_many else 0
    if about <= MOST:
        some = some_of(matches, MOST if are_many else SURELY)
        if len(some) <= MOST:
            few = LoraModule.objects.of_ids(some)
            return Found(few.with_rank(text), few)
        if not are_many:  # few of them are known, or a worker has marked none yet
            best = _most_downloaded(LoraModule.objects.of_ids(some), RANKED)
            about = _estimate(matches) if len(some) > SURELY else 0
        about = max(about, len(some))
    named = _most_downloaded(listed.known().filter(head=query), RANKED)
    if len(named) >= ENOUGH:
        best = named
    sample = LoraModule.objects.of_ids(best | named)
    rows = sample.with_rank(text) if form.is_ranked else matches
    return Found(rows, sample, about, len(best | named) if form.is_ranked else 0)


def mark_known() -> int:
    """Mark the most downloaded modules anew, on the schedule; returns how many marks changed."""
    with connection.cursor() as cursor:
        cursor.execute(MARK_KNOWN, [KNOWN])
        return cursor.rowcount


def _estimate(matches: LoraModuleQuerySet) -> int:
    """How many there are by the table's statistics: to look a common word up, only to learn that
    it is common, would take longer than all the rest."""
    plan = json.loads(matches.order_by().values("pk").explain(format="json"))
    return int(plan[0]["Plan"]["Plan Rows"])


def some_of(matches: LoraModuleQuerySet, most: int = MOST) -> list[int]:
    """Up to `most` + 1 matches, in no order. By the index: to read through the table would mean to
    unpack the words of every module on the way."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('enable_seqscan', 'off', true)")
        found = list(matches.order_by().values_list("pk", flat=True)[: most + 1])
        cursor.execute("SELECT set_config('enable_seqscan', 'on', true)")  # within another's block
    return found


def _most_downloaded(matches: LoraModuleQuerySet, most: int) -> set[int]:
    return set(matches.order_by("-downloads", "-pk").values_list("pk", flat=True)[:most])
