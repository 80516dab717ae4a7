"""The web's memory comes to rest: rounds of requests, and what each process has after each.

    WEB_WORKERS=2 python -m benchmarks.web_memory [--rounds 15] [--requests 2000] [--modules 2000]

The site and the people of `benchmarks.load`, a fifth as many of each kind, who pause twenty times
less: so every thread is used and the mix of pages is the same. Each round ends after so many
requests; the next has people of its own, with new accounts, sessions, uploads and compositions.
`anonymous` is what the processes have of their own; `files` is code and libraries that are mapped,
which processes share (PSS: each counts its part). All in MB.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import load
from benchmarks.browser_line import Book
from benchmarks.people import Run
from benchmarks.site_processes import Watch
from benchmarks.upload_memory import Site

PEOPLE = {"browsing": 40, "uploading": 4, "watching": 10, "submitting": 2}
HASTE = 20


@dataclass
class Round(Run):
    """Over after so many requests, whatever time they take."""

    most: int = 0

    async def pause(self, least: float, most: float) -> bool:
        await asyncio.sleep(self.draw.uniform(least, most) / HASTE)
        return self.book.requests < self.most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=2000, help="of a round")
    parser.add_argument("--modules", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="web-memory-"))
    folder.chmod(0o711)
    try:
        run(folder / "var", given)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(var: Path, given: argparse.Namespace) -> None:
    load.fill(var, given.modules)
    site = Site(var, {"BEHIND_TLS_PROXY": "true"})
    # What `load` wants to know of the people: half a minute's sign-ins, the compositions' size.
    people = argparse.Namespace(**PEOPLE, minutes=0.5, budget=40)
    try:
        load.warm_up(load.make_accounts(people, "first")[0])
        watching = Watch(site.process.pid, load.postmaster(var))
        known, draw, requests = load.known(), random.Random(given.seed), 0
        print("| requests | PSS | anonymous, of each process | files | threads |")
        print("|---:|---:|---|---:|---:|")
        print(row(requests, watching.pids()["web"]), flush=True)
        for number in range(given.rounds):
            one = Round(Book(), known, 0.0, draw, ramp=20.0, most=given.requests)
            accounts = load.make_accounts(people, f"round-{number}")
            asyncio.run(load.everybody(one, site.port, accounts, people))
            requests += one.book.requests
            print(row(requests, watching.pids()["web"]), flush=True)
            for error in one.book.errors[:5]:
                print(f"- {error}")
    finally:
        load.close_database()
        site.stop()


def row(requests: int, web: list[int]) -> str:
    found = [rollup(pid) for pid in web]
    pss = sum(each["Pss"] for each in found)
    own = [each["Pss_Anon"] for each in found]
    threads = sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in web)
    said = " + ".join(f"{each:.1f}" for each in own)
    return f"| {requests:,} | {pss:.1f} | {said} | {pss - sum(own):.1f} | {threads} |"


def rollup(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines}


if __name__ == "__main__":
    main()
