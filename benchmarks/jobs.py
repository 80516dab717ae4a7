"""What the queue of jobs takes: submits, claims, looks at a long queue, checkpoints.

    python -m benchmarks.jobs [--waiting 10000] [--users 200] [--workers 50] [--seconds 10]
                              [--only submits claims looks checkpoints] [--plans]

A scratch PostgreSQL of its own, the embedded one with fsync, and the demo library. Workers are
processes with a connection each, forked from this one; they claim, keep and finish by the functions
that real ones use, and compute nothing. So two cores are shared by the database, which would be
alone on a machine, and by workers, which would be elsewhere: beside the rates stands what each
transaction cost the database's processes on the CPU. A core divided by that is the database's own
limit, as far as cores go; what a disk takes to sync is in the rates alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.queue_filling import (
    BASES,
    all_of,
    be_worker,
    clear,
    fill_history,
    fill_waiting,
    generation,
    keep_generation,
    make_users,
    own_database,
    start_workers,
    submit_one,
    together,
)
from benchmarks.site_processes import cpu_of_tree

if TYPE_CHECKING:
    from hub_site.accounts.models import User

PARTS = ["submits", "claims", "looks", "checkpoints"]
ROUNDS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--waiting", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--history", type=int, default=300_000, help="jobs that are done, in looks")
    parser.add_argument("--plans", action="store_true", help="print how the slower looks are read")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="jobs-"))
    folder.chmod(0o711)
    before = os.getloadavg()[0]
    try:
        with own_database(folder) as database:
            bench = Bench(given, database)
            for part in PARTS:
                if part in given.only:
                    getattr(bench, part)()
                    clear()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{os.cpu_count()} cores, load {before:.1f} before.")


def ms(values: Sequence[float]) -> str:
    """Median and 95th percentile, in milliseconds."""
    ordered = sorted(values)
    high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"{1000 * statistics.median(ordered):.1f} / {1000 * high:.1f}"


class Bench:
    def __init__(self, given: argparse.Namespace, database: int) -> None:
        self.given, self.database = given, database
        self.users = make_users(given.users)

    def per_second(self, values: Sequence[float]) -> str:
        return f"{len(values) / self.given.seconds:.0f}"

    # --- submits ---------------------------------------------------------------------------------

    def submits(self) -> None:
        """By the service alone, by the form and by the API; with nobody waiting and with many."""
        print("\n| submitted by | jobs waiting | processes | a second | ms, median / p95 |")
        print("|---|---:|---:|---:|---:|", flush=True)
        for waiting in (0, self.given.waiting):
            for way, processes in (("service", 1), ("service", 4), ("page", 1), ("API", 1)):
                clear()
                fill_waiting(self.users, waiting)
                spent = all_of(processes, lambda n, way=way: self._submit(way, n))
                print(
                    f"| {way} | {waiting:,} | {processes} | {self.per_second(spent)} "
                    f"| {ms(spent)} |",
                    flush=True,
                )

    def _submit(self, way: str, number: int) -> list[float]:
        submit = {"service": submit_one, "page": _Pages(), "API": _Api()}[way]
        draw, spent = random.Random(number), list[float]()
        until = time.perf_counter() + self.given.seconds
        while time.perf_counter() < until:
            user, seed = draw.choice(self.users), draw.getrandbits(30)
            began = time.perf_counter()
            submit(user, seed=seed)
            spent.append(time.perf_counter() - began)
        return spent

    # --- claims ----------------------------------------------------------------------------------

    def claims(self) -> None:
        """All workers claim and finish one job after the other, until the time is over."""
        print(
            "\n| what waits | workers | loaded by them | claims a second | claim, ms | finish, ms "
            "| database's CPU for both, ms |"
        )
        print("|---|---:|---|---:|---:|---:|---:|", flush=True)
        each = [[base] for base in BASES]
        for what, bases, skewed, warm in (
            ("jobs that need nothing loaded", [""], False, [[]]),
            ("all on one base model", BASES[:1], False, [[]]),
            ("all on one base model", BASES[:1], False, each[:1]),
            ("on two base models", BASES[:2], False, each[:2]),
            ("on 50 base models", BASES, False, each),
            ("half of all one user's", [""], True, [[]]),
        ):
            for workers in (1, self.given.workers):
                clear()
                fill_waiting(self.users, self.given.waiting, bases=bases, skewed=skewed)
                names = start_workers(workers, warm)
                began = cpu_of_tree(self.database)
                with together(
                    workers,
                    lambda n, names=names, warm=warm: self._claim(names[n], warm[n % len(warm)]),
                ) as found:
                    pass
                spent = cpu_of_tree(self.database) - began
                claims = [x for some in found for x in some[0]]
                ends = [x for some in found for x in some[1]]
                loaded = {0: "nothing"}.get(
                    len(warm[0]), "that one" if len(warm) == 1 else "one each"
                )
                print(
                    f"| {what} | {workers} | {loaded} | {self.per_second(claims)} | {ms(claims)} "
                    f"| {ms(ends)} | {1000 * spent / max(1, len(claims)):.1f} |",
                    flush=True,
                )

    def _claim(self, name: str, warm: list[str]) -> tuple[list[float], list[float]]:
        from hub_site.jobs import queue

        own, claims, ends = be_worker(name, warm), list[float](), list[float]()
        until = time.perf_counter() + self.given.seconds
        while (began := time.perf_counter()) < until:
            job = queue.claim_next(own)
            claimed = time.perf_counter()
            if job is None:
                raise SystemExit("Nothing waits any more: take more with --waiting.")
            claims.append(claimed - began)
            with queue.finish(job, {}):
                pass
            ends.append(time.perf_counter() - claimed)
        return claims, ends

    # --- looks -----------------------------------------------------------------------------------

    def looks(self) -> None:
        """What it costs to look through a long queue: one process, statement by statement."""
        from hub_site.jobs import expect, queue
        from hub_site.jobs.models import Job

        clear()
        fill_history(self.users[0], self.given.history)
        fill_waiting(self.users, self.given.waiting, bases=BASES[:1])
        (name,) = start_workers(1, [BASES[:1]])
        waiting = list(Job.objects.filter(state="queued").order_by(*queue.NEXT))
        for n in range(self.given.workers):
            assert queue.claim_next(f"other:{n}:abc:{n}") is not None
        waiting = list(Job.objects.filter(state="queued").order_by(*queue.NEXT))
        first, middle, last = waiting[0], waiting[len(waiting) // 2], waiting[-1]

        def claim() -> None:
            job = queue.claim_next(be_worker(name, warm))
            assert job is not None
            queue.release(job, "measured")

        print(f"\n{len(waiting):,} waiting, {self.given.workers} running, "
              f"{self.given.history:,} done.")  # fmt: skip
        print("\n| one process | ms, median / p95 | statements | the slowest |")
        print("|---|---:|---:|---|")
        warm, plans = list[str](), list[str]()
        for what, loaded, act in (
            ("claim and release, nothing loaded", [], claim),
            ("claim and release, loaded what all need", BASES[:1], claim),
            ("place of the first", [], lambda: queue.position(first)),
            ("place of the middle one", [], lambda: queue.position(middle)),
            ("place of the last", [], lambda: queue.position(last)),
            ("when the last may start", [], lambda: expect.start(last, len(waiting))),
            ("the reaper's look at who is first", [], lambda: queue.waiting().first()),
            ("does a shorter one wait?", [], lambda: queue.waits_higher(last)),
            ("submit another one", [], lambda: submit_one(self.users[1])),
            ("what a worker's child has claimed", [], lambda: list(queue.running_on(name))),
            ("the reaper's look for ended leases", [], queue.reap),
        ):
            warm = list(loaded)
            be_worker(name, warm)
            print(f"| {what} | {_statements(act)} |", flush=True)
            plans += [f"\n{what}: {plan}" for plan in _plans(act)] if self.given.plans else []
        print("\n".join(plans))

    # --- checkpoints -----------------------------------------------------------------------------

    def checkpoints(self) -> None:
        print("\n| workers | checkpoints a second | ms, median / p95 | database's CPU each, ms |")
        print("|---:|---:|---:|---:|")
        for workers in (1, 8, self.given.workers):
            clear()
            for user in self.users[:workers]:
                submit_one(user)
            names = start_workers(workers, [[]])
            began = cpu_of_tree(self.database)
            times = all_of(workers, lambda n, names=names: self._keep(names[n]))
            spent = cpu_of_tree(self.database) - began
            print(
                f"| {workers} | {self.per_second(times)} | {ms(times)} "
                f"| {1000 * spent / len(times):.2f} |",
                flush=True,
            )

    def _keep(self, name: str) -> list[float]:
        from hub_site.jobs import queue

        job = queue.claim_next(be_worker(name))
        assert job is not None
        record, spent, number = generation(0), list[float](), 0
        until = time.perf_counter() + self.given.seconds
        while (began := time.perf_counter()) < until:
            keep_generation(job, record, number)
            spent.append(time.perf_counter() - began)
            number += 1
        return spent


class _Pages:
    """Submits by the form; everybody has a browser with a session."""

    def __init__(self) -> None:
        from composer.models import FewShotTask

        self.path = f"{FewShotTask.objects.demo()[0].get_absolute_url()}compose/"
        self.browsers: dict[int, Any] = {}

    def __call__(self, user: User, seed: int) -> None:
        from django.test import Client

        if user.pk not in self.browsers:
            self.browsers[user.pk] = Client()
            self.browsers[user.pk].force_login(user)
        fields = {"preset": "recommended", "budget": 40, "seed": seed, "key": "k"}
        answer = self.browsers[user.pk].post(self.path, fields)
        assert answer.status_code == 302, answer.content.decode()


class _Api:
    """Submits by the API; everybody has a token."""

    def __init__(self) -> None:
        from composer.models import FewShotTask

        self.task = str(FewShotTask.objects.demo()[0].pk)
        self.tokens: dict[int, str] = {}

    def __call__(self, user: User, seed: int) -> None:
        from django.test import Client

        from hub_site.accounts import tokens

        if user.pk not in self.tokens:
            self.tokens[user.pk] = tokens.create_token(user, name="t", scope="write")[1]
        answer = Client().post(
            "/api/v1/jobs/",
            json.dumps({"task": self.task, "settings": {"budget": 40, "seed": seed}}),
            content_type="application/json",
            headers={"Authorization": f"Bearer {self.tokens[user.pk]}"},
        )
        assert answer.status_code == 202, answer.content.decode()


def _statements(act: Callable[[], Any]) -> str:
    """Of some rounds: the time of the whole, and which statement takes most of it."""
    from django.db import connection

    whole, slowest, count = list[float](), list[tuple[float, str]](), 0
    for _ in range(ROUNDS):
        found: list[tuple[float, str]] = []

        def clock(execute: Any, sql: str, *rest: Any, found: Any = found) -> Any:
            began = time.perf_counter()
            try:
                return execute(sql, *rest)
            finally:
                found.append((time.perf_counter() - began, sql))

        began = time.perf_counter()
        with connection.execute_wrapper(clock):
            act()
        whole.append(time.perf_counter() - began)
        count = len(found)
        slowest.append(max(found))
    seconds, sql = statistics.median(each[0] for each in slowest), " ".join(slowest[0][1].split())
    where = sql.partition(" WHERE ")[2].replace('"jobs_job".', "").replace('"', "")
    short = f"{sql.split()[0]} … {where[:110]}" if where else sql[:110]
    return f"{ms(whole)} | {count} | {1000 * seconds:.1f} ms: `{short.replace('|', '/')}`"


def _plans(act: Callable[[], Any], least: float = 2.0) -> list[str]:
    """How PostgreSQL reads what takes it more than some milliseconds."""
    from django.db import connection

    found: list[tuple[str, Any]] = []

    def keep(execute: Any, sql: str, params: Any, *rest: Any) -> Any:
        found.append((sql, params))
        return execute(sql, params, *rest)

    with connection.execute_wrapper(keep):
        act()
    told = []
    with connection.cursor() as cursor:
        for sql, params in found:
            if sql.startswith("SELECT"):
                cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) {sql}", params)
                lines = [row[0] for row in cursor.fetchall()]
                if float(lines[-1].split()[-2]) > least:
                    told.append("\n".join([sql[:60], *(line[:400] for line in lines)]))
    return told


if __name__ == "__main__":
    main()
