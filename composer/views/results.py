"""What the pages of a result and of a recipe show alike: scores, answers, settings."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from django.http import HttpRequest

from composer import artifacts, plots
from composer.engine.blocks import count as block_count
from composer.engine.compare import BETTER, EQUIVALENT, UNSURE, WORSE, Difference
from composer.engine.prompt import normalise_answer
from composer.engine.recipe import config_of
from composer.models import Search
from composer.verdict import NAMES, Method, against, comparator_of, methods, verdict
from hub_site.figures import number

PREDICTIONS_SHOWN = 12
# Side by side, in this order.
WAYS_SHOWN = (
    "composed", "zero_shot", "in_context", "best_single", "uniform", "uniform_scaled", "fresh_lora",
    "control",
)  # fmt: skip
RANKED_SHOWN = 30
OPTIMISERS = {
    "cmaes": "CMA-ES",
    "cobyla": "COBYLA",
    "random": "random draws",
    "lbfgs": "L-BFGS, by gradients",
}
SELECTIONS = {
    "examples": "on the examples themselves",
    "validation": "on a part of the examples kept back",
    "folds": "over folds of the examples",
}

Row = dict[str, Any]
FILTERS: dict[str, tuple[str, Callable[[Row], bool]]] = {
    "all": ("All", lambda row: True),
    "changed": ("Changed by the composition", lambda row: row["composed"] != row["base"]),
    "wrong": ("Wrong", lambda row: not row["composed_is_right"]),
}


OUTCOMES = {
    BETTER: "better",
    WORSE: "worse",
    EQUIVALENT: "as good",
    UNSURE: "cannot tell",
}
METRICS = {"token_f1": "Token F1", "rouge_l": "ROUGE-L", "bleu": "BLEU"}


def evidence_context(
    evidence: Mapping[str, Any], gone: Collection[str] = frozenset()
) -> dict[str, Any]:
    """The verdict, and all ways measured for the plot and the table behind it. Modules that are
    gone, by name, are named without a link."""
    measured = methods(evidence)
    gaps = against(evidence)
    rows = [_method_row(method, gaps.get(method.key), gone) for method in measured]
    total = max((method.total for method in measured), default=0)
    found, rival = verdict(evidence), comparator_of(evidence)
    folds = len(evidence.get("folds", {}))
    what = "example" if folds else "held-out example"
    return {
        "verdict": found,
        "worth_it": found is not None and found.kind in ("use", "unsure", "unmeasured"),
        "best_single": next((m.detail for m in measured if m.key == "best_single"), ""),
        "found": evidence.get("search", {}),
        "methods": rows,
        "metrics": [label for key, label in METRICS.items() if _has(measured, key)],
        "methods_plot": plots.intervals(rows) if rows else "",
        "measured_on": f"{total} {what}{'' if total == 1 else 's'}",
        "folds": folds,
        "rival": rival.name if rival and "comparator" in evidence else "",
        "rival_ways": _rival_ways(evidence),
        "not_measured": {
            NAMES.get(key, key): why for key, why in evidence.get("missing", {}).items()
        },
    }


def _has(measured: Sequence[Method], metric: str) -> bool:
    return any(metric in method.metrics for method in measured)


def _rival_ways(evidence: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each simpler way did on the parts of the examples that it had not seen."""
    ways = evidence.get("comparator", {}).get("ways", {})
    rows = [{"name": _capital(NAMES[key]), **way} for key, way in ways.items()]
    return sorted(rows, key=lambda row: (-(row["exact"] or 0), row["loss"]))


def _method_row(method: Method, gap: Difference | None, gone: Collection[str]) -> dict[str, Any]:
    module = method.detail if method.key == "best_single" and ";" not in method.detail else ""
    passes = method.forwards or 0
    losses = list(method.losses)
    return {
        "label": f"{_capital(method.name)}: {module.rpartition('/')[2]}"
        if module
        else _capital(method.name),
        "url": f"/{module}" if module and module not in gone else "",
        "detail": method.detail if method.key == "in_context" else "",
        "note": f"{number(passes, 0)} forward passes" if passes else "nothing to make",
        "value": method.value,
        "low": method.low,
        "high": method.high,
        "score": method.score,
        "emphasised": method.key == "composed",
        "is_control": method.key == "control",
        "forwards": method.forwards,
        "seconds": method.seconds_to_train,
        "size": method.size,
        "tokens": method.tokens,
        "prefix_tokens": method.prefix_tokens,
        "loss": sum(losses) / len(losses) if losses else None,
        "metrics": [method.metrics[key] for key in METRICS if key in method.metrics],
        "outcome": _outcome(gap),
        "gap": gap,
    }


def _outcome(gap: Difference | None) -> str:
    """The other way, as seen from the composition."""
    if gap is None:
        return ""
    seen = {BETTER: WORSE, WORSE: BETTER}.get(gap.outcome, gap.outcome)
    return OUTCOMES[seen]


def ranking_context(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """What each module alone did on the examples, where modules were ranked."""
    screening = evidence.get("screening")
    before = evidence.get("search", {}).get("loss_before")
    if not screening or (before is None and "base" not in screening):
        return {}
    base = screening.get("base") or {"loss": before}
    folded = screening.get("folded", {})
    rows = [
        {
            **row,
            "gain": base["loss"] - row["loss"],
            "url": f"/{row['name']}",
            "same": folded.get(row["name"], []),
        }
        for row in screening["modules"]
        if row["name"] not in {name for names in folded.values() for name in names}
    ]
    return {"screening": screening, "ranking_base": base, "ranking": rows[:RANKED_SHOWN]}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def predictions_context(request: HttpRequest, search: Search) -> dict[str, Any]:
    """The held-out examples with their answers, those that the visitor asked for."""
    rows = _predictions(search)
    wanted = request.GET.get("show", "all")
    show = wanted if wanted in FILTERS else "all"
    kept = {name: [row for row in rows if keep(row)] for name, (_, keep) in FILTERS.items()}
    filters = [
        {"key": name, "label": label, "count": len(kept[name]), "is_current": name == show}
        for name, (label, _) in FILTERS.items()
    ]
    shown = kept[show] if request.GET.get("all") else kept[show][:PREDICTIONS_SHOWN]
    is_side_by_side = bool(request.GET.get("ways"))
    return {
        "is_side_by_side": is_side_by_side,
        "ways": [_capital(NAMES.get(key, key)) for key, _ in rows[0]["ways"]] if rows else [],
        "prediction_filters": filters,
        "predictions": shown,
        "predictions_left_out": len(kept[show]) - len(shown),
        "predictions_total": len(rows),
    }


def _predictions(search: Search) -> list[Row]:
    return [
        {
            "input": row["input"],
            "target": row["target"],
            "base": row["zero_shot"],
            "composed": row["composed"],
            "base_is_right": _same(row["zero_shot"], row["target"]),
            "composed_is_right": _same(row["composed"], row["target"]),
            "ways": [
                (key, {"answer": row[key], "is_right": _same(row[key], row["target"])})
                for key in WAYS_SHOWN
                if key in row
            ],
        }
        for row in artifacts.predictions(search)
        if "zero_shot" in row and "composed" in row
    ]


def _same(answer: str, wanted: str) -> bool:
    return normalise_answer(answer) == normalise_answer(wanted)


def facts(spec: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The settings that decided the weights, in a reader's order."""
    config = config_of(spec)
    per = f", per {config.reduction}" if config.objective in ("paper", "reference") else ""
    optimiser = OPTIMISERS.get(config.optimiser, config.optimiser)
    again = f", begun anew up to {config.restarts} times" if config.restarts else ""
    weights = len(spec["ingredients"]) * block_count(config.blocks)
    return [
        ("Base model", spec["base_model"]["repo"]),
        ("Combination", config.combination),
        ("Weights searched", _dimension(weights, config.blocks)),
        ("Objective", f"{config.objective}{per}"),
        ("Penalty", f"{config.penalty:g}"),
        ("Search", f"{optimiser}{again}"),
        ("Budget", f"{config.budget} evaluations"),
        ("Start and step", f"{config.x0:g} and {config.sigma:g}"),
        ("Bound", "none" if config.bound is None else f"±{config.bound:g}"),
        ("Best chosen", SELECTIONS[config.selection]),
        ("Seed", spec["seed"]),
        ("Instruction", spec["template"]),
        ("Chat template", "the tokenizer's own" if spec.get("chat_template") else "none"),
    ]


def _dimension(weights: int, blocks: str) -> str:
    if blocks == "all":
        return f"{weights}, one a module"
    what = "the encoder and the decoder" if blocks == "sides" else "groups of layers"
    return f"{weights}, {block_count(blocks)} a module: {what} apart"
