"""Kill everything that works on jobs, again and again, and see whether any job minds.

    python -m tests.faults.kills [--kills 300] [--pairing redis] [--seed 1]

On a site of its own (a PostgreSQL, a broker, three workers, a tiny base model with four modules)
searches and counting jobs come in, while children, whole workers and main processes are killed,
the broker forgets, the database restarts at once, workers are frozen for longer than their leases
and asked to end. First each search is run once undisturbed: the others must end with its recipe,
and have its losses and weights generation by generation, bit by bit.

It prints a table, and ends with 1 when a job was lost, stuck, ended twice, failed, or came out
otherwise than undisturbed, or when less went wrong than was asked for.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.faults.stand import PAIRINGS, Stand, stand

if TYPE_CHECKING:
    from hub_site.jobs.models import Job
    from tests.faults.chaos import Chaos


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--pairing", choices=PAIRINGS, default="embedded")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and leave nothing running
    with stand(options.pairing) as made:
        from tests.faults.chaos import Chaos  # Django is set up only now

        whole = undisturbed(made)
        chaos = Chaos(made, options.kills, options.seed)
        try:
            chaos.run()
        finally:
            found = look(chaos, whole)
            print_table(options, chaos, found)
            if not found.is_good:
                print_logs(made)
    return 0 if found.is_good else 1


# --- what must come out ------------------------------------------------------------------------


def undisturbed(made: Stand) -> dict[int, dict[str, Any]]:
    """What a search of each seed finds when nobody disturbs it."""
    from tests.faults.chaos import BUDGET, SEEDS
    from tests.workers import wait_for

    worker = made.start_worker()
    made.wait_for_workers()
    jobs = {seed: made.compose(budget=BUDGET, seed=seed) for seed in SEEDS}
    found = {}
    for seed, job in jobs.items():
        wait_for(job, "done", "failed")
        assert job.state == "done" and job.attempts == 1, job.error_message
        found[seed] = result_of(job)
    assert worker.stop() == 0
    return found


def result_of(job: Job) -> dict[str, Any]:
    """Recipe, weights and losses, and what they are worth; without the time it took."""
    from composer.models import Search

    search = Search.objects.get(pk=job.pk)
    rows = search.generations.order_by("round", "number").values_list("record", flat=True)
    return {
        "recipe": job.result.get("recipe"),
        "generations": [{k: v for k, v in row.items() if k != "seconds"} for row in rows],
        "worth": [
            (m["key"], m["correct"], m["losses"]) for m in search.evidence.get("methods", [])
        ],
    }


@dataclass
class Found:
    """Counts of jobs; all but the first three must be 0."""

    done: int = 0
    resumed: int = 0
    cancelled: int = 0
    lost: int = 0
    stuck: int = 0
    twice: int = 0
    differs: int = 0
    failed: int = 0
    bad_ends: int = 0  # of workers
    missing: tuple[str, ...] = ()  # of what should have gone wrong

    @property
    def is_good(self) -> bool:
        wrong = self.lost + self.stuck + self.twice + self.differs + self.failed + self.bad_ends
        return not wrong and not self.missing and 2 * self.resumed >= self.done > 0


def look(chaos: Chaos, whole: dict[int, dict[str, Any]]) -> Found:
    from hub_site.jobs.models import OVER, Job, JobEvent

    found = Found(missing=_missing(chaos))
    found.bad_ends = chaos.done["worker ended by itself or badly"]
    for submitted in chaos.jobs:
        job = Job.objects.filter(pk=submitted.pk).first()
        if job is None:
            found.lost += 1
            continue
        events = list(JobEvent.objects.filter(job=job).exclude(name="step"))
        ends = [event.name for event in events if event.name in OVER]
        found.stuck += not job.is_over
        found.twice += len(ends) > 1
        found.cancelled += job.state == "cancelled"
        if job.state == "failed":
            found.failed += 1
            print(f"failed: {job.kind} {job.pk} {job.error_code} {job.error_message}")
        if job.state == "done":
            found.done += 1
            right, resumed = (_counted if job.kind == "test_count" else _searched)(
                job, whole.get(chaos.seeds.get(str(job.pk), -1))
            )
            found.differs += not right
            found.resumed += resumed
            if not right:
                print(f"differs: {job.kind} {job.pk}", [event.name for event in events])
    return found


def _counted(job: Job, _: object) -> tuple[bool, bool]:
    """Each step once and in order; resumed when more than one claim counted."""
    from hub_site.jobs.models import JobEvent

    rows = JobEvent.objects.filter(job=job, name="step").order_by("id")
    fences = [event.fence for event in rows]
    steps = [event.detail["n"] for event in rows]
    wanted = list(range(job.params["steps"]))
    right = steps == wanted and job.result == {"counted": wanted} and fences == sorted(fences)
    return right, len(set(fences)) > 1


def _searched(job: Job, wanted: object) -> tuple[bool, bool]:
    """Resumed when the last claim found generations, and did not begin anew."""
    from composer.models import Generation
    from hub_site.jobs.models import JobEvent

    events = JobEvent.objects.filter(job=job)
    last = events.filter(name="claimed").latest("id")
    there = Generation.objects.filter(search_id=job.pk, created_at__lt=last.at).exists()
    begun_anew = events.filter(name="restarted").exists()
    return result_of(job) == wanted and not begun_anew, there and job.attempts > 1


def _missing(chaos: Chaos) -> tuple[str, ...]:
    done = chaos.done
    kills = sum(count for name, count in done.items() if name.startswith("kill"))
    wanted = {
        "kills": (kills, chaos.kills),
        "broker wiped": (done["broker wiped"], 3),
        "database restarted at once": (done["database restarted at once"], 2),
        "needless wake-ups": (done["needless wake-up"], 50),
        "pauses longer than the lease": (done["pause longer than the lease"], 3),
        "SIGTERM": (done["SIGTERM"], 5),
        "submits without a message": (done["submit without a message"], len(chaos.jobs) // 10),
    }
    return tuple(name for name, (came, least) in wanted.items() if came < least)


# --- what is printed ---------------------------------------------------------------------------


def print_table(options: argparse.Namespace, chaos: Chaos, found: Found) -> None:
    broker = "PostgreSQL over TCP, Redis" if options.pairing == "redis" else "embedded"
    rows: list[tuple[str, object]] = [
        ("pairing", broker),
        ("jobs", f"{len(chaos.jobs)}, {len(chaos.seeds)} of them searches"),
        *sorted(chaos.done.items()),
        ("done", found.done),
        ("of these resumed", found.resumed),
        ("cancelled, as asked", found.cancelled),
        ("**lost**", found.lost),
        ("**stuck**", found.stuck),
        ("**ended twice**", found.twice),
        ("**different in bits**", found.differs),
        ("**failed though innocent**", found.failed),
        ("**workers that ended by themselves**", found.bad_ends),
        ("longest SIGTERM to exit", f"{chaos.longest_goodbye:.1f} s"),
        ("seconds", round(chaos.seconds)),
    ]
    if found.missing:
        rows.append(("too little of", ", ".join(found.missing)))
    print(f"\nseed {options.seed}, {time.strftime('%Y-%m-%d')}\n\n| | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    sys.stdout.flush()


def print_logs(made: Stand) -> None:
    for worker in made.workers:
        lines = worker.log.read_text(errors="replace").splitlines()[-30:]
        print(f"--- {worker.log.name}, exit {worker.process.poll()}", *lines, sep="\n")


if __name__ == "__main__":
    sys.exit(main())
