"""Starts the full check in a process of its own, and makes sure that it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from django.conf import settings

from hub_site import figures
from modules.bases.shapes import BaseShapes
from modules.checks.process import OUT_OF_MEMORY, OUTPUT_LIMIT
from modules.checks.quick import Found

LOOK = 0.5  # seconds between looks at whether we should stop
ERRORS_KEPT = 4_000
KEPT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
COMMAND = (sys.executable, "-m", "modules.checks.process")


class CheckBroke(Exception):
    """A bug of ours: the process ended with an error that no file should cause."""


def check(
    folder: Path,
    base: BaseShapes | None,
    base_name: str,
    keep_on: Callable[[], None] = lambda: None,
) -> Found:
    """The full check of the adapter in this folder, or a refusal that says how the check died.

    `keep_on` is called now and then; what it raises ends the check.
    """
    question = {
        "folder": str(folder),
        "base": asdict(base) if base else None,
        "base_name": base_name,
        "memory": settings.CHECK_MEMORY_BYTES,
        "seconds": settings.CHECK_SECONDS,
        "parent": os.getpid(),
    }
    code, answer, errors = ask(COMMAND, question, settings.CHECK_SECONDS, keep_on)
    return _read(answer) if code == 0 else _died(code, errors)


def ask(
    command: Sequence[str],
    question: dict[str, Any],
    seconds: float,
    keep_on: Callable[[], None],
    files: Sequence[IO[bytes]] = (),
) -> tuple[int | None, bytes, str]:
    """Put a question to a process that may be killed, and inherits these files.

    Returns its exit status, or None when the time was over; its answer; the end of its errors.
    """
    # Files rather than pipes: nobody waits for a reader, and the process's own limit bounds them.
    with (
        tempfile.TemporaryFile() as asked,
        tempfile.TemporaryFile() as answered,
        tempfile.TemporaryFile() as errors,
    ):
        asked.write(json.dumps(question).encode())
        asked.seek(0)
        process = subprocess.Popen(
            command,
            cwd=settings.BASE_DIR,
            env=_environment(),
            stdin=asked,
            stdout=answered,
            stderr=errors,
            pass_fds=[file.fileno() for file in files],
        )
        code = _wait(process, seconds, keep_on)
        answered.seek(0)
        errors.seek(max(0, errors.seek(0, 2) - ERRORS_KEPT))
        return code, answered.read(OUTPUT_LIMIT + 1), errors.read().decode(errors="replace")


def _environment() -> dict[str, str]:
    """Nothing of ours: no address of the database, no secret key."""
    return {
        **{name: os.environ[name] for name in KEPT if name in os.environ},
        "PYTHONPATH": str(settings.BASE_DIR),
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",  # each thread would reserve memory of its own
    }


def _wait(
    process: subprocess.Popen[bytes], seconds: float, keep_on: Callable[[], None]
) -> int | None:
    give_up = time.monotonic() + seconds
    try:
        while time.monotonic() < give_up:
            keep_on()
            try:
                return process.wait(timeout=LOOK)
            except subprocess.TimeoutExpired:
                continue
        return None
    finally:
        process.kill()
        process.wait()


def _read(text: bytes) -> Found:
    try:
        return Found.from_json(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckBroke(f"The check answered {text[:200]!r}") from error


def _died(code: int | None, errors: str) -> Found:
    if code is None:
        reason = f"took longer than the {settings.CHECK_SECONDS} seconds it is given"
    elif code == OUT_OF_MEMORY:
        size = figures.size(settings.CHECK_MEMORY_BYTES)
        reason = f"needed more than the {size} of memory it is given"
    elif code < 0:
        reason = f"was killed (signal {-code})"
    else:
        raise CheckBroke(f"The check ended with status {code}:\n{errors}")
    return Found.refusal(
        f"The check of its files {reason}, so they could not be read to the end. Upload the same "
        "files once more to have them checked again; if that does not help, tell the people who "
        "run this site.",
        "The check itself",
    )
