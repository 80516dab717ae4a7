"""What a composition or a trial needs of a worker, estimated from the base model's config.

No torch. On the safe side: texts are counted by their letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.conf import settings

from composer.engine import memory
from composer.module_choice import ranked_to
from hub_site.jobs import capacity
from modules.models import BaseModel, LoraModule

if TYPE_CHECKING:
    from composer.models import Search

# Modules in memory together while they are ranked.
RANKED_AT_ONCE = 64
FLOAT32, HALF = 4, 2  # bytes a number, without a GPU and with one


def of_search(search: Search, params: Mapping[str, Any]) -> dict[str, Any]:
    """The job's `needs`: bytes of memory on a CPU and on a GPU, the base model, the site's disk."""
    base_model, pinned = search.base_model, search.spec["base_model"]
    needs = {
        "memory": memory_of(search, params, FLOAT32).total,
        "gpu_memory": memory_of(search, params, HALF).total,
        "warm": warm_name(pinned["repo"], pinned["revision"]),
    }
    # An operator's folder lies on the site's machine, so a worker there does the job.
    return {**needs, "store": True} if base_model.source == BaseModel.FOLDER else needs


def queue_of(base_model: BaseModel) -> str:
    """Large base models take hours without a GPU."""
    return capacity.GPU if base_model.parameters > settings.CPU_MAX_PARAMETERS else capacity.CPU


def warm_name(repo: str, revision: str) -> str:
    return f"{repo}@{revision}"


def memory_of(
    search: Search, params: Mapping[str, Any], number: int, *, is_loaded: bool = False
) -> memory.Needed:
    """Bytes at `number` bytes a number; a base model that is loaded already needs no more."""
    spec, base_model = search.spec, search.base_model
    modules = LoraModule.objects.filter(
        weights_sha256__in=[each["sha256"] for each in spec["ingredients"]]
    )
    shapes = list(modules.values_list("r", "target_modules"))
    pairs = [*search.examples["shots"], *search.examples["held_out"]]
    return memory.needed(
        base_model.config,
        modules=_mixed_at_once(spec, params),
        rank=max((r for r, _ in shapes), default=1),
        targets=max((len(targets) for _, targets in shapes), default=2),
        tokens=max(_tokens(spec["template"] + given) for given, _ in pairs),
        labels=max(_tokens(wanted) for _, wanted in pairs),
        weights=0 if is_loaded else base_model.parameters * number,
        bytes_per_number=number,
    )


def _mixed_at_once(spec: Mapping[str, Any], params: Mapping[str, Any]) -> int:
    """Ranked ones are looked at a part at a time; only the best are kept."""
    many = len(spec["ingredients"])
    ranked = ranked_to(params)
    return many if ranked is None else min(many, max(ranked, RANKED_AT_ONCE))


def _tokens(text: str) -> int:
    return 8 + len(text) // 2
