"""In how many bits a base model is kept, and on which devices its layers lie.

In 8 bits (LLM.int8, Dettmers et al. 2022, arXiv 2208.07339) a column with an outlier in any row of
a batch is multiplied in 16 bits for all of them. There, and only there, candidates of one batch
move each other, by as much as rounding to 8 bits does; the same batch gives the same bits.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import BitsAndBytesConfig

from composer.engine.errors import BadBaseModel

QUANTISATIONS = ("8bit", "4bit")
# Their activations leave the range of float16: losses turn into NaN.
NEVER_IN_FLOAT16 = ("t5", "mt5", "umt5", "longt5", "gemma", "gemma2", "gemma3", "gemma3_text")

PACKED_ROWS = 32

DeviceMap = str | Mapping[str, Any]


def default_dtype(folder: Path, config: Mapping[str, Any], device: str) -> torch.dtype:
    """bfloat16 on a GPU that has it, for weights that are kept in 16 bits; else float32.

    float16 weights become bfloat16 too: its range is float32's, so nothing overflows. A CPU
    without units for bfloat16 is slower in it than in float32.
    """
    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        return torch.float32
    stated = str(config.get("dtype") or config.get("torch_dtype") or _kept_dtype(folder))
    is_half = stated.lower() in ("float16", "bfloat16", "f16", "bf16")
    return torch.bfloat16 if is_half and torch.cuda.is_bf16_supported() else torch.float32


def _kept_dtype(folder: Path) -> str:
    """The type of the first matrix in the weights, for configs that do not say it."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(path), framework="pt") as weights:
                for key in weights.keys():  # noqa: SIM118 (not a dict)
                    return str(weights.get_slice(key).get_dtype())
        except SafetensorError:
            break  # loading will say what is wrong with it
    return ""


def check_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> None:
    if dtype == torch.float16 and config.get("model_type") in NEVER_IN_FLOAT16:
        raise BadBaseModel(
            f"Models of the kind {config['model_type']!r} overflow in float16. Load it in bfloat16 "
            "or float32."
        )


def check_quantisation(quantisation: str | None) -> None:
    if quantisation is None:
        return
    if quantisation not in QUANTISATIONS:
        raise BadBaseModel(
            f"quantisation is {quantisation!r}; it must be '8bit', '4bit' or None for none."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadBaseModel(
            f"Loading a model in {quantisation} needs the package bitsandbytes, which is not "
            "installed here. Install it (pip install bitsandbytes), or load the model in bfloat16."
        )


def check_sizes(model: nn.Module) -> None:
    """On a CPU bitsandbytes packs 4-bit rows, and would give up in the first forward."""
    for name, layer in model.named_modules():
        if type(layer).__name__ != "Linear4bit" or layer.weight.device.type != "cpu":
            continue
        if layer.out_features % PACKED_ROWS:
            raise BadBaseModel(
                f"The layer {name!r} has {layer.out_features} outputs, which {PACKED_ROWS} does "
                "not divide: 4 bits cannot be computed on a CPU then. Load the model in 8 bits, or "
                "as it is."
            )


def placing(
    config: Mapping[str, Any],
    device: str,
    dtype: torch.dtype,
    quantisation: str | None,
    device_map: DeviceMap | None,
) -> dict[str, Any]:
    """from_pretrained's arguments for where the layers go, and in how many bits."""
    found: dict[str, Any] = {}
    if quantisation is not None or "quantization_config" in config:
        # It says at every layer that it casts to 16 bits; the engine prints nothing.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        found["device_map"] = {"": device}  # a quantised layer is made where it stays
    if quantisation is not None:
        made: Any = BitsAndBytesConfig  # untyped
        found["quantization_config"] = made(
            load_in_8bit=quantisation == "8bit",
            load_in_4bit=quantisation == "4bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
        )
    if device_map is not None:
        found["device_map"] = device_map if isinstance(device_map, str) else dict(device_map)
    return found
