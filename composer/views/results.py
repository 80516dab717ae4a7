"""What the pages of a result and of a recipe show alike: scores, answers, settings."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from django.http import HttpRequest

from composer import artifacts, plots
from composer.engine.blocks import count as block_count
from composer.engine.prompt import normalise_answer
from composer.engine.recipe import config_of
from composer.models import Search
from composer.verdict import Method, methods, verdict
from hub_site.figures import number

PREDICTIONS_SHOWN = 12
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


def evidence_context(
    evidence: Mapping[str, Any], gone: Collection[str] = frozenset()
) -> dict[str, Any]:
    """The verdict, and all ways measured for the plot and the table behind it. Modules that are
    gone, by name, are named without a link."""
    measured = methods(evidence)
    rows = [_method_row(method, gone) for method in measured]
    total = max((method.total for method in measured), default=0)
    found = verdict(evidence)
    return {
        "verdict": found,
        "worth_it": found is not None and found.kind in ("use", "unsure", "unmeasured"),
        "best_single": next((m.detail for m in measured if m.key == "best_single"), ""),
        "found": evidence.get("search", {}),
        "methods": rows,
        "methods_plot": plots.intervals(rows) if rows else "",
        "measured_on": f"{total} held-out example{'' if total == 1 else 's'}",
    }


def _method_row(method: Method, gone: Collection[str]) -> dict[str, Any]:
    name = method.name[:1].upper() + method.name[1:]
    module = method.detail if method.key == "best_single" else ""
    passes = method.forwards or 0
    return {
        "label": f"{name}: {module.rpartition('/')[2]}" if module else name,
        "url": f"/{module}" if module and module not in gone else "",
        "note": f"{number(passes, 0)} forward passes" if passes else "nothing to make",
        "value": method.value,
        "low": method.low,
        "high": method.high,
        "score": f"{method.correct} of {method.total}",
        "emphasised": method.key == "composed",
        "forwards": method.forwards,
        "tokens": method.tokens,
    }


def ranking_context(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """How much each module alone lowers the base model's loss, where modules were ranked."""
    screening = evidence.get("screening")
    before = evidence.get("search", {}).get("loss_before")
    if not screening or before is None:
        return {}
    rows = screening["modules"][:RANKED_SHOWN]
    return {
        "screening": screening,
        "ranking": [(row["name"], before - row["loss"], f"/{row['name']}") for row in rows],
    }


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
    return {
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
