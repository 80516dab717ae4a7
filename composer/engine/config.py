"""How to search: combination, objective, optimiser and its settings, as one frozen value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from composer.engine.errors import BadConfig

COMBINATIONS = ("sum", "lorahub")
OBJECTIVES = ("paper", "reference")
REDUCTIONS = ("token", "example")
OPTIMISERS = ("cmaes",)
BUDGET_LIMIT = 100_000


@dataclass(frozen=True)
class SearchConfig:
    """Settings of one search.

    combination  `sum`: ΔW = Σ w_i s_i B_i A_i; `lorahub`: ΔW = s (Σ w_i B_i)(Σ w_i A_i)
    objective    `paper`: cross-entropy + penalty·Σ|w|, as the LoraHub paper writes (arXiv
                 2307.13269, section 3.3); `reference`: what its code computes,
                 cross-entropy / examples + penalty·mean|w|
    reduction    cross-entropy pooled over all label tokens, or the mean per example first
    budget       evaluations: one candidate's loss on all examples is one evaluation
    x0, sigma    every weight's start, and the first step size of CMA-ES
    bound        |w_i| <= bound, or None for no bound
    population   candidates a generation; None lets CMA-ES choose 4 + 3 ln N
    singles      generation 0 tries each module alone at weight 1, besides all weights zero
    """

    combination: str = "sum"
    objective: str = "paper"
    reduction: str = "token"
    optimiser: str = "cmaes"
    budget: int = 200
    seed: int = 0
    x0: float = 0.1
    sigma: float = 0.1
    bound: float | None = 1.5
    penalty: float = 0.02
    population: int | None = None
    singles: bool = True

    def validate(self) -> SearchConfig:
        """Return self, or raise BadConfig naming the setting and what it may be."""
        _one_of("combination", self.combination, COMBINATIONS)
        _one_of("objective", self.objective, OBJECTIVES)
        _one_of("reduction", self.reduction, REDUCTIONS)
        _one_of("optimiser", self.optimiser, OPTIMISERS)
        if self.objective == "reference" and self.reduction != "token":
            raise _bad("reduction", self.reduction, "'token' with the objective 'reference'")
        _whole("budget", self.budget, 1, BUDGET_LIMIT)
        _whole("seed", self.seed, 0, 2**53 - 1)
        _number("x0", self.x0, -100, 100)
        _number("sigma", self.sigma, 1e-6, 100)
        _number("penalty", self.penalty, 0, 1000)
        if self.bound is not None:
            # Each module alone, at weight 1, must be a candidate.
            _number("bound", self.bound, 1, 1000)
            if abs(self.x0) > self.bound:
                raise _bad("x0", self.x0, f"between -bound and bound ({self.bound})")
        if self.population is not None:
            _whole("population", self.population, 4, 10_000)
        if not isinstance(self.singles, bool):
            raise _bad("singles", self.singles, "true or false")
        return self

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SearchConfig:
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(document) - known)
        if unknown:
            raise BadConfig(
                f"Unknown setting {unknown[0]!r}. Known settings: {', '.join(sorted(known))}.",
                fields={unknown[0]: ["Unknown setting."]},
            )
        return cls(**document).validate()


def recommended(budget: int = 200, seed: int = 0) -> SearchConfig:
    """The exact `sum` of all modules, started near zero with a small step."""
    return SearchConfig(budget=budget, seed=seed)


def as_in_the_paper(budget: int = 40, seed: int = 0) -> SearchConfig:
    """LoraHub as its paper tells it: w starts at 0, |w| <= 1.5, α = 0.05, 40 steps, CMA-ES.

    The 20 random modules are the caller's choice. Single modules are not tried.
    """
    return SearchConfig(
        combination="lorahub",
        budget=budget,
        seed=seed,
        x0=0.0,
        sigma=0.2,
        penalty=0.05,
        singles=False,
    )


PRESETS: dict[str, Callable[..., SearchConfig]] = {
    "recommended": recommended,
    "paper": as_in_the_paper,
}


def with_combination(config: SearchConfig, combination: str) -> SearchConfig:
    """Change the combination together with the start and step that suit it.

    Both start off zero, where `lorahub` is stationary. The same values were best for both: see
    docs/decisions/0002-recommended-preset.md.
    """
    _one_of("combination", combination, COMBINATIONS)
    if combination == config.combination:
        return config
    return replace(config, combination=combination, x0=0.1, sigma=0.1)


def _bad(name: str, value: object, wanted: str) -> BadConfig:
    message = f"{name} is {value!r}; it must be {wanted}."
    return BadConfig(message, fields={name: [message]})


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise _bad(name, value, " or ".join(repr(item) for item in allowed))


def _whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _bad(name, value, f"a whole number from {low} to {high}")


def _number(name: str, value: object, low: float, high: float) -> None:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not low <= value <= high  # also refuses what is not a number
    ):
        raise _bad(name, value, f"a number from {low:g} to {high:g}")
