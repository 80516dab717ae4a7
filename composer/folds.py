"""Measuring without test examples: k folds of the examples, each left out once. Only workers
import this.

Everything is done again without each part: the ranking's choice of modules, the search, what is
tuned of every other way, and the choice of the rival. What the parts' answers say together is how
good the procedure is, not the one adapter that is made of all examples in the end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from composer import model_cache
from composer.engine import compare
from composer.engine.objective import Objective
from composer.engine.selection import split
from composer.running import Round

if TYPE_CHECKING:
    from composer.runner import Composition


def measure(run: Composition) -> None:
    """All folds that are still to do, and their answers put together."""
    count = int(run.job.params.get("test_folds") or 0)
    if not count or run.given.held_out:
        return
    parts = split(len(run.given.shots), count, run.given.config.seed)
    for number, part in enumerate(parts, 1):
        if "measured" in run.search.evidence.get("folds", {}).get(str(number), {}):
            continue
        round_ = _round(run, number, part.tolist())
        run.show(stage_detail=f"fold {number} of {len(parts)}: searching without a part")
        best = run.find(round_)
        run.measure(round_, best)
        run.note_in(round_, measured=True)
    if "methods" not in run.search.evidence:
        run.note(**together(run.search.evidence["folds"], [part.tolist() for part in parts]))


def _round(run: Composition, number: int, left_out: list[int]) -> Round:
    given, shots = run.given, run.given.shots
    fitted = [shots[row] for row in range(len(shots)) if row not in left_out]
    mine = replace(given, shots=fitted, held_out=[shots[row] for row in sorted(left_out)])
    ingredients = run.search.evidence.get("fold_ingredients")
    stack = run.stack
    if ingredients is not None:
        stack = model_cache.stack_of(run.search, run.lease, ingredients[number - 1])
    objective = Objective.of(
        given.base,
        stack,
        fitted,
        given.template,
        given.config,
        options=given.options,
        chunk=run.objective.chunk,
    )
    return Round(str(number), mine, objective)


def together(folds: dict[str, Any], parts: list[list[int]]) -> dict[str, Any]:
    """Methods, answers and the rival over all parts, in the order of the examples."""
    order = np.argsort(np.concatenate([sorted(part) for part in parts]))
    each = [folds[str(number)] for number in range(1, len(parts) + 1)]
    named = [{row["key"]: row for row in fold["methods"]} for fold in each]
    keys = [key for key in named[0] if all(key in rows for rows in named)]
    methods = [_pooled(key, [rows[key] for rows in named], order) for key in keys]
    rivals = [fold.get("comparator", {}).get("key") for fold in each]
    found: dict[str, Any] = {
        "methods": methods,
        "answers": {
            key: _in_order([fold["answers"][key] for fold in each], order)
            for key in keys
            if all(key in fold["answers"] for fold in each)
        },
        "missing": {key: why for fold in each for key, why in fold.get("missing", {}).items()},
    }
    if all(rivals) and all(key in rows for key, rows in zip(rivals, named, strict=True)):
        if len(set(rivals)) == 1:
            found["comparator"] = {"key": rivals[0], "of_folds": rivals}
        else:
            chosen = [rows[key] for key, rows in zip(rivals, named, strict=True)]
            found["methods"].append(_pooled("chosen", chosen, order))
            found["comparator"] = {"key": "chosen", "of_folds": rivals}
    return found


def _pooled(key: str, rows: list[dict[str, Any]], order: Any) -> dict[str, Any]:
    total = sum(row["total"] for row in rows)
    correct = sum(row["correct"] for row in rows)
    pooled: dict[str, Any] = {
        "key": key,
        "correct": correct,
        "total": total,
        "detail": "; ".join(sorted({row["detail"] for row in rows if row["detail"]})),
        "tokens": round(sum(row["tokens"] * row["total"] for row in rows) / total, 1),
    }
    for name in ("forwards", "seconds", "seconds_to_train"):
        pooled[name] = round(sum(row[name] for row in rows), 3)
    pooled["size"] = max(row["size"] for row in rows)
    values = _in_order([_values(row) for row in rows], order)
    interval = compare.interval(values)
    if all(row.get("hits") for row in rows):
        pooled["hits"] = "".join("01"[int(value)] for value in values)
    else:
        pooled["scores"] = values
    pooled |= {"value": correct / total, "low": interval.low, "high": interval.high}
    pooled["losses"] = _in_order([row["losses"] for row in rows], order)
    return pooled


def _values(row: dict[str, Any]) -> list[float]:
    return list(row.get("scores") or [float(hit) for hit in row["hits"]])


def _in_order(columns: list[list[Any]], order: Any) -> list[Any]:
    joined = [value for column in columns for value in column]
    return [joined[place] for place in order]
