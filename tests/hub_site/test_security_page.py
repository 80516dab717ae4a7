"""docs/security.md names a test for each answer: they are there, and so is what they rest on."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/.]+\.py)?::(\w+)`")


def named_in(text: str) -> list[tuple[str, str]]:
    """File and test; a name without a file belongs to the file before it, in the same row."""
    found = []
    for row in text.splitlines():
        file = ""
        for path, test in NAMED.findall(row):
            file = path or file
            found.append((file, test))
    return found


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def rows() -> list[str]:
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    heads = [n for n, line in enumerate(lines) if set(line) <= set("|- ")]
    return [line for n, line in enumerate(lines) if n not in heads and n + 1 not in heads]


def test_every_test_that_it_names_is_there() -> None:
    named = named_in(PAGE)
    assert len(named) > 80
    files = {file for file, _ in named}
    assert "" not in files, "a row begins with a test that names no file"
    known = {file: functions_of(ROOT / file) for file in files}
    assert [f"{file}::{test}" for file, test in named if test not in known[file]] == []


def test_every_threat_has_an_answer_and_a_test() -> None:
    threats = [row for row in rows() if row.count("|") == 4]
    assert len(threats) > 40
    for row in threats:
        *_, answer, proof, _ = row.split("|")
        assert answer.strip() and NAMED.search(proof), row


def test_the_page_says_what_is_not_protected() -> None:
    last = PAGE.partition("## What is not protected")[2]
    assert last.count("\n- **") >= 8 and "\n## " not in last


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_to_one_version(name: str) -> None:
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    wanted = [line for line in lines if line and not line.startswith("-r ")]
    pinned = re.compile(r"[a-zA-Z0-9._-]+(\[[a-z,]+\])?==[0-9][\w.]*")
    assert len(wanted) > 5 and [line for line in wanted if not pinned.fullmatch(line)] == []
