"""Optimisers of scipy that call a function of their own accord, turned into ask and tell.

scipy's loop runs in a thread that waits, while a candidate is evaluated by whoever asked: never
do both run at once, and the model never leaves the caller's thread. A search that is resumed tells
the stored losses again, and so leads the thread to where it was.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from composer.engine.config import SearchConfig
from composer.engine.optimisers import AT_ONCE, FORWARDS_PER_GRADIENT, within

Array = NDArray[np.float64]
Function = Callable[[Array], Any]


class _Abandoned(BaseException):
    """Raised inside scipy's loop to end it; no `except Exception` on its way stops it."""


class TurnTaking:
    """Runs `loop(function)` in a thread; each call of the function is a candidate that ask()
    gives, and returns what tell() says."""

    uses_gradients = False
    cost = 1

    def __init__(self, config: SearchConfig, loop: Callable[[Function], None]) -> None:
        self.group = config.population or AT_ONCE
        self.config = config
        self.told = 0
        self._loop = loop
        self._proposals: queue.SimpleQueue[Array | BaseException | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._next: Array | None = None
        # A daemon only so that a search which nobody closed cannot keep Python from ending.
        self._thread = threading.Thread(target=self._run, name="optimiser", daemon=True)
        self._thread.start()
        self._await()

    @property
    def converged(self) -> bool:
        return self._next is None

    def ask(self) -> Array:
        assert self._next is not None, "a converged optimiser was asked"
        return self._next[None].copy()

    def tell(self, weights: Array, losses: Array, gradients: Array | None) -> None:
        self.told += 1
        loss = float(losses[0])
        self._answers.put(loss if gradients is None else (loss, gradients[0].copy()))
        self._await()

    def arrays(self) -> list[Array]:
        return [] if self._next is None else [self._next]

    def facts(self) -> list[Any]:
        return [self.told]

    def close(self) -> None:
        """End the thread wherever it is, and wait for it."""
        if self._thread.is_alive():
            self._answers.put(_Abandoned())
            self._thread.join()
        self._next = None

    def _await(self) -> None:
        """Until the loop has its next candidate or has ended. Its own error becomes ours."""
        found = self._proposals.get()
        if isinstance(found, BaseException):
            self._next = None
            self._thread.join()
            raise found
        self._next = found
        if found is None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._loop(self._evaluate)
        except _Abandoned:
            return
        except BaseException as error:  # the caller's to see, whatever it is
            self._proposals.put(error)
        else:
            self._proposals.put(None)

    def _evaluate(self, x: Array) -> Any:
        # Both may overstep a bound by a little: they are told the loss of what lies within.
        self._proposals.put(within(np.array(x, dtype=np.float64), self.config))
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Cobyla(TurnTaking):
    """Powell's COBYLA (1994) in scipy's version of PRIMA: linear models on a simplex of n + 1
    points. It is what LoraHub's released code runs at its budget, where nevergrad chooses it.

    σ is the first trust radius; bounds are constraints, and a candidate that oversteps one (this
    COBYLA does not keep to them on its way) is clipped.
    """

    def __init__(self, start: Array, config: SearchConfig) -> None:
        def loop(function: Function) -> None:
            minimize(
                function,
                start,
                method="COBYLA",
                bounds=_bounds(len(start), config),
                tol=min(1e-4, config.sigma / 10),
                options={
                    "rhobeg": config.sigma,
                    # The search counts for itself; this is only never to be reached.
                    "maxiter": config.budget + len(start) + 2,
                },
            )

        super().__init__(config, loop)


class Lbfgs(TurnTaking):
    """L-BFGS-B (Byrd, Lu, Nocedal and Zhu, 1995) on gradients of the loss by autograd, each
    charged three evaluations."""

    cost = FORWARDS_PER_GRADIENT
    uses_gradients = True

    def __init__(self, start: Array, config: SearchConfig) -> None:
        def loop(function: Function) -> None:
            minimize(
                function,
                start,
                jac=True,
                method="L-BFGS-B",
                bounds=_bounds(len(start), config),
                options={"maxiter": config.budget, "maxfun": config.budget},
            )

        super().__init__(config, loop)


def _bounds(n: int, config: SearchConfig) -> list[tuple[float, float]] | None:
    return None if config.bound is None else [(-config.bound, config.bound)] * n
