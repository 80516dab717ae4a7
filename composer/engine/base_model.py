"""A frozen base model and its tokenizer, from a folder and from nowhere else.

Models of 7 to 8 billion parameters are loaded in bfloat16, or quantised to 8 or 4 bits, or spread
over several devices; the population's forward calls their layers as they are.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from composer.engine.errors import BadBaseModel, CommonsError
from composer.engine.precision import (
    DeviceMap,
    check_dtype,
    check_quantisation,
    check_sizes,
    default_dtype,
    placing,
)

# The longest answer that is generated.
ANSWER_TOKENS = 32
# Without any of these, transformers makes up a tokenizer that knows no word, and says nothing.
VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tokenizer_config.json")


@dataclass(frozen=True)
class BaseModel:
    model: Any
    tokenizer: Any
    is_encoder_decoder: bool
    folder: Path
    quantisation: str | None = None

    @property
    def device(self) -> torch.device:
        """Where inputs go: to the embeddings, wherever the other layers of a spread model are."""
        embedding = self.model.get_input_embeddings()
        if embedding.weight.device.type != "meta":
            return torch.device(embedding.weight.device)
        # accelerate keeps the weights elsewhere and brings them here when they are needed
        return torch.device(embedding._hf_hook.execution_device)

    @property
    def config(self) -> Any:
        """The language model's part of the config, where a model also has other parts."""
        return self.model.config.get_text_config()

    @property
    def max_tokens(self) -> int | None:
        """The longest prompt the model was made for; None where it knows no limit.

        A decoder-only model writes its answer behind the prompt and needs room for it.
        """
        stated = [
            getattr(self.config, "max_position_embeddings", None),
            getattr(self.tokenizer, "model_max_length", None),
        ]
        limits = [int(value) for value in stated if value and 0 < value < 1 << 24]
        if not limits:
            return None
        return min(limits) - (0 if self.is_encoder_decoder else ANSWER_TOKENS)

    def layer(self, name: str) -> nn.Module | None:
        """The module a LoRA layer name points to, or None."""
        try:
            return self.model.get_submodule(name)  # type: ignore[no-any-return]
        except AttributeError:
            return None

    def fingerprint(self) -> dict[str, str | int]:
        """What decides the bits of a result; a search is resumed only where all of it is equal."""
        spread = getattr(self.model, "hf_device_map", None) or {}
        places = sorted({str(place) for place in spread.values()})
        extra: dict[str, str | int] = {}
        if self.quantisation:
            extra["quantisation"] = f"{self.quantisation}, {_version_of('bitsandbytes')}"
        if len(places) > 1:
            extra["spread"] = ", ".join(f"{name or 'all'}: {to}" for name, to in spread.items())
        return {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": numpy.__version__,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": _device_name(self.device),
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            **extra,
        }


def load(
    folder: Path | str,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    quantisation: str | None = None,
    device_map: DeviceMap | None = None,
) -> BaseModel:
    """Load safetensors weights from a folder: no hub, no pickles, no code of the model's own.

    dtype         None: float32 on a CPU; on a GPU bfloat16 for weights kept in 16 bits, else
                  float32. float16 only when named, and never for models that overflow in it.
    quantisation  "8bit" or "4bit" (NF4) linear layers, by bitsandbytes as it loads
    device_map    how accelerate spreads the layers: "auto", or {name: device}; instead of device
    """
    folder = Path(folder)
    config = _read_config(folder)
    check_quantisation(quantisation)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        kind = AutoConfig.from_pretrained(str(folder), **options)
        dtype = dtype or default_dtype(folder, config, device if device_map is None else "cuda")
        check_dtype(config, dtype)
        auto: Any = AutoModelForSeq2SeqLM if kind.is_encoder_decoder else AutoModelForCausalLM
        with _no_progress_bar():
            model, report = auto.from_pretrained(
                str(folder),
                use_safetensors=True,
                dtype=dtype,
                output_loading_info=True,
                **placing(config, device, dtype, quantisation, device_map),
                **options,
            )
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
    except CommonsError:
        raise
    except Exception as error:  # the libraries raise errors of their own for damaged files
        why = str(error).strip().partition("\n")[0]  # some go on for paragraphs
        raise BadBaseModel(
            f"The base model in {folder.name!r} ({config.get('model_type')!r}) cannot be loaded: "
            f"{why}"
        ) from error
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise BadBaseModel(
            f"The base model in {folder.name!r} lacks {len(missing)} weights, such as "
            f"{missing[0]!r}. Is its download complete?"
        )
    check_sizes(model)
    model.requires_grad_(False)
    model.eval()
    if not hasattr(model, "hf_device_map"):
        model = model.to(device)
    return BaseModel(
        model=model,
        tokenizer=tokenizer,
        is_encoder_decoder=bool(kind.is_encoder_decoder),
        folder=folder,
        quantisation=quantisation,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise BadBaseModel(f"There is no config.json in {str(folder)!r}. Give a model's folder.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadBaseModel(f"config.json in {folder.name!r} is not valid JSON: {error}.") from error
    if not isinstance(config, dict):
        raise BadBaseModel(f"config.json in {folder.name!r} is not a JSON object.")
    if "auto_map" in config:
        raise BadBaseModel(
            f"The base model in {folder.name!r} brings code of its own (auto_map). "
            "Only models that transformers knows are loaded."
        )
    if not any(folder.glob("*.safetensors")):
        raise BadBaseModel(
            f"There is no .safetensors file in {folder.name!r}. Pickled weights are not loaded: "
            "convert them with save_pretrained(safe_serialization=True)."
        )
    if not any(path for name in VOCABULARIES for path in folder.glob(name)):
        raise BadBaseModel(
            f"There is no tokenizer in {folder.name!r} (no tokenizer.json). Copy it from where the "
            "model comes from, or save it there with tokenizer.save_pretrained."
        )
    return config


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """The engine prints nothing; transformers would draw a bar for every load."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version_of(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"
