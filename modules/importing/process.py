"""The process that unpickles a stranger's weights: `python -m modules.importing.process`.

A question as JSON on stdin, the answer as JSON on stdout; the pickle and the result are two files
that it inherits. It knows no database and no secrets. Before it looks at the pickle it has loaded
all that it needs, limits itself and locks itself in; `converting.py` kills it when needed.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import torch
from safetensors.torch import save

from modules.checks.jail import NoJail, lock_in
from modules.checks.process import OUT_OF_MEMORY, die_with, limit

LONGEST = 300
MOST_SHOWN = 3
LARGEST_HEADER = 1 << 24
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
NO_MEMORY = re.compile(r"not enough memory|can't allocate memory|bad_alloc|Cannot allocate")
# "Unsupported global: GLOBAL a.b was not …", "unsupported GLOBAL a.b whose module …"
WANTED = re.compile(r"GLOBAL ([^\s]{1,200})")


class Refused(Exception):
    """What this file is, in words that follow its name."""


def main() -> int:
    question = json.load(sys.stdin)
    die_with(question["parent"])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    _warm_up()
    with (
        open(question["pickle"], "rb", closefd=False) as file,  # noqa: PTH123  numbers, not paths
        open(question["result"], "wb", closefd=False) as result,  # noqa: PTH123
    ):
        limit(_own_memory() + question["memory"], question["seconds"], question["most"] + (1 << 20))
        try:
            lock_in()
        except NoJail as why:
            print(json.dumps({"no_jail": str(why)}))  # noqa: T201  the answer
            return 0
        return _answer(file, result, question["most"])


def _answer(file: IO[bytes], result: IO[bytes], most: int) -> int:
    try:
        answer: dict[str, Any] = {"tensors": convert(file, result, most), "torch": _version()}
    except Refused as refused:
        answer = {"refused": str(refused)}
    except MemoryError:
        return OUT_OF_MEMORY
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return OUT_OF_MEMORY
        raise
    except RuntimeError as error:
        if NO_MEMORY.search(str(error)):
            return OUT_OF_MEMORY
        raise
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    return 0


def convert(file: IO[bytes], result: IO[bytes], most: int) -> int:
    """Write the pickle's tensors as safetensors; returns how many there are."""
    _check_zip(file, most)
    found = _load(file)
    _check(found, most)
    tensors = {}
    for name in list(found):
        # Each with memory of its own, in rows: safetensors knows neither views nor sharing.
        given = found.pop(name)
        tensors[name] = given.detach().clone(memory_format=torch.contiguous_format)
    result.write(save(tensors, metadata={"format": "pt"}))
    result.flush()
    return len(tensors)


def _load(file: IO[bytes]) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        if NO_MEMORY.search(str(error)):
            raise MemoryError from error
        raise Refused(_why(error)) from error


def _why(error: Exception) -> str:
    text = str(error)
    if wanted := sorted({name.strip(".,'\"") for name in WANTED.findall(text)}):
        return (
            f"asks for {', '.join(wanted[:MOST_SHOWN])} to be loaded, which is more than tensors: "
            "loading it as it is could run its author's code"
        )
    # torch puts its general advice before and after what was wrong.
    text = text.rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0]
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if isinstance(error, PermissionError):
        text = "it would need files or programs of this machine"
    return f"is no file of tensors that can be read without running code ({text[:LONGEST]})"


def _check_zip(file: IO[bytes], most: int) -> None:
    """torch.save writes zips without compression; one that unfolds is meant to do harm."""
    if file.read(4) == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(file) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
        except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
            raise Refused(f"is a broken zip ({str(error)[:LONGEST]})") from error
        if size > most + LARGEST_HEADER:
            raise Refused(f"unfolds to {size:,} bytes; {most:,} are the most for one file")
    file.seek(0)


def _check(found: Any, most: int) -> None:
    """A mapping of names to plain tensors, together not larger than a file may be."""
    if not isinstance(found, Mapping) or not found:
        raise Refused(f"holds {_a(found)} where a table of named tensors should be")
    size = 0
    for name, value in found.items():
        if not isinstance(name, str):
            raise Refused(f"names a tensor by {_a(name)} instead of a text")
        if name == "__metadata__" or not name.isascii() and _is_broken(name):
            raise Refused(f"names a tensor {name[:100]!a}, which safetensors cannot hold")
        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise Refused(
                f"holds {_a(value)} as {name[:100]!r} beside its tensors, as checkpoints of a "
                "training do and adapters do not"
            )
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise Refused(f"holds {name[:100]!r} in a form that safetensors does not have")
        if value.dtype not in DTYPES:
            raise Refused(f"holds {name[:100]!r} as {value.dtype}, which no adapter is made of")
        size += value.numel() * value.element_size()
        if size > most:
            raise Refused(f"unfolds to more than {most:,} bytes, the most for one file")


def _is_broken(name: str) -> bool:
    """Half of a pair of surrogates is no letter."""
    return any("\ud800" <= letter <= "\udfff" for letter in name)


def _a(value: Any) -> str:
    kind = type(value).__name__[:60]
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


def _version() -> str:
    return str(torch.__version__)


def _warm_up() -> None:
    """Whatever torch loads only when it is first needed: afterwards nothing can be opened."""
    for way in (True, False):
        sample = io.BytesIO()
        tensors = {"a": torch.zeros(2), "b": torch.zeros(2, dtype=torch.bfloat16)}
        torch.save(tensors, sample, _use_new_zipfile_serialization=way)
        sample.seek(0)
        convert(sample, io.BytesIO(), 1 << 20)
    sample = io.BytesIO(b"no pickle of ours")
    try:
        _load(sample)
    except Refused:
        return


def _own_memory() -> int:
    """The addresses that this process holds already, most of them torch's code."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 1 << 30


if __name__ == "__main__":
    sys.exit(main())
