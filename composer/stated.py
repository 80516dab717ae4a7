"""What a recipe file from elsewhere states of itself, as far as it is what it should be: workers
compute with it, and whoever wrote the file may have written anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from composer.engine import examples as engine_examples
from composer.engine.errors import BadExamples
from composer.engine.examples import Example

LARGEST = 1e30  # of a number that is compared
LARGEST_CHUNK = 1 << 20


def evidence(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of it that a verification reads; those of another kind are as good as not there."""
    proof = _mapping(given.get("proof"))
    wanted = {
        "proof": {
            "parts": _mapping(proof.get("parts")),
            "split": _only(_mapping(proof.get("split")), rule=_is_text, held_out_hash=_is_text),
            "first": _first(_mapping(proof.get("first"))),
        },
        "search": _only(
            _mapping(given.get("search")),
            loss_after=_is_number,
            best_loss=_is_number,
            trace=_is_text,
        ),
        "environment": _environment(_mapping(given.get("environment"))),
        "methods": [
            row
            for row in _list(given.get("methods"))
            if isinstance(row, Mapping) and _is_text(row.get("hits"))
        ],
        "example_losses": [row for row in _list(given.get("example_losses")) if _is_number(row)],
    }
    return {key: value for key, value in wanted.items() if value}


def examples(given: Any) -> dict[str, Any]:
    """Those that it shows, where they could be a task's; nothing otherwise."""
    found = _mapping(given)
    shots, held_out = (
        rows if _are_pairs(rows) else [] for rows in (found.get("shots"), found.get("held_out"))
    )
    options = found.get("answer_options")
    try:
        engine_examples.check(_plain(shots), _plain(held_out))
    except BadExamples:
        return {}
    return {
        "shots": shots,
        "held_out": held_out,
        "answer_options": options if isinstance(options, list) else [],
    }


def _plain(pairs: Sequence[Any]) -> list[Example]:
    return [Example(*pair) for pair in pairs]


def _first(given: Mapping[str, Any]) -> dict[str, Any]:
    """All of generation 0, or nothing: its losses only mean something together."""
    rows = given.get("singles", [])
    are_rows = isinstance(rows, list) and all(
        isinstance(row, Mapping) and _is_text(row.get("sha256")) and _is_loss(row.get("loss", ""))
        for row in rows
    )
    if not are_rows or not _is_loss(given.get("zero", "")):
        return {}
    return _only(given, zero=_is_loss, singles=_is_list, digest=_is_text)


def _environment(given: Mapping[str, Any]) -> dict[str, Any]:
    chunk = _mapping(given.get("chunk"))
    sizes = [chunk.get(key) for key in ("candidates", "examples")]
    if all(type(each) is int and 0 < each <= LARGEST_CHUNK for each in sizes):
        return dict(given)
    return {key: value for key, value in given.items() if key != "chunk"}


def _only(given: Mapping[str, Any], **kinds: Callable[[Any], bool]) -> dict[str, Any]:
    return {key: given[key] for key, is_one in kinds.items() if key in given and is_one(given[key])}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and abs(value) <= LARGEST


def _is_loss(value: Any) -> bool:
    """None stands for an infinite one, which JSON cannot say."""
    return value is None or _is_number(value)


def _are_pairs(rows: Any) -> TypeGuard[list[Any]]:
    return isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == 2 and all(isinstance(text, str) for text in row)
        for row in rows
    )
