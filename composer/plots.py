"""Plots as SVG, drawn on the server; the stylesheet colours them, so both themes can read them.

The loss curve is pygal's. Intervals and weights are tables with a drawn column, because their rows
are names that must wrap, link and be read aloud: see docs/decisions/0003-plots.md.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from xml.etree.ElementTree import Element

import pygal
from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe
from pygal.style import Style

from hub_site.figures import number, percent

Point = tuple[float, float]

# Width, height and letter size in the drawing's own units; the stylesheet shows the one that fits.
SHAPES = {"is-narrow": (340, 220, 14), "is-middle": (560, 260, 13), "is-wide": (780, 280, 13)}


def loss_curve(
    points: Sequence[Point], *, budget: int | None = None, baseline: float | None = None
) -> SafeString:
    """Best loss so far over evaluations, as steps; `baseline` is the base model's own loss.

    With the budget given the axis stays still while the curve grows.
    """
    points = [point for point in points if math.isfinite(point[1])]
    if not points:
        return mark_safe("")
    if baseline is not None and not math.isfinite(baseline):
        baseline = None
    return _drawn(tuple(points), budget, baseline)


@lru_cache(maxsize=32)  # all who watch a search see the same one
def _drawn(points: tuple[Point, ...], budget: int | None, baseline: float | None) -> SafeString:
    spoken = _loss_in_words(points, baseline)
    return mark_safe(  # noqa: S308  pygal escapes its texts, _cleaned drops all but shapes and text
        '<div class="plot-fit">'
        + "".join(
            _loss_curve(points, budget, baseline, name, shape, spoken)
            for name, shape in SHAPES.items()
        )
        + "</div>"
    )


def _loss_curve(
    points: Sequence[Point],
    budget: int | None,
    baseline: float | None,
    name: str,
    shape: tuple[int, int, int],
    spoken: str,
) -> str:
    width, height, letters = shape
    last = float(budget or points[-1][0])
    low, high = _range([loss for _, loss in points] + ([] if baseline is None else [baseline]))
    digits = max(1, 1 - math.floor(math.log10(high - low)))
    chart = pygal.XY(
        width=width,
        height=height,
        margin=4,
        margin_right=letters,
        spacing=letters // 2,
        style=Style(
            label_font_size=letters, major_label_font_size=letters, title_font_size=letters
        ),
        css=(),
        js=(),
        show_legend=False,
        show_dots=False,
        disable_xml_declaration=True,
        xrange=(0, last),
        range=(low, high),
        min_scale=3,
        max_scale=5,
        truncate_label=-1,
        x_labels=_ticks(last),
        value_formatter=lambda value: number(value, digits),
        x_value_formatter=lambda value: f"{value:.0f}",
        x_title="evaluations",
    )
    chart.add("best loss", _steps(points))
    if baseline is not None:
        chart.add("base model alone", [(0, baseline), (last, baseline)])
    chart.add_xml_filter(lambda root: _cleaned(root, name, spoken))
    svg = chart.render(is_unicode=True)
    return svg if isinstance(svg, str) else svg.decode()


def _range(losses: Sequence[float]) -> tuple[float, float]:
    """From zero, unless that would flatten the curve to a line at the top."""
    least, most = min(losses), max(losses)
    if most <= 0:
        return min(least, 0.0), 1.0
    if least < 0.6 * most:
        return min(least, 0.0), 1.05 * most
    room = 0.15 * (most - least) or 0.05 * most
    return least - 2 * room, most + room


def _steps(points: Sequence[Point]) -> list[Point]:
    """The best loss holds until something better is found."""
    steps: list[Point] = [points[0]]
    for (_, before), (x, loss) in zip(points, points[1:], strict=False):
        steps += [(x, before), (x, loss)]
    return steps


def _ticks(last: float, about: int = 5) -> list[float]:
    """Round numbers from 0 to `last`, about five of them."""
    size = 1.0
    for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000):
        size = float(step)
        if last / size <= about:
            break
    return [tick * size for tick in range(int(last / size) + 1)]


def _loss_in_words(points: Sequence[Point], baseline: float | None) -> str:
    (_, first), (evaluations, best) = points[0], points[-1]
    words = f"Best loss {number(best)} after {evaluations:.0f} evaluations, from {number(first)}"
    return words if baseline is None else f"{words}; the base model alone has {number(baseline)}"


def _cleaned(root: Element, name: str, spoken: str) -> Element:
    """Shapes and text only: no style, script, tooltips, or ids that change with every drawing."""
    for parent in list(root.iter()):
        for child in list(parent):
            tag = child.tag.rsplit("}", 1)[-1] if isinstance(child.tag, str) else ""
            is_empty = re.search(r"background|overlay", child.get("class", ""))
            if tag not in {"g", "path", "text", "line"} or is_empty:
                parent.remove(child)
    for element in root.iter():
        for attribute in ("id", "style"):
            element.attrib.pop(attribute, None)
        if element.get("class") == "plot":
            del element.attrib["class"]
        if "d" in element.attrib:
            element.set("d", re.sub(r"(\.\d)\d+", r"\1", element.attrib["d"]))
    root.set("class", f"plot {name}")
    root.set("role", "img")
    root.set("aria-label", spoken)
    return root


def intervals(methods: Iterable[Mapping[str, Any]]) -> SafeString:
    """Dot-and-interval rows: each method {label, value, low, high} of 0 to 1, one {emphasised}.

    `score` (words such as "84 of 100"), `note` and `url` are shown when given.
    """
    rows = []
    for method in methods:
        low, high = max(0.0, method["low"]), min(1.0, method["high"])
        rows.append(
            {
                **method,
                "score": method.get("score") or percent(method["value"]),
                "range": f"{number(100 * low, 0)} to {percent(high)}",
                "x": f"{100 * method['value']:.1f}%",
                "x_low": f"{100 * low:.1f}%",
                "x_high": f"{100 * high:.1f}%",
            }
        )
    has_notes = any(row.get("note") for row in rows)
    return mark_safe(  # noqa: S308  a template escapes what it shows
        render_to_string("parts/intervals.html", {"rows": rows, "has_notes": has_notes})
    )
