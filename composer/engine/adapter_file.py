"""Adapter files, read and checked without torch: the config, the header, what they mean.

The weights' values are not read, so that a request can judge an upload of any size. `survey` takes
every LoRA that PEFT writes, and says what keeps it from being composed; `inspect` takes only those
that compose exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from composer.engine.errors import BadAdapter
from composer.engine.layer_names import NamedLayers, Pattern
from composer.engine.safetensors_header import (
    HEADER_LIMIT,
    ITEM_SIZE,
    WEIGHTS_NAME,
    TensorInfo,
    json_object,
    read_header,
    shown,
)

__all__ = [
    "CONFIG_NAME",
    "HEADER_LIMIT",
    "ITEM_SIZE",
    "PREFIX",
    "WEIGHTS_NAME",
    "AdapterConfig",
    "AdapterFacts",
    "LayerShape",
    "Obstacle",
    "TensorInfo",
    "inspect",
    "json_object",
    "layer_and_factor",
    "read_config",
    "read_header",
    "shown",
    "survey",
]

CONFIG_NAME = "adapter_config.json"
CONFIG_LIMIT = 1 << 20
FLOATS = {"F64", "F32", "F16", "BF16"}
PREFIX = "base_model.model."

# Inits that leave the base model as it was; others (pissa, olora, corda, loftq, ...) change its
# weights when the adapter is attached, so the file alone does not say what the module does.
PLAIN_INITS: tuple[object, ...] = (None, True, False, "gaussian", "eva", "orthogonal")
BIASES = ("none", "all", "lora_only")
MOST_RANK = 65536
MOST_NESTED = 10
PLAIN = "Train it as a plain LoRA."
# Settings that change what the weights mean. Empty or false is fine; anything else is in the way.
UNSUPPORTED = {
    "use_dora": "it uses DoRA (use_dora)",
    "lora_bias": "it trains LoRA biases (lora_bias)",
    "modules_to_save": "it carries whole retrained layers (modules_to_save)",
    "target_parameters": "it adapts bare parameters (target_parameters)",
    "trainable_token_indices": "it retrains token embeddings (trainable_token_indices)",
    "layer_replication": "it replicates layers (layer_replication)",
    "alora_invocation_tokens": "it is an activated LoRA (alora_invocation_tokens)",
    "use_qalora": "it uses QALoRA (use_qalora)",
    "megatron_config": "it is made for Megatron layers",
    "velora_config": "it uses VeLoRA",
    "monteclora_config": "it uses MonteCLoRA",
    "use_bdlora": "it uses BD-LoRA (use_bdlora)",
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
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    task_type: str | None
    base_model: str | None
    revision: str | None
    raw: dict[str, Any] = field(repr=False, compare=False)

    @property
    def scaling(self) -> float:
        """The s of layers that no pattern names."""
        return self.scaling_of(self.lora_alpha, self.r)

    def scaling_of(self, alpha: float, r: int) -> float:
        """s in y = W x + s·B A x: alpha / r, or alpha / √r for rsLoRA (arXiv 2312.03732)."""
        return alpha / (math.sqrt(r) if self.use_rslora else r)


@dataclass(frozen=True)
class LayerShape:
    """A (r, d_in) and B (d_out, r) of one layer, and its s."""

    r: int
    d_in: int
    d_out: int
    scaling: float = field(default=1.0, compare=False)


@dataclass(frozen=True)
class Obstacle:
    """Why an adapter cannot be composed exactly, and what its author can do."""

    reason: str
    advice: str


@dataclass(frozen=True)
class AdapterFacts:
    """What an adapter is; it can be composed exactly when there are no obstacles."""

    r: int
    lora_alpha: float
    scaling: float
    layers: dict[str, LayerShape]
    parameters: int
    dtypes: tuple[str, ...]
    obstacles: tuple[Obstacle, ...] = ()

    @property
    def not_composable(self) -> str:
        """Why not, in a sentence or two; empty when it can be composed."""
        if not self.obstacles:
            return ""
        reasons = "; ".join(obstacle.reason for obstacle in self.obstacles)
        advice = " ".join(dict.fromkeys(obstacle.advice for obstacle in self.obstacles))
        return f"cannot be composed exactly: {reasons}. {advice}"


def read_config(source: Path | bytes) -> AdapterConfig:
    """Read adapter_config.json from its bytes, its path, or the folder it lies in."""
    raw = json_object(_config_bytes(source), CONFIG_NAME)
    if _is_deep(raw):
        raise BadAdapter(
            f"{CONFIG_NAME} nests lists and objects more than {MOST_NESTED} deep, as no settings "
            "of PEFT do. Save the adapter again with PEFT's save_pretrained."
        )
    if raw.get("peft_type") != "LORA":
        raise BadAdapter(
            f"peft_type is {shown(raw.get('peft_type'))} in {CONFIG_NAME}; only LORA adapters can "
            "be shared here. Is this the folder that PEFT's save_pretrained wrote?"
        )
    r, alpha = raw.get("r"), raw.get("lora_alpha")
    if not isinstance(r, int) or isinstance(r, bool) or not 1 <= r <= MOST_RANK:
        raise BadAdapter(
            f"r is {shown(r)} in {CONFIG_NAME}; it must be a whole number from 1 to {MOST_RANK:,}."
        )
    if not _is_alpha(alpha):
        raise BadAdapter(
            f"lora_alpha is {shown(alpha)} in {CONFIG_NAME}; it must be a positive number."
        )
    return AdapterConfig(
        r=r,
        lora_alpha=float(alpha),
        target_modules=_target_modules(raw.get("target_modules")),
        use_rslora=bool(raw.get("use_rslora")),
        use_dora=bool(raw.get("use_dora")),
        bias=_bias(raw.get("bias")),
        modules_to_save=_strings(raw.get("modules_to_save"), "modules_to_save"),
        rank_pattern=_ranks(_mapping(raw.get("rank_pattern"), "rank_pattern")),
        alpha_pattern=_alphas(_mapping(raw.get("alpha_pattern"), "alpha_pattern")),
        task_type=_optional_text(raw.get("task_type"), "task_type"),
        base_model=_optional_text(raw.get("base_model_name_or_path"), "base_model_name_or_path"),
        revision=_optional_text(raw.get("revision"), "revision"),
        raw=raw,
    )


def inspect(config: AdapterConfig, header: Mapping[str, TensorInfo]) -> AdapterFacts:
    """Say what this adapter is, or raise BadAdapter with the reason why it cannot be composed."""
    facts = survey(config, header)
    if facts.obstacles:
        raise BadAdapter(f"This adapter {facts.not_composable}")
    return facts


def survey(config: AdapterConfig, header: Mapping[str, TensorInfo]) -> AdapterFacts:
    """Say what this adapter is, also when it cannot be composed; BadAdapter when it is no LoRA."""
    obstacles = list(_config_obstacles(config))
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    embeddings: set[str] = set()
    named, faults = NamedLayers(config), _Faults()
    for key, info in header.items():
        layer, factor, is_embedding = layer_and_factor(key)
        if not factor:
            obstacles.append(_tensor_obstacle(key, config))
            continue
        if info.dtype not in FLOATS:
            faults.add(
                "dtype",
                f"Tensor {key!r} has dtype {info.dtype}; use F32, F16 or BF16 for LoRA weights.",
            )
        if factor in shapes.setdefault(layer, {}):
            faults.add("twice", f"The file holds lora_{factor} of layer {layer!r} twice.")
        shapes[layer][factor] = info.shape
        if is_embedding:
            embeddings.add(layer)
            obstacles.append(_tensor_obstacle(key, config))
    if not shapes:
        raise BadAdapter(
            f"{WEIGHTS_NAME} holds no tensors of a LoRA as PEFT names them, such as "
            f"{PREFIX}….lora_A.weight. Save the adapter again with PEFT's save_pretrained."
        )
    layers = {}
    for name in sorted(shapes):
        if shape := _layer_shape(name, shapes[name], named, faults):
            layers[name] = shape
        if any(len(each) > 2 for each in shapes[name].values()):
            obstacles.append(Obstacle("it adapts convolutions", PLAIN))
        if name not in embeddings and (setting := named.left_out_by(name)):
            faults.add(
                "unnamed",
                f"The file holds weights for layer {name!r}, which {setting} leaves out: PEFT "
                "would ignore them.",
            )
    faults.refuse()
    return AdapterFacts(
        r=config.r,
        lora_alpha=config.lora_alpha,
        scaling=config.scaling,
        layers=layers,
        parameters=sum(math.prod(info.shape) for info in header.values()),
        dtypes=tuple(sorted({info.dtype for info in header.values()})),
        obstacles=tuple({obstacle.reason: obstacle for obstacle in obstacles}.values()),
    )


class _Faults:
    """What is wrong with a file: the first of each kind, and how many more there are."""

    def __init__(self) -> None:
        self.first: dict[str, str] = {}
        self.count: dict[str, int] = {}

    def add(self, kind: str, message: str) -> None:
        self.first.setdefault(kind, message)
        self.count[kind] = self.count.get(kind, 0) + 1

    def refuse(self) -> None:
        if not self.first:
            return
        raise BadAdapter(
            " ".join(
                message
                if self.count[kind] == 1
                else f"{message} The same is wrong in {self.count[kind] - 1:,} more places."
                for kind, message in self.first.items()
            )
        )


def _config_obstacles(config: AdapterConfig) -> Iterator[Obstacle]:
    if config.bias != "none":
        yield Obstacle(_biases(config), PLAIN)
    for name, reason in UNSUPPORTED.items():
        if config.raw.get(name):
            yield Obstacle(reason, PLAIN)
    if Pattern(config.alpha_pattern).is_open:
        yield Obstacle(
            "its alpha_pattern holds regular expressions, which are not run here",
            "Name the layers in alpha_pattern one by one.",
        )
    init = config.raw.get("init_lora_weights")
    if not (init is None or isinstance(init, bool) or init in PLAIN_INITS):
        yield Obstacle(
            f"init_lora_weights={str(init)[:60]!r} changes the base model's weights",
            "Convert it to a plain LoRA when you save it (PEFT: "
            "save_pretrained(path_initial_model_for_weight_conversion=...)).",
        )


def _biases(config: AdapterConfig) -> str:
    return f"it trains biases (bias={config.bias!r})"


def layer_and_factor(key: str) -> tuple[str, str, bool]:
    """'base_model.model.encoder.q.lora_A.weight' -> ('encoder.q', 'A', False); an embedding's
    factors are called lora_embedding_A, without '.weight'; no factor: ('', '', False)."""
    if key.startswith(PREFIX):
        for factor in ("A", "B"):
            for ending in (f".lora_{factor}.weight", f".lora_{factor}.default.weight"):
                if key.endswith(ending):
                    return key[len(PREFIX) : -len(ending)], factor, False
            for ending in (f".lora_embedding_{factor}", f".lora_embedding_{factor}.default"):
                if key.endswith(ending):
                    return key[len(PREFIX) : -len(ending)], factor, True
    return "", "", False


def _tensor_obstacle(key: str, config: AdapterConfig) -> Obstacle:
    """The reason is one of a few, and the config's own where it announced such a tensor: a file
    with many of them has one obstacle."""
    if "lora_embedding_" in key:
        reason = "it adapts an embedding"
    elif "lora_magnitude_vector" in key:
        reason = UNSUPPORTED["use_dora"]
    elif key.endswith((".lora_B.bias", ".lora_B.default.bias")):
        reason = UNSUPPORTED["lora_bias"]
    elif ".bias" in key:
        reason = _biases(config) if config.bias != "none" else "it carries biases"
    elif ".base_layer." in key:
        return Obstacle(
            "it carries a copy of the base model's own weights",
            "Save it without them (PEFT: save_pretrained(save_embedding_layers=False)).",
        )
    elif ".lora_" not in key:
        for setting in ("modules_to_save", "trainable_token_indices"):
            if config.raw.get(setting):
                return Obstacle(UNSUPPORTED[setting], PLAIN)
        reason = "it carries weights that are not LoRA factors"
    else:
        reason = "it carries tensors that we do not know"
    return Obstacle(reason, PLAIN)


def _layer_shape(
    name: str, shapes: Mapping[str, tuple[int, ...]], named: NamedLayers, faults: _Faults
) -> LayerShape | None:
    if len(shapes) != 2:
        missing = "B" if "A" in shapes else "A"
        faults.add(
            "missing",
            f"Layer {name!r} has no lora_{missing} in {WEIGHTS_NAME}. The file is incomplete: "
            "save the adapter again.",
        )
        return None
    A, B, raw = shapes["A"], shapes["B"], named.config.raw
    if not _are_factors(A, B) and not raw.get("use_bdlora"):  # that one's are in blocks
        faults.add(
            "shapes",
            f"Layer {name!r} has lora_A {list(A)} and lora_B {list(B)}; expected [r, inputs] and "
            "[outputs, r]. Was the adapter saved from a model spread over several machines?",
        )
        return None
    ranks = named.ranks_of(name)
    if A[0] not in ranks and not raw.get("target_parameters"):  # r for each expert there
        faults.add(
            "rank",
            f"Layer {name!r} has rank {A[0]}, but {CONFIG_NAME} says r = "
            f"{named.any_rank_said or min(ranks)}. The two files do not belong together.",
        )
    scaling = named.scaling_of(name, A[0])
    return LayerShape(r=A[0], d_in=A[1], d_out=B[0], scaling=scaling)


def _are_factors(A: tuple[int, ...], B: tuple[int, ...]) -> bool:
    """A (r, d_in) and B (d_out, r); of a convolution, A has its window and B one of size 1."""
    if len(A) != len(B) or len(A) < 2 or 0 in A + B:
        return False
    return A[0] == B[1] and all(n == 1 for n in B[2:])


def _is_deep(raw: dict[str, Any]) -> bool:
    level: list[Any] = [raw]
    for _ in range(MOST_NESTED + 1):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


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


def _ranks(pattern: Mapping[str, Any]) -> Mapping[str, int]:
    for name, r in pattern.items():
        if not isinstance(r, int) or isinstance(r, bool) or not 1 <= r <= MOST_RANK:
            raise BadAdapter(
                f"rank_pattern in {CONFIG_NAME} gives {name[:100]!r} the rank {shown(r)}; it "
                f"must be a whole number from 1 to {MOST_RANK:,}."
            )
    return pattern


def _alphas(pattern: Mapping[str, Any]) -> Mapping[str, float]:
    for name, alpha in pattern.items():
        if not _is_alpha(alpha):
            raise BadAdapter(
                f"alpha_pattern in {CONFIG_NAME} gives {name[:100]!r} the alpha {shown(alpha)}; it "
                "must be a positive number."
            )
    return pattern


def _is_alpha(value: Any) -> TypeGuard[float]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value <= 1e9  # also refuses what is not a number


def _bias(value: Any) -> str:
    if value in (None, False):
        return "none"
    if value not in BIASES:
        raise BadAdapter(
            f"bias is {shown(value)} in {CONFIG_NAME}; PEFT knows {', '.join(BIASES)}."
        )
    return str(value)


def _optional_text(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise BadAdapter(f"{name} in {CONFIG_NAME} must be text.")
    return value
