"""A repo's README.md: the front matter that programs read, and the words that people read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from hub_site.markdown import without_front_matter

LIMIT = 200_000
FRONT_MATTER_LIMIT = 16_384
MOST_TAGS = 20
TAG = re.compile(r"[\w][\w .:/+-]{0,59}")


@dataclass(frozen=True)
class Card:
    """What a card says of its module. Whatever is missing or odd is left empty."""

    text: str = ""
    summary: str = ""
    licence: str = ""
    language: str = ""
    tags: tuple[str, ...] = ()


def read(data: bytes) -> Card:
    text = data[:LIMIT].decode("utf-8", errors="replace").replace("\0", "")
    said = _front_matter(text)
    body = without_front_matter(text)
    return Card(
        text=body,
        summary=_line(said.get("summary")) or _first_paragraph(body),
        licence=_line(said.get("license") or said.get("licence"))[:60],
        language=", ".join(_lines(said.get("language")))[:40],
        tags=tuple(t for t in dict.fromkeys(_lines(said.get("tags"))) if TAG.fullmatch(t))[
            :MOST_TAGS
        ],
    )


def _front_matter(text: str) -> dict[str, Any]:
    """The YAML between two lines of dashes. A slip in it costs the facts, not the page."""
    head = text[:FRONT_MATTER_LIMIT].replace("\r\n", "\n")
    parts = re.split(r"^---[ \t]*$", head, maxsplit=2, flags=re.MULTILINE)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        said = yaml.safe_load(parts[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _line(value: Any) -> str:
    return " ".join(value.split())[:300] if isinstance(value, str) else ""


def _lines(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [line for line in map(_line, values) if line]


def _first_paragraph(body: str) -> str:
    for paragraph in re.split(r"\n\s*\n", body):
        line = " ".join(paragraph.split())
        if line and not re.match(r"[#>|<!`*\-=\[]", line):
            plain = re.sub(r"[`*]|(?<!\w)_|_(?!\w)", "", line)
            return re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", plain)[:300]
    return ""
