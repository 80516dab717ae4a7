"""Mixing N modules into P candidates, and one candidate into an adapter file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from composer.engine.adapter_file import CONFIG_NAME, PREFIX, WEIGHTS_NAME
from composer.engine.errors import IncompatibleModules
from composer.engine.stack import Stack

Weights = Tensor | NDArray[np.float64] | Sequence[Sequence[float]]


@dataclass(frozen=True)
class Factors:
    """The low-rank terms of P candidates: y_p = W x + delta_p(x).

    own factors     A (P, R, D_in), Bt (P, R, D_out), scale None:  delta_p = B_p A_p x
    shared factors  A (K, D_in), Bt (K, D_out), scale (P, K):      delta_p = B diag(scale_p) A x
    """

    A: Mapping[str, Tensor]
    Bt: Mapping[str, Tensor]
    scale: Tensor | None
    candidates: int


def compose(weights: Weights, stack: Stack, combination: str) -> Factors:
    """Mix N modules into P candidates.

    lorahub (Huang et al. 2023, arXiv 2307.13269, equation 1), each factor on its own:
        A[p] = Σ_n w[p, n] √s_n A_n          B[p] = Σ_n w[p, n] √s_n B_n
        so ΔW[p] = Σ_n Σ_m w[p, n] w[p, m] √(s_n s_m) B_n A_m
    sum, exact and linear in w; A and B of all modules stay shared, K = N·R:
        ΔW[p] = Σ_n w[p, n] s_n B_n A_n

    weights (P, N), stack.A (N, R, D_in), stack.Bt (N, R, D_out)
    """
    stack.check(combination)
    w = torch.as_tensor(weights, dtype=stack.scaling.dtype, device=stack.scaling.device)
    P, N = w.shape
    if len(stack) != N:
        raise IncompatibleModules(f"There are {len(stack)} modules but {N} weights a candidate.")
    if combination == "lorahub":
        folded = w * stack.scaling.sqrt()
        return Factors(
            A={layer: _mix(folded, factor) for layer, factor in stack.A.items()},
            Bt={layer: _mix(folded, factor) for layer, factor in stack.Bt.items()},
            scale=None,
            candidates=P,
        )
    R = max(stack.ranks)
    return Factors(
        A={layer: factor.flatten(0, 1) for layer, factor in stack.A.items()},
        Bt={layer: factor.flatten(0, 1) for layer, factor in stack.Bt.items()},
        scale=(w * stack.scaling).repeat_interleave(R, dim=1),
        candidates=P,
    )


def _mix(w: Tensor, factor: Tensor) -> Tensor:
    """(P, N), (N, R, D) -> (P, R, D), as one matrix product."""
    N, R, D = factor.shape
    return (w @ factor.reshape(N, R * D)).view(-1, R, D)


def export(
    weights: Sequence[float] | NDArray[np.float64],
    stack: Stack,
    combination: str,
    folder: Path | str,
    *,
    base_model: str | None = None,
    revision: str | None = None,
    card: str | None = None,
) -> Path:
    """Write one candidate, weights (N,), as a plain PEFT adapter; returns its folder.

    `lorahub` keeps the rank; `sum` puts the modules' factors one below the other, so that the
    rank is Σ r_i over the modules with a weight other than zero. Scalings are folded in:
    lora_alpha = r, so PEFT's s is 1.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    A, B, rank = factors_of(weights, stack, combination)
    tensors = {}
    for layer in A:
        tensors[f"{PREFIX}{layer}.lora_A.weight"] = A[layer]
        tensors[f"{PREFIX}{layer}.lora_B.weight"] = B[layer]
    save_file(tensors, str(folder / WEIGHTS_NAME), metadata={"format": "pt"})
    (folder / WEIGHTS_NAME).chmod(0o644)  # safetensors writes 0600; another user may serve it
    config: dict[str, Any] = {
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
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / CONFIG_NAME).write_text(text, encoding="utf-8")
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def factors_of(
    weights: Sequence[float] | NDArray[np.float64], stack: Stack, combination: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """A (rank, D_in) and B (D_out, rank) of each layer, with s = 1, and the rank."""
    w = np.asarray(weights, dtype=np.float64)
    with torch.no_grad():
        if combination == "lorahub":
            mixed = compose(w[None], stack, combination)
            A = {layer: factor[0].cpu().contiguous() for layer, factor in mixed.A.items()}
            B = {layer: factor[0].T.cpu().contiguous() for layer, factor in mixed.Bt.items()}
            return A, B, max(stack.ranks)
        kept = [n for n in range(len(stack)) if w[n] != 0]
        if not kept:  # the base model itself: one direction of zeros
            A = {layer: torch.zeros_like(factor[0, :1].cpu()) for layer, factor in stack.A.items()}
            B = {
                layer: torch.zeros_like(factor[0, :1].cpu()).T.contiguous()
                for layer, factor in stack.Bt.items()
            }
            return A, B, 1
        scale = torch.as_tensor(w, dtype=torch.float32) * stack.scaling.cpu()
        ranks = stack.ranks
        A = {
            layer: torch.cat([factor[n, : ranks[n]].cpu() for n in kept])
            for layer, factor in stack.A.items()
        }
        B = {
            layer: torch.cat([scale[n] * factor[n, : ranks[n]].cpu() for n in kept]).T.contiguous()
            for layer, factor in stack.Bt.items()
        }
    return A, B, sum(ranks[n] for n in kept)
