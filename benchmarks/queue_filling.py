"""A queue of jobs to measure on: a scratch site, users, jobs that wait, workers that are there."""

from __future__ import annotations

import multiprocessing
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from hub_site.accounts.models import User
    from hub_site.jobs.models import Job

T = TypeVar("T")
BASES = [f"org/base-{n}@{n:040x}" for n in range(50)]
LEASE_MS = 600_000  # jobs stay whose they are for as long as a table takes


def set_up_django(var: Path, **environment: str) -> None:
    """In this process, for the database of the site in this folder."""
    os.environ |= {"VAR_DIR": str(var), "ENV_FILE": os.devnull, "LOG_LEVEL": "ERROR"}
    os.environ |= {"DJANGO_SETTINGS_MODULE": "hub_site.settings", "JOB_LEASE_MS": str(LEASE_MS)}
    os.environ |= {"USER_QUEUED_JOBS": "1000000", "THROTTLE_SUBMIT": "100000000/h", **environment}
    import django
    from django.conf import settings

    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}
    settings.ALLOWED_HOSTS = ["testserver", "127.0.0.1"]
    django.setup()


@contextmanager
def own_database(folder: Path) -> Iterator[int]:
    """The embedded PostgreSQL, with fsync, and the demo library; yields the postmaster's pid."""
    from hub_site import embedded

    embedded.start(folder)
    try:
        set_up_django(folder)
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        call_command("load_demo", verbosity=0)
        yield postmaster(folder)
    finally:
        embedded.stop(folder)


def postmaster(var: Path) -> int:
    from hub_site import embedded

    return int((embedded.home_of(var) / "data" / "postmaster.pid").read_text().split()[0])


# --- rows ----------------------------------------------------------------------------------------


def make_users(count: int) -> list[User]:
    from hub_site.accounts.models import User

    return [User.objects.create_user(f"person-{n}") for n in range(count)]


def submit_one(user: User, **overrides: Any) -> Job:
    from composer import services
    from composer.models import FewShotTask

    task = FewShotTask.objects.demo()[0]
    return services.submit_job(task=task, user=user, overrides={"budget": 40, **overrides})


def clear() -> None:
    """No jobs, no workers, and their tables as new. The library's own jobs go, too."""
    from django.db import connection

    tables = ("composer_generation", "composer_search", "jobs_jobevent", "jobs_job", "jobs_worker")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE modules_loramodule SET check_job_id = NULL")
        cursor.execute("UPDATE composer_recipe SET published_search_id = NULL")
        for table in tables:
            cursor.execute(f"DELETE FROM {table}")
        for table in tables:
            cursor.execute(f"VACUUM FULL ANALYZE {table}")


def fill_waiting(
    users: Sequence[User], count: int, *, bases: Sequence[str] = ("",), skewed: bool = False
) -> None:
    """Compositions, users in turns, as if submitted one after the other. `bases` is what they would
    rather find loaded. `skewed`: every second one is the first user's."""
    from django.db import connection

    from hub_site.jobs.models import Job

    if not count:
        return
    sample = submit_one(users[0])
    Job.objects.filter(pk=sample.pk).delete()
    rows, turns = list[Job](), dict[int, int]()
    for n in range(count):
        user = users[0] if skewed and n % 2 else users[n % len(users)]
        turns[user.pk] = turn = turns.get(user.pk, -1) + 1
        needs = {**sample.needs, "warm": bases[n % len(bases)]}
        if not needs["warm"]:
            del needs["warm"]
        rows.append(Job(kind=sample.kind, params=sample.params, needs=needs, user=user, turn=turn))
    Job.objects.bulk_create(rows, batch_size=1000)
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE jobs_job SET created_at = now() - make_interval(secs => %s - place)
            FROM (SELECT id AS one, row_number() OVER (ORDER BY turn, user_id) AS place
                  FROM jobs_job WHERE state = 'queued') s WHERE id = one""",
            [count],
        )
        cursor.execute("VACUUM FULL ANALYZE jobs_job")


def fill_history(user: User, count: int) -> None:
    """Compositions that were done within the last year: what a site has that forgets nothing."""
    from django.db import connection

    from hub_site.jobs.models import Job

    if not count:
        return
    sample = submit_one(user)
    columns = {
        field.column: f'"{field.column}"' for field in Job._meta.concrete_fields
    } | {
        "id": "gen_random_uuid()", "state": "'done'", "result": "'{}'", "attempts": "1",
        "created_at": "now() - make_interval(secs => i)",
        "started_at": "now() - make_interval(secs => i - 5)",
        "finished_at": "now() - make_interval(secs => i - 60)",
    }  # fmt: skip
    names = ", ".join(f'"{name}"' for name in columns)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""INSERT INTO jobs_job ({names}) SELECT {", ".join(columns.values())}
            FROM jobs_job, generate_series(100, 100 + %s) i WHERE id = %s""",
            [count - 1, sample.pk],
        )
    Job.objects.filter(pk=sample.pk).delete()


def start_workers(count: int, warm: Sequence[Sequence[str]]) -> list[str]:
    """Rows of workers that were just seen, and their names; `warm` is dealt out in turns."""
    from django.utils import timezone

    from hub_site.jobs.models import SCHEMA, Worker

    names = [f"bench:{n + 1}:{secrets.token_hex(3)}" for n in range(count)]
    Worker.objects.bulk_create(
        Worker(
            name=name, host="bench", pid=n + 1, queues=["cpu", "store"], memory=1 << 36,
            warm=list(warm[n % len(warm)]), schema=SCHEMA,
            seen_at=timezone.now() + timedelta(hours=1),
        )
        for n, name in enumerate(names)
    )  # fmt: skip
    return names


def be_worker(name: str, warm: Sequence[str] = ()) -> str:
    """Make this process one of that worker's; returns the name it claims by."""
    from hub_site.jobs import capacity, worker_name

    os.environ[worker_name.NAME_VARIABLE] = name
    capacity.keep_warm(tuple(warm))
    return worker_name.name_of_this_process()


def generation(number: int) -> dict[str, Any]:
    """A row as a search of 20 modules by Cobyla leaves it: one candidate each."""
    from composer.engine.generation import Generation

    draw = np.random.default_rng(number)
    weights = draw.standard_normal((1, 20))
    return Generation(
        number=number, weights=weights, losses=draw.random(1), best_weights=weights[0],
        best_loss=0.5, evaluations=number + 1, budget=200, seconds=0.01,
        digest=secrets.token_hex(32),
    ).to_json()  # fmt: skip


def keep_generation(job: Job, record: dict[str, Any], number: int) -> None:
    """As the runner does; begun anew after a hundred, so that a job stays of a usual size."""
    from composer.models import Generation
    from hub_site.jobs import queue

    place = number % 100
    with queue.checkpoint(job):
        if number and not place:
            Generation.objects.filter(search=job.pk).delete()
        Generation.objects.create(
            search_id=job.pk, number=place, evaluations=place + 1, best_loss=0.5, seconds=0.01,
            record=record | {"number": place},
        )  # fmt: skip


# --- processes -----------------------------------------------------------------------------------


@contextmanager
def together(count: int, act: Callable[[int], T]) -> Iterator[list[T]]:
    """The same in several processes at once, each with connections of its own; while they run, the
    body does. What they return is in the list afterwards."""
    from django.db import connections

    connections.close_all()  # a connection cannot be shared
    fork = multiprocessing.get_context("fork")
    barrier, found = fork.Barrier(count + 1), list[T]()
    ends = [fork.Pipe(duplex=False) for _ in range(count)]

    def run(number: int) -> None:
        barrier.wait()
        ends[number][1].send(act(number))

    processes = [fork.Process(target=run, args=(n,)) for n in range(count)]
    for process in processes:
        process.start()
    barrier.wait()
    yield found
    for process, (out, _) in zip(processes, ends, strict=True):
        while not out.poll(1):
            if not process.is_alive() and not out.poll(1):
                raise SystemExit("One of the processes ended without an answer.")
        found.append(out.recv())
        process.join()


def all_of(count: int, act: Callable[[int], list[float]]) -> list[float]:
    with together(count, act) as found:
        pass
    return [each for some in found for each in some]
