"""Keep a PostgreSQL for a test run: start it, print its address, stop it when stdin ends.

A process of its own, because stdin ends however the test run ends, SIGKILL included.
"""

import shutil
import signal
import sys
import tempfile
from pathlib import Path

from hub_site import embedded


def keep() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    var = Path(tempfile.mkdtemp(prefix="commons-test-db-"))
    var.chmod(0o711)
    try:
        print(embedded.start(var, durable=False), flush=True)
        sys.stdin.read()
    finally:
        embedded.stop(var)
        shutil.rmtree(var, ignore_errors=True)


if __name__ == "__main__":
    keep()
