"""Three ways to measure candidates, for benchmarks/engine.py: as published, by PEFT, and ours."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.engine_models import twin
from composer.engine import stack as stacks
from composer.engine.adapter_file import WEIGHTS_NAME
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.config import SearchConfig
from composer.engine.objective import Objective

Array = np.ndarray


class Way:
    """`losses` of candidates (P, N); `combine` is seconds a candidate, `load` of all modules."""

    name = ""
    load = combine = 0.0

    def losses(self, weights: Array) -> Array:
        raise NotImplementedError


class Published(Way):
    """As LoraHub's released code does it, written from its description: each module is loaded by
    PEFT once and its state dict kept; a candidate is their sum, key by key in Python, put into the
    PEFT model, and one forward over the padded batch with its labels."""

    name = "published"
    LOADED = 3  # modules that are loaded by PEFT to know what one takes

    def __init__(self, base: BaseModel, folders: Sequence[Path], batch: Batch) -> None:
        start = time.perf_counter()
        for folder in folders[: self.LOADED]:
            model = PeftModel.from_pretrained(twin(base), folder)
            get_peft_model_state_dict(model)
        self.load = (time.perf_counter() - start) / self.LOADED * len(folders)
        self.model = model.eval()
        self.modules = [load_file(folder / WEIGHTS_NAME) for folder in folders]
        self.inputs = inputs_of(batch)

    def losses(self, weights: Array) -> Array:
        found = []
        start = time.perf_counter()
        self.combine = 0.0
        for row in weights.tolist():
            start = time.perf_counter()
            mixed: dict[str, Tensor] = {}
            for place, (weight, module) in enumerate(zip(row, self.modules, strict=True)):
                for key in module:
                    part = weight * module[key]
                    mixed[key] = part if place == 0 else mixed[key] + part
            set_peft_model_state_dict(self.model, mixed)
            self.combine += (time.perf_counter() - start) / len(weights)
            found.append(loss_of(self.model, self.inputs))
        return np.array(found)


class Peft(Way):
    """PEFT's own mixture of loaded adapters, added, used and deleted for each candidate."""

    name = "PEFT `linear`"

    def __init__(self, base: BaseModel, folders: Sequence[Path], batch: Batch) -> None:
        start = time.perf_counter()
        self.names = [f"m{n}" for n in range(len(folders))]
        self.model = PeftModel.from_pretrained(twin(base), folders[0], adapter_name=self.names[0])
        for name, folder in zip(self.names[1:], folders[1:], strict=True):
            self.model.load_adapter(folder, adapter_name=name)
        self.load = time.perf_counter() - start
        self.model.eval()
        self.inputs = inputs_of(batch)

    def losses(self, weights: Array) -> Array:
        found = []
        self.combine = 0.0
        for row in weights.tolist():
            start = time.perf_counter()
            self.model.add_weighted_adapter(self.names, row, "mixed", combination_type="linear")
            self.model.set_adapter("mixed")
            self.combine += (time.perf_counter() - start) / len(weights)
            found.append(loss_of(self.model, self.inputs))
            self.model.set_adapter(self.names[0])
            self.model.delete_adapter("mixed")
        return np.array(found)


class Ours(Way):
    """The engine's objective, a whole population at a time."""

    def __init__(
        self, base: BaseModel, folders: Sequence[Path], batch: Batch, combination: str
    ) -> None:
        self.name = f"ours, `{combination}`"
        start = time.perf_counter()
        self.stack = stacks.load(folders, base)
        self.load = time.perf_counter() - start
        config = SearchConfig(combination=combination)
        self.objective = Objective(base, self.stack, batch, config)

    def losses(self, weights: Array) -> Array:
        with torch.inference_mode():
            start = time.perf_counter()
            self.objective.compose(weights)
            self.combine = (time.perf_counter() - start) / len(weights)
        return self.objective.task_loss(weights)


def inputs_of(batch: Batch) -> dict[str, Any]:
    names = ("input_ids", "attention_mask", "labels")
    return {name: getattr(batch, name) for name in names}


def loss_of(model: Any, inputs: dict[str, Any]) -> float:
    with torch.no_grad():
        return float(model(**inputs).loss)


def make_way(name: str, base: BaseModel, folders: Sequence[Path], batch: Batch) -> Way:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "published":
            return Published(base, folders, batch)
        if name == "peft":
            return Peft(base, folders, batch)
        if name == "alone":
            way = Ours(base, folders, batch, "sum")
            way.name += ", one at a time"
            return way
        return Ours(base, folders, batch, name)
