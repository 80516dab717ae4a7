"""Pages cut at a value, not at a count: the last page costs what the first one costs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import BooleanField, F, Func, QuerySet, Value

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


def cut(
    queryset: QuerySet,
    order: Order,
    cursor: str = "",
    size: int = SIZE,
    load: Callable[[QuerySet], QuerySet] | None = None,
) -> Page:
    """One page, and the cursors of its neighbours; an empty cursor means there is none.

    `load` says what a row needs to be shown. That is then read in a second query, for the rows of
    this page alone, whatever the first one had to look through.
    """
    back = False
    if cursor:
        back, value, pk = _position(cursor, order)
        try:
            queryset = queryset.filter(_beyond(queryset, order, back, value, pk))
        except (ValueError, TypeError, OverflowError, ValidationError) as error:
            raise BadCursor(DAMAGED) from error
    ordered = queryset.order_by(*order.by(reverse=back))
    is_annotation = order.key in queryset.query.annotations
    if load:
        ordered = ordered.only("pk", *([] if is_annotation else [order.key]))
    found = list(ordered[: size + 1])
    more, found = len(found) > size, found[:size]
    if back:
        found.reverse()
    if load and found:
        loaded = load(queryset.model._default_manager.all()).in_bulk([row.pk for row in found])
        found = [row for row in found if row.pk in loaded]  # others were deleted just now
        if is_annotation:
            for row in found:
                setattr(loaded[row.pk], order.key, getattr(row, order.key))
        found = [loaded[row.pk] for row in found]
    has_previous = more if back else bool(cursor)
    has_next = True if back else more
    return Page(
        items=found,
        previous=_cursor("before", order, found[0]) if found and has_previous else "",
        next=_cursor("after", order, found[-1]) if found and has_next else "",
    )


class Beyond(Func):
    """`(key, id) < (value, id)`: a comparison of rows, which an index on both walks from there."""

    output_field = BooleanField()
    conditional = True

    def as_sql(self, compiler: Any, connection: Any, **context: Any) -> tuple[str, list[Any]]:
        parts, parameters = [], []
        for part in self.get_source_expressions():
            sql, values = compiler.compile(part)
            parts.append(sql)
            parameters += values
        key, pk, value, last = parts
        return f"({key}, {pk}) {self.extra['sign']} ({value}, {last})", parameters


def _beyond(queryset: QuerySet, order: Order, back: bool, value: Any, pk: int) -> Beyond:
    sign = "<" if order.descending != back else ">"
    annotation = queryset.query.annotations.get(order.key)
    meta = queryset.model._meta
    field = annotation.output_field if annotation else meta.get_field(order.key)
    last = meta.pk
    value, pk = field.get_prep_value(field.to_python(value)), last.get_prep_value(pk)
    if not -(2**63) <= pk < 2**63 or isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise OverflowError("larger than the column")
    return Beyond(F(order.key), F("pk"), Value(value, field), Value(pk, last), sign=sign)


def _cursor(side: str, order: Order, row: Any) -> str:
    value = getattr(row, order.key)
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
