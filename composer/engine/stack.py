"""N adapters of one base model as one stack of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from composer.engine import adapter_file
from composer.engine.adapter_file import PREFIX, WEIGHTS_NAME, AdapterConfig, AdapterFacts
from composer.engine.base_model import BaseModel
from composer.engine.errors import BadAdapter, IncompatibleModules


@dataclass(frozen=True)
class Stack:
    """N modules; R is the largest rank, smaller ones are filled up with zeros.

    A[layer] (N, R, D_in), Bt[layer] (N, R, D_out): B is kept transposed, so that one module's
    or all modules' factors lie together in memory. scaling (N,) holds each module's s.
    A layer that a module does not touch is zero there.
    """

    A: Mapping[str, Tensor]
    Bt: Mapping[str, Tensor]
    scaling: Tensor
    ranks: tuple[int, ...]
    layers: tuple[frozenset[str], ...]
    names: tuple[str, ...]
    target_modules: tuple[str, ...]
    transposed: bool = False
    task_type: str | None = None
    base_model: str | None = None
    revision: str | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def B(self) -> dict[str, Tensor]:
        """B[layer] (N, D_out, R), as PEFT stores it."""
        return {layer: factor.transpose(1, 2) for layer, factor in self.Bt.items()}

    def subset(self, indices: Sequence[int]) -> Stack:
        """The same stack with only these modules, in this order."""
        chosen = torch.tensor(list(indices), dtype=torch.long)
        return Stack(
            A={layer: factor[chosen] for layer, factor in self.A.items()},
            Bt={layer: factor[chosen] for layer, factor in self.Bt.items()},
            scaling=self.scaling[chosen],
            ranks=tuple(self.ranks[i] for i in indices),
            layers=tuple(self.layers[i] for i in indices),
            names=tuple(self.names[i] for i in indices),
            target_modules=self.target_modules,
            transposed=self.transposed,
            task_type=self.task_type,
            base_model=self.base_model,
            revision=self.revision,
        )

    def check(self, combination: str) -> None:
        """`lorahub` adds factors entry by entry, so all modules must have one shape."""
        if combination != "lorahub":
            return
        for name, rank, layers in zip(self.names, self.ranks, self.layers, strict=True):
            if rank != self.ranks[0]:
                difference = f"{name} has rank {rank}, {self.names[0]} has rank {self.ranks[0]}"
            elif layers != self.layers[0]:
                one = min(layers ^ self.layers[0])
                difference = f"only one of {name} and {self.names[0]} adapts {one}"
            else:
                continue
            raise IncompatibleModules(
                f"The combination 'lorahub' needs modules of one rank and the same layers: "
                f"{difference}. Choose modules of one shape, or the combination 'sum'."
            )


def load(
    folders: Sequence[Path | str], base: BaseModel, *, names: Sequence[str] | None = None
) -> Stack:
    """Read adapters in PEFT's format and check them against the base model.

    Memory: Σ over layers of N·R·(D_in + D_out) numbers in float32.
    """
    if not folders:
        raise IncompatibleModules("No modules were given. Choose at least one.")
    paths = [Path(folder) for folder in folders]
    names = list(names) if names is not None else [path.name for path in paths]
    configs, facts = [], []
    for path, name in zip(paths, names, strict=True):
        config, fact = _read(path, name)
        _check_fits(fact, name, base)
        configs.append(config)
        facts.append(fact)
    A, Bt = _empty(facts)
    for n, (path, name) in enumerate(zip(paths, names, strict=True)):
        try:
            _fill(A, Bt, n, path, name)
        except SafetensorError as error:
            raise BadAdapter(f"{name}: {WEIGHTS_NAME} cannot be read: {error}.") from error
    layers = sorted(A)
    return Stack(
        A={layer: A[layer].to(base.device) for layer in layers},
        Bt={layer: Bt[layer].to(base.device) for layer in layers},
        scaling=torch.tensor([fact.scaling for fact in facts], device=base.device),
        ranks=tuple(fact.r for fact in facts),
        layers=tuple(frozenset(fact.layers) for fact in facts),
        names=tuple(names),
        target_modules=target_modules(layers, base),
        transposed=any(type(base.layer(layer)).__name__ == "Conv1D" for layer in layers),
        task_type="SEQ_2_SEQ_LM" if base.is_encoder_decoder else "CAUSAL_LM",
        base_model=_agreed([config.base_model for config in configs]),
        revision=_agreed([config.revision for config in configs]),
    )


def layer_size(base: BaseModel, name: str) -> tuple[int, int] | None:
    """(D_in, D_out) of a layer of the base model; None when LoRA cannot be added to it."""
    module: Any = base.layer(name)
    if module is None:
        return None
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return int(module.in_features), int(module.out_features)
    if type(module).__name__ == "Conv1D":  # GPT-2: weight (D_in, D_out)
        weight = module.weight
        return int(weight.shape[0]), int(weight.shape[1])
    return None


def target_modules(layers: Sequence[str], base: BaseModel) -> tuple[str, ...]:
    """How to name these layers in adapter_config.json: short where that means just these."""
    endings = sorted({layer.rpartition(".")[2] for layer in layers})
    matched = {name for name, _ in base.model.named_modules() if name.rpartition(".")[2] in endings}
    return tuple(endings) if matched == set(layers) else tuple(sorted(layers))


def _read(path: Path, name: str) -> tuple[AdapterConfig, AdapterFacts]:
    try:
        config = adapter_file.read_config(path)
        return config, adapter_file.inspect(config, adapter_file.read_header(path))
    except BadAdapter as error:
        raise BadAdapter(f"{name}: {error.user_message}") from error


def _check_fits(facts: AdapterFacts, name: str, base: BaseModel) -> None:
    for layer, shape in facts.layers.items():
        size = layer_size(base, layer)
        if size is None:
            raise IncompatibleModules(
                f"{name} adapts {layer!r}, which {base.folder.name} does not have as a linear "
                "layer. Choose modules that were trained on this base model."
            )
        if size != (shape.d_in, shape.d_out):
            raise IncompatibleModules(
                f"{name} expects {layer!r} to map {shape.d_in} to {shape.d_out} numbers; in "
                f"{base.folder.name} it maps {size[0]} to {size[1]}. Choose modules that were "
                "trained on this base model."
            )


def _empty(facts: Sequence[AdapterFacts]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    N, R = len(facts), max(fact.r for fact in facts)
    sizes = {layer: shape for fact in facts for layer, shape in fact.layers.items()}
    A = {layer: torch.zeros(N, R, shape.d_in) for layer, shape in sizes.items()}
    Bt = {layer: torch.zeros(N, R, shape.d_out) for layer, shape in sizes.items()}
    return A, Bt


def _fill(A: dict[str, Tensor], Bt: dict[str, Tensor], n: int, path: Path, name: str) -> None:
    with safe_open(str(path / WEIGHTS_NAME), framework="pt") as weights:
        for key in weights.keys():  # noqa: SIM118 (not a dict)
            tensor = weights.get_tensor(key).float()
            if not torch.isfinite(tensor).all():
                raise BadAdapter(f"{name}: tensor {key!r} holds infinities or NaN. Train it again.")
            layer, _, ending = key.removeprefix(PREFIX).partition(".lora_")
            if ending.startswith("A"):
                A[layer][n, : tensor.shape[0]] = tensor
            else:
                Bt[layer][n, : tensor.shape[1]] = tensor.T


def _agreed(values: Sequence[str | None]) -> str | None:
    return values[0] if len(set(values)) == 1 else None
