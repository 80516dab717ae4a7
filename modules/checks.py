"""What makes an upload acceptable: `quick` in the request, `full` in a worker. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from composer.engine.adapter_file import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    AdapterConfig,
    AdapterFacts,
    TensorInfo,
    inspect,
    read_config,
    read_header,
)
from composer.engine.errors import BadAdapter

if TYPE_CHECKING:
    from modules.models import BaseModel

OK, WARNING, FAILED = "ok", "warning", "failed"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
BLOCK = 1 << 22
# A factor's root mean square beyond this many times the median of its kind is worth a look.
OUTLIER = 20.0


@dataclass(frozen=True)
class Check:
    """One line of the list on a module's page: what was looked at, and what was seen."""

    name: str
    title: str
    state: str
    detail: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Reading:
    """What the quick check read: the config, and what it and the header say together."""

    config: AdapterConfig
    facts: AdapterFacts

    @property
    def target_modules(self) -> list[str]:
        """The layers' last names, as they are in the file: q, v, down_proj, ..."""
        return sorted({layer.rsplit(".", 1)[-1] for layer in self.facts.layers})


def refuse_pickle(path: str, first_bytes: bytes = b"") -> None:
    """Loading a pickle can run its author's code, so none is stored."""
    pickled = first_bytes[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    zipped = first_bytes[:4] == b"PK\x03\x04" and path.endswith(".safetensors")
    if pickled or zipped or path.lower().endswith(PICKLES):
        raise BadAdapter(
            f"{path} is a pickle, which can run code when it is loaded, so this site does not "
            "keep it. Save the adapter with model.save_pretrained(folder, "
            f"safe_serialization=True) and upload {WEIGHTS_NAME}."
        )


def quick(config: Path | bytes, weights: Path | BinaryIO) -> Reading:
    """Read config and header alone; raises BadAdapter with the first thing that is wrong.

    An upload that is not stored yet comes as bytes and as a stream.
    """
    if isinstance(weights, Path):
        with weights.open("rb") as file:
            return quick(config, file)
    weights.seek(0)
    refuse_pickle(WEIGHTS_NAME, weights.read(4))
    read = read_config(config)
    return Reading(read, inspect(read, read_header(weights)))


def full(folder: Path, base_model: BaseModel | None, base_model_name: str) -> list[Check]:
    """Every check with its figures, over the whole file, in blocks that fit any memory."""
    reading = quick(folder / CONFIG_NAME, folder / WEIGHTS_NAME)
    header = read_header(folder / WEIGHTS_NAME)
    facts = reading.facts
    sums = {name: _sums(folder / WEIGHTS_NAME, header, name) for name in header}
    return [
        Check(
            "format",
            "Files",
            OK,
            f"Plain LoRA in safetensors: {len(header)} tensors, {facts.parameters:,} parameters, "
            f"{' and '.join(facts.dtypes)}, rank {facts.r}, scaling {facts.scaling:g}.",
        ),
        _finite(sums),
        _not_zero(sums),
        _even(sums),
        _fits(facts, base_model, base_model_name),
        *_same_revision(reading.config, base_model),
    ]


@dataclass(frozen=True)
class _Sums:
    count: int
    not_finite: int
    square: float

    @property
    def rms(self) -> float:
        return float(np.sqrt(self.square / self.count)) if self.count else 0.0


def _sums(path: Path, header: Mapping[str, TensorInfo], name: str) -> _Sums:
    data_start = path.stat().st_size - max(info.end for info in header.values())
    info = header[name]
    count = not_finite = 0
    square = 0.0
    for block in _blocks(path, data_start + info.start, info.end - info.start, info.dtype):
        finite = np.isfinite(block)
        count += block.size
        not_finite += int(block.size - finite.sum())
        square += float(np.square(block, where=finite, out=np.zeros_like(block)).sum())
    return _Sums(count, not_finite, square)


def _blocks(path: Path, start: int, length: int, dtype: str) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        file.seek(start)
        while length > 0:
            data = file.read(min(BLOCK, length))
            if not data:
                raise BadAdapter(f"{path.name} ends before its last tensor does.")
            length -= len(data)
            yield _as_floats(data, dtype)


def _as_floats(data: bytes, dtype: str) -> np.ndarray:
    """Little-endian bytes as float64. A bf16 is the upper half of a float32."""
    if dtype == "BF16":
        halves = np.frombuffer(data, "<u2").astype(np.uint32)
        return (halves << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(data, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype(np.float64)


def _finite(sums: Mapping[str, _Sums]) -> Check:
    bad = {name: s.not_finite for name, s in sums.items() if s.not_finite}
    if bad:
        name = next(iter(bad))
        return Check(
            "finite",
            "Numbers",
            FAILED,
            f"{sum(bad.values()):,} values in {len(bad)} of {len(sums)} tensors are NaN or "
            f"infinite, {name} first. The training diverged, or the file was damaged: train or "
            "save it again.",
        )
    return Check(
        "finite", "Numbers", OK, f"All {sum(s.count for s in sums.values()):,} values are finite."
    )


def _not_zero(sums: Mapping[str, _Sums]) -> Check:
    factors = [name for name in sums if ".lora_B." in name]
    zero = [name for name in factors if sums[name].square == 0]
    if len(zero) == len(factors):
        return Check(
            "zero",
            "Effect",
            FAILED,
            f"All {len(factors)} B factors are zero, so the module changes nothing. Was it saved "
            "before training?",
        )
    if zero:
        return Check(
            "zero",
            "Effect",
            WARNING,
            f"{len(zero)} of {len(factors)} adapted layers have a zero B factor and change "
            "nothing.",
        )
    return Check("zero", "Effect", OK, f"All {len(factors)} adapted layers change something.")


def _even(sums: Mapping[str, _Sums]) -> Check:
    worst, worst_name = 0.0, ""
    for factor in (".lora_A.", ".lora_B."):
        sizes = {name: s.rms for name, s in sums.items() if factor in name and s.rms > 0}
        middle = float(np.median(list(sizes.values()))) if sizes else 0.0
        for name, size in sizes.items():
            if size / middle > worst:
                worst, worst_name = size / middle, name
    detail = f"The largest factor is {worst:.1f} times the median of its kind."
    if worst > OUTLIER:
        return Check("even", "Sizes", WARNING, f"{detail} It is {worst_name}: look at it.")
    return Check("even", "Sizes", OK, detail)


def _fits(facts: AdapterFacts, base_model: BaseModel | None, name: str) -> Check:
    if base_model is None or not base_model.layers:
        return Check(
            "base_model",
            "Base model",
            WARNING,
            f"This site does not hold {name or 'the base model'}, so the shapes were not compared "
            "with it and the module cannot be composed here."
            if base_model is None
            else f"The shapes of {base_model.name} are not known here, so they were not compared.",
        )
    for layer, shape in facts.layers.items():
        weight: list[Any] | None = base_model.layers.get(layer)
        if weight is None:
            return Check(
                "base_model",
                "Base model",
                FAILED,
                f"{base_model.name} has no layer {layer}. The module was trained on another model.",
            )
        if sorted(weight) != sorted([shape.d_out, shape.d_in]):
            return Check(
                "base_model",
                "Base model",
                FAILED,
                f"Layer {layer} takes {shape.d_in} inputs to {shape.d_out} outputs, but in "
                f"{base_model.name} it has the shape {weight[0]} × {weight[1]}. The module was "
                "trained on another model.",
            )
    return Check(
        "base_model",
        "Base model",
        OK,
        f"All {len(facts.layers)} adapted layers are in {base_model.name}, with these shapes.",
    )


def _same_revision(config: AdapterConfig, base_model: BaseModel | None) -> Iterator[Check]:
    """Says something only where the module pins a version of its base model."""
    if base_model is None or config.revision is None:
        return
    if config.revision == base_model.revision:
        detail = f"Trained on revision {config.revision[:10]}, the one that this site holds."
        yield Check("revision", "Base model's version", OK, detail)
    else:
        detail = (
            f"Trained on revision {config.revision[:10]}; this site holds "
            f"{base_model.revision[:10]}, on which it may do something else."
        )
        yield Check("revision", "Base model's version", WARNING, detail)
