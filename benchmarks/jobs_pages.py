"""Pages while workers keep checkpoints: how much slower they get, and whether any fails.

    python -m benchmarks.jobs_pages [--workers 8] [--lines 8] [--seconds 8]

The real site (`manage.py serve`) on a folder of its own. Its worker is told to take nothing; other
processes claim a composition each and keep generations of it, at the pace of the demo library's
searches or as fast as they can, in the same database. Meanwhile some lines ask for one kind of
page, each for the next as soon as the last has come. The two cores are shared by all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.browser_line import Book, Broken, Line, some_address
from benchmarks.jobs import ms
from benchmarks.queue_filling import (
    LEASE_MS,
    be_worker,
    clear,
    generation,
    keep_generation,
    make_users,
    set_up_django,
    start_workers,
    submit_one,
    together,
)
from benchmarks.upload_memory import Site

PACES = (("none", None), ("10 a second each", 0.1), ("all they can", 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--lines", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="jobs-pages-"))
    folder.chmod(0o711)
    before = os.getloadavg()[0]
    settings = {"WORKER_QUEUES": "gpu", "JOB_LEASE_MS": str(LEASE_MS), "BEHIND_TLS_PROXY": "true"}
    site = Site(folder / "var", settings)
    try:
        set_up_django(folder / "var")
        measure(site, given)
    finally:
        from django.db import connections

        connections.close_all()
        site.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{os.cpu_count()} cores, load {before:.1f} before.")


def measure(site: Site, given: argparse.Namespace) -> None:
    from hub_site.jobs.models import Job

    users = make_users(given.workers)
    cookies = [_session(user) for user in users]
    print("| checkpoints | a second | page | pages a second | ms, median / p95 | errors |")
    print("|---|---:|---|---:|---:|---:|", flush=True)
    for how, pause in PACES:
        for page in ("home", "library", "job status"):
            clear()
            jobs = [submit_one(user) for user in users]
            names = start_workers(given.workers, [[]])
            with together(
                given.workers,
                lambda n, names=names, pause=pause: _keep(names[n], given.seconds + 2, pause),
            ) as found:
                time.sleep(2)
                book = Book()
                addresses = {"home": ["/"], "library": ["/modules/"]}.get(
                    page, [f"/jobs/{job.pk}/" for job in jobs]
                )
                asyncio.run(_ask_all(site.port, book, addresses, cookies, given))
            kept = sum(found)
            spent = [seconds for some in book.seconds.values() for seconds in some]
            print(
                f"| {how} | {kept / (given.seconds + 2):.0f} | {page} "
                f"| {len(spent) / given.seconds:.0f} | {ms(spent)} | {len(book.errors)} |",
                flush=True,
            )
            for error in book.errors[:5]:
                print(f"  {error}")
            assert Job.objects.filter(state="running").count() == given.workers


def _session(user: Any) -> dict[str, str]:
    from django.conf import settings
    from django.test import Client

    browser = Client()
    browser.force_login(user)
    return {settings.SESSION_COOKIE_NAME: browser.cookies[settings.SESSION_COOKIE_NAME].value}


def _keep(name: str, seconds: float, pause: float | None) -> int:
    from hub_site.jobs import queue

    job, number = queue.claim_next(be_worker(name)), 0
    assert job is not None
    record, until = generation(0), time.perf_counter() + seconds
    while time.perf_counter() < until:
        if pause is None and number == 20:  # the page shows a search that stands still
            time.sleep(0.1)
            continue
        keep_generation(job, record, number)
        number += 1
        time.sleep(pause or 0)
    return number if pause is not None else 0


async def _ask_all(
    port: int, book: Book, addresses: list[str], cookies: list[dict[str, str]], given: Any
) -> None:
    until = time.monotonic() + given.seconds

    async def ask(number: int) -> None:
        path = addresses[number % len(addresses)]
        part = "job-status" if path.startswith("/jobs/") else ""
        line = Line(port, book, some_address(), cookies[number % len(cookies)])
        while time.monotonic() < until:
            try:
                await line.get("page", path, part=part)
            except Broken:
                continue
        line.close()

    await asyncio.gather(*(ask(n) for n in range(given.lines)))


if __name__ == "__main__":
    main()
