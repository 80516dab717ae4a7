"""Is it a pickle? Loading one can run its author's code, so none is stored, whatever its name."""

from __future__ import annotations

import pickletools
import re
from typing import Any, BinaryIO

from composer.engine.adapter_file import WEIGHTS_NAME
from composer.engine.errors import BadAdapter

ENDINGS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
HEAD = 1 << 16
ENOUGH = 16  # operations in a row that make sense are no chance
IMPORTS = {"GLOBAL", "INST", "STACK_GLOBAL"}
CALLS = {"REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"}
# One of these comes before every call: what is called is called with something.
ARGUMENTS = {"MARK", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
NAMES = re.compile(r"[\w.]+ [\w.]+")  # of a module, and of what is imported from it


def refuse(path: str, stream: BinaryIO) -> None:
    """Raise BadAdapter when these bytes, or this name, are a pickle's. The stream is rewound."""
    stream.seek(0)
    head = stream.read(HEAD)
    size = stream.seek(0, 2)
    stream.seek(max(0, size - HEAD))
    tail = stream.read(HEAD)
    stream.seek(0)
    if path.lower().endswith(ENDINGS) or is_pickle(head, tail):
        raise BadAdapter(
            f"{path} is a pickle, which can run code when it is loaded, so this site does not "
            "keep it. Save the adapter with model.save_pretrained(folder, "
            f"safe_serialization=True) and upload {WEIGHTS_NAME}."
        )
    if head.startswith(b"PK\x03\x04") and path.lower().endswith(".safetensors"):
        raise BadAdapter(
            f"{path} is a zip archive under the name of a safetensors file. Unpack it, and upload "
            f"the {WEIGHTS_NAME} in it."
        )


def is_pickle(head: bytes, tail: bytes = b"") -> bool:
    """By the first and the last bytes of a file. torch.save makes zips with a pickle in them."""
    if head.startswith(b"PK\x03\x04"):
        return b".pkl" in head or b".pkl" in tail
    names: list[str] = []
    finished = False
    try:
        for operation, said, _ in pickletools.genops(head):
            names.append(_name(operation.name, said))
            finished = operation.name == "STOP"
            if len(names) > 1000:
                break
    except (ValueError, OverflowError, IndexError):
        pass  # no operation of pickle's, or the head ends in the middle of one
    found = set(names)
    if names[:1] == ["PROTO"] and head[1] >= 2:  # the first bytes of a safetensors file can be so
        return finished or len(names) >= ENOUGH or bool(IMPORTS & found)
    # Older ones are plain text without a mark: then what counts is that they import and call.
    return bool(IMPORTS & found and CALLS & found and ARGUMENTS & found)


def _name(operation: str, said: Any) -> str:
    """Prose that begins with "c" or "i" reads as an import of its first two lines."""
    if operation in ("GLOBAL", "INST") and not NAMES.fullmatch(said):
        return "PROSE"
    return operation
