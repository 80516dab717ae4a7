"""Cards and descriptions: Markdown in, harmless HTML out."""

import re
from functools import lru_cache

import nh3
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

# Hostile Markdown takes time with the square of its length: 2 s for this much, 10 s for six times.
MAX_CHARACTERS = 30_000
CUT = "\n\n*The text is longer than a page shows; the rest is in the file.*\n"
TAGS = frozenset(
    {"a", "p", "br", "hr", "strong", "em", "del", "s", "code", "pre", "blockquote"}
    | {"ul", "ol", "li", "h2", "h3", "h4", "h5", "h6"}
    | {"table", "thead", "tbody", "tr", "th", "td"}
)
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}, "code": {"class"}}
_FIRST_HEADING = r"\A\s*<h([12])>(?:[^<]*/)?{}</h\1>"
_parser = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(
    ["table", "strikethrough"]
)


@lru_cache(maxsize=128)
def render(text: str, title: str = "") -> SafeString:
    """HTML of this Markdown without raw HTML, images, scripts, styles or strange links.

    Images are left out because an image from elsewhere tells its server who reads the page, and our
    policy would not show it. Headings start at h2, because the page has its own h1; a first heading
    that only repeats the page's title is left out.
    """
    text = without_front_matter(text)
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS] + CUT
    html = _parser.render(text)
    if title:
        html = re.sub(
            _FIRST_HEADING.format(re.escape(escape(title))), "", html, flags=re.IGNORECASE
        )
    html = html.replace("<h1>", "<h2>").replace("</h1>", "</h2>")
    clean = nh3.clean(
        html,
        tags=set(TAGS),
        attributes=ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="nofollow noopener",
    )
    return mark_safe(clean)  # noqa: S308  the line above made it so


def without_front_matter(text: str) -> str:
    """A card begins with YAML between two lines of dashes; that is for programs."""
    if not text.startswith("---"):
        return text
    lines = text.splitlines(keepends=True)
    for index, line in enumerate(lines[1:], start=1):
        if line.rstrip() == "---":
            return "".join(lines[index + 1 :])
    return text
