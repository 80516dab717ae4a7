"""Pickles become safetensors without their authors' code being run, or it is said why not."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import zipfile
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from modules.importing import converting, process
from modules.importing.choosing import NotImported
from modules.importing.converting import Conversion
from modules.importing.process import Refused
from tests.workers import ROOT, wait_until

MOST = 1_000_000


class Evil:
    """Runs a command when it is unpickled by whoever trusts pickles."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def saved(value: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **how)
    return file.getvalue()


def tensors() -> dict[str, torch.Tensor]:
    a = torch.randn(4, 8)
    return OrderedDict(
        a=a,
        turned=a.t(),
        part=a[1:, ::2],
        same=a,
        trained=torch.nn.Parameter(torch.ones(3)),
        half=torch.randn(5).to(torch.float16),
        brain=torch.randn(5).to(torch.bfloat16),
        scalar=torch.tensor(3.0),
        none=torch.zeros(0, 4),
    )


def convert(data: bytes, tmp_path: Path, **more: Any) -> tuple[bytes, Conversion]:
    """In a process of its own, as workers and commands do it."""
    path = tmp_path / "adapter_model.bin"
    path.write_bytes(data)
    with path.open("rb") as file, ExitStack() as stack:
        keep_on = more.get("keep_on", lambda: None)
        result, said = converting.convert("adapter_model.bin", file, stack, keep_on)
        return result.read(), said


def why_not(value: Any) -> str:
    """In this process: what the file is, where it is no adapter."""
    data = value if isinstance(value, bytes) else saved(value)
    result = io.BytesIO()
    with pytest.raises(Refused) as refused:
        process.convert(io.BytesIO(data), result, MOST)
    assert result.getvalue() == b""
    return str(refused.value)


@pytest.mark.parametrize("as_zip", [True, False])
def test_every_tensor_comes_out_as_it_went_in(as_zip: bool, tmp_path: Path) -> None:
    before = tensors()
    data = saved(before, _use_new_zipfile_serialization=as_zip)
    result, said = convert(data, tmp_path)
    after = load(result)
    assert after.keys() == before.keys() and said.tensors == len(before)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype and torch.equal(after[name], tensor.detach())
    assert (said.file, said.size) == ("adapter_model.bin", len(data))


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    evil = Evil(f"touch {mark}")
    for data in (saved({"a": torch.zeros(2), "b": evil}), pickle.dumps(evil, 2)):
        with pytest.raises(NotImported, match=r"posix\.system.*could run its author's code"):
            convert(data, tmp_path)
    assert "no file of tensors" in why_not(pickle.dumps(evil, 4))
    assert not mark.exists()
    pickle.loads(pickle.dumps(evil))
    assert mark.exists()  # it would have been, by whoever trusts it


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"a": {"b": torch.zeros(1)}}, "a dict as 'a'"),
        ({"a": torch.zeros(1), "epoch": 3}, "an int as 'epoch'"),
        ([torch.zeros(1)], "a list where"),
        ({}, "a dict where"),
        ({1: torch.zeros(1)}, "by an int"),
        ({"\ud800": torch.zeros(1)}, "safetensors cannot hold"),
        ({"__metadata__": torch.zeros(1)}, "safetensors cannot hold"),
        ({"a": torch.eye(2).to_sparse()}, "in a form"),
        ({"a": torch.zeros(1, device="meta")}, "in a form"),
        ({"a": torch.zeros(1, dtype=torch.complex64)}, "complex64"),
        ({"a": torch.zeros(1).expand(10**12)}, "unfolds to more than 1,000,000 bytes"),
        ({f"a{n}": torch.zeros(10_000) for n in range(30)}, "unfolds"),
        (b"", "no file of tensors"),
        (b"not a pickle at all", "no file of tensors"),
        (b"PK\x03\x04 and no zip", "a broken zip"),
    ],
)
def test_what_is_no_table_of_tensors_is_refused(value: Any, why: str) -> None:
    assert why in why_not(value)


def test_a_zip_that_unfolds_is_refused_before_it_is_read() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    assert "unfolds to 50,000,000 bytes" in why_not(file.getvalue())


@pytest.mark.slow
def test_a_pickle_of_the_largest_size_needs_no_more_memory_than_it_is_given(
    tmp_path: Path, settings: Any
) -> None:
    half = settings.MAX_FILE_BYTES // 8
    data = saved({"a": torch.zeros(half), "b": torch.zeros(half - 100)})
    _, said = convert(data, tmp_path)
    assert said.tensors == 2


def test_a_conversion_that_needs_too_much_memory_is_stopped(tmp_path: Path, settings: Any) -> None:
    settings.CONVERT_MEMORY_BYTES = 50_000_000
    with pytest.raises(NotImported, match="more than the 50 MB of memory"):
        convert(saved({"a": torch.zeros(20_000_000)}), tmp_path)
    bomb = b"\x80\x02" + b"(" * 60_000_000 + b"."
    with pytest.raises(NotImported, match="more than the 50 MB of memory"):
        convert(bomb, tmp_path)


def test_a_conversion_that_takes_too_long_is_stopped(tmp_path: Path, settings: Any) -> None:
    settings.CONVERT_SECONDS = 5
    with pytest.raises(NotImported, match="longer than the 5 seconds"):
        convert(b"\x80\x02]" + b"Na" * 50_000_000 + b".", tmp_path)
    assert converters() == []


def converters() -> list[int]:
    found = []
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        for pid in (task / "children").read_text().split():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            found += [int(pid)] if b"modules.importing.process" in words else []
    return found


def test_a_conversion_that_is_killed_says_so(tmp_path: Path) -> None:
    slow, errors = b"\x80\x02]" + b"Na" * 50_000_000 + b".", []

    def run() -> None:
        with pytest.raises(NotImported) as refused:
            convert(slow, tmp_path)
        errors.append(str(refused.value))

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(converters, "the conversion to start")
    os.kill(converters()[0], signal.SIGKILL)
    thread.join()
    assert "was killed (signal 9)" in errors[0]


def test_whoever_calls_it_off_ends_it(tmp_path: Path) -> None:
    class CalledOff(Exception):
        pass

    def keep_on() -> None:
        if converters():
            raise CalledOff

    with pytest.raises(CalledOff):
        convert(b"\x80\x02]" + b"Na" * 50_000_000 + b".", tmp_path, keep_on=keep_on)
    assert converters() == []


LOCKED = """
import os, pickle, socket, subprocess, sys, threading
from modules.checks.jail import lock_in
lock_in()
def refused(call):
    try:
        call()
    except (OSError, RuntimeError) as error:
        return True
    return False
print(refused(lambda: open("/etc/hostname")))
print(refused(lambda: open(sys.argv[1], "w")))
print(refused(lambda: os.listdir("/")))
print(refused(lambda: socket.socket()))
print(refused(lambda: socket.socket(socket.AF_UNIX)))
print(refused(lambda: os.fork()))
print(refused(lambda: os.execv("/bin/true", ["true"])))
print(refused(lambda: subprocess.run(["/bin/true"])))
print(refused(lambda: threading.Thread(target=print).start()))
print(refused(lambda: os.kill(os.getppid(), 0)))
os.system("touch " + sys.argv[1])
print(sum(range(1000)))
"""


def test_a_locked_process_can_compute_and_nothing_else(tmp_path: Path) -> None:
    """Whatever code it runs: no file, no connection, no process of its own, nobody else's."""
    mark = tmp_path / "made"
    done = subprocess.run(
        [sys.executable, "-c", LOCKED, str(mark)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True"] * 10 + ["499500"], done.stderr
    assert not mark.exists()


def test_it_reads_no_pickle_where_it_cannot_be_locked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import platform; platform.machine = lambda: 'riscv64'\n"
        "import sys; from modules.importing import process; sys.exit(process.main())"
    )
    monkeypatch.setattr(converting, "COMMAND", (sys.executable, "-c", script))
    with pytest.raises(NotImported, match="riscv64 is not supported"):
        convert(saved({"a": torch.zeros(2)}), tmp_path)
