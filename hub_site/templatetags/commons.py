"""The site's own tags and filters, there in every template without `{% load %}`.

Colour: dot, blend, blend_key, weight_bars, hue_class. Figures: signed, number, count, grouped,
file_size, percent, duration. Marks: term, hash, ago, icon. Text: markdown, short.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from hub_site import colour, figures, markdown
from hub_site.terms import TERMS

register = template.Library()

register.filter("hue_class", colour.hue_class)
register.filter("count", figures.count)
register.filter("grouped", figures.grouped)
register.filter("file_size", figures.size)
register.filter("duration", figures.duration)
register.filter("markdown", markdown.render)


@register.filter
def signed(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else figures.signed(value, digits)


@register.filter
def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else figures.number(value, digits)


@register.filter
def percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else figures.percent(value, digits)


@register.filter
def short(name: Any) -> str:
    """The repo's own name, without its owner."""
    return str(name).rsplit("/", 1)[-1]


@register.simple_tag
def dot(name: Any, weight: float | None = None) -> SafeString:
    """The round mark in a module's own colour; hatched when its weight is negative."""
    negative = " is-negative" if weight is not None and weight < 0 else ""
    return format_html(
        '<span class="dot {}{}" aria-hidden="true"></span>', colour.hue_class(str(name)), negative
    )


@register.inclusion_tag("parts/blend.html")
def blend(
    ingredients: Iterable[Any],
    size: str = "medium",
    id: str = "",  # noqa: A002
) -> dict[str, Any]:
    """A recipe as its blend: one segment an ingredient, width by |weight|, negative ones hatched.

    The strongest first and the negative ones last; but with an id the segments keep their order
    and ids, so that a live bar grows instead of jumping.
    """
    parts = colour.pigments(ingredients)
    if not id:
        parts.sort(key=lambda part: -part.weight)
    total = sum(abs(part.weight) for part in parts)
    segments, x = [], 0.0
    for index, part in enumerate(parts):
        width = 100 * abs(part.weight) / total if total else 0.0
        segments.append({"index": index, "part": part, "x": f"{x:.2f}%", "width": f"{width:.2f}%"})
        x += width
    loudest = sorted((p for p in parts if p.weight), key=lambda part: -abs(part.weight))
    spoken = ", ".join(f"{p.short} {figures.signed(p.weight)}" for p in loudest[:6])
    if len(loudest) > 6:
        spoken += f" and {len(loudest) - 6} more"
    return {"segments": segments, "size": size, "id": id, "spoken": spoken, "is_zero": not total}


@register.inclusion_tag("parts/blend_key.html")
def blend_key(ingredients: Iterable[Any], most: int = 12) -> dict[str, Any]:
    """Beside a blend: dot, name and weight of each ingredient, the strongest first."""
    parts = sorted(colour.pigments(ingredients), key=lambda part: -abs(part.weight))
    return {"parts": parts[:most], "left_out": max(0, len(parts) - most)}


@register.inclusion_tag("parts/weight_bars.html")
def weight_bars(ingredients: Iterable[Any], id: str = "") -> dict[str, Any]:  # noqa: A002
    """Signed bars, one row an ingredient, the strongest first, zero in its true place."""
    parts = sorted(colour.pigments(ingredients), key=lambda part: -part.weight)
    low = min([0.0, *(part.weight for part in parts)])
    high = max([0.0, *(part.weight for part in parts)])
    span = (high - low) or 1.0
    zero = 100 * -low / span
    rows = []
    for part in parts:
        width = 100 * abs(part.weight) / span
        start = zero - width if part.is_negative else zero
        rows.append({"part": part, "x": f"{start:.2f}%", "width": f"{width:.2f}%"})
    return {"rows": rows, "zero": f"{zero:.2f}%", "id": id}


@register.inclusion_tag("parts/gain_bars.html")
def gain_bars(rows: Iterable[dict[str, Any]], examples: int) -> dict[str, Any]:
    """Modules ranked by what each takes away of the base model's loss; each row {name, url, gain,
    loss, exact, same}, with how many of the examples it answers."""
    listed = list(rows)
    parts = colour.pigments([(row["name"], row["gain"], row["url"]) for row in listed])
    low = min([0.0, *(row["gain"] for row in listed)])
    span = (max([0.0, *(row["gain"] for row in listed)]) - low) or 1.0
    zero = 100 * -low / span
    drawn = []
    for part, row in zip(parts, listed, strict=True):
        width = 100 * abs(row["gain"]) / span
        start = zero - width if row["gain"] < 0 else zero
        drawn.append({**row, "part": part, "x": f"{start:.2f}%", "width": f"{width:.2f}%"})
    return {"rows": drawn, "zero": f"{zero:.2f}%", "examples": examples}


@register.simple_tag
def term(name: str, shown: str = "") -> SafeString:
    """A term of art with its one plain phrase on hover and focus. An unknown one is a mistake."""
    return format_html(
        '<span class="term" tabindex="0" data-term>{}<span class="hint" role="note">'
        '<span class="visually-hidden">: </span>{}</span></span>',
        shown or name,
        TERMS[name],
    )


@register.simple_tag
def hash(value: str, length: int = 10) -> SafeString:  # noqa: A001
    """The first characters of a hash; the whole one on hover and for the copy button."""
    return format_html(
        '<span class="hash"><code title="{0}">{1}</code>{2}</span>',
        value,
        str(value)[:length],
        copy_button(value, "Copy the whole hash"),
    )


@register.simple_tag(name="copy")
def copy_button(text: Any, label: str = "Copy") -> SafeString:
    """A button that copies this text; absent where there is no JavaScript."""
    return format_html(
        '<button type="button" class="copy needs-js" data-copy="{}" aria-label="{}" title="{}">{}'
        "</button>",
        text,
        label,
        label,
        icon("copy"),
    )


@register.simple_tag
def ago(when: datetime | None) -> SafeString:
    """How long ago; the exact time on hover."""
    if when is None:
        return mark_safe("–")
    utc = when.astimezone(timezone.get_default_timezone())
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        when.isoformat(timespec="seconds"),
        f"{utc.day} {utc:%B %Y, %H:%M} {utc:%Z}",
        figures.ago(when),
    )


# Drawn by us on a grid of sixteen.
ICONS = {
    "copy": "M5.5 5.5h8v8h-8z M3 10.5h-.5v-8h8v.5",
    "check": "M3 8.5l3.5 3.5L13 4.5",
    "download": "M8 2v8 M4.5 7L8 10.5 11.5 7 M2.5 13.5h11",
    "heart": "M8 13.5C3 10 2 7.7 2 5.8A3 3 0 0 1 8 4.6 3 3 0 0 1 14 5.8C14 7.7 13 10 8 13.5z",
    "recipe": "M2 12.5h12 M2 8h8 M2 3.5h10",
    "plus": "M8 3v10 M3 8h10",
    "cross": "M4 4l8 8 M12 4l-8 8",
    "arrow": "M2.5 8h11 M9.5 4l4 4-4 4",
    "search": "M7 2.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9z M10.3 10.3L14 14",
    "lock": "M3.5 7.5h9v6h-9z M5.5 7.5v-2a2.5 2.5 0 0 1 5 0v2",
    "gate": "M2.5 13.5v-10 M13.5 13.5v-10 M2.5 6h11 M2.5 11h11 M6.2 3.5v10 M9.8 3.5v10",
    "warn": "M8 2.5l6.5 11h-13z M8 6.5v3.5 M8 12v.01",
    "play": "M4.5 3v10l8-5z",
    "file": "M3.5 1.5h6l3 3v10h-9z M9.5 1.5v3h3",
}


@register.simple_tag
def icon(name: str, label: str = "") -> SafeString:
    """A small line drawing; say nothing more to a screen reader unless it has a label."""
    spoken = format_html('role="img" aria-label="{}"', label) if label else 'aria-hidden="true"'
    return format_html(
        '<svg class="icon" viewBox="0 0 16 16" {}><path d="{}"/></svg>',
        mark_safe(spoken),  # noqa: S308  made two lines above, the label escaped
        ICONS[name],
    )


@register.simple_tag(takes_context=True)
def current(context: dict[str, Any], *prefixes: str) -> SafeString:
    """`aria-current` for a link whose part of the site this page belongs to."""
    request = context.get("request")
    here = request is not None and request.path.startswith(prefixes)
    return SafeString(' aria-current="page"' if here else "")


@register.simple_tag(takes_context=True)
def with_query(context: dict[str, Any], **changes: Any) -> str:
    """This page's query string with these changes: None takes a name out."""
    query = context["request"].GET.copy()
    for name, value in changes.items():
        query.pop(name, None)
        if value not in (None, ""):
            query[name] = value
    encoded = query.urlencode()
    return f"?{encoded}" if encoded else context["request"].path
