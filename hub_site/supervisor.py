"""Keep a few child processes alive until told to stop, and leave none behind."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0  # a child that lived this long starts again without a pause
PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """A process to keep alive."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stop_seconds: float
    pass_fds: Sequence[int] = ()
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    started_at: float = field(default=0.0, init=False)
    crashes: int = field(default=0, init=False)
    start_again_at: float = field(default=0.0, init=False)

    def start(self) -> None:
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            self.command,
            env=self.environment,
            pass_fds=self.pass_fds,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches only the supervisor
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )

    def look_after(self, say: Callable[[str], None]) -> None:
        """Start again what ended, after a pause that grows with every crash in a row."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.start_again_at:
                self.start()
            return
        code = self.process.poll()
        if code is None:
            return
        self.kill_the_rest()
        self.process = None
        self.crashes = 1 if now - self.started_at > STEADY_SECONDS else self.crashes + 1
        pause = min(2.0 ** (self.crashes - 1), LONGEST_PAUSE) if self.crashes > 1 else 0.0
        self.start_again_at = now + pause
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        say(f"The {self.name} {how}; starting it again" + (f" in {pause:g} s." if pause else "."))

    def ask_to_stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self, deadline: float, hurry: threading.Event) -> None:
        """Wait for a clean end, then make sure that the whole process group is gone."""
        if self.process is None:
            return
        while self.process.poll() is None and time.monotonic() < deadline and not hurry.is_set():
            time.sleep(0.05)
        self.kill_the_rest()
        self.process.wait()

    def kill_the_rest(self) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Supervisor:
    """Runs children in the foreground until SIGINT, SIGTERM or SIGHUP; a second one hurries."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.stopping = threading.Event()
        self.hurry = threading.Event()
        self.running = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stopping.is_set():
            self.hurry.set()
            return
        self.stopping.set()
        if not self.running:
            raise KeyboardInterrupt  # while preparing, there is nothing to end gently

    def run(self, children: Sequence[Child], every_second: Callable[[], None]) -> None:
        self.running = True
        try:
            for child in children:
                child.start()
            while not self.stopping.wait(0.5):
                for child in children:
                    child.look_after(self.say)
                every_second()
        finally:
            self.say("Stopping ... (once more to stop without waiting)")
            for child in children:
                child.ask_to_stop()
            now = time.monotonic()
            for child in children:
                child.wait(now + child.stop_seconds, self.hurry)


def die_with_parent() -> None:
    """Linux: if the parent is killed outright, its children get SIGTERM."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


_libc = ctypes.CDLL(None)  # loaded here, because little is allowed between fork and exec
