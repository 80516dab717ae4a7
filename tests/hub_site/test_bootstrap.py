import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_site import bootstrap

SCRIPT = Path(bootstrap.__file__)
OLD_PYTHONS = [
    *("python2", "python2.7", "python3.6", "python3.8", "python3.9", "python3.10", "python3.14"),
]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout whose requirements need no download."""
    root = tmp_path / "a checkout"
    (root / "hub_site").mkdir(parents=True)
    shutil.copy(SCRIPT, root / "hub_site")
    (root / "requirements.txt").write_text("# nothing\n")
    (root / "requirements-dev.txt").write_text("-r requirements.txt\n")
    monkeypatch.setattr(bootstrap, "ROOT", str(root))
    monkeypatch.setattr(bootstrap, "VENV", str(root / ".venv"))
    monkeypatch.setattr(bootstrap, "PYTHON", str(root / ".venv" / "bin" / "python"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    yield root


def make_plain_environment(root: Path) -> None:
    """A virtual environment as an interrupted start leaves it: there, but with no stamp."""
    subprocess.run([sys.executable, "-m", "venv", str(root / ".venv")], check=True)


def test_it_makes_the_environment_once_and_again_when_the_list_changes(
    checkout: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bootstrap.main([]) == 0
    assert bootstrap.version_of(bootstrap.PYTHON) == tuple(sys.version_info[:2])
    assert "Making .venv" in capfd.readouterr().out

    assert bootstrap.main([]) == 0
    assert capfd.readouterr().out == ""

    (checkout / "requirements.txt").write_text("# still nothing\n")
    assert bootstrap.main([]) == 0
    out = capfd.readouterr().out
    assert "Installing" in out and "Making .venv" not in out

    assert bootstrap.main(["--dev"]) == 0
    assert "requirements-dev.txt" in capfd.readouterr().out
    assert bootstrap.main([]) == 0
    assert capfd.readouterr().out == ""


def test_it_goes_on_after_an_interrupted_install(
    checkout: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_plain_environment(checkout)
    assert bootstrap.main([]) == 0
    assert "Installing" in capfd.readouterr().out
    assert bootstrap.installed("requirements.txt")


def test_it_makes_an_environment_anew_whose_python_is_gone(
    checkout: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to("/nowhere/python3")
    assert bootstrap.main([]) == 0
    assert "anew" in capfd.readouterr().out


def test_it_says_which_package_has_no_wheel_and_leaves_no_stamp(
    checkout: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_plain_environment(checkout)
    (checkout / "requirements.txt").write_text("no-such-package-anywhere==1\n")
    assert bootstrap.main([]) == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("Cannot set up: there is no ready-made package of no-such-package")
    assert not bootstrap.installed("requirements.txt")


def test_it_says_that_the_disk_is_too_small(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "SMALL_INSTALL", 10**18)
    assert bootstrap.main([]) == 1
    assert "too little disk" in capfd.readouterr().err
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("complaints", "answer"),
    [
        (f"OSError: [Errno {errno.ENOSPC}] No space left on device", "the disk is full"),
        ("Failed to establish a new connection: Name or service not known", "network"),
        ("ERROR: No matching distribution found for torch==2.13.0", "package of torch==2.13.0"),
        ("error: Failed building wheel for nh3", "package of nh3"),
        ("ERROR: something nobody has seen", "pip failed"),
    ],
)
def test_it_says_in_one_line_what_pip_said_in_many(complaints: str, answer: str) -> None:
    line = bootstrap.reason(complaints)
    assert answer in line
    assert "\n" not in line


def test_it_says_that_the_venv_module_is_missing(checkout: Path) -> None:
    """As on Debian, where the package python3-venv is not installed by default."""
    code = "import sys, runpy; sys.modules['ensurepip'] = None; sys.argv = ['bootstrap']; " + (
        "runpy.run_path('hub_site/bootstrap.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"apt install python3.{sys.version_info[1]}-venv" in done.stderr


@pytest.mark.parametrize("name", OLD_PYTHONS)
def test_a_python_that_does_not_fit_says_so_in_one_line(checkout: Path, name: str) -> None:
    try:
        asked = [name, "-c", "import sys; print(sys.executable)"]
        python = subprocess.check_output(asked, stderr=subprocess.DEVNULL, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"no {name} on this machine")
    done = subprocess.run(
        [python, str(checkout / "hub_site" / "bootstrap.py")],
        env={**os.environ, "PATH": "/nowhere"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "the site needs 3.11, 3.12 or 3.13" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_another_python_that_fits_is_found_on_the_path(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A script of that name stands for the other Python; it is started in our place."""
    folder = checkout / "bin"
    folder.mkdir()
    fitting = folder / "python3.12"
    fitting.write_text('#!/bin/sh\n[ "$1" = -I ] && echo 3 12 && exit\necho "started: $*"\n')
    fitting.chmod(0o755)
    code = (
        "import runpy, sys; sys.version_info = (3, 9, 1); sys.argv = ['bootstrap', '--dev']; "
        "runpy.run_path('hub_site/bootstrap.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=checkout,
        env={**os.environ, "PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert "Python 3.9 does not fit, using python3.12." in done.stdout
    assert "bootstrap.py --dev" in done.stdout
