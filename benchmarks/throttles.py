"""What it costs to count a request against a limit.

    python -m benchmarks.throttles [--rounds 2000] [--rows 100000]

On a scratch PostgreSQL of its own (the embedded one, durable as a site's), with so many accounts
and addresses counted already. For each way: how many queries, and median and 95th percentile of the
time of one count. Beside ours stands what allauth's limits do, which count in the cache's table.
Then 8 threads count one account at once, each with a connection of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = 8


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--rounds", type=int, default=2_000)
    options.add_argument("--rows", type=int, default=100_000)
    given = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="commons-throttles-"))
    folder.chmod(0o711)
    os.environ |= {"VAR_DIR": str(folder), "ENV_FILE": os.devnull, "SECRET_KEY": "k" * 50}
    from hub_site import embedded

    try:
        os.environ["DATABASE_URL"] = embedded.start(folder)
        os.environ["DJANGO_SETTINGS_MODULE"] = "hub_site.settings"
        import django

        django.setup()
        run(given.rounds, given.rows)
    finally:
        embedded.stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


def run(rounds: int, rows: int) -> None:
    from django.conf import settings
    from django.core.management import call_command

    from hub_site.env import Rate

    call_command("migrate", verbosity=0, interactive=False)
    fill(rows)
    print("| way | queries | ms, median | ms, 95th percentile |\n|---|---:|---:|---:|")
    settings.THROTTLES["search"] = Rate(10**9, 3600)
    row("let through, an account that is known", lambda n: count(7), rounds)
    row("let through, another account each time", count, rounds)
    settings.THROTTLES["search"] = Rate(1, 3600)
    row("refused", lambda n: refused(7), rounds)
    settings.ACCOUNT_RATE_LIMITS = {"search": "100000/h/ip"}
    row("allauth's, in the cache's table", by_allauth, min(rounds, 500))
    settings.THROTTLES["search"] = Rate(10**9, 3600)
    together(rounds)


def fill(rows: int) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO hub_site_throttle SELECT md5(n::text) || md5(n::text), now()"
            " FROM generate_series(1, %s) AS n",
            [rows],
        )
        cursor.execute("ANALYZE hub_site_throttle")


def request(n: int) -> Any:
    from django.test import RequestFactory

    from hub_site.accounts.models import User

    found = RequestFactory().post("/", REMOTE_ADDR="192.0.2.1")
    found.user = User(pk=n + 1, username=f"user{n}")
    return found


def count(n: int) -> None:
    from hub_site import throttles

    throttles.count(request(n), "search")


def refused(n: int) -> None:
    from hub_site import throttles

    try:
        count(n)
    except throttles.TooOften:
        return


def by_allauth(n: int) -> None:
    from allauth.core import ratelimit

    assert ratelimit.consume(request(n), action="search")


def row(name: str, way: Callable[[int], None], rounds: int) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    way(0)
    with CaptureQueriesContext(connection) as asked:
        way(0)
    taken = []
    for n in range(rounds):
        start = time.perf_counter()
        way(n)
        taken.append(1000 * (time.perf_counter() - start))
    print(f"| {name} | {len(asked)} | {figures(taken)} |", flush=True)


def figures(taken: list[float]) -> str:
    return f"{statistics.median(taken):.2f} | {statistics.quantiles(taken, n=20)[-1]:.2f}"


def together(rounds: int) -> None:
    from django.db import connection

    taken: list[float] = []

    def work() -> None:
        connection.ensure_connection()
        for _ in range(rounds // THREADS):
            start = time.perf_counter()
            count(7)
            taken.append(1000 * (time.perf_counter() - start))
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    a_second = len(taken) / (time.perf_counter() - start)
    print(f"| {THREADS} threads, one account | 1 | {figures(taken)} |")
    print(f"\n{THREADS} threads counted {a_second:,.0f} a second.")


if __name__ == "__main__":
    main()
