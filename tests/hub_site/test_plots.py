import re
from xml.etree import ElementTree

import pytest

from composer.plots import intervals, loss_curve

POINTS = [(21.0, 1.9), (41.0, 1.1), (61.0, 1.1), (81.0, 0.42)]


def svgs(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.S)]


def local(element: ElementTree.Element) -> str:
    return element.tag.rsplit("}", 1)[-1]


@pytest.mark.parametrize("options", [{}, {"budget": 200}, {"budget": 200, "baseline": 2.4}])
def test_it_draws_a_loss_curve_without_style_or_script(options: dict[str, float]) -> None:
    drawings = svgs(loss_curve(POINTS, **options))  # type: ignore[arg-type]
    assert len(drawings) == 3
    for root in drawings:
        elements = list(root.iter())
        assert {local(e) for e in elements} <= {"svg", "g", "path", "text", "line"}
        assert not [e for e in elements if "style" in e.attrib or "id" in e.attrib]
        assert "0.42 after 81 evaluations" in root.attrib["aria-label"]
        assert [e for e in elements if e.get("class", "").startswith("line")]
        assert [e for e in elements if "plot" in e.get("class", "").split()] == [root]


def test_the_same_points_give_the_same_picture() -> None:
    assert loss_curve(POINTS, budget=200) == loss_curve(POINTS, budget=200)


@pytest.mark.parametrize(
    "points", [[], [(21.0, 0.5)], [(0.0, 0.0), (1.0, 0.0)], [(5.0, 9e9)], [(5.0, -2.0)]]
)
def test_it_draws_whatever_a_search_may_yield(points: list[tuple[float, float]]) -> None:
    drawings = svgs(loss_curve(points, budget=200))
    assert len(drawings) == (3 if points else 0)


def test_intervals_are_a_table_that_says_it_all() -> None:
    html = intervals(
        [
            {"label": "zero-shot", "value": 0.12, "low": 0.07, "high": 0.2},
            {
                "label": "<composed>",
                "value": 0.84,
                "low": 0.76,
                "high": 0.9,
                "score": "84 of 100",
                "emphasised": True,
            },
        ]
    )
    assert "84 of 100" in html and "76 to 90 %" in html and "12 %" in html
    assert "&lt;composed&gt;" in html
    assert html.count('class="is-ours"') == 1
    assert 'cx="84.0%"' in html
    assert len(svgs(html)) == 2


def ticks(svg: ElementTree.Element) -> list[str]:
    return [e.text or "" for e in svg.iter() if local(e) == "text"]


def test_the_axis_begins_at_zero_unless_that_would_flatten_the_curve() -> None:
    far = ticks(svgs(loss_curve([(1.0, 4.0), (2.0, 1.0)]))[0])
    assert "0.0" in far
    near = ticks(svgs(loss_curve([(1.0, 7.74), (2.0, 7.72)]))[0])
    assert "0.0" not in near
    assert len({t for t in near if t.startswith("7.7")}) >= 2


def test_it_leaves_out_what_cannot_be_drawn() -> None:
    infinite = [(1.0, float("inf")), (2.0, 2.0), (3.0, 1.0)]
    assert loss_curve(infinite, baseline=float("nan")) == loss_curve(infinite[1:])
    assert loss_curve([(1.0, float("nan"))]) == ""
