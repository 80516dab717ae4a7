"""Adapter files, read and checked without torch: the config, the header, what they mean.

The weights' values are not read, so that a request can judge an upload of any size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer.engine.errors import BadAdapter
from composer.engine.safetensors_header import (
    HEADER_LIMIT,
    WEIGHTS_NAME,
    TensorInfo,
    json_object,
    read_header,
)

__all__ = [
    "CONFIG_NAME",
    "HEADER_LIMIT",
    "PREFIX",
    "WEIGHTS_NAME",
    "AdapterConfig",
    "AdapterFacts",
    "LayerShape",
    "TensorInfo",
    "inspect",
    "read_config",
    "read_header",
]

CONFIG_NAME = "adapter_config.json"
CONFIG_LIMIT = 1 << 20
FLOATS = {"F64", "F32", "F16", "BF16"}
PREFIX = "base_model.model."

# Inits that leave the base model as it was; others (pissa, olora, corda, loftq, ...) change its
# weights when the adapter is attached, so the file alone does not say what the module does.
PLAIN_INITS: tuple[object, ...] = (None, True, False, "gaussian", "eva", "orthogonal")
# Settings that change what the weights mean. Empty or false is fine; anything else is refused.
UNSUPPORTED = {
    "use_dora": "it uses DoRA",
    "lora_bias": "it trains LoRA biases",
    "modules_to_save": "it carries whole retrained layers (modules_to_save)",
    "rank_pattern": "its rank differs between layers (rank_pattern)",
    "alpha_pattern": "its alpha differs between layers (alpha_pattern)",
    "target_parameters": "it adapts bare parameters (target_parameters)",
    "trainable_token_indices": "it retrains token embeddings (trainable_token_indices)",
    "layer_replication": "it replicates layers (layer_replication)",
    "alora_invocation_tokens": "it is an activated LoRA (alora_invocation_tokens)",
    "use_qalora": "it uses QALoRA",
    "megatron_config": "it is made for Megatron layers",
    "velora_config": "it uses VeLoRA",
    "monteclora_config": "it uses MonteCLoRA",
    "use_bdlora": "it uses BD-LoRA",
    "arrow_config": "it routes between adapters (Arrow)",
    "kasa_config": "it uses KaSA",
}


@dataclass(frozen=True)
class AdapterConfig:
    """The parts of adapter_config.json that matter here, spelled as PEFT spells them."""

    r: int
    lora_alpha: float
    target_modules: tuple[str, ...] | str
    use_rslora: bool
    use_dora: bool
    bias: str
    modules_to_save: tuple[str, ...]
    rank_pattern: Mapping[str, Any]
    alpha_pattern: Mapping[str, Any]
    task_type: str | None
    base_model: str | None
    revision: str | None
    raw: dict[str, Any] = field(repr=False, compare=False)

    @property
    def scaling(self) -> float:
        """s in y = W x + s·B A x: alpha / r, or alpha / √r for rsLoRA (arXiv 2312.03732)."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


@dataclass(frozen=True)
class LayerShape:
    """A (r, d_in) and B (d_out, r) of one layer."""

    r: int
    d_in: int
    d_out: int


@dataclass(frozen=True)
class AdapterFacts:
    """What an adapter is, once it has been found composable."""

    r: int
    lora_alpha: float
    scaling: float
    layers: dict[str, LayerShape]
    parameters: int
    dtypes: tuple[str, ...]


def read_config(source: Path | bytes) -> AdapterConfig:
    """Read adapter_config.json from its bytes, its path, or the folder it lies in."""
    raw = json_object(_config_bytes(source), CONFIG_NAME)
    if raw.get("peft_type") != "LORA":
        raise BadAdapter(
            f"peft_type is {raw.get('peft_type')!r} in {CONFIG_NAME}; only LORA adapters can be "
            "shared here. Is this the folder that PEFT's save_pretrained wrote?"
        )
    r, alpha = raw.get("r"), raw.get("lora_alpha")
    if not isinstance(r, int) or isinstance(r, bool) or not 1 <= r <= 65536:
        raise BadAdapter(f"r is {r!r} in {CONFIG_NAME}; it must be a whole number of 1 or more.")
    if (
        not isinstance(alpha, int | float)
        or isinstance(alpha, bool)
        or not 0 < alpha <= 1e9  # also refuses what is not a number
    ):
        raise BadAdapter(f"lora_alpha is {alpha!r} in {CONFIG_NAME}; it must be a positive number.")
    return AdapterConfig(
        r=r,
        lora_alpha=float(alpha),
        target_modules=_target_modules(raw.get("target_modules")),
        use_rslora=bool(raw.get("use_rslora")),
        use_dora=bool(raw.get("use_dora")),
        bias=str(raw.get("bias") or "none"),
        modules_to_save=_strings(raw.get("modules_to_save"), "modules_to_save"),
        rank_pattern=_mapping(raw.get("rank_pattern"), "rank_pattern"),
        alpha_pattern=_mapping(raw.get("alpha_pattern"), "alpha_pattern"),
        task_type=_optional_text(raw.get("task_type"), "task_type"),
        base_model=_optional_text(raw.get("base_model_name_or_path"), "base_model_name_or_path"),
        revision=_optional_text(raw.get("revision"), "revision"),
        raw=raw,
    )


def inspect(config: AdapterConfig, header: Mapping[str, TensorInfo]) -> AdapterFacts:
    """Say what this adapter is, or raise BadAdapter with the reason why it cannot be composed."""
    _refuse_other_kinds(config)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, info in header.items():
        layer, factor = _layer_and_factor(key)
        if info.dtype not in FLOATS:
            raise BadAdapter(
                f"Tensor {key!r} has dtype {info.dtype}; use F32, F16 or BF16 for LoRA weights."
            )
        if factor in shapes.setdefault(layer, {}):
            raise BadAdapter(f"The file holds lora_{factor} of layer {layer!r} twice.")
        shapes[layer][factor] = info.shape
    if not shapes:
        raise BadAdapter("The weights file holds no tensors. Save the adapter again.")
    layers = {name: _layer_shape(name, shapes[name], config) for name in sorted(shapes)}
    return AdapterFacts(
        r=config.r,
        lora_alpha=config.lora_alpha,
        scaling=config.scaling,
        layers=layers,
        parameters=sum(math.prod(info.shape) for info in header.values()),
        dtypes=tuple(sorted({info.dtype for info in header.values()})),
    )


def _refuse_other_kinds(config: AdapterConfig) -> None:
    if config.bias != "none":
        raise BadAdapter(
            f"This adapter cannot be composed exactly: it trains biases (bias={config.bias!r}). "
            "Train it with bias='none'."
        )
    for name, reason in UNSUPPORTED.items():
        if config.raw.get(name):
            raise BadAdapter(
                f"This adapter cannot be composed exactly: {reason}. "
                f"Train it without {name}, as a plain LoRA."
            )
    init = config.raw.get("init_lora_weights")
    if not (init is None or isinstance(init, bool) or init in PLAIN_INITS):
        raise BadAdapter(
            f"This adapter cannot be composed exactly: init_lora_weights={init!r} changes the "
            "base model's weights. Convert it to a plain LoRA when you save it (PEFT: "
            "save_pretrained(path_initial_model_for_weight_conversion=...))."
        )


def _layer_and_factor(key: str) -> tuple[str, str]:
    """'base_model.model.encoder.q.lora_A.weight' -> ('encoder.q', 'A')."""
    for factor in ("A", "B"):
        for ending in (f".lora_{factor}.weight", f".lora_{factor}.default.weight"):
            if key.startswith(PREFIX) and key.endswith(ending):
                return key[len(PREFIX) : -len(ending)], factor
    if "lora_embedding_" in key:
        reason = "it adapts an embedding"
    elif "lora_magnitude_vector" in key:
        reason = "it uses DoRA"
    elif ".bias" in key:
        reason = "it carries biases"
    elif ".lora_" not in key:
        reason = "it carries weights that are not LoRA factors"
    else:
        reason = "we do not know this tensor"
    raise BadAdapter(f"This adapter cannot be composed exactly: {reason} ({key!r}).")


def _layer_shape(
    name: str, shapes: Mapping[str, tuple[int, ...]], config: AdapterConfig
) -> LayerShape:
    if len(shapes) != 2:
        missing = "B" if "A" in shapes else "A"
        raise BadAdapter(f"Layer {name!r} has no lora_{missing}. The file is incomplete.")
    A, B = shapes["A"], shapes["B"]
    if len(A) != 2 or len(B) != 2 or A[0] != B[1]:
        raise BadAdapter(
            f"Layer {name!r} has lora_A {list(A)} and lora_B {list(B)}; expected [r, inputs] and "
            "[outputs, r]."
        )
    if A[0] != config.r:
        raise BadAdapter(
            f"Layer {name!r} has rank {A[0]}, but {CONFIG_NAME} says r = {config.r}. "
            "The two files do not belong together."
        )
    _refuse_unnamed(name, config)
    return LayerShape(r=A[0], d_in=A[1], d_out=B[0])


def _refuse_unnamed(name: str, config: AdapterConfig) -> None:
    """Where config and weights disagree, PEFT would load less than the file holds."""
    targets, excluded = config.target_modules, config.raw.get("exclude_modules") or []
    chosen = config.raw.get("layers_to_transform")
    # A text is a pattern: we never run a stranger's regular expression here.
    if isinstance(targets, tuple) and not _is_named(name, targets):
        setting, value = "target_modules", ", ".join(targets)
    elif isinstance(excluded, list) and _is_named(name, excluded):
        setting, value = "exclude_modules", ", ".join(map(str, excluded))
    elif chosen not in (None, []) and not _is_chosen(name, chosen, config):
        setting, value = "layers_to_transform", str(chosen)
    else:
        return
    raise BadAdapter(
        f"The file holds weights for layer {name!r}, which {setting} in {CONFIG_NAME} ({value}) "
        "leaves out: PEFT would ignore them."
    )


def _is_named(name: str, names: Iterable[Any]) -> bool:
    return any(name == each or name.endswith(f".{each}") for each in names)


def _is_chosen(name: str, chosen: Any, config: AdapterConfig) -> bool:
    """The number of a layer is the first one behind any word, or behind one of layers_pattern."""
    words = config.raw.get("layers_pattern") or []
    words = [words] if isinstance(words, str) else words
    parts = name.split(".")
    for place in range(1 if words else 2, len(parts) - 1):
        if parts[place].isdecimal() and (not words or parts[place - 1] in words):
            return int(parts[place]) in (chosen if isinstance(chosen, list) else [chosen])
    return False


def _config_bytes(source: Path | bytes) -> bytes:
    if isinstance(source, Path):
        path = source / CONFIG_NAME if source.is_dir() else source
        try:
            with path.open("rb") as stream:
                source = stream.read(CONFIG_LIMIT + 1)
        except OSError as error:
            raise BadAdapter(f"{path.name} cannot be read: {error.strerror}.") from error
    if len(source) > CONFIG_LIMIT:
        raise BadAdapter(f"{CONFIG_NAME} is larger than {CONFIG_LIMIT} bytes. Is it the config?")
    return source


def _target_modules(value: Any) -> tuple[str, ...] | str:
    return value if isinstance(value, str) else _strings(value, "target_modules")


def _strings(value: Any, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadAdapter(f"{name} in {CONFIG_NAME} must be a list of names.")
    return tuple(value)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise BadAdapter(f"{name} in {CONFIG_NAME} must be an object.")
    return value or {}


def _optional_text(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise BadAdapter(f"{name} in {CONFIG_NAME} must be text.")
    return value
