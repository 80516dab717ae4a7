"""N adapters of one base model as one tensor, a row a module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from composer.engine import adapter_rows
from composer.engine.adapter_rows import LoadReport, Place
from composer.engine.base_model import BaseModel
from composer.engine.errors import IncompatibleModules


@dataclass(frozen=True)
class Stack:
    """N modules with their scalings folded in: A is √s·A and B is √s·B, so that B A = s·B A.

    rows (N, P) holds every number of every module; `places` says where a layer's factors lie in a
    row. R of a layer is the largest rank there; smaller ones are filled up with zeros, and so is a
    layer that a module does not touch (rank 0).
    """

    rows: Tensor
    places: Mapping[str, Place]
    ranks: Mapping[str, tuple[int, ...]]
    names: tuple[str, ...]
    target_modules: tuple[str, ...]
    transposed: bool = False
    task_type: str | None = None
    base_model: str | None = None
    revision: str | None = None
    reports: tuple[LoadReport, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def rank(self) -> int:
        """The largest rank of any module in any layer."""
        return max(place.R for place in self.places.values())

    @property
    def A(self) -> dict[str, Tensor]:
        """A[layer] (N, R, D_in), views of the rows."""
        return {layer: place.A(self.rows) for layer, place in self.places.items()}

    @property
    def B(self) -> dict[str, Tensor]:
        """B[layer] (N, D_out, R), views of the rows."""
        return {layer: place.B(self.rows) for layer, place in self.places.items()}

    @property
    def Bt(self) -> dict[str, Tensor]:
        """B transposed, (N, R, D_out)."""
        return {layer: factor.transpose(1, 2) for layer, factor in self.B.items()}

    @cached_property
    def shared(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """A (K, D_in), Bt (K, D_out) and the module (K,) that each of their rows belongs to.

        All modules' directions one below the other, K = Σ r_i: what `sum` multiplies with. Made
        once a stack; it takes as much memory again.
        """
        with torch.inference_mode(False):
            return {layer: self._shared(layer, place) for layer, place in self.places.items()}

    def _shared(self, layer: str, place: Place) -> tuple[Tensor, Tensor, Tensor]:
        ranks = self.ranks[layer]
        A, B = place.A(self.rows), place.B(self.rows)
        owner = [n for n, r in enumerate(ranks) for _ in range(r)]
        if set(ranks) == {place.R}:
            return A.flatten(0, 1), B.transpose(1, 2).flatten(0, 1), _index(owner, A)
        return (
            torch.cat([A[n, :r] for n, r in enumerate(ranks)]),
            torch.cat([B[n, :, :r].T for n, r in enumerate(ranks)]),
            _index(owner, A),
        )

    def subset(self, indices: Sequence[int]) -> Stack:
        """The same stack with only these modules, in this order."""
        return replace(
            self,
            rows=self.rows[torch.tensor(list(indices), dtype=torch.long, device=self.rows.device)],
            ranks={layer: tuple(r[i] for i in indices) for layer, r in self.ranks.items()},
            names=tuple(self.names[i] for i in indices),
            reports=tuple(self.reports[i] for i in indices) if self.reports else (),
        )

    def with_factors(self, A: Mapping[str, Tensor], B: Mapping[str, Tensor]) -> Stack:
        """The same stack with other numbers: A[layer] (N, R, D_in), B[layer] (N, D_out, R)."""
        rows = torch.empty_like(self.rows)
        for layer, place in self.places.items():
            place.A(rows).copy_(A[layer])
            place.B(rows).copy_(B[layer])
        return replace(self, rows=rows)

    @property
    def is_of_one_shape(self) -> bool:
        """Whether every module has the same rank in the same layers."""
        return all(len(set(ranks)) == 1 for ranks in self.ranks.values())

    def check(self, combination: str) -> None:
        """`linear` is PEFT's, which takes modules of one shape only.

        `lorahub` fills up smaller ranks with zeros, so that direction k is added to direction k:
        a convention of ours, because the paper's modules all have one rank.
        """
        if combination != "linear" or self.is_of_one_shape:
            return
        layer = next(name for name, ranks in self.ranks.items() if len(set(ranks)) > 1)
        ranks = self.ranks[layer]
        other = next(n for n, r in enumerate(ranks) if r != ranks[0])
        raise IncompatibleModules(
            f"The combination 'linear' needs modules of one rank and the same layers: {layer!r} "
            f"has rank {ranks[other]} in {self.names[other]} and {ranks[0]} in {self.names[0]}. "
            "Choose modules of one shape, or the combination 'sum'."
        )


def load(
    folders: Sequence[Path | str], base: BaseModel, *, names: Sequence[str] | None = None
) -> Stack:
    """Read adapters in PEFT's format and check them against the base model.

    Memory: N rows of Σ over layers of R·(D_in + D_out) numbers in float32.
    """
    if not folders:
        raise IncompatibleModules("No modules were given. Choose at least one.")
    paths = [Path(folder) for folder in folders]
    names = list(names) if names is not None else [path.name for path in paths]
    files = adapter_rows.read_headers(paths, names)
    checked: set[int] = set()
    for file in files:
        if id(file.facts) not in checked:  # modules of one script share one header
            _check_fits(file, base)
            checked.add(id(file.facts))
    places = adapter_rows.layout(files)
    layers = sorted(places)
    return Stack(
        rows=adapter_rows.read_rows(files, places).to(base.device),
        places={layer: places[layer] for layer in layers},
        ranks={layer: tuple(file.rank_of(layer) for file in files) for layer in layers},
        names=tuple(names),
        target_modules=target_modules(layers, base),
        transposed=any(type(base.layer(layer)).__name__ == "Conv1D" for layer in layers),
        task_type="SEQ_2_SEQ_LM" if base.is_encoder_decoder else "CAUSAL_LM",
        base_model=_agreed([file.config.base_model for file in files]),
        revision=_agreed([file.config.revision for file in files]),
        reports=tuple(adapter_rows.report(file, places) for file in files),
    )


def of_layers(sizes: Mapping[str, tuple[int, int]], rank: int) -> dict[str, Place]:
    """Places for layers of these sizes (D_in, D_out), each of this rank, one behind the other."""
    return adapter_rows.in_a_row({layer: (rank, *size) for layer, size in sizes.items()})


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


def _check_fits(file: adapter_rows.AdapterRows, base: BaseModel) -> None:
    for layer, shape in file.facts.layers.items():
        size = layer_size(base, layer)
        if size is None:
            raise IncompatibleModules(
                f"{file.name} adapts {layer!r}, which {base.folder.name} does not have as a linear "
                "layer. Choose modules that were trained on this base model."
            )
        if size != (shape.d_in, shape.d_out):
            raise IncompatibleModules(
                f"{file.name} expects {layer!r} to map {shape.d_in} to {shape.d_out} numbers; in "
                f"{base.folder.name} it maps {size[0]} to {size[1]}. Choose modules that were "
                "trained on this base model."
            )


def _index(owner: list[int], like: Tensor) -> Tensor:
    return torch.tensor(owner, dtype=torch.long, device=like.device)


def _agreed(values: Sequence[str | None]) -> str | None:
    return values[0] if len(set(values)) == 1 else None
