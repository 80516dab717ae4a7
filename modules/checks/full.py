"""The full check: every value of the weights, read in blocks. No torch, no database.

`process.py` runs it in a process of its own, which may be killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from composer.engine.adapter_file import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    AdapterConfig,
    AdapterFacts,
    TensorInfo,
    read_header,
)
from composer.engine.errors import BadAdapter
from modules.bases.shapes import BaseShapes
from modules.checks.quick import FAILED, OK, WARNING, Check, Found, Reading, read

BLOCK = 1 << 22
# A factor's root mean square beyond this many times the median of its kind is worth a look.
OUTLIER = 20.0
HUGE = 1e140  # squares of more than this could not be added up
TYPES = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "BOOL": "u1", "U8": "u1", "I8": "i1",
    "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8",
}  # fmt: skip


def check(folder: Path, base: BaseShapes | None, base_name: str) -> Found:
    """Every check with its figures, over the whole file, in blocks that fit any memory."""
    path = folder / WEIGHTS_NAME
    try:
        reading = read(folder / CONFIG_NAME, path)
        header = read_header(path)
        sums = dict(_read(path, header))
    except BadAdapter as error:
        return Found.refusal(error.user_message)
    facts = reading.facts
    checks = [
        _format(facts, header),
        _finite(sums),
        _effect(facts, sums),
        _even(sums),
        _fits(reading, base, base_name),
        *_same_revision(reading.config, base),
        _composable(reading),
    ]
    return Found(checks, _hash(header, sums))


@dataclass(frozen=True)
class _Sums:
    """What one pass over a tensor's values gives."""

    count: int
    not_finite: int
    square: float
    sha256: str

    @property
    def rms(self) -> float:
        return float(np.sqrt(self.square / self.count)) if self.count else 0.0


def _read(path: Path, header: Mapping[str, TensorInfo]) -> Iterator[tuple[str, _Sums]]:
    """All tensors in the file's order: one pass over it, whatever its size."""
    with path.open("rb") as file:
        file.seek(path.stat().st_size - max(info.end for info in header.values()))
        for name, info in sorted(header.items(), key=lambda item: (item[1].start, item[1].end)):
            yield name, _sums(file, info)


def _sums(file: BinaryIO, info: TensorInfo) -> _Sums:
    count = not_finite = 0
    square = 0.0
    digest = hashlib.sha256()
    left = info.end - info.start
    while left > 0:
        data = file.read(min(BLOCK, left))
        if not data:
            raise BadAdapter(f"{WEIGHTS_NAME} ends before its last tensor does. Upload it again.")
        left -= len(data)
        digest.update(data)
        values = _as_floats(data, info.dtype)
        finite = np.isfinite(values)
        count += values.size
        not_finite += int(values.size - finite.sum())
        values[~finite] = 0
        np.clip(values, -HUGE, HUGE, out=values)
        square += float(values @ values)
    return _Sums(count, not_finite, square, digest.hexdigest())


def _as_floats(data: bytes, dtype: str) -> np.ndarray:
    """Little-endian bytes as float64. A bf16 is the upper half of a float32.

    Other types are never a LoRA's factors; where no number stands for them, nothing is counted.
    """
    if dtype not in TYPES:
        return np.zeros(0)
    values = np.frombuffer(data, TYPES[dtype])
    if dtype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64)


def _hash(header: Mapping[str, TensorInfo], sums: Mapping[str, _Sums]) -> str:
    """The same for the same tensors, in whatever order and with whatever else in the header."""
    rows = [
        [name, header[name].dtype, header[name].shape, sums[name].sha256] for name in sorted(header)
    ]
    return hashlib.sha256(json.dumps(["commons-tensors-1", rows]).encode()).hexdigest()


def _format(facts: AdapterFacts, header: Mapping[str, TensorInfo]) -> Check:
    detail = (
        f"A LoRA in safetensors: {len(header):,} tensors, {facts.parameters:,} parameters, "
        f"{' and '.join(facts.dtypes)}, rank {facts.r}, scaling {facts.scaling:g}."
    )
    return Check("format", "Files", OK, detail, f"{len(header):,} tensors")


def _finite(sums: Mapping[str, _Sums]) -> Check:
    count = sum(s.count for s in sums.values())
    bad = {name: s.not_finite for name, s in sums.items() if s.not_finite}
    if not bad:
        detail = f"All {count:,} values are finite."
        return Check("finite", "Numbers", OK, detail, f"{count:,} values")
    wrong = sum(bad.values())
    detail = (
        f"{wrong:,} value{'s are' if wrong > 1 else ' is'} NaN or infinite, in {len(bad):,} of "
        f"{len(sums):,} tensors, {next(iter(bad))} first. The training diverged, or the file was "
        "damaged: train or save it again."
    )
    return Check("finite", "Numbers", FAILED, detail, f"{wrong:,} not finite")


def _factors(sums: Mapping[str, _Sums], factor: str) -> dict[str, _Sums]:
    marks = (f".lora_{factor}.", f".lora_embedding_{factor}")
    return {
        name: s
        for name, s in sums.items()
        if any(mark in name for mark in marks) and not name.endswith(".bias")
    }


def _effect(facts: AdapterFacts, sums: Mapping[str, _Sums]) -> Check:
    """A layer whose A or B is all zeros changes nothing."""
    layers = len(facts.layers)
    zero = {
        name.rpartition(".lora_")[0]
        for factor in "AB"
        for name, s in _factors(sums, factor).items()
        if s.square == 0 and not s.not_finite
    }
    figure = f"{layers - len(zero):,} of {layers:,} layers"
    if len(zero) == layers:
        detail = (
            f"One factor of each of its {layers:,} layers is all zeros, so as a LoRA the module "
            "changes nothing. Was it saved before training?"
        )
        return Check("zero", "Effect", WARNING if facts.obstacles else FAILED, detail, figure)
    if zero:
        detail = (
            f"{len(zero):,} of {layers:,} adapted layers have a factor of zeros and change "
            f"nothing, {min(zero)} first."
        )
        return Check("zero", "Effect", WARNING, detail, figure)
    return Check("zero", "Effect", OK, f"All {layers:,} adapted layers change something.", figure)


def _even(sums: Mapping[str, _Sums]) -> Check:
    worst, worst_name = 0.0, ""
    for factor in "AB":
        sizes = {name: s.rms for name, s in _factors(sums, factor).items() if s.rms > 0}
        middle = sorted(sizes.values())[(len(sizes) - 1) // 2] if sizes else 0.0
        for name, size in sizes.items():
            if size / middle > worst:
                worst, worst_name = size / middle, name
    figure = f"{worst:.3g} × median"
    detail = f"The largest factor is {worst:.3g} times the median of its kind."
    if worst > OUTLIER:
        return Check("even", "Sizes", WARNING, f"{detail} It is {worst_name}: look at it.", figure)
    return Check("even", "Sizes", OK, detail, figure)


def _fits(reading: Reading, base: BaseShapes | None, name: str) -> Check:
    layers = reading.facts.layers
    title = "Base model"
    if base is None or not base.layers:
        detail = (
            f"This site does not hold {name or 'the base model'}, so the shapes were not compared "
            "with it and the module cannot be composed here."
            if base is None
            else f"The shapes of {base.name} are not known here, so they were not compared."
        )
        return Check("base_model", title, WARNING, detail, "not compared")
    misfits = base.misfits(layers)
    figure = f"{len(layers) - len(misfits):,} of {len(layers):,} layers"
    if not misfits:
        detail = f"All {len(layers):,} adapted layers are in {base.name}, with these shapes."
        return Check("base_model", title, OK, detail, figure)
    more = f" {len(misfits) - 1:,} more layers do not fit either." if len(misfits) > 1 else ""
    detail = f"{next(iter(misfits.values()))}{more}"
    # Of these a layer's name in the file is none of the base model's, and need not be.
    raw = reading.config.raw
    if raw.get("target_parameters") or raw.get("layer_replication"):
        return Check("base_model", title, WARNING, detail, figure)
    return Check(
        "base_model", title, FAILED, f"{detail} The module was trained on another model.", figure
    )


def _same_revision(config: AdapterConfig, base: BaseShapes | None) -> Iterator[Check]:
    """Says something only where the module pins a version of its base model."""
    if base is None or not config.revision:
        return
    title, figure = "Base model's version", config.revision[:10]
    if config.revision == base.revision:
        detail = f"Trained on revision {figure}, the one that this site holds."
        yield Check("revision", title, OK, detail, figure)
    else:
        detail = (
            f"Trained on revision {figure}; this site holds {base.revision[:10]}, on which it may "
            "do something else."
        )
        yield Check("revision", title, WARNING, detail, figure)


def _composable(reading: Reading) -> Check:
    if reading.not_composable:
        return Check("composable", "Composing", WARNING, reading.not_composable, "no")
    detail = "A plain LoRA, which can be composed exactly."
    return Check("composable", "Composing", OK, detail, "exactly")
