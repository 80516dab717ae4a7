"""The numbers of LoraHub's protocol (arXiv 2307.13269), and whatever else decides a row."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from composer.bbh.split import POOL, BadBenchmark
from composer.engine.config import as_in_the_paper, recommended
from composer.engine.fresh_lora import FreshRecipe
from composer.engine.prompt import Template
from composer.workbench import Workbench, content_hash


@dataclass(frozen=True)
class Protocol:
    """shots    examples of a draw, out of the pool
    test     test examples a task, or what is left
    draws    of examples and of modules
    modules  of the library, drawn at random, for `lorahub`, `randomised` and the averages
    ranked   of the library, the best alone on the examples, for `ranked`
    orders   of the examples in a prompt
    seed     of the split and of the draws
    batch    test inputs answered at once
    """

    shots: int = 5
    test: int = 150
    draws: int = 5
    modules: int = 20
    ranked: int = 20
    orders: int = 3
    seed: int = 42
    batch: int = 50

    def __post_init__(self) -> None:
        for each in fields(self):
            least = 0 if each.name == "seed" else 1
            if getattr(self, each.name) < least:
                raise BadBenchmark(
                    f"{each.name} is {getattr(self, each.name)}; it must be {least} or more."
                )
        if self.shots > POOL:
            raise BadBenchmark(f"shots is {self.shots}; the pool has {POOL} examples.")


# These change which rows there are, or how fast they come, but none of them.
FREE = ("draws", "batch")


def setting(bench: Workbench, protocol: Protocol, template: Template) -> dict[str, Any]:
    """What a row depends on besides its task, draw and method: rows of another setting are of no
    use."""
    presets = (recommended(), as_in_the_paper())
    stored = zip(bench.stack.names, bench.sources, strict=True)
    return {
        "base": content_hash(bench.base_source.folder),
        "modules": {name: content_hash(each.folder) for name, each in stored},
        "dtype": str(bench.base.model.dtype).removeprefix("torch."),
        "quantisation": bench.base.quantisation,
        "template": template.text,
        "chat": template.chat,
        "protocol": {key: value for key, value in asdict(protocol).items() if key not in FREE},
        "presets": [preset.to_json() for preset in presets],
        "fresh_lora": asdict(FreshRecipe()),
    }
