"""Both themes can be read: every pair of colours that meets on a page, computed from tokens.css."""

import math
import re
from pathlib import Path

import pytest

from hub_site.colour import HUES

TOKENS = (Path(__file__).parents[2] / "hub_site/static/css/tokens.css").read_text()
LIGHT, DARK = TOKENS.split("@media (prefers-color-scheme: dark)", 1)
DARK = DARK.split("@media", 1)[0]
RGB = tuple[float, float, float]

TEXT = [
    *[(ink, paper) for ink in ("ink", "ink-soft") for paper in ("paper", "raised", "sunken")],
    *[("ink", f"{wash}-wash") for wash in ("accent", "danger", "good", "warn")],
    *[(name, f"{name}-wash") for name in ("accent", "danger", "good", "warn")],
    *[
        (name, paper)
        for name in ("accent", "accent-strong", "danger", "good", "warn")
        for paper in ("paper", "raised", "sunken")
    ],
    ("ink-soft", "accent-wash"),
    ("on-accent", "accent"),
    ("on-accent", "accent-strong"),
    ("on-danger", "danger"),
    ("paper", "ink"),
]
SHAPES = [("line-strong", "paper"), ("line-strong", "raised"), ("accent", "paper")]


def theme(name: str) -> dict[str, str]:
    found = dict(re.findall(r"--([\w-]+):\s*([^;]+);", LIGHT))
    if name == "dark":
        found |= dict(re.findall(r"--([\w-]+):\s*([^;]+);", DARK))
    return found


def linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def from_hex(colour: str) -> RGB:
    red, green, blue = (linear(int(colour[n : n + 2], 16) / 255) for n in (1, 3, 5))
    return red, green, blue


def from_oklch(lightness: float, chroma: float, hue: float) -> RGB:
    """Linear sRGB, cut off at the edges of what a screen can show."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    rgb = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    red, green, blue = (min(1.0, max(0.0, channel)) for channel in rgb)
    return red, green, blue


def contrast(one: RGB, other: RGB) -> float:
    lighter, darker = sorted(
        (0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (one, other)), reverse=True
    )
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_it_can_be_read(name: str) -> None:
    tokens = theme(name)
    weak = {
        f"{ink} on {paper}": round(found, 2)
        for ink, paper in TEXT
        if (found := contrast(from_hex(tokens[ink]), from_hex(tokens[paper]))) < 4.5
    }
    assert not weak


@pytest.mark.parametrize("name", ["light", "dark"])
def test_borders_of_fields_and_marks_can_be_seen(name: str) -> None:
    tokens = theme(name)
    for ink, paper in SHAPES:
        assert contrast(from_hex(tokens[ink]), from_hex(tokens[paper])) >= 3, (ink, paper)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_every_pigment_can_be_seen(name: str) -> None:
    tokens = theme(name)
    paper = from_hex(tokens["paper"])
    for hue in range(HUES):
        angle = float(re.search(rf"\.hue-{hue} {{ --hue: (\d+); }}", TOKENS)[1])  # type: ignore[index]
        pigment = from_oklch(float(tokens["pigment-l"]), float(tokens["pigment-c"]), angle)
        assert contrast(pigment, paper) >= 3, hue


def test_dark_mode_changes_nothing_but_tokens() -> None:
    css = Path(__file__).parents[2] / "hub_site/static/css"
    for sheet in ("base", "layout", "components", "pages"):
        text = (css / f"{sheet}.css").read_text()
        assert "prefers-color-scheme" not in text
        assert not re.search(r":\s*#[0-9a-f]{3,8}\b|rgba?\(|hsla?\(", text), sheet
        assert text.count("@layer") == 1


def test_every_class_and_variable_is_there_and_used() -> None:
    root = Path(__file__).parents[2]
    css = "".join(path.read_text() for path in (root / "hub_site/static/css").glob("*.css"))
    defined = set(re.findall(r"\.([a-z][\w-]*)", css))
    used = set()
    ours = [path for path in (root / "templates").rglob("*.html") if "admin" not in path.parts]
    for path in ours:
        text = re.sub(r"[\w-]*{{.*?}}[\w-]*|{%.*?%}", " ", path.read_text())
        for classes in re.findall(r'class="([^"]*)"', text):
            used |= set(classes.split())
    assert used - defined <= {"mark"}
    assert set(re.findall(r"var\(--([\w-]+)", css)) == set(re.findall(r"--([\w-]+):", css))
