import ast
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
# Starts the script in the folder it is run from as if Python had another version.
AS_VERSION = (
    "import runpy, sys; sys.version_info = {version}; sys.argv = ['bootstrap', *{arguments}]; "
    "runpy.run_path('hub_site/bootstrap.py', run_name='__main__')"
)
UNFIT = ["python2", "python3.6", "python3.7", "python3.8", "python3.9", "python3.10", "python3.14"]
NEWER_THAN_PYTHON_2 = (
    *(ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.AsyncFunctionDef, ast.Await),
    *(ast.Starred, ast.YieldFrom, ast.Match, ast.MatMult),
)


def unfit_pythons() -> list[str]:
    """Those of this machine that start; a name may also be a shim with nothing behind it."""
    return [name for name in UNFIT if shutil.which(name) and bootstrap.version_of(name)]


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


def assert_it_says_so_in_one_line(done: "subprocess.CompletedProcess[str]") -> None:
    assert done.returncode == 1
    assert "the site needs 3.11, 3.12 or 3.13" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "version", [(2, 7, 18), (3, 6, 15), (3, 10, 14), (3, 14, 0), (3, 20, 1), (4, 0, 0)]
)
def test_a_python_too_old_or_too_new_says_so_in_one_line(
    checkout: Path, version: tuple[int, int, int]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_VERSION.format(version=version, arguments=[])],
        cwd=checkout,
        env={**os.environ, "PATH": "/nowhere"},
        capture_output=True,
        text=True,
    )
    assert_it_says_so_in_one_line(done)
    assert f"this is Python {version[0]}.{version[1]}," in done.stderr
    assert not (checkout / ".venv").exists()


def test_its_grammar_is_one_that_old_pythons_read() -> None:
    """A syntax error would be all that they say."""
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 4))
    for node in ast.walk(tree):
        assert not isinstance(node, NEWER_THAN_PYTHON_2), ast.unparse(node)
        if isinstance(node, ast.Raise):
            assert node.cause is None, ast.unparse(node)
        if isinstance(node, ast.FunctionDef):
            given = node.args
            assert not (given.kwonlyargs or given.posonlyargs or node.returns), node.name
            assert not any(argument.annotation for argument in given.args), node.name


if pythons := unfit_pythons():  # most machines have none, and then there is nothing to ask

    @pytest.mark.parametrize("name", pythons)
    def test_a_real_python_that_does_not_fit_says_so_in_one_line(checkout: Path, name: str) -> None:
        asked = [name, "-c", "import sys; print(sys.executable)"]
        python = subprocess.check_output(asked, text=True).strip()
        done = subprocess.run(
            [python, str(checkout / "hub_site" / "bootstrap.py")],
            env={**os.environ, "PATH": "/nowhere"},
            capture_output=True,
            text=True,
        )
        assert_it_says_so_in_one_line(done)


def test_another_python_that_fits_is_found_on_the_path(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A script of that name stands for the other Python; it is started in our place."""
    folder = checkout / "bin"
    folder.mkdir()
    fitting = folder / "python3.12"
    fitting.write_text('#!/bin/sh\n[ "$1" = -I ] && echo 3 12 && exit\necho "started: $*"\n')
    fitting.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", AS_VERSION.format(version=(3, 9, 1), arguments=["--dev"])],
        cwd=checkout,
        env={**os.environ, "PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert "Python 3.9 does not fit, using python3.12." in done.stdout
    assert "bootstrap.py --dev" in done.stdout
