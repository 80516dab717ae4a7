"""The sentence: is this composition worth using? Read by rules from the evidence of a search.

One primary comparison decides: the composition against its comparator, the way that did best on the
training folds before any test example was seen. Everything else is descriptive: it may hold "use
it" back and name what is clearly better, and never makes a "use it". The rules and how often they
are wrong: docs/verdict.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from composer.engine.compare import (
    BETTER,
    FEWEST,
    MARGIN,
    WORSE,
    Difference,
    difference,
    permutation,
    wanted,
)

HOPELESS = 0.10
GOOD = 0.50
BY_THE_LOSS = 0.05
NAMES = {
    "composed": "this composition",
    "exact": "the same before its rank was cut down",
    "zero_shot": "the base model alone",
    "in_context": "the examples in the prompt",
    "best_single": "the best single module",
    "uniform": "the plain average of the modules",
    "uniform_scaled": "the average of the modules at its best scale",
    "control": "the same search over randomised modules",
    "fresh_lora": "a fresh LoRA trained on the same examples",
    "chosen": "the best simpler way, chosen anew for each fold",
}
# What takes no search, from the cheapest on.
SIMPLE = ("zero_shot", "best_single", "uniform", "uniform_scaled")
RIVALS = (*SIMPLE, "in_context", "fresh_lora")
MANDATORY = (*RIVALS, "control")


@dataclass(frozen=True)
class Method:
    """One way to answer, measured on the held-out examples. `hits` has "1" where it was right;
    `scores` is there instead where an example can be right in part: in-context learning in several
    orders. `losses` are mean cross-entropies of the answers' tokens, by example."""

    key: str
    correct: float
    total: int
    low: float
    high: float
    hits: str = ""
    scores: Sequence[float] = ()
    losses: Sequence[float] = ()
    detail: str = ""
    tokens: float | None = None
    prefix_tokens: float | None = None
    seconds: float | None = None
    seconds_to_train: float | None = None
    forwards: float | None = None
    size: int | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return self.correct / self.total if self.total else 0.0

    @property
    def name(self) -> str:
        return NAMES.get(self.key, self.key)

    @property
    def values(self) -> Sequence[float]:
        return self.scores or [float(hit) for hit in self.hits]

    @property
    def score(self) -> str:
        return f"{_count(self.correct)} of {self.total}"


@dataclass(frozen=True)
class Verdict:
    """kind: use, single, average, train, in_context, simpler, nothing, unsure, unmeasured.

    missing  mandatory ways that were not measured, by name: the verdict is incomplete
    """

    kind: str
    sentence: str
    detail: str = ""
    missing: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "sentence": self.sentence,
            "detail": self.detail,
            "not_measured": list(self.missing),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Verdict":
        named = {key: document[key] for key in ("kind", "sentence", "detail")}
        return cls(**named, missing=tuple(document["not_measured"]))


def methods(evidence: Mapping[str, Any]) -> list[Method]:
    """The methods measured so far, the composition first."""
    known = Method.__dataclass_fields__
    return [
        Method(**{name: value for name, value in row.items() if name in known})
        for row in evidence.get("methods", [])
    ]


def comparator_of(evidence: Mapping[str, Any]) -> Method | None:
    """The rival of the primary comparison. Searches of before it was chosen on training folds are
    held against whichever did best on the test, which is hard on the composition."""
    rows = [method for method in methods(evidence) if method.total]
    chosen = evidence.get("comparator", {}).get("key")
    for method in rows:
        if method.key == chosen:
            return method
    rivals = [method for method in rows if method.key in RIVALS]
    return max(rivals, key=lambda method: method.correct, default=None)


def against(evidence: Mapping[str, Any]) -> dict[str, Difference]:
    """The composition minus each other way, by its key."""
    rows = {method.key: method for method in methods(evidence)}
    composed = rows.pop("composed", None)
    if composed is None or not composed.total:
        return {}
    return {key: difference(composed.values, each.values) for key, each in rows.items()}


def verdict(evidence: Mapping[str, Any]) -> Verdict | None:
    """None while the composition has not been measured. What is published keeps the verdict that it
    was published with, whatever became of the rules."""
    if "verdict" in evidence:
        return Verdict.from_json(evidence["verdict"])
    rows = {method.key: method for method in methods(evidence)}
    composed = rows.get("composed")
    if composed is None or not composed.total:
        return _unmeasured(evidence) if "adapter" in evidence else None
    found = _Judged(composed, rows, comparator_of(evidence), against(evidence)).verdict()
    missing = tuple(NAMES[key] for key in MANDATORY if key not in rows)
    return Verdict(found.kind, found.sentence, found.detail, missing)


@dataclass(frozen=True)
class _Judged:
    composed: Method
    rows: Mapping[str, Method]
    comparator: Method | None
    gaps: Mapping[str, Difference]

    def verdict(self) -> Verdict:
        composed, rival = self.composed, self.comparator
        if rival is None:
            return Verdict("unsure", f"{composed.score} right, and nothing to compare it with.")
        if composed.total < FEWEST:
            return self._too_few(rival)
        best = max([composed, *self._measured(RIVALS)], key=lambda method: method.correct)
        if best.value <= HOPELESS:
            return Verdict(
                "nothing",
                f"Nothing here helps: {best.score} right for {best.name}, and no way did better.",
                "The modules do not seem to hold what this task needs.",
            )
        if self._nothing_helps():
            return self._lacking()
        gap = self.gaps[rival.key]
        is_better = gap.outcome == BETTER
        instead = self._instead(rival, is_better)
        if instead:
            return self._as_good(self._strongest(instead))
        if is_better:
            return self._use(rival)
        return self._as_good(rival) if gap.rules_out_gain else self._unsure(rival)

    def _measured(self, keys: Iterable[str]) -> list[Method]:
        return [self.rows[key] for key in keys if key in self.rows]

    def _instead(self, rival: Method, is_better: bool) -> list[Method]:
        """Ways that leave no reason for the composition, the rival first, then from the cheapest
        on: those that are clearly better, and simple ones that it is at most a little better than.
        Where "use it" is about to be said, one that has as many right and reads as little a call
        holds it back, too."""
        ways = self._measured(dict.fromkeys([rival.key, *RIVALS]))
        return [each for each in ways if self._makes_needless(each, is_better)]

    def _makes_needless(self, other: Method, is_better: bool) -> bool:
        gap = self.gaps[other.key]
        is_level = gap.rules_out_gain and other.key in SIMPLE
        holds_back = is_better and gap.mean <= 0 and other.key != "in_context"
        return gap.outcome == WORSE or is_level or holds_back

    def _strongest(self, ways: Sequence[Method]) -> Method:
        """The first, unless a later one is clearly better than it: nobody is told to take a way
        that another one beats."""
        found = ways[0]
        for each in ways[1:]:
            if difference(each.values, found.values).outcome == BETTER:
                found = each
        return found

    def _nothing_helps(self) -> bool:
        """Neither the composition nor a module alone is more than a little better than the base
        model."""
        base = self.rows.get("zero_shot")
        if base is None or not self.gaps["zero_shot"].rules_out_gain:
            return False
        single = self.rows.get("best_single")
        return single is None or difference(single.values, base.values).outcome != BETTER

    # --- sentences -----------------------------------------------------------------------------

    def _use(self, rival: Method) -> Verdict:
        use = "Use it" if self.composed.value >= GOOD else "Use it with care"
        sentence = f"{use}: {self.composed.score} right, against {rival.score} for {rival.name}."
        return Verdict("use", sentence, self._beside(rival))

    def _beside(self, rival: Method) -> str:
        """What there is to know of the two ways that cost something else."""
        told = []
        for key in ("fresh_lora", "in_context"):
            other = self.rows.get(key)
            if other is not None and key != rival.key:
                told.append(f"{_capital(other.name)}: {other.score}{_per_call(other)}.")
        control = self.gaps.get("control")
        if control is not None and control.outcome != BETTER:
            told.append(
                "The same search over randomised modules is not clearly worse "
                f"({self.rows['control'].score}): what these modules have learnt may not be the "
                "reason."
            )
        return " ".join(told)

    def _as_good(self, rival: Method) -> Verdict:
        """The rival does as well or better; all but in-context learning cost less, too."""
        composed, gap = self.composed, self.gaps[rival.key]
        both = f"{rival.score} right, against {_count(composed.correct)} for the composition"
        is_better = gap.outcome == WORSE
        if rival.key == "best_single":
            how = f": {both}" if is_better else f", it alone is as good ({both})"
            return Verdict("single", f"Use {_single(rival.detail)}{how}.")
        if rival.key == "zero_shot":
            return self._lacking()
        if rival.key == "fresh_lora":
            return self._train(both, is_better)
        if rival.key == "in_context":
            return self._in_context(rival, both, is_better)
        if rival.key == "chosen":
            how = "better" if is_better else "as good"
            return Verdict("simpler", f"Don't use this: a simpler way is {how} ({both}).")
        sentence = f"Use {rival.name}: it {'does better' if is_better else 'is as good'} ({both})."
        return Verdict("average", sentence, "The search added nothing to it.")

    def _train(self, both: str, is_better: bool) -> Verdict:
        verb = "is better" if is_better else "is as good"
        simple = [self.gaps[each.key] for each in self._measured(SIMPLE)]
        untrained = all(gap.outcome == BETTER for gap in simple)
        return Verdict(
            "train",
            f"Training a LoRA on your examples {verb}: {both}.",
            "Where training is no option, this is still the best there is." if untrained else "",
        )

    def _in_context(self, rival: Method, both: str, is_better: bool) -> Verdict:
        tokens = rival.tokens or 0
        if is_better:
            return Verdict(
                "in_context",
                f"In-context learning is better, if you can afford {tokens:.0f} tokens a call: "
                f"{both}.",
            )
        if not self.gaps[rival.key].rules_out_loss:
            return self._unsure(rival)
        return Verdict(
            "use",
            f"Use it: it is as good as {rival.name} ({both}), and reads "
            f"{self.composed.tokens or 0:.0f} tokens a call instead of {tokens:.0f}.",
        )

    def _lacking(self) -> Verdict:
        base = self.rows["zero_shot"]
        other = [self.rows[key] for key in ("fresh_lora", "in_context") if key in self.rows]
        better = [each for each in other if difference(each.values, base.values).outcome == BETTER]
        told = " ".join(f"{_capital(each.name)}: {each.score}{_per_call(each)}." for each in better)
        if base.value >= 1 - MARGIN:
            return Verdict(
                "nothing",
                f"Nothing is needed: the base model alone has {base.score} right, the composition "
                f"{_count(self.composed.correct)}.",
                told,
            )
        return Verdict(
            "nothing",
            f"Nothing here helps: the base model alone has {base.score} right, the composition "
            f"{_count(self.composed.correct)}. The library lacks a relevant module.",
            told,
        )

    def _unsure(self, rival: Method) -> Verdict:
        gap = self.gaps[rival.key]
        more = wanted(gap.won, gap.lost, gap.n)
        need = f" About {more:,} test examples would tell." if more and more > gap.n else ""
        beaten = [each.name for each in self._measured(RIVALS) if self._beats(each)]
        also = f" It is clearly better than {_listed(beaten)}." if beaten else ""
        return Verdict(
            "unsure",
            f"Cannot tell: {self.composed.score} right, against {rival.score} for {rival.name}.",
            f"A difference like this can be chance.{need}{also}",
        )

    def _beats(self, other: Method) -> bool:
        return self.gaps[other.key].outcome == BETTER

    def _too_few(self, rival: Method) -> Verdict:
        gap, n = self.gaps[rival.key], self.composed.total
        more = wanted(gap.won, gap.lost, gap.n) or FEWEST
        return Verdict(
            "unsure",
            f"Cannot tell from so few: {self.composed.score} right, against {rival.score} for "
            f"{rival.name}.",
            f"{self._by_the_loss(rival)}With {n} test example{'' if n == 1 else 's'} right answers "
            f"say too little; about {more:,} would do.",
        )

    def _by_the_loss(self, rival: Method) -> str:
        mine, its = list(self.composed.losses), list(rival.losses)
        if not mine or len(mine) != len(its):
            return ""
        gaps = [a - b for a, b in zip(mine, its, strict=True)]
        mean, p = sum(gaps) / len(gaps), permutation(gaps)
        if p < BY_THE_LOSS:
            how = "better" if mean < 0 else "worse"
            return f"By the loss on them it is {how} ({_mean(mine):.2f} against {_mean(its):.2f}). "
        return f"By the loss they are alike ({_mean(mine):.2f} against {_mean(its):.2f}). "


def _unmeasured(evidence: Mapping[str, Any]) -> Verdict:
    found = evidence.get("search", {})
    before, after = found.get("loss_before"), found.get("loss_after")
    fall = (
        f"The loss on your examples went from {before:.2f} to {after:.2f}, "
        if before is not None and after is not None
        else "The search fitted your examples, "
    )
    return Verdict(
        "unmeasured",
        "Not measured: this task has no held-out examples.",
        f"{fall}which says little about inputs it has not seen. Add held-out examples and "
        "compose again to learn whether to use it.",
    )


def _single(names: str) -> str:
    """Folds may each have found another one best."""
    several = names.split("; ")
    if len(several) > 1:
        return f"a single module (one of {_listed(several)})"
    return f"the single module {names}" if names else "a single module"


def _per_call(method: Method) -> str:
    return (
        f" at {method.tokens:.0f} tokens a call"
        if method.key == "in_context" and method.tokens
        else ""
    )


def _count(right: float) -> str:
    return f"{right:.0f}" if float(right).is_integer() else f"{right:.1f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


__all__ = ["MARGIN", "NAMES", "Method", "Verdict", "against", "comparator_of", "methods", "verdict"]
