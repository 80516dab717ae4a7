"""One candidate as a plain PEFT adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composer.engine.adapter_file import CONFIG_NAME, PREFIX, WEIGHTS_NAME
from composer.engine.adapter_rows import in_a_row
from composer.engine.blocks import block_of, count
from composer.engine.compose import compose
from composer.engine.recipe import RECIPE_KEY
from composer.engine.stack import Stack
from composer.engine.truncate import truncate


@dataclass(frozen=True)
class Exported:
    """A (rank, D_in) and B (D_out, rank) of each layer, with s = 1.

    exact_rank  the rank that holds the candidate exactly
    errors      what cutting down to `rank` lost of each layer's ΔW, relative; empty when exact
    """

    A: Mapping[str, Tensor]
    B: Mapping[str, Tensor]
    rank: int
    exact_rank: int
    errors: Mapping[str, float]

    def facts(self) -> dict[str, Any]:
        """What a page or a card says of it."""
        errors = list(self.errors.values())
        return {
            "r": self.rank,
            "exact_rank": self.exact_rank,
            "errors": dict(self.errors),
            "largest_error": max(errors, default=0.0),
            "mean_error": sum(errors) / len(errors) if errors else 0.0,
        }

    def as_stack(self, stack: Stack) -> Stack:
        """A stack of this one adapter, to be measured like any other (weight 1)."""
        places = in_a_row(
            {layer: (self.rank, A.shape[1], len(self.B[layer])) for layer, A in self.A.items()}
        )
        size = sum(place.R * (place.d_in + place.d_out) for place in places.values())
        rows = torch.zeros(1, size)
        for layer, place in places.items():
            place.A(rows)[0] = self.A[layer]
            place.B(rows)[0] = self.B[layer]
        return Stack(
            rows=rows.to(stack.rows.device),
            places=places,
            ranks=dict.fromkeys(places, (self.rank,)),
            names=("composed",),
            target_modules=stack.target_modules,
            transposed=stack.transposed,
            task_type=stack.task_type,
            base_model=stack.base_model,
            revision=stack.revision,
        )


def factors_of(
    weights: Sequence[float] | NDArray[np.float64],
    stack: Stack,
    combination: str,
    *,
    blocks: str = "all",
    rank: int | None = None,
) -> Exported:
    """One candidate's factors.

    `lorahub` and `linear` keep the modules' rank; `sum` puts the modules' factors one below the
    other, so that the rank is Σ r_n over the modules with a weight other than zero. rank cuts that
    down by SVD; it does nothing where the exact rank is not above it.

    weights (N,), or (K·N,) with K blocks
    """
    w = np.asarray(weights, dtype=np.float64)
    with torch.no_grad():
        if combination == "sum":
            A, B = _sum(w, stack, blocks)
        else:
            mixed = compose(w[None], stack, combination, blocks)
            A = {layer: factor[0].cpu().contiguous() for layer, factor in mixed.A.items()}
            B = {layer: factor[0].T.cpu().contiguous() for layer, factor in mixed.Bt.items()}
        exact = max(len(factor) for factor in A.values())
        if rank is not None and rank < exact:
            short = truncate(A, B, rank)
            return Exported(short.A, short.B, rank, exact, short.errors)
        return Exported(_filled(A, exact, 0), _filled(B, exact, 1), exact, exact, {})


def handed_out(
    weights: Sequence[float] | NDArray[np.float64],
    stack: Stack,
    combination: str,
    *,
    blocks: str = "all",
    rank: int | None = None,
) -> tuple[Stack, NDArray[np.float64], str, str]:
    """What an export computes, as stack, weights, combination and blocks to predict with: the
    candidate itself, or what is left of it where its rank was cut down."""
    if rank is not None:
        made = factors_of(weights, stack, combination, blocks=blocks, rank=rank)
        if made.errors:
            return made.as_stack(stack), np.ones(1), "sum", "all"
    return stack, np.asarray(weights, dtype=np.float64), combination, blocks


def _sum(
    w: NDArray[np.float64], stack: Stack, blocks: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    N, block = len(stack), block_of(stack.places, blocks)
    by_block = w.reshape(count(blocks), N)
    kept = [n for n in range(N) if by_block[:, n].any()]
    A, B = {}, {}
    for layer, place in stack.places.items():
        own_A, own_B, ranks = place.A(stack.rows), place.B(stack.rows), stack.ranks[layer]
        scale = by_block[block[layer]].tolist()
        some = [n for n in kept if ranks[n]]
        if not some:  # nothing here: one direction of zeros
            A[layer], B[layer] = torch.zeros(1, place.d_in), torch.zeros(place.d_out, 1)
            continue
        A[layer] = torch.cat([own_A[n, : ranks[n]].cpu() for n in some])
        B[layer] = torch.cat([scale[n] * own_B[n, :, : ranks[n]].cpu() for n in some], dim=1)
    return A, B


def _filled(factors: Mapping[str, Tensor], rank: int, side: int) -> dict[str, Tensor]:
    """Zeros up to one rank for all layers, because plain LoRA has one."""
    filled = {}
    for layer, factor in factors.items():
        shape = list(factor.shape)
        shape[side] = rank - shape[side]
        more = torch.zeros(shape, dtype=factor.dtype)
        filled[layer] = torch.cat([factor, more], dim=side).contiguous()
    return filled


def export(
    weights: Sequence[float] | NDArray[np.float64],
    stack: Stack,
    combination: str,
    folder: Path | str,
    *,
    blocks: str = "all",
    rank: int | None = None,
    base_model: str | None = None,
    revision: str | None = None,
    recipe: str | None = None,
) -> Exported:
    """Write one candidate as a plain PEFT adapter; see factors_of.

    lora_alpha = r, so PEFT's s is 1. recipe is kept inside the weights file as well.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = factors_of(weights, stack, combination, blocks=blocks, rank=rank)
    tensors = {}
    for layer in made.A:
        tensors[f"{PREFIX}{layer}.lora_A.weight"] = made.A[layer]
        tensors[f"{PREFIX}{layer}.lora_B.weight"] = made.B[layer]
    metadata = {"format": "pt"} | ({} if recipe is None else {RECIPE_KEY: recipe})
    _write(folder / WEIGHTS_NAME, tensors, metadata)
    text = json.dumps(_config(stack, made.rank, base_model, revision), indent=2, sort_keys=True)
    (folder / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
    return made


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file of float32. The library's own writer puts metadata in a random order, so
    that the same adapter would have other bytes each time."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in sorted(tensors):
        shape, size = list(tensors[name].shape), 4 * tensors[name].numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            file.write(tensors[name].to(torch.float32).contiguous().numpy().tobytes())


def _config(
    stack: Stack, rank: int, base_model: str | None, revision: str | None
) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": stack.task_type,
        "base_model_name_or_path": base_model or stack.base_model or "",
        "revision": revision or stack.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": list(stack.target_modules),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": stack.transposed,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
