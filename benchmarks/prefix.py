"""A beginning that all prompts share, computed once a candidate or once a row.

    python -m benchmarks.prefix [--rounds 7] [--threads 1]

Llama-like models with random weights; the losses of a population whose prompts begin with the same
k of T tokens, with and without sharing them, in turns; medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from composer.engine.base_model import BaseModel
from composer.engine.batch import IGNORED, Batch
from composer.engine.compose import Factors
from composer.engine.loss import answer_losses

MODULES, RANK, ANSWER = 20, 8, 3
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Shape:
    name: str
    hidden: int
    layers: int
    vocabulary: int
    candidates: int
    examples: int
    tokens: int


SHAPES = (
    Shape("1M", 128, 4, 4000, 12, 5, 64),
    Shape("27M", 512, 8, 4000, 12, 5, 64),
)


def make_model(shape: Shape) -> BaseModel:
    torch.manual_seed(0)
    heads = shape.hidden // 64
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=3 * shape.hidden,
        num_hidden_layers=shape.layers, num_attention_heads=heads, num_key_value_heads=heads,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return BaseModel(model, None, False, Path("random"))


def make_factors(base: BaseModel, shape: Shape) -> Factors:
    """`sum` of all modules' query and value projections."""
    K = MODULES * RANK
    layers = [
        f"model.layers.{i}.self_attn.{name}_proj" for i in range(shape.layers) for name in "qv"
    ]
    return Factors(
        A={layer: 0.01 * torch.randn(K, shape.hidden) for layer in layers},
        Bt={layer: 0.01 * torch.randn(K, shape.hidden) for layer in layers},
        scale={layer: torch.randn(shape.candidates, K) for layer in layers},
        candidates=shape.candidates,
    )


def make_batch(shape: Shape, share: float) -> Batch:
    k = max(1, int(shape.tokens * share))
    ids = torch.randint(0, shape.vocabulary, (shape.examples, shape.tokens))
    ids[:, :k] = ids[0, :k]
    labels = torch.full_like(ids, IGNORED)
    labels[:, -ANSWER:] = ids[:, -ANSWER:]
    return Batch(ids, torch.ones_like(ids), labels, False, prefix=k)


def seconds(base: BaseModel, factors: Factors, batch: Batch) -> float:
    start = time.perf_counter()
    answer_losses(base, factors, batch)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| model | P × B | T | k | plain, ms | shared, ms | gain | difference |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for shape in SHAPES:
        base = make_model(shape)
        with torch.inference_mode():
            factors = make_factors(base, shape)
            for share in SHARES:
                batch = make_batch(shape, share)
                plain = replace(batch, prefix=0)
                apart = answer_losses(base, factors, batch) - answer_losses(base, factors, plain)
                times: tuple[list[float], list[float]] = ([], [])
                for _ in range(options.rounds):
                    for place, given in enumerate((plain, batch)):
                        times[place].append(seconds(base, factors, given))
                before, after = (1000 * statistics.median(each) for each in times)
                print(
                    f"| {shape.name} | {shape.candidates} × {shape.examples} | {shape.tokens} | "
                    f"{batch.prefix} | {before:.0f} | {after:.0f} | {before / after:.2f} | "
                    f"{float(apart.abs().max()):.0e} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
