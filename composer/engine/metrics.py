"""Other ways to score an answer than right or wrong. Where answers are sentences, none is enough.

ROUGE-L and BLEU are torchmetrics' own; only workers load it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer.engine.compare import bootstrap
from composer.engine.prompt import normalise_answer

Array = NDArray[np.float64]
# BLEU counts runs of four words, so shorter answers say nothing.
SENTENCE = 4
DRAWS, BLEU_DRAWS = 1000, 200


def token_f1(answer: str, wanted: str) -> float:
    """2PR / (P + R) over the words that both have (Rajpurkar et al. 2016)."""
    said, right = normalise_answer(answer).split(), normalise_answer(wanted).split()
    both = sum((Counter(said) & Counter(right)).values())
    if not both:
        return float(said == right)
    return 2 * both / (len(said) + len(right))


def rouge_l(answer: str, wanted: str) -> float:
    """F of the longest common subsequence (Lin 2004)."""
    from torchmetrics.functional.text import rouge_score

    return float(rouge_score(answer, wanted, rouge_keys="rougeL")["rougeL_fmeasure"])


def bleu(answers: Sequence[str], wanted: Sequence[str]) -> float:
    """Of all answers together (Papineni et al. 2002), tokens as mteval-v13a cuts them."""
    from torchmetrics.functional.text import sacre_bleu_score

    return float(sacre_bleu_score(list(answers), [[each] for each in wanted]))


def are_sentences(wanted: Sequence[str]) -> bool:
    """Whether half of the answers wanted are long enough for ROUGE and BLEU to mean something."""
    return 2 * sum(len(each.split()) >= SENTENCE for each in wanted) >= max(1, len(wanted))


def measure(answers: Sequence[str], wanted: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """Each metric {value, low, high} with its 95% bootstrap interval."""
    pairs = list(zip(answers, wanted, strict=True))
    found = {"token_f1": _mean([token_f1(*pair) for pair in pairs], seed)}
    if are_sentences(wanted):
        found["rouge_l"] = _mean([rouge_l(*pair) for pair in pairs], seed)
        found["bleu"] = _bleu(answers, wanted, seed)
    return found


def _bleu(answers: Sequence[str], wanted: Sequence[str], seed: int) -> dict[str, float]:
    """It is no mean over answers, so each draw counts it anew."""

    def of(rows: NDArray[np.int64]) -> Array:
        return np.array([bleu([answers[i] for i in row], [wanted[i] for i in row]) for row in rows])

    if len(answers) < 2:
        return {"value": bleu(answers, wanted)}
    found = bootstrap(np.zeros(len(answers)), seed=seed, draws=BLEU_DRAWS, statistic=of)
    return {"value": bleu(answers, wanted), "low": found.low, "high": found.high}


def _mean(values: Sequence[float], seed: int) -> dict[str, float]:
    if len(values) < 2:
        return {"value": float(np.mean(values)) if values else 0.0}
    found = bootstrap(values, seed=seed, draws=DRAWS)
    return {"value": float(np.mean(values)), "low": found.low, "high": found.high}
