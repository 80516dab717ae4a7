"""How to search: combination, objective, optimiser and its settings, as one frozen value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from composer.engine.errors import BadConfig

COMBINATIONS = ("sum", "lorahub", "linear")
OBJECTIVES = ("paper", "reference", "options", "exact_match")
REDUCTIONS = ("token", "example")
OPTIMISERS = ("cmaes", "cobyla", "random", "lbfgs")
SELECTIONS = ("examples", "validation", "folds")
BUDGET_LIMIT = 100_000
BLOCKS = re.compile(r"all|sides|layers:([1-9][0-9]?)")

# Start, first step and penalty for each combination, measured (docs/decisions/0002 and 0021; the
# penalty for `sum` alone). `linear` takes the roots of its weights: 0.01 there is `lorahub`'s 0.1.
STARTS = {
    "sum": {"x0": 0.1, "sigma": 0.1, "penalty": 0.02},
    "lorahub": {"x0": 0.1, "sigma": 0.1, "penalty": 0.02},
    "linear": {"x0": 0.01, "sigma": 0.1, "penalty": 0.02},
}


@dataclass(frozen=True)
class SearchConfig:
    """Settings of one search.

    combination  `sum`: ΔW = Σ w_i s_i B_i A_i; `lorahub`: ΔW = s (Σ w_i B_i)(Σ w_i A_i);
                 `linear`: PEFT's, each factor scaled by √(w_i s_i)
    objective    `paper`: cross-entropy + penalty·Σ|w|, as the LoraHub paper writes (arXiv
                 2307.13269, section 3.3); `reference`: what its code computes,
                 cross-entropy / examples + penalty·mean|w|; `options`: how unlikely the right
                 answer is among the answer options; `exact_match`: the share of wrong generations
    reduction    cross-entropy pooled over all label tokens, or the mean per example first
    optimiser    `cobyla` (what the released code runs), `cmaes`, `random`, `lbfgs` (gradients);
                 `cobyla` and `lbfgs` go the same way whatever the seed, but for `lbfgs`' start
    budget       evaluations: one candidate's loss on all examples is one evaluation
    x0, sigma    every weight's start, and the first step size
    bound        |w_i| <= bound, or None for no bound
    population   candidates a generation; None is 4 + 3 ln N for CMA-ES, 10 for those that ask for
                 one at a time
    singles      generation 0 tries each module alone at weight 1, besides all weights zero
    restarts     how often a search that has converged begins anew, with twice the population
    blocks       `all`: one weight a module; `sides`: one for the encoder and one for the decoder;
                 `layers:K`: one for each of K groups of layers, from the first to the last
    selection    what the best is chosen on: the `examples` themselves, the part kept back for
                 `validation` (one of `folds`), or each of the `folds` in turn
    patience     generations without a better candidate after which it ends early; 0 is never
    rank         `sum` alone: rank the adapter is cut down to; None keeps the exact one, Σ r_i
    """

    combination: str = "sum"
    objective: str = "paper"
    reduction: str = "token"
    optimiser: str = "cobyla"
    budget: int = 200
    seed: int = 0
    x0: float = 0.1
    sigma: float = 0.1
    bound: float | None = 1.5
    penalty: float = 0.02
    population: int | None = None
    singles: bool = True
    restarts: int = 0
    blocks: str = "all"
    selection: str = "examples"
    folds: int = 5
    patience: int = 0
    rank: int | None = None

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
        self._validate_choices()
        return self

    def _validate_choices(self) -> None:
        _one_of("selection", self.selection, SELECTIONS)
        _whole("restarts", self.restarts, 0, 100)
        _whole("folds", self.folds, 2, 100)
        _whole("patience", self.patience, 0, BUDGET_LIMIT)
        if not isinstance(self.blocks, str) or not BLOCKS.fullmatch(self.blocks):
            raise _bad("blocks", self.blocks, "'all', 'sides' or 'layers:K', with K below 100")
        if self.rank is not None:
            _whole("rank", self.rank, 1, 4096)
            if self.combination != "sum":
                raise _bad("rank", self.rank, "left out, unless the combination is 'sum'")
        if self.optimiser == "lbfgs" and self.objective == "exact_match":
            raise _bad("optimiser", self.optimiser, "another: exact matches have no gradient")
        if self.optimiser == "lbfgs" and self.combination == "linear":
            raise _bad("optimiser", self.optimiser, "another: 'linear' has no gradient at zero")

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
    """The exact `sum` of all modules, by Cobyla from near zero (docs/decisions/0021)."""
    return SearchConfig(budget=budget, seed=seed)


def as_in_the_paper(budget: int = 40, seed: int = 0) -> SearchConfig:
    """LoraHub as its paper tells it: w starts at 0, |w| <= 1.5, α = 0.05, 40 steps, CMA-ES.

    The 20 random modules are the caller's choice. Single modules are not tried.
    """
    return SearchConfig(
        combination="lorahub",
        optimiser="cmaes",
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


def preset_with(preset: str, settings: Mapping[str, Any] | None = None) -> SearchConfig:
    """A preset with some settings changed; None keeps the preset's.

    The combination comes first: it brings the start and step that suit it. Counted answers come in
    steps, on which only an optimiser that goes by ranks finds its way: they bring CMA-ES.
    """
    if preset not in PRESETS:
        known = " or ".join(repr(name) for name in PRESETS)
        raise BadConfig(
            f"The preset is {preset!r}; it must be {known}.", fields={"preset": [known]}
        )
    made = PRESETS[preset]()
    given = {name: value for name, value in (settings or {}).items() if value is not None}
    if "combination" in given:
        made = with_combination(made, given["combination"])
    if given.get("objective") == "exact_match":
        made = replace(made, optimiser="cmaes")
    return SearchConfig.from_json({**made.to_json(), **given})


def with_combination(config: SearchConfig, combination: str) -> SearchConfig:
    """Change the combination together with the start, step and penalty that suit it.

    All start off zero, where `lorahub` is stationary.
    """
    _one_of("combination", combination, COMBINATIONS)
    if combination == config.combination:
        return config
    rank = config.rank if combination == "sum" else None
    return replace(config, combination=combination, rank=rank, **STARTS[combination])  # type: ignore[arg-type]


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
