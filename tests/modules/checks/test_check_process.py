"""The process that reads strangers' files: what it answers, and that it always ends."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from hub_site.accounts.models import User
from modules import services
from modules.bases.shapes import BaseShapes
from modules.checks import process, runner
from modules.checks.quick import Found
from modules.models import LoraModule, Repo
from modules.storage import local
from tests.modules.conftest import LAYERS, WIDTH, config_bytes, factors
from tests.workers import ROOT, wait_until

BASE = BaseShapes("us/base", "abc", {layer: [WIDTH, WIDTH] for layer in LAYERS})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_config.json").write_bytes(config_bytes())
    save_file(factors(), made / "adapter_model.safetensors")
    return made


@pytest.fixture
def stuck(folder: Path) -> Path:
    """Weights whose reading never ends: a pipe that nobody writes to."""
    (folder / "adapter_model.safetensors").unlink()
    os.mkfifo(folder / "adapter_model.safetensors")
    return folder


def states(found: Found) -> dict[str, str]:
    return {check.name: check.state for check in found.checks}


def checkers(parent: int = 0) -> list[int]:
    """The checking processes that this process, or that one, has started."""
    found = []
    for task in Path(f"/proc/{parent or os.getpid()}/task").iterdir():
        for pid in (task / "children").read_text().split():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            found += [int(pid)] if b"modules.checks.process" in words else []
    return found


def hash_of(folder: Path, tensors: dict[str, np.ndarray], **metadata: str) -> str:
    save_file(tensors, folder / "adapter_model.safetensors", metadata=metadata or None)
    return runner.check(folder, BASE, "").tensors_sha256


def test_it_answers_as_the_check_itself_does(folder: Path) -> None:
    from modules.checks.full import check

    found = runner.check(folder, BASE, "us/base")
    assert found == check(folder, BASE, "us/base")
    assert set(states(found).values()) == {"ok"} and len(found.tensors_sha256) == 64


def test_it_refuses_a_broken_file_in_words(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"garbage")
    (line,) = runner.check(folder, BASE, "").checks
    assert line.state == "failed" and "cut short" in line.detail


def test_the_hash_is_of_the_tensors_alone(folder: Path) -> None:
    """The order in the file, the metadata and the config do not count; names and values do."""
    tensors = factors()
    first = hash_of(folder, tensors)
    assert hash_of(folder, dict(reversed(tensors.items())), made_by="us") == first
    (folder / "adapter_config.json").write_bytes(config_bytes(lora_alpha=9))
    assert hash_of(folder, tensors) == first
    raw = save(tensors)
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    order = sorted(header, key=lambda name: header[name]["data_offsets"], reverse=True)
    data, at = b"", 0
    for name in order:
        data += tensors[name].tobytes()
        header[name]["data_offsets"] = [at, len(data)]
        at = len(data)
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + data
    )
    assert runner.check(folder, BASE, "").tensors_sha256 == first
    next(iter(tensors.values()))[0, 0] += 1
    assert hash_of(folder, tensors) != first


def test_a_check_that_takes_too_long_is_stopped(stuck: Path, settings: Any) -> None:
    settings.CHECK_SECONDS = 1
    (line,) = runner.check(stuck, BASE, "").checks
    assert line.state == "failed" and "longer than the 1 seconds" in line.detail
    assert checkers() == []


def test_a_check_that_is_killed_says_so(stuck: Path) -> None:
    found: list[Found] = []
    thread = threading.Thread(target=lambda: found.append(runner.check(stuck, BASE, "")))
    thread.start()
    wait_until(checkers, "the check to start")
    os.kill(checkers()[0], signal.SIGKILL)
    thread.join()
    assert "was killed (signal 9)" in found[0].checks[0].detail


def test_a_check_without_enough_memory_says_so(folder: Path, settings: Any) -> None:
    settings.CHECK_MEMORY_BYTES = 60 << 20  # too little for numpy
    (line,) = runner.check(folder, BASE, "").checks
    assert line.state == "failed" and "memory" in line.detail


def test_it_reads_a_file_larger_than_its_memory(folder: Path, settings: Any) -> None:
    """900 MB of weights, all holes, in a process of 400 MB."""
    settings.CHECK_MEMORY_BYTES = 400 << 20
    wide = 25_000_000
    name = f"base_model.model.{LAYERS[0]}.lora_"
    header = {
        f"{name}A.weight": {"dtype": "F32", "shape": [2, wide], "data_offsets": [0, 8 * wide]},
        f"{name}B.weight": {
            "dtype": "F32", "shape": [wide * 3, 2], "data_offsets": [8 * wide, 32 * wide],
        },
    }  # fmt: skip
    text = json.dumps(header).encode()
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 32 * wide)
    found = runner.check(folder, None, "us/other")
    assert states(found)["zero"] == "failed" and states(found)["finite"] == "ok"


def test_whoever_waits_can_end_it(stuck: Path) -> None:
    """A cancelled job, a lost lease, a worker that is asked to stop: `keep_on` raises."""

    class Enough(Exception):
        pass

    def keep_on() -> None:
        if checkers():
            raise Enough

    with pytest.raises(Enough):
        runner.check(stuck, BASE, "", keep_on)
    assert checkers() == []


def test_it_dies_with_the_one_who_asked(stuck: Path) -> None:
    program = (
        "import os, sys, django; django.setup()\n"
        "from pathlib import Path\n"
        "from modules.checks import runner\n"
        "runner.check(Path(sys.argv[1]), None, '')"
    )
    settings = {"DJANGO_SETTINGS_MODULE": "tests.settings", "TMPDIR": str(stuck.parent)}
    environment = os.environ | settings  # it is killed and leaves its folders where pytest tidies
    parent = subprocess.Popen([sys.executable, "-c", program, str(stuck)], env=environment)
    try:
        wait_until(lambda: checkers(parent.pid), "the check to start")
        (pid,) = checkers(parent.pid)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not runs(pid), "the check to end")


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_an_orphan_does_not_even_begin(folder: Path) -> None:
    question = {"parent": 1, "memory": 1 << 30, "seconds": 9, "folder": str(folder)}
    ended = subprocess.run(
        [sys.executable, "-m", "modules.checks.process"],
        input=json.dumps(question), capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 1 and ended.stdout == ""


def test_it_knows_none_of_our_secrets(stuck: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hush")
    seen: list[bytes] = []

    def keep_on() -> None:
        seen.extend(Path(f"/proc/{pid}/environ").read_bytes() for pid in checkers())
        if any(b"PYTHONPATH" in each for each in seen):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        runner.check(stuck, BASE, "", keep_on)
    assert not any(b"hush" in each or b"DATABASE" in each for each in seen)


def test_it_needs_neither_torch_nor_django() -> None:
    program = (
        "import sys; from modules.checks import full, process\n"
        "print(sorted(name for name in ('torch', 'django', 'psycopg') if name in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


@dataclass(frozen=True)
class Odd(BaseShapes):
    """Something that the process does not know how to take."""

    odd: int = 1


def test_a_bug_of_ours_is_no_fault_of_the_file(folder: Path) -> None:
    with pytest.raises(runner.CheckBroke, match="unexpected keyword argument 'odd'"):
        runner.check(folder, Odd("us/base"), "")


LIMITED = """
import resource, sys
from modules.checks import process
process.limit(1 << 28, 1)
"""
LOCKED = """
import os, socket, subprocess, sys, threading
from modules.checks.jail import lock_in
lock_in(may_read=True)
def refused(call):
    try:
        call()
    except (OSError, RuntimeError):
        return True
    return False
print(refused(lambda: open(sys.argv[1], "w")))
print(refused(lambda: open(sys.argv[1], "a")))
print(refused(lambda: os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)))
print(refused(lambda: os.mkdir(sys.argv[1])))
print(refused(lambda: os.unlink(sys.argv[2])))
print(refused(lambda: os.rename(sys.argv[2], sys.argv[1])))
print(refused(lambda: socket.socket()))
print(refused(lambda: socket.socket(socket.AF_UNIX)))
print(refused(lambda: socket.create_connection(("127.0.0.1", 5432))))
print(refused(lambda: os.fork()))
print(refused(lambda: subprocess.run(["/bin/true"])))
print(refused(lambda: os.execv("/bin/true", ["true"])))
print(refused(lambda: threading.Thread(target=print).start()))
print(refused(lambda: os.kill(os.getppid(), 0)))
print(open(sys.argv[2]).read(), os.path.exists(sys.argv[1]))
"""


def in_a_process(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_it_may_read_and_compute_and_nothing_else(tmp_path: Path) -> None:
    """Whatever code it is brought to run: no connection, no other process, nothing written."""
    there = tmp_path / "there"
    there.write_text("whole")
    done = in_a_process(LOCKED, str(tmp_path / "made"), str(there))
    assert done.stdout.split() == ["True"] * 14 + ["whole", "False"], done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


def test_the_check_itself_runs_locked_in(stuck: Path) -> None:
    """As the kernel says of the process that reads: 2 is a filter, 1 that no rights come back."""
    seen: list[str] = []

    def keep_on() -> None:
        seen.extend(Path(f"/proc/{pid}/status").read_text() for pid in checkers())
        if any("Seccomp:\t2" in each for each in seen):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        runner.check(stuck, BASE, "", keep_on)
    assert "NoNewPrivs:\t1" in seen[-1]


def test_its_memory_is_bounded() -> None:
    done = in_a_process(LIMITED + "bytearray(1 << 29)")
    assert done.returncode == 1 and "MemoryError" in done.stderr


def test_its_processor_time_is_bounded() -> None:
    """Even if nobody stops it: two seconds of computing, and the kernel ends it."""
    done = in_a_process(LIMITED + "while True: pass")
    assert -done.returncode in (signal.SIGXCPU, signal.SIGKILL)


def test_what_it_writes_is_bounded(tmp_path: Path) -> None:
    """Errors and answer go to files that the process's own limit keeps small."""
    program = LIMITED + "file = open(sys.argv[1], 'wb', 0)\n"
    program += "while file.write(bytes(1 << 16)): pass"
    done = in_a_process(program, str(tmp_path / "answer"))
    assert done.returncode != 0 and "File too large" in done.stderr
    assert (tmp_path / "answer").stat().st_size == process.OUTPUT_LIMIT


def test_it_leaves_no_image_of_its_memory() -> None:
    done = in_a_process(LIMITED + "print(resource.getrlimit(resource.RLIMIT_CORE))")
    assert done.stdout.strip() == "(0, 0)"


# --- as a job ----------------------------------------------------------------------------------


@pytest.fixture
def submit(alice: User) -> Callable[[], LoraModule]:
    """Upload the very same files, again and again."""
    repo = services.create_repo(owner=alice.namespace, name="m", kind=Repo.LORA)

    def submit() -> LoraModule:
        files = {
            "adapter_config.json": config_bytes(),
            "adapter_model.safetensors": save(factors()),
        }
        additions = {path: io.BytesIO(data) for path, data in files.items()}
        return services.publish_module(repo=repo, author=alice, title="Up", additions=additions)

    return submit


def jam(module: LoraModule) -> None:
    """Replace the module's weights in the store by a pipe that nobody writes to."""
    path = local.local_path(module.weights_sha256)
    path.unlink()
    os.mkfifo(path)


def test_a_module_whose_check_takes_too_long_is_rejected_and_can_be_sent_again(
    submit: Any, run_job: Any, base_model: Any, settings: Any
) -> None:
    module = submit()
    jam(module)
    settings.CHECK_SECONDS = 1
    assert run_job(module).state == "done"
    module.refresh_from_db()
    assert module.status == LoraModule.REJECTED and "longer than" in module.rejected_reason
    local.local_path(module.weights_sha256).unlink()
    (folder,) = (settings.CACHE_DIR / "commits").iterdir()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    settings.CHECK_SECONDS = 60
    module = submit()  # the very same files
    assert module.status == LoraModule.CHECKING
    run_job(module)
    module.refresh_from_db()
    assert module.is_composable


def test_it_rejects_when_there_is_not_enough_memory(
    submit: Any, run_job: Any, base_model: Any, settings: Any
) -> None:
    settings.CHECK_MEMORY_BYTES = 60 << 20
    module = submit()
    run_job(module)
    module.refresh_from_db()
    assert module.status == LoraModule.REJECTED and "memory" in module.rejected_reason
