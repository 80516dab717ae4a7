"""The stock client in a process of its own, against this site on a port of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hub_site.accounts import tokens
from hub_site.accounts.models import User

# Another Python, with another version of the client: see benchmarks/hub_clients.py.
CLIENT = os.environ.get("HUB_CLIENT", sys.executable)
PREAMBLE = """
import json, os, sys
from pathlib import Path
from huggingface_hub import *
from huggingface_hub.errors import *
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils import disable_progress_bars
disable_progress_bars()
api = HfApi()
def raises(error, call):
    try:
        call()
    except error as found:
        return found
    raise AssertionError(f"{error.__name__} was not raised")
"""
Hub = Callable[..., str]


def client_environment(url: str, folder: Path, token: str = "") -> dict[str, str]:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    scripts = str(Path(CLIENT).parent)
    return kept | {
        "PATH": f"{scripts}:{kept.get('PATH', '')}",
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": url,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        **({"HF_TOKEN": token} if token else {}),
    }


@pytest.fixture
def token(alice: User) -> str:
    return tokens.create_token(alice, name="laptop", scope="write")[1]


@pytest.fixture
def hub(live_server: Any, tmp_path: Path, token: str) -> Hub:
    """Runs Python with the stock client, whose Hub is this site; what it prints comes back."""

    def run(code: str, *, token: str = token, fails: bool = False, **environment: str) -> str:
        folder = tmp_path / "client"
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            [CLIENT, "-c", PREAMBLE + code],
            cwd=folder,
            env=client_environment(live_server.url, folder, token) | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr * fails

    return run
