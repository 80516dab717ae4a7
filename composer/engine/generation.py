"""One generation of a search, as it is yielded, stored and read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Generation:
    """P candidates and their losses; the best so far, over all generations.

    weights (P, n), losses (P,) as the optimiser was told them, with inf where one was not finite,
    best_weights (n,) in canonical sign for `lorahub`. best_loss is the loss the best was chosen
    by: its own in `losses`, or in selection_losses where examples are kept back. evaluations
    counts all so far, in forward-equivalents; seconds is this generation's.

    selection_losses  (P, S): the loss on each part of the examples that is kept back, or None
    gradients         (P, n): where the optimiser reads them, or None
    restarts          how often the search has begun anew
    ended             "" while it goes on, then why it ended: budget, converged or patience
    """

    number: int
    weights: Array
    losses: Array
    best_weights: Array
    best_loss: float
    evaluations: int
    budget: int
    seconds: float
    digest: str
    labels: tuple[str, ...] = ()
    selection_losses: Array | None = None
    gradients: Array | None = None
    restarts: int = 0
    ended: str = ""

    def to_json(self) -> dict[str, Any]:
        """Floats as hexadecimal text: every bit survives."""
        row: dict[str, Any] = {
            "number": self.number,
            "weights": [_hex(candidate) for candidate in self.weights],
            "losses": _hex(self.losses),
            "best_weights": _hex(self.best_weights),
            "best_loss": float(self.best_loss).hex(),
            "evaluations": self.evaluations,
            "budget": self.budget,
            "seconds": self.seconds,
            "digest": self.digest,
            "labels": list(self.labels),
            "restarts": self.restarts,
            "ended": self.ended,
        }
        for name, rows in (
            ("selection_losses", self.selection_losses),
            ("gradients", self.gradients),
        ):
            if rows is not None:
                row[name] = [_hex(values) for values in rows]
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Generation:
        """Also rows that were stored before there were restarts, selections and gradients."""
        return cls(
            number=int(row["number"]),
            weights=_rows(row["weights"]),
            losses=_floats(row["losses"]),
            best_weights=_floats(row["best_weights"]),
            best_loss=float.fromhex(row["best_loss"]),
            evaluations=int(row["evaluations"]),
            budget=int(row["budget"]),
            seconds=float(row["seconds"]),
            digest=str(row["digest"]),
            labels=tuple(row["labels"]),
            selection_losses=_rows(row["selection_losses"]) if "selection_losses" in row else None,
            gradients=_rows(row["gradients"]) if "gradients" in row else None,
            restarts=int(row.get("restarts", 0)),
            ended=str(row.get("ended", "")),
        )


def _hex(values: Array) -> list[str]:
    return [float(value).hex() for value in values]


def _floats(values: Sequence[str]) -> Array:
    return np.array([float.fromhex(value) for value in values])


def _rows(rows: Sequence[Sequence[str]]) -> Array:
    return np.array([_floats(values) for values in rows])
