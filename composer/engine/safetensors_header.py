"""The header of a safetensors file, read strictly and without touching the data.

A file is 8 bytes of little-endian header length, a JSON header, then the tensors' data.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from composer.engine.errors import BadAdapter

WEIGHTS_NAME = "adapter_model.safetensors"
# An adapter of 7 layers in each of 80 blocks holds 1,120 tensors. One that adapts every expert of
# a mixture (48 blocks of 128 experts, 3 layers each) holds 37,000, in a header of 5 MB.
HEADER_LIMIT = 16 << 20
TENSOR_LIMIT = 50_000
NAME_LIMIT = 500  # characters of a tensor's name; four times what the deepest layers need
# Brackets and commas of that many entries. JSON of nothing else grows 24 times when it is read.
SIGN_LIMITS = {b"{": 4 * TENSOR_LIMIT, b"[": 4 * TENSOR_LIMIT, b",": 16 * TENSOR_LIMIT}
FIELDS = {"dtype", "shape", "data_offsets"}
NOT_TEXT = re.compile("[\x00\ud800-\udfff]")
ITEM_SIZE = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4,
    "F64": 8, "I64": 8, "U64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a safetensors file; start and end are offsets into the data region."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a safetensors file carries beside its tensors."""
    with path.open("rb") as stream:
        return read_metadata_of(stream)


def read_metadata_of(stream: BinaryIO) -> dict[str, str]:
    """The same of a seekable stream."""
    read_header(stream)  # refuses what is not one
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    header = json.loads(stream.read(length))
    metadata: dict[str, str] = header.get("__metadata__") or {}
    return metadata


def read_header(source: Path | BinaryIO) -> dict[str, TensorInfo]:
    """Read the header of a safetensors file, from its path, its folder, or a seekable stream.

    Strict: bounded sizes, known dtypes, offsets that fit dtype and shape, and tensors that fill
    the data region without a gap or an overlap, as the format demands. Whatever is taken here is
    taken by safetensors' own reader too; a few oddities that it lets pass are refused.
    """
    if isinstance(source, Path):
        path = source / WEIGHTS_NAME if source.is_dir() else source
        try:
            with path.open("rb") as stream:
                return read_header(stream)
        except OSError as error:
            raise BadAdapter(f"{path.name} cannot be read: {error.strerror}.") from error
    size = source.seek(0, 2)
    source.seek(0)
    length = int.from_bytes(source.read(8), "little")
    if size < 8 or length > size - 8:
        raise BadAdapter(
            "The weights file is cut short or is not safetensors: its header does not fit into "
            f"its {size} bytes. Save the adapter again and upload the new file."
        )
    if length > HEADER_LIMIT:
        raise BadAdapter(
            f"The safetensors header has {length} bytes; the limit is {HEADER_LIMIT}. "
            "An adapter's header is far smaller: is this an adapter?"
        )
    header = json_object(_few_signs(source.read(length)), "The safetensors header", unsigned=True)
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(x, str) for x in metadata.values()):
        raise BadAdapter("The safetensors header's __metadata__ must hold only text.")
    if len(header) > TENSOR_LIMIT:
        raise BadAdapter(f"The file lists {len(header)} tensors; the limit is {TENSOR_LIMIT}.")
    tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    end = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != end:
            raise BadAdapter(
                f"Tensor {name!r} starts at byte {info.start}, but the one before it ends at "
                f"{end}. The file is damaged."
            )
        end = info.end
    if end != size - 8 - length:
        raise BadAdapter(
            f"The tensors fill {end} bytes, but the file holds {size - 8 - length} bytes of data. "
            "It is cut short or has something appended."
        )
    return tensors


def _few_signs(header: bytes) -> bytes:
    for sign, limit in SIGN_LIMITS.items():
        if header.count(sign) > limit:
            raise BadAdapter(
                f"The safetensors header lists more than {TENSOR_LIMIT:,} tensors need. "
                "Is this an adapter?"
            )
    return header


def json_object(data: bytes, what: str, *, unsigned: bool = False) -> dict[str, Any]:
    """Parse one JSON object; names may stand in it only once, and NaN is not JSON.

    Texts must be ones that a database can keep: no U+0000, no half of a surrogate pair.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands in it twice")
        return found

    def no_constant(text: str) -> None:
        raise ValueError(f"{text} is not a JSON number")

    def whole(text: str) -> int:
        if unsigned and text.startswith("-"):
            raise ValueError(f"{text[:40]} is less than nothing")
        if len(text) > 40:
            raise ValueError(f"{text[:40]}… is too large a number")
        return int(text)

    def finite(text: str) -> float:
        if math.isinf(number := float(text)):
            raise ValueError(f"{text[:40]} is too large a number")
        return number

    try:
        parsed = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=no_constant,
            parse_int=whole,
            parse_float=finite,
        )
        if b"\\u" in data and any(NOT_TEXT.search(text) for text in _texts(parsed)):
            raise ValueError("a text in it holds a character that is not text")
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadAdapter(f"{what} is not valid JSON: {reason}.") from error
    if not isinstance(parsed, dict):
        raise BadAdapter(f"{what} is not a JSON object.")
    return parsed


def _texts(value: Any) -> Iterator[str]:
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            left += value.keys()
            left += value.values()
        elif isinstance(value, list):
            left += value


def _tensor(name: str, entry: Any) -> TensorInfo:
    if len(name) > NAME_LIMIT:
        raise BadAdapter(
            f"A tensor's name has {len(name):,} characters; the limit is {NAME_LIMIT}. It begins "
            f"with {name[:60]!r}: is this an adapter?"
        )
    if not isinstance(entry, dict):
        raise BadAdapter(f"The header's entry for tensor {name!r} is not an object.")
    if set(entry) != FIELDS:
        odd = ", ".join(sorted(set(entry) ^ FIELDS))[:200]
        raise BadAdapter(f"The header's entry for tensor {name!r} lacks or adds {odd}.")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise BadAdapter(f"Tensor {name!r} has an unknown dtype {shown(dtype)}.")
    if not _whole_numbers(shape) or len(shape) > 8:
        raise BadAdapter(f"Tensor {name!r} has a shape that is not a list of sizes.")
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise BadAdapter(f"Tensor {name!r} has data_offsets that are not a start and an end.")
    if offsets[1] - offsets[0] != math.prod(shape) * ITEM_SIZE[dtype]:
        raise BadAdapter(
            f"Tensor {name!r} takes {offsets[1] - offsets[0]} bytes, but {dtype} {shape} needs "
            f"{math.prod(shape) * ITEM_SIZE[dtype]}."
        )
    return TensorInfo(dtype=dtype, shape=tuple(shape), start=offsets[0], end=offsets[1])


def shown(value: Any) -> str:
    """A value as a message shows it, however large the file made it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _whole_numbers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 53
        for item in value
    )
