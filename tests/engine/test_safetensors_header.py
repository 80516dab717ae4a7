"""Any bytes at all: a valid reading or BadAdapter, in bounded time and memory, never a surprise."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from composer.engine import safetensors_header
from composer.engine.adapter_file import read_config, survey
from composer.engine.errors import BadAdapter
from composer.engine.safetensors_header import HEADER_LIMIT, TENSOR_LIMIT, read_header

ROOT = Path(__file__).resolve().parent.parent.parent
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
SIZES = st.integers(-2, 9) | st.sampled_from([1 << 31, 1 << 53, 1 << 64, 10**30])
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*safetensors_header.ITEM_SIZE, "F99", "F4"]) | JSON,
        "shape": st.lists(SIZES, max_size=4) | JSON,
        "data_offsets": st.lists(SIZES, min_size=2, max_size=2) | JSON,
    },
    optional={"more": JSON},
)
HEADERS = st.dictionaries(st.text(max_size=6), ENTRY | JSON, max_size=4)
ARRAYS = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20).filter(
        lambda name: name != "__metadata__"
    ),
    arrays.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64, np.bool_]),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        elements={"allow_nan": False},
    ),
    max_size=5,
)


def file_with(header: str | bytes, data: bytes = b"") -> bytes:
    raw = header.encode() if isinstance(header, str) else header
    return len(raw).to_bytes(8, "little") + raw + data


def read(raw: bytes) -> dict[str, Any] | None:
    """The reading, or None when it was refused; anything else that is raised fails the test."""
    try:
        return read_header(io.BytesIO(raw))
    except BadAdapter:
        return None


def theirs(raw: bytes) -> dict[str, Any] | None:
    """What safetensors' own reader, written in Rust, makes of it."""
    try:
        return dict(deserialize(raw))
    except SafetensorError:
        return None


def agree(raw: bytes) -> None:
    """Whatever we take, they take too, and see the same tensors."""
    ours = read(raw)
    if ours is None:
        return
    found = theirs(raw)
    assert found is not None
    assert {name: (info.dtype, list(info.shape)) for name, info in ours.items()} == {
        name: (entry["dtype"], entry["shape"]) for name, entry in found.items()
    }
    for name, info in ours.items():
        assert len(found[name]["data"]) == info.end - info.start


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    agree(raw)


@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=100))
def test_any_length_is_read_or_refused(length: int, rest: bytes) -> None:
    agree(length.to_bytes(8, "little") + rest)


@settings(max_examples=300)
@given(HEADERS, st.integers(0, 64))
def test_any_header_is_read_or_refused(header: dict[str, Any], size: int) -> None:
    agree(file_with(json.dumps(header), bytes(size)))


@settings(max_examples=300)
@given(ARRAYS, st.data())
def test_a_changed_byte_anywhere_is_found_or_harmless(
    tensors: dict[str, np.ndarray], data: st.DataObject
) -> None:
    raw = bytearray(save(tensors))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    agree(bytes(raw))


@given(ARRAYS, st.data())
def test_a_file_cut_short_or_longer_is_refused(
    tensors: dict[str, np.ndarray], data: st.DataObject
) -> None:
    raw = save(tensors)
    cut = data.draw(st.integers(0, len(raw) - 1))
    assert read(raw[:cut]) is None
    assert read(raw + b"\0") is None


@given(ARRAYS, st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_what_safetensors_writes_is_read_as_it_was(
    tensors: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    plain = {key.replace("\0", ""): value.replace("\0", "") for key, value in metadata.items()}
    raw = save(tensors, metadata=plain or None)
    found = read_header(io.BytesIO(raw))
    start = len(raw) - max((info.end for info in found.values()), default=0)
    assert set(found) == set(tensors)
    for name, value in tensors.items():
        info = found[name]
        assert info.shape == value.shape
        assert raw[start + info.start : start + info.end] == value.tobytes()
    agree(raw)


@given(st.dictionaries(st.text(max_size=30), JSON, max_size=6), HEADERS)
def test_any_config_is_read_or_refused(more: dict[str, Any], header: dict[str, Any]) -> None:
    known = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}
    for raw in (more, {**known, **more}):
        try:
            config = read_config(json.dumps(raw).encode())
            survey(config, read_header(io.BytesIO(file_with(json.dumps(header)))))
        except BadAdapter:
            continue


SETTINGS = [
    "r", "lora_alpha", "target_modules", "bias", "rank_pattern", "alpha_pattern", "exclude_modules",
    "layers_to_transform", "layers_pattern", "init_lora_weights", "modules_to_save", "revision",
    "base_model_name_or_path", "use_dora", "task_type", "target_parameters", "use_bdlora",
]  # fmt: skip


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(SETTINGS), JSON, max_size=4))
def test_any_value_of_a_setting_is_read_or_refused(changes: dict[str, Any]) -> None:
    known = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}
    weights = {
        "base_model.model.block.0.q.lora_A.weight": np.zeros((2, 3), np.float32),
        "base_model.model.block.0.q.lora_B.weight": np.zeros((4, 2), np.float32),
    }
    try:
        config = read_config(json.dumps({**known, **changes}).encode())
        facts = survey(config, read_header(io.BytesIO(save(weights))))
    except BadAdapter:
        return
    assert list(facts.layers) == ["block.0.q"]


def tensors_of(count: int) -> bytes:
    names = [f"base_model.model.layers.{n // 2}.q.lora_{'AB'[n % 2]}.weight" for n in range(count)]
    entries = {
        name: {"dtype": "F32", "shape": [1, 1], "data_offsets": [4 * n, 4 * n + 4]}
        for n, name in enumerate(names)
    }
    return file_with(json.dumps(entries), bytes(4 * count))


def test_ten_thousand_tensors_are_fine() -> None:
    """A mixture of experts has as many layers to adapt."""
    found = read_header(io.BytesIO(tensors_of(10_000)))
    config = read_config(b'{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q"]}')
    assert len(survey(config, found).layers) == 5_000


def test_more_tensors_than_any_adapter_has_are_refused() -> None:
    with pytest.raises(BadAdapter, match="50002 tensors; the limit is 50000"):
        read_header(io.BytesIO(tensors_of(TENSOR_LIMIT + 2)))


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":[' + b"[]," * (HEADER_LIMIT // 3 - 10) + b"[]]}",
        b'{"a":[' + b"{}," * (HEADER_LIMIT // 3 - 10) + b"{}]}",
        b'{"a":[' + b"7," * (HEADER_LIMIT // 2 - 10) + b"7]}",
        b'{"a":' + b"[" * 5_000_000,
        b'{"a":"' + b"\\u00e9" * (HEADER_LIMIT // 6 - 10) + b'"}',
    ],
    ids=["lists", "objects", "numbers", "depth", "escapes"],
)
def test_a_hostile_header_costs_little_memory(header: bytes) -> None:
    raw = io.BytesIO(file_with(header))
    tracemalloc.start()
    try:
        with pytest.raises(BadAdapter):
            read_header(raw)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 8 * HEADER_LIMIT


def test_a_file_of_any_size_costs_no_memory(tmp_path: Path) -> None:
    """Two terabytes, as the file system says: only the header is read, in a small process."""
    raw = json.dumps({"t": {"dtype": "U8", "shape": [1 << 41], "data_offsets": [0, 1 << 41]}})
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.write(file_with(raw))
        file.truncate(8 + len(raw) + (1 << 41))
    program = (
        "import resource, sys; from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_AS, (200 << 20, 200 << 20))\n"
        "from composer.engine.safetensors_header import read_header\n"
        "print(read_header(Path(sys.argv[1]))['t'].end)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert found.stdout.strip() == str(1 << 41), found.stderr


@pytest.mark.parametrize("length", [1 << 40, (1 << 64) - 1, HEADER_LIMIT + 1])
def test_a_header_said_to_be_huge_is_not_read(tmp_path: Path, length: int) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(1 << 41)
    with pytest.raises(BadAdapter, match="the limit is|cut short"):
        read_header(path)
