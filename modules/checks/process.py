"""The process that reads a stranger's file in full: `python -m modules.checks.process`.

A question as JSON on stdin, the answer as JSON on stdout. It knows no database and no secrets.
Before it looks at the file it limits itself and, on Linux, gives up for good whatever reading does
not need: connections, processes, writing. `runner.py` starts it, and kills it when needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
OUTPUT_LIMIT = 1 << 20
OUT_OF_MEMORY = 3


def main() -> int:
    question = json.load(sys.stdin)
    die_with(question["parent"])
    limit(question["memory"], question["seconds"])
    try:
        sys.stdout.write(json.dumps(answer(question)))
        return 0
    except MemoryError:
        return OUT_OF_MEMORY
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return OUT_OF_MEMORY
        raise
    except ImportError as error:
        if "memory" in str(error) or "map segment" in str(error):
            return OUT_OF_MEMORY
        raise


def answer(question: dict[str, Any]) -> dict[str, Any]:
    from modules.bases.shapes import BaseShapes
    from modules.checks.full import check  # numpy, under the limits
    from modules.checks.jail import NoJail, lock_in

    with contextlib.suppress(NoJail):  # elsewhere than on Linux the limits must do
        lock_in(may_read=True)
    base = BaseShapes(**question["base"]) if question["base"] else None
    return check(Path(question["folder"]), base, question["base_name"]).to_json()


def die_with(parent: int) -> None:
    """Linux: when the worker is killed outright, so are we."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we said so
        sys.exit(1)


def limit(memory: int, seconds: int, file_size: int = OUTPUT_LIMIT) -> None:
    """Memory, processor time in case nobody stops us, and no files but a short answer."""
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: seconds + 1,
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_CORE: 0,
    }
    for what, most in limits.items():
        with contextlib.suppress(ValueError, OSError):  # macOS cannot limit memory
            resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    sys.exit(main())
