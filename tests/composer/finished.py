"""A search that is over, as rows: what the pages show, without the minutes a real one takes.

The browser journey runs a real one; here only the shapes are the runner's.
"""

from typing import Any

from django.utils import timezone

from composer import services
from composer.engine import recipe as engine_recipe
from composer.models import FewShotTask, Generation, Ingredient, Recipe, Search
from hub_site.accounts.models import User
from hub_site.jobs.models import Job
from modules.models import Blob, LoraModule

METHODS = [
    ("composed", 2, "110"),
    ("zero_shot", 0, "000"),
    ("best_single", 1, "100"),
    ("uniform", 0, "000"),
    ("uniform_scaled", 1, "100"),
    ("fresh_lora", 1, "010"),
    ("control", 0, "000"),
]
# Right in one of three orders, in all, in none.
IN_CONTEXT = [1 / 3, 1.0, 0.0]


def start(task: FewShotTask, user: User, **overrides: Any) -> Search:
    """A search that waits for a worker."""
    job = services.submit_job(task=task, user=user, overrides=overrides or None)
    return Search.objects.get(pk=job.pk)


def add_generations(search: Search, count: int = 3, size: int = 5) -> None:
    many = len(search.spec["ingredients"])
    for number in range(count):
        weights = [(0.5 - 0.1 * place * number).hex() for place in range(many)]
        Generation.objects.create(
            search=search,
            number=number,
            evaluations=(number + 1) * size,
            best_loss=2.0 - 0.4 * number,
            seconds=0.5,
            record={"best_weights": weights, "losses": [], "digest": f"{number:064x}"},
        )


def run(search: Search, stage: str = "searching", **fields: Any) -> Search:
    """The search while a worker has it."""
    _set(search, state="running", attempts=1, started_at=timezone.now(), **fields)
    Search.objects.filter(pk=search.pk).update(stage=stage)
    return Search.objects.get(pk=search.pk)


def end(search: Search, state: str, **fields: Any) -> Search:
    _set(search, state=state, finished_at=timezone.now(), **fields)
    return Search.objects.get(pk=search.pk)


def finish(search: Search, *, title: str = "") -> Search:
    """The search with a recipe, an adapter and its evidence."""
    add_generations(search)
    weights = [0.8 - 0.5 * place for place in range(len(search.spec["ingredients"]))]
    found = engine_recipe.build(search.spec, weights)
    recipe, is_new = Recipe.objects.get_or_create(
        digest=found.id,
        defaults={
            "document": {k: v for k, v in found.to_json().items() if k != "evidence"},
            "title": title or search.title,
            "base_model": search.base_model,
            "adapter": Blob.objects.get(pk=search.spec["ingredients"][0]["sha256"]),
            "adapter_config": {"r": 8, "peft_type": "LORA"},
        },
    )
    if is_new:
        _write_ingredients(recipe)
    Search.objects.filter(pk=search.pk).update(
        recipe=recipe, matched=not is_new, evidence=evidence(search)
    )
    started = timezone.now() - timezone.timedelta(seconds=12)
    return end(search, "done", started_at=started, result={"recipe": found.id})


def evidence(search: Search) -> dict[str, Any]:
    held_out = search.examples["held_out"]
    total = len(held_out)
    rows, answers = [], {}
    for key, correct, hits in METHODS if total else []:
        value = correct / total
        rows.append(
            {
                "key": key, "correct": correct, "total": total, "value": value,
                "low": max(0, value - 0.2), "high": min(1, value + 0.2), "hits": hits[:total],
                "detail": search.spec["ingredients"][0]["repo"] if key == "best_single" else "",
                "forwards": 200, "tokens": 6.0, "prefix_tokens": 0, "size": 2048,
                "seconds": 0.4, "seconds_to_train": 0.1, "losses": [0.5] * total,
                "metrics": {"token_f1": {"value": value, "low": 0.0, "high": 1.0}},
            }
        )  # fmt: skip
        answers[key] = [
            wanted if hit == "1" else "something else"
            for (_, wanted), hit in zip(held_out, hits, strict=False)
        ]
    found = {"loss_before": 2.5, "loss_after": 0.4, "seconds": 1.5, "evaluations": 15}
    if not total:
        return {"search": found, "adapter": {"r": 8}, "screening": screening(search)}
    rows.append(
        {
            **rows[1], "key": "in_context", "correct": 4 / 3, "hits": "",
            "scores": IN_CONTEXT[:total], "tokens": 30.0, "forwards": 0, "size": 0,
            "detail": "3 orders of 3 examples: 2, 1, 1 right",
        }
    )  # fmt: skip
    return {
        "search": found,
        "adapter": {"r": 8},
        "screening": screening(search),
        "methods": rows,
        "answers": answers,
        "comparator": {
            "key": "best_single",
            "parts": 3,
            "forwards": 500,
            "ways": {
                "zero_shot": {"loss": 2.5, "exact": 0},
                "best_single": {"loss": 0.6, "exact": 2},
            },
        },
    }


def screening(search: Search) -> dict[str, Any]:
    """What the candidates did alone: each a little worse than the one before."""
    names = [each["repo"] for each in search.spec["ingredients"]]
    return {
        "modules": [
            {"name": name, "loss": 1.0 + 0.5 * place, "exact": max(0, 2 - place)}
            for place, name in enumerate(names)
        ],
        "base": {"loss": 2.5, "exact": 0},
        "examples": len(search.examples["shots"]),
        "refused": {},
        "folded": {},
        "mixed": len(names),
        "rough": 0,
        "known": 0,
        "forwards": len(names) + 1,
    }


def _set(search: Search, **fields: Any) -> None:
    Job.objects.filter(pk=search.pk).update(**fields)


def _write_ingredients(recipe: Recipe) -> None:
    pinned = recipe.document["spec"]["ingredients"]
    here = {str(module.repo): module for module in LoraModule.objects.select_related("repo__owner")}
    for place, each in enumerate(pinned):
        Ingredient.objects.create(
            recipe=recipe,
            position=place,
            lora_module=here[each["repo"]],
            name=each["repo"],
            revision=each["revision"],
            weights_sha256=each["sha256"],
            weight=recipe.document["weights"][place],
        )
