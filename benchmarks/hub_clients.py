"""Which versions of the stock client work against this site, and what in them does not.

    python -m benchmarks.hub_clients [--versions 0.34.4 1.4.0 …]

Each version gets an environment of its own, once with hf_xet and once without, and runs the tests
of the protocol as its users would: as a process whose Hub is the site. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("0.34.4", "1.4.0", "1.33.0", "2.4.0")
TESTS = "tests/modules/hub_api/test_client.py"


def environment(folder: Path, version: str, with_xet: bool) -> Path:
    """A Python with this version of the client."""
    place = folder / f"{version}{'-xet' if with_xet else ''}"
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    wanted = [f"huggingface_hub=={version}", *(["hf_xet"] if with_xet else [])]
    pip = [python, "-m", "pip", "--quiet", "--quiet", "--quiet"]
    subprocess.run([*pip, "install", *wanted], check=True)
    if not with_xet:  # newer versions bring it along
        subprocess.run([*pip, "uninstall", "-y", "hf_xet"], check=False)
    return python


def run(python: Path) -> tuple[int, list[str]]:
    """How many tests passed, and the names of those that did not."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", TESTS],
        cwd=ROOT, env=os.environ | {"HUB_CLIENT": str(python)}, capture_output=True, text=True,
    )  # fmt: skip
    passed = re.search(r"(\d+) passed", done.stdout)
    failed = re.findall(r"^FAILED \S+::(\S+)", done.stdout, re.MULTILINE)
    if passed is None and not failed:
        raise SystemExit(done.stdout + done.stderr)
    return int(passed[1]) if passed else 0, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", nargs="+", default=VERSIONS)
    versions = parser.parse_args().versions
    print("| huggingface_hub | hf_xet | passed | failed |\n|---|---|---:|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for version in versions:
            for with_xet in (False, True):
                passed, failed = run(environment(Path(folder), version, with_xet))
                names = ", ".join(name.removeprefix("test_") for name in failed)
                xet = "yes" if with_xet else "no"
                print(f"| {version} | {xet} | {passed} | {names or '–'} |", flush=True)


if __name__ == "__main__":
    main()
