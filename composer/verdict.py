"""The sentence: was the composition worth it? Read from the evidence of a search.

Methods answer the same held-out examples, so they are compared in pairs: among the examples that
only one of two got right, a fair coin decides whether the difference is chance (McNemar's exact
test). "Does as well" is only said when the data rule out a difference of ten points.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SIGNIFICANT = 0.05
AS_WELL = 0.10  # a difference that would matter
HOPELESS = 0.10
GOOD = 0.50
NAMES = {
    "composed": "this composition",
    "exact": "the same before its rank was cut down",
    "zero_shot": "the base model alone",
    "best_single": "the best single module",
    "uniform": "the plain average of the modules",
    "fresh_lora": "a fresh LoRA trained on the same examples",
}


@dataclass(frozen=True)
class Method:
    """One way to answer, measured on the held-out examples. `hits` has "1" where it was right."""

    key: str  # composed, exact, zero_shot, best_single, uniform, fresh_lora
    correct: int
    total: int
    low: float
    high: float
    hits: str = ""
    detail: str = ""
    tokens: float | None = None
    seconds: float | None = None
    forwards: float | None = None

    @property
    def value(self) -> float:
        return self.correct / self.total if self.total else 0.0

    @property
    def name(self) -> str:
        return NAMES.get(self.key, self.key)


@dataclass(frozen=True)
class Verdict:
    """kind: use, single, dont, unsure, unmeasured."""

    kind: str
    sentence: str
    detail: str = ""


def methods(evidence: Mapping[str, Any]) -> list[Method]:
    """The methods measured so far, the composition first."""
    known = Method.__dataclass_fields__
    return [
        Method(**{name: value for name, value in row.items() if name in known})
        for row in evidence.get("methods", [])
    ]


def verdict(evidence: Mapping[str, Any]) -> Verdict | None:
    """None while the composition has not been measured."""
    rows = {method.key: method for method in methods(evidence)}
    composed = rows.pop("composed", None)
    if composed is None or not composed.total:
        return _unmeasured(evidence) if "adapter" in evidence else None
    rows.pop("exact", None)  # not another way, but the same before it was cut down
    rivals = list(rows.values())
    best = max([composed, *rivals], key=lambda method: method.correct)
    if best.value <= HOPELESS:
        return Verdict(
            "dont",
            f"Don't use this: nothing works here. {_score(best)} right for {best.name}, "
            "and no method did better.",
            "The modules do not seem to hold what this task needs.",
        )
    better = [rival for rival in rivals if _beats(rival, composed)]
    if better:
        return _worse(composed, max(better, key=lambda method: method.correct), rivals)
    for key in ("zero_shot", "best_single", "uniform"):
        rival = rows.get(key)
        if rival and not _beats(composed, rival):
            return _close(composed, rival)
    return _better(composed, rivals, rows.get("fresh_lora"))


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


def _worse(composed: Method, rival: Method, rivals: Sequence[Method]) -> Verdict:
    if rival.key == "best_single":
        return Verdict(
            "single",
            f"Use the single module {rival.detail}: {_score(rival)} right, against "
            f"{composed.correct} for the composition.",
        )
    sentence = (
        f"Don't use this: {_score(composed)} right, against {rival.correct} for {rival.name}."
    )
    untrained = [each for each in rivals if each.key != "fresh_lora"]
    if rival.key != "fresh_lora" or not all(_beats(composed, each) for each in untrained):
        return Verdict("dont", sentence)
    best = max(untrained, key=lambda method: method.correct, default=None)
    against = f", against {best.correct} for {best.name}" if best else ""
    return Verdict(
        "dont", sentence, f"Where training is no option, it is still the best there is{against}."
    )


def _close(composed: Method, rival: Method) -> Verdict:
    """The composition is not clearly better than something simpler."""
    if _difference_high(composed, rival) >= AS_WELL:
        return Verdict(
            "unsure",
            f"Too few held-out examples to tell: {_score(composed)} right, against "
            f"{rival.correct} for {rival.name}.",
            "A difference like this can be chance. Add held-out examples and compose again.",
        )
    both = f"{_score(rival)} right, against {composed.correct} for the composition"
    if rival.key == "zero_shot":
        return Verdict("dont", f"Don't use this: the base model alone does as well ({both}).")
    if rival.key == "best_single":
        return Verdict(
            "single", f"Use the single module {rival.detail}: it alone does as well ({both})."
        )
    return Verdict(
        "use",
        f"Use it, though the search added nothing: {rival.name} does as well ({both}).",
    )


def _better(composed: Method, rivals: Sequence[Method], fresh: Method | None) -> Verdict:
    """Clearly better than everything simpler; a fresh LoRA may still stand beside it."""
    use = "Use it" if composed.value >= GOOD else "Use it with care"
    others = [rival for rival in rivals if rival.key != "fresh_lora"] or list(rivals)
    if not others:
        return Verdict("use", f"{use}: {_score(composed)} right.")
    best = max(others, key=lambda method: method.correct)
    sentence = f"{use}: {_score(composed)} right, against {best.correct} for {best.name}."
    if fresh is None:
        return Verdict("use", sentence)
    if _beats(composed, fresh):
        detail = f"{_capital(fresh.name)} gets {fresh.correct}."
    else:
        detail = f"{_capital(fresh.name)} does about as well: {_score(fresh)} right."
    return Verdict("use", sentence, detail)


def _score(method: Method) -> str:
    return f"{method.correct} of {method.total}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _only(first: Method, second: Method) -> tuple[int, int]:
    """How many examples only the first got right, and only the second."""
    pairs = list(zip(first.hits, second.hits, strict=True))
    return pairs.count(("1", "0")), pairs.count(("0", "1"))


def _beats(first: Method, second: Method) -> bool:
    """Is the first better, and the difference more than chance? (two-sided exact McNemar)"""
    won, lost = _only(first, second)
    if won <= lost:
        return False
    trials = won + lost
    tail = sum(math.comb(trials, k) for k in range(won, trials + 1)) / 2**trials
    return 2 * tail < SIGNIFICANT


def _difference_high(first: Method, second: Method) -> float:
    """The upper end of the 95% interval of first minus second, from paired answers.

    One success and one failure are added, so that no disagreement at all in few examples is not
    taken for certainty (Agresti and Min 2005).
    """
    won, lost = _only(first, second)
    won, lost, n = won + 1, lost + 1, first.total + 2
    difference = (won - lost) / n
    return difference + 1.96 * math.sqrt(won + lost - (won - lost) ** 2 / n) / n
