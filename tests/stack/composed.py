"""docker-compose.yml as Docker Compose itself reads it. No engine is needed for that."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = Path(sysconfig.get_path("scripts"), "docker-compose")
ENOUGH = {"ALLOWED_HOSTS": "commons.example", "SITE_URL": "https://commons.example"}


def run_compose(
    settings: dict[str, str], folder: Path, *more_files: str
) -> subprocess.CompletedProcess[str]:
    """`docker compose config` with these settings as the only .env; nothing of the shell's."""
    env_file = folder / "compose.env"
    lines = [f"{name}={value}\n" for name, value in {**settings, "ENV_FILE": env_file}.items()]
    env_file.write_text("".join(lines))
    command = [str(COMPOSE), "--profile", "*", "--env-file", str(env_file)]
    command += [f"--file={name}" for name in ("docker-compose.yml", *more_files)]
    return subprocess.run(
        [*command, "--project-name", "commons", "config", "--format", "json"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
    )


def read_compose(settings: dict[str, str], folder: Path, *more_files: str) -> dict[str, Any]:
    done = run_compose(settings, folder, *more_files)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # a variable without a value
    found: dict[str, Any] = json.loads(done.stdout.replace("$$", "$"))
    return found
