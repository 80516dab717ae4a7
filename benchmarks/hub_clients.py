"""Which versions of the stock client work against this site, and what in them does not.

    python -m benchmarks.hub_clients [--versions 0.34.4 1.4.0 …]

Each version gets an environment of its own, once with hf_xet and once without, and runs the tests
of the protocol as its users would: as a process whose Hub is the site. Prints a Markdown table, and
below it why an old client cannot do something, where that is known: by what it says itself.
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
HERE = "tests/modules/hub_api"
TESTS = [
    f"{HERE}/test_{subject}.py"
    for subject in ("client", "reading", "uploads", "errors", "cut_lines", "commands", "gated")
]
# What such a test says when it fails, and what that means.
REASONS = {
    r"huggingface\.co/api/validate-yaml|Name or service not known": (
        "`ModelCard` and `metadata_update` of this version have cards checked at huggingface.co "
        "whatever `HF_ENDPOINT` says, and there was no network."
    ),
    r"invalid choice|No such command|unexpected extra argument": (
        "This version's `hf` has no such command."
    ),
    r"\['asker-4', 'asker-3'\]": "This version reads the first page of requests for access only.",
    r"has no attribute|unexpected keyword argument": (
        "This version's client has no such method or argument."
    ),
}


def environment(folder: Path, version: str, with_xet: bool) -> Path:
    """A Python with this version of the client."""
    place = folder / f"{version}{'-xet' if with_xet else ''}"
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    # 1.4's hf command uses click, which used to come along with a package that it asks for.
    wanted = [f"huggingface_hub=={version}", "click", *(["hf_xet"] if with_xet else [])]
    pip = [python, "-m", "pip", "--quiet", "--quiet", "--quiet"]
    subprocess.run([*pip, "install", *wanted], check=True)
    if not with_xet:  # newer versions bring it along
        subprocess.run([*pip, "uninstall", "-y", "hf_xet"], check=False)
    return python


def run(python: Path) -> tuple[int, dict[str, str]]:
    """How many tests passed, and what those said that did not."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=short", *TESTS],
        cwd=ROOT, env=os.environ | {"HUB_CLIENT": str(python)}, capture_output=True, text=True,
    )  # fmt: skip
    passed = re.search(r"(\d+) passed", done.stdout)
    parts = re.split(r"^_{3,} (\S.*?) _{3,}$", done.stdout, flags=re.MULTILINE)
    said = dict(zip(parts[1::2], parts[2::2], strict=True))
    failed = re.findall(r"^(?:FAILED|ERROR) \S+?::(\S+)", done.stdout, re.MULTILINE)
    if passed is None and not failed:
        raise SystemExit(done.stdout + done.stderr)
    return int(passed[1]) if passed else 0, {name: said.get(name, "") for name in failed}


def reason(said: str) -> str:
    found = (why for sign, why in REASONS.items() if re.search(sign, said))
    return next(found, "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--versions", nargs="+", default=VERSIONS)
    versions = parser.parse_args().versions
    print("| huggingface_hub | hf_xet | passed | failed |\n|---|---|---:|---|", flush=True)
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for version in versions:
            for with_xet in (False, True):
                passed, failed = run(environment(Path(folder), version, with_xet))
                names = []
                for name, said in failed.items():
                    why = reason(said)
                    if why and why not in notes:
                        notes.append(why)
                    number = f" ({notes.index(why) + 1})" if why else ""
                    names.append(f"`{name.removeprefix('test_')}`{number}")
                xet = "yes" if with_xet else "no"
                print(f"| {version} | {xet} | {passed} | {', '.join(names) or '–'} |", flush=True)
    print()
    for number, why in enumerate(notes, start=1):
        print(f"{number}. {why}")


if __name__ == "__main__":
    main()
