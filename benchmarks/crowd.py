"""A larger library: the demo's modules in a crowd of others that were trained on arbitrary pairs.

Each of the others learnt to answer twenty words with twenty other words, drawn at random: modules
as training makes them, of no use to any task. They are made once, in var/crowd.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tqdm import tqdm

from benchmarks.few_shot import opened
from composer.demo import library, skills
from composer.engine.examples import Example
from composer.engine.export import export
from composer.engine.fresh_lora import fresh_lora
from composer.engine.prompt import Template
from composer.engine.stack import Stack, load

FOLDER = Path(__file__).parent.parent / "var" / "crowd"
OTHERS = 80
PAIRS = 20


@cache
def crowded(family: str) -> Stack:
    """The demo's modules first, then the others."""
    base, stack = opened(family)
    of = library.BASES[family]
    kept = FOLDER / f"{family}-{library.content_revision(of.folder())[:12]}"
    others = [kept / f"arbitrary-{number:02d}" for number in range(OTHERS)]
    for number, folder in enumerate(tqdm(others, desc="training the others", unit="module")):
        if not (folder / "adapter_config.json").exists():
            made = fresh_lora(base, *arbitrary(number), seed=number, layers=sorted(stack.places))
            export([1.0], made.stack, "sum", folder)
    return load([*of.module_folders(), *others], base)


def arbitrary(number: int) -> tuple[list[Example], Template]:
    rng = skills.generator("crowd", number)
    words = sorted({word for kind in skills.facts() for word in skills.training_words(kind)})
    chosen = rng.sample(words, 2 * PAIRS)
    pairs = zip(chosen[:PAIRS], chosen[PAIRS:], strict=True)
    return [Example(*pair) for pair in pairs], Template(rng.choice(skills.WRAPPERS))
