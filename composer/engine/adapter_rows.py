"""Adapter files read into the rows of a stack, a file at a time and whole where that is possible.

Modules of one training script have one header, so their data regions have one layout: a module is
then a single read into its row instead of hundreds of small copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from composer.engine import adapter_file
from composer.engine.adapter_file import (
    WEIGHTS_NAME,
    AdapterConfig,
    AdapterFacts,
    TensorInfo,
    layer_and_factor,
)
from composer.engine.errors import BadAdapter

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Place:
    """Where a layer's factors lie in a row: A (R, D_in) and B (D_out, R), as PEFT stores them."""

    R: int
    d_in: int
    d_out: int
    a: int
    b: int

    def A(self, rows: Tensor) -> Tensor:
        """(N, P) -> (N, R, D_in), a view."""
        return rows[:, self.a : self.a + self.R * self.d_in].view(-1, self.R, self.d_in)

    def B(self, rows: Tensor) -> Tensor:
        """(N, P) -> (N, D_out, R), a view."""
        return rows[:, self.b : self.b + self.R * self.d_out].view(-1, self.d_out, self.R)


@dataclass(frozen=True)
class AdapterRows:
    """One adapter's files: what its config and header say, and where its numbers begin."""

    name: str
    path: Path
    config: AdapterConfig
    header: Mapping[str, TensorInfo]
    facts: AdapterFacts
    data: int

    def rank_of(self, layer: str) -> int:
        shape = self.facts.layers.get(layer)
        return shape.r if shape is not None else 0


@dataclass(frozen=True)
class LoadReport:
    """What became of one module's file: nothing is left out without a word.

    scaled   s of each layer, as it was folded into both factors
    padded   layers where its rank was filled up with zeros, with both ranks
    absent   layers of the stack that it does not touch
    ignored  keys of its file that were not used, each with why (such files are refused today)
    """

    name: str
    used: tuple[str, ...]
    dtypes: tuple[str, ...]
    scaled: Mapping[str, float]
    padded: Mapping[str, tuple[int, int]]
    absent: tuple[str, ...]
    ignored: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Short: how many of each, and every scaling and rank that occurs."""
        return {
            "name": self.name,
            "used": len(self.used),
            "dtypes": list(self.dtypes),
            "scalings": sorted(set(self.scaled.values())),
            "padded": sorted({f"{r} to {R}" for r, R in self.padded.values()}),
            "padded_layers": len(self.padded),
            "absent_layers": len(self.absent),
            "ignored": dict(self.ignored),
        }


def read_headers(paths: Sequence[Path], names: Sequence[str]) -> list[AdapterRows]:
    """Read and judge each adapter's config and header; BadAdapter names the module."""
    seen: dict[tuple[bytes, str], tuple[Mapping[str, TensorInfo], AdapterFacts]] = {}
    files = []
    for path, name in zip(paths, names, strict=True):
        try:
            files.append(_read_header(path, name, seen))
        except BadAdapter as error:
            raise BadAdapter(f"{name}: {error.user_message}") from error
    return files


def _read_header(
    path: Path,
    name: str,
    seen: dict[tuple[bytes, str], tuple[Mapping[str, TensorInfo], AdapterFacts]],
) -> AdapterRows:
    config = adapter_file.read_config(path)
    weights = path / WEIGHTS_NAME
    try:
        with weights.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            head = stream.read(8)
            length = int.from_bytes(head, "little")
            start = head + (stream.read(length) if length <= adapter_file.HEADER_LIMIT else b"")
    except OSError as error:
        raise BadAdapter(f"{WEIGHTS_NAME} cannot be read: {error.strerror}.") from error
    # Equal headers and sizes are judged once, and equal configs make equal facts of them.
    key = (start + size.to_bytes(8, "little"), repr(sorted(config.raw.items(), key=str)))
    if key not in seen:
        tensors = adapter_file.read_header(path)
        seen[key] = tensors, adapter_file.inspect(config, tensors)
    header, facts = seen[key]
    return AdapterRows(name, weights, config, header, facts, data=8 + length)


def layout(files: Sequence[AdapterRows]) -> dict[str, Place]:
    """A place for each layer of any module; the files' own layout where they all share it."""
    first = files[0]
    if all(file.facts.layers == first.facts.layers for file in files):
        return _as_in(first)
    sizes: dict[str, tuple[int, int, int]] = {}
    for facts in {id(file.facts): file.facts for file in files}.values():
        for layer, shape in facts.layers.items():
            R = max(shape.r, sizes.get(layer, (0,))[0])
            sizes[layer] = (R, shape.d_in, shape.d_out)
    return in_a_row(sizes)


def _as_in(file: AdapterRows) -> dict[str, Place]:
    """In the order of the file's data; its numbers need not all have one size."""
    starts: dict[tuple[str, str], int] = {}
    end = 0
    for key, info in sorted(file.header.items(), key=lambda item: item[1].start):
        layer, factor, _ = layer_and_factor(key)
        starts[layer, factor] = end
        end += info.shape[0] * info.shape[1]
    return {
        layer: Place(shape.r, shape.d_in, shape.d_out, starts[layer, "A"], starts[layer, "B"])
        for layer, shape in file.facts.layers.items()
    }


def in_a_row(sizes: Mapping[str, tuple[int, int, int]]) -> dict[str, Place]:
    """(R, D_in, D_out) of each layer -> their places, in order of name."""
    places, end = {}, 0
    for layer in sorted(sizes):
        R, d_in, d_out = sizes[layer]
        places[layer] = Place(R, d_in, d_out, a=end, b=end + R * d_in)
        end += R * (d_in + d_out)
    return places


def read_rows(files: Sequence[AdapterRows], places: Mapping[str, Place]) -> Tensor:
    """(N, P) in float32, scalings folded in."""
    P = sum(place.R * (place.d_in + place.d_out) for place in places.values())
    one_of_each = {id(file.facts): file for file in files}
    is_whole = {key: _is_whole(file, places) for key, file in one_of_each.items()}
    # numpy asks for huge pages where torch does not: a page fault every 2 MB instead of every 4 kB.
    make = np.empty if all(is_whole.values()) else np.zeros
    rows = torch.from_numpy(make((len(files), P), dtype=np.float32))
    for row, file in zip(rows, files, strict=True):
        try:
            if is_whole[id(file.facts)] and file.facts.dtypes == ("F32",):
                _read_into(row, file)
            else:
                _convert_into(row, file, places, whole=is_whole[id(file.facts)])
        except (OSError, ValueError) as error:
            raise BadAdapter(f"{file.name}: {WEIGHTS_NAME} cannot be read: {error}.") from error
        # The largest and the smallest number are finite only where all are.
        if not all(bool(torch.isfinite(value)) for value in row.aminmax()):
            _refuse(row, file, places)
        _fold_scaling(row, file, places)
    return rows


def _is_whole(file: AdapterRows, places: Mapping[str, Place]) -> bool:
    """Whether the file's data region is a row as it stands."""
    if len(file.facts.dtypes) != 1 or len(file.header) != 2 * len(places):
        return False
    for key, info in file.header.items():
        layer, factor, _ = layer_and_factor(key)
        place, shape = places[layer], file.facts.layers[layer]
        start = place.a if factor == "A" else place.b
        if shape.r != place.R or info.start != start * adapter_file.ITEM_SIZE[info.dtype]:
            return False
    return True


def _read_into(row: Tensor, file: AdapterRows) -> None:
    """Straight from the disk's cache into the row, without a stop in between."""
    numbers: Any = row.numpy()
    target = memoryview(numbers).cast("B")
    with file.path.open("rb", buffering=0) as stream:
        stream.seek(file.data)
        done = 0
        while done < len(target):
            count = stream.readinto(target[done:])
            if not count:
                raise ValueError(f"it ends {len(target) - done} bytes early")
            done += count


def _convert_into(
    row: Tensor, file: AdapterRows, places: Mapping[str, Place], *, whole: bool
) -> None:
    data = bytearray(file.path.read_bytes()[file.data :])
    if whole:
        row.copy_(torch.frombuffer(data, dtype=DTYPES[file.facts.dtypes[0]], count=len(row)))
        return
    for key, info in file.header.items():
        layer, factor, _ = layer_and_factor(key)
        place, (first, second) = places[layer], info.shape
        tensor = torch.frombuffer(
            data, dtype=DTYPES[info.dtype], offset=info.start, count=first * second
        ).view(first, second)
        if factor == "A":
            place.A(row[None])[0, :first] = tensor
        else:
            place.B(row[None])[0, :, :second] = tensor


def _fold_scaling(row: Tensor, file: AdapterRows, places: Mapping[str, Place]) -> None:
    """√s into A and √s into B: one set of numbers serves every combination."""
    scalings = {shape.scaling for shape in file.facts.layers.values()}
    if len(scalings) == 1:
        row *= scalings.pop() ** 0.5
        return
    for layer, shape in file.facts.layers.items():
        places[layer].A(row[None]).mul_(shape.scaling**0.5)
        places[layer].B(row[None]).mul_(shape.scaling**0.5)


def _refuse(row: Tensor, file: AdapterRows, places: Mapping[str, Place]) -> None:
    for key in file.header:
        layer, factor, _ = layer_and_factor(key)
        numbers = getattr(places[layer], factor)(row[None])
        if not torch.isfinite(numbers).all():
            raise BadAdapter(
                f"{file.name}: tensor {key!r} holds infinities or NaN. Train it again."
            )


def report(file: AdapterRows, places: Mapping[str, Place]) -> LoadReport:
    layers = file.facts.layers
    return LoadReport(
        name=file.name,
        used=tuple(file.header),
        dtypes=file.facts.dtypes,
        scaled={layer: shape.scaling for layer, shape in layers.items()},
        padded={
            layer: (shape.r, places[layer].R)
            for layer, shape in layers.items()
            if shape.r != places[layer].R
        },
        absent=tuple(sorted(places.keys() - layers.keys())),
        ignored={},
    )
