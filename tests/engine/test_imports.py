from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "cma")


@pytest.mark.parametrize(
    "name", ["errors", "adapter_file", "config", "prompt", "recipe", "examples", "memory"]
)
def test_it_does_not_load_torch(name: str) -> None:
    """The web process reads adapters, examples and recipes, and must stay small."""
    code = f"import sys, composer.engine.{name}; print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
