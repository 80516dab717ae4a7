"""Pages cut at a value, not at a count: the last page costs what the first one costs."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet

from composer.engine.errors import CommonsError

SIZE = 20
DAMAGED = "This link to a page of the list is damaged. Start at the first page."


class BadCursor(CommonsError):
    code = "bad_cursor"


@dataclass(frozen=True)
class Order:
    """Sort by a field or annotation; the id decides between equals, in the same direction."""

    key: str
    descending: bool = True

    def by(self, *, reverse: bool = False) -> tuple[str, str]:
        sign = "-" if self.descending != reverse else ""
        return sign + self.key, sign + "pk"


@dataclass(frozen=True)
class Page:
    items: list[Any]
    previous: str
    next: str


def cut(queryset: QuerySet, order: Order, cursor: str = "", size: int = SIZE) -> Page:
    """One page, and the cursors of its neighbours; an empty cursor means there is none."""
    back = False
    if cursor:
        back, value, pk = _position(cursor, order)
        try:
            queryset = queryset.filter(_beyond(order, back, value, pk))
        except (ValueError, TypeError, OverflowError, ValidationError) as error:
            raise BadCursor(DAMAGED) from error
    found = list(queryset.order_by(*order.by(reverse=back))[: size + 1])
    more, found = len(found) > size, found[:size]
    if back:
        found.reverse()
    has_previous = more if back else bool(cursor)
    has_next = True if back else more
    return Page(
        items=found,
        previous=_cursor("before", order, found[0]) if found and has_previous else "",
        next=_cursor("after", order, found[-1]) if found and has_next else "",
    )


def _beyond(order: Order, back: bool, value: Any, pk: int) -> Q:
    lookup = "lt" if order.descending != back else "gt"
    return Q(**{f"{order.key}__{lookup}": value}) | Q(**{order.key: value, f"pk__{lookup}": pk})


def _cursor(side: str, order: Order, row: Any) -> str:
    value = row
    for part in order.key.split("__"):
        value = getattr(value, part)
    if isinstance(value, datetime):
        value = {"time": value.isoformat()}
    text = json.dumps([side, order.key, value, row.pk])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _position(cursor: str, order: Order) -> tuple[bool, Any, int]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        side, key, value, pk = json.loads(base64.urlsafe_b64decode(padded))
        if isinstance(value, dict):
            value = datetime.fromisoformat(value["time"]).astimezone(UTC)
        if side not in ("after", "before") or key != order.key or not isinstance(pk, int):
            raise ValueError("not a cursor of this list")
        if not isinstance(value, str | int | float | datetime) or "\0" in str(value):
            raise ValueError("not a value of ours")
        str(value).encode()  # half a surrogate pair is no text
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise BadCursor(DAMAGED) from error
    return side == "before", value, pk
