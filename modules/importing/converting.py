"""Pickled weights to safetensors: in a process of its own, that can do nothing but that."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, cast

from django.conf import settings

from hub_site import figures
from modules.checks import runner
from modules.checks.process import OUT_OF_MEMORY
from modules.importing.choosing import NotImported
from modules.importing.fetching import digest_of
from modules.upload import receiving

COMMAND = (sys.executable, "-m", "modules.importing.process")


class ConversionBroke(Exception):
    """A bug of ours: the process ended with an error that no file should cause."""


@dataclass(frozen=True)
class Conversion:
    """What a module's page says of weights that came as a pickle."""

    file: str
    size: int
    sha256: str
    result_sha256: str
    tensors: int
    torch: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def convert(
    name: str, pickle: BinaryIO, stack: ExitStack, keep_on: Callable[[], None]
) -> tuple[BinaryIO, Conversion]:
    """The same tensors as safetensors, or NotImported with what is in the file instead."""
    result = cast(BinaryIO, stack.enter_context(receiving.nameless()))
    question = {
        "pickle": pickle.fileno(),
        "result": result.fileno(),
        "most": settings.MAX_FILE_BYTES,
        "memory": settings.CONVERT_MEMORY_BYTES,
        "seconds": settings.CONVERT_SECONDS,
        "parent": os.getpid(),
    }
    pickle.seek(0)
    code, text, errors = runner.ask(
        COMMAND, question, settings.CONVERT_SECONDS, keep_on, (pickle, result)
    )
    answer = _read(name, code, text, errors)
    return result, Conversion(
        file=name,
        size=pickle.seek(0, 2),
        sha256=digest_of(pickle, hashlib.sha256()),
        result_sha256=digest_of(result, hashlib.sha256()),
        tensors=int(answer["tensors"]),
        torch=str(answer["torch"]),
    )


def _read(name: str, code: int | None, text: bytes, errors: str) -> dict[str, Any]:
    if code != 0:
        raise NotImported(f"The conversion of {name} to safetensors {_died(code, errors)}")
    try:
        answer: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise ConversionBroke(f"The conversion answered {text[:200]!r}") from error
    if why := answer.get("no_jail"):
        raise NotImported(
            f"Its weights are a pickle, {name}. Pickles are read only in a process without files "
            f"and network, which this machine cannot give ({why}). Import a repo with safetensors."
        )
    if why := answer.get("refused"):
        raise NotImported(
            f"Its {name} {why}. It was not converted. Its author can save the adapter anew: "
            "model.save_pretrained(folder, safe_serialization=True)."
        )
    return answer


def _died(code: int | None, errors: str) -> str:
    if code is None:
        return f"took longer than the {settings.CONVERT_SECONDS} seconds it is given."
    if code == OUT_OF_MEMORY:
        size = figures.size(settings.CONVERT_MEMORY_BYTES)
        return f"needed more than the {size} of memory it is given."
    if code < 0:
        return f"was killed (signal {-code})."
    raise ConversionBroke(f"The conversion ended with status {code}:\n{errors}")
