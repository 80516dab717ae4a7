"""What the site's processes take while it serves: memory and time on the cores, by part."""

from __future__ import annotations

import os
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PARTS = ("web", "worker", "database")


@dataclass
class Sample:
    at: float
    pss: dict[str, float]  # MB of each part
    processes: dict[str, int]


@dataclass
class Watch:
    """Samples of all parts, from `start` to `stop`. PSS: shared pages count by the part of each."""

    supervisor: int
    postmaster: int
    every: float = 5.0
    samples: list[Sample] = field(default_factory=list)

    def start(self) -> None:
        self._done = threading.Event()
        self._began, self._cpu = time.monotonic(), self.cpu()
        self._machine = machine_busy()
        self._own = time.process_time()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()
        self.samples.append(self.sample())
        self.seconds = time.monotonic() - self._began
        now = self.cpu()
        self.shares = {part: (now[part] - self._cpu[part]) / self.seconds for part in PARTS}
        self.shares["this client"] = (time.process_time() - self._own) / self.seconds
        busy = (machine_busy() - self._machine) / self.seconds
        self.shares["everything else on the machine"] = busy - sum(self.shares.values())

    def _run(self) -> None:
        self.samples.append(self.sample())
        while not self._done.wait(self.every):
            self.samples.append(self.sample())

    def pids(self) -> dict[str, list[int]]:
        children = children_of_all()
        found: dict[str, list[int]] = {part: [] for part in PARTS}
        found["database"] = _tree(self.postmaster, children)
        for child in children.get(self.supervisor, []):
            command = _command(child)
            part = "web" if b"gunicorn" in command else "worker" if b"celery" in command else ""
            if part:
                found[part] += _tree(child, children)
        return found

    def sample(self) -> Sample:
        pids = self.pids()
        pss = {part: sum(map(_pss, some)) for part, some in pids.items()}
        return Sample(time.monotonic(), pss, {part: len(some) for part, some in pids.items()})

    def cpu(self) -> dict[str, float]:
        """Seconds on a core so far, those of children that ended included."""
        return {part: sum(map(_cpu, some)) for part, some in self.pids().items()}

    def quarters(self, part: str) -> tuple[float, float, float]:
        """MB: medians of the first and the last quarter of the time, and the most of any sample."""
        values = [sample.pss[part] for sample in self.samples]
        some = max(1, len(values) // 4)
        return statistics.median(values[:some]), statistics.median(values[-some:]), max(values)


def children_of_all() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    return children


def cpu_of_tree(pid: int) -> float:
    """Seconds on a core so far, of a process and all below it, ended ones included."""
    return sum(map(_cpu, _tree(pid, children_of_all())))


def _tree(pid: int, children: dict[int, list[int]]) -> list[int]:
    return [pid, *(each for child in children.get(pid, []) for each in _tree(child, children))]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _pss(pid: int) -> float:
    """MB; 0 for a process that has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return 0.0


def _cpu(pid: int) -> float:
    """Its own and its reaped children's: a sum over a tree counts each once."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


def machine_busy() -> float:
    """Seconds that the cores were not idle, all of them together."""
    user, nice, system, _, _, irq, soft, steal, *_ = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + soft + steal) / TICKS
