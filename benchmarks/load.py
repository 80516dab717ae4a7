"""The site under people: browsing, uploading, composing and watching, for some minutes.

    python -m benchmarks.load [--minutes 5] [--browsing 200] [--uploading 20] [--watching 50]
                              [--submitting 10] [--modules 20000]

Fills a library as `benchmarks.search` does, then starts the real site on it as `make run` does
(`manage.py serve`: gunicorn, one worker, the embedded PostgreSQL, demo library), on 127.0.0.1 and a
folder of its own. Then everybody acts at once (`people.py`): pages with 5 to 10 seconds between
clicks, uploads of 130 kB by form and by the Hub's protocol, demo tasks with a small budget by page
and by API, job pages that ask for their status as often as they say. All people are accounts or
visitors of their own, with addresses of their own: they say them as one proxy in front would
(BEHIND_TLS_PROXY=true), so every limit of the site holds. Some sign in by the form, the others were
signed in before.

Counted as an error: no answer, or one with another status than a person would want (200, 302 or 304
for a page, a redirect for a form); a job that failed; a module that was uploaded and is not there.
Times are taken at the client from before the connection to the last byte; the client shares the
cores with the site, and its own share is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.browser_line import Book, Line, some_address
from benchmarks.people import POLL, Account, Known, Run, browse, submit, upload, watch
from benchmarks.site_processes import PARTS, Watch
from benchmarks.upload_memory import Site

SIGNED_IN = 0.3  # of those who browse
SIGN_INS_A_MINUTE = 6
PASSWORD = "no secret, this site lives for minutes"
WARM_UP_RECIPES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--browsing", type=int, default=200)
    parser.add_argument("--uploading", type=int, default=20)
    parser.add_argument("--watching", type=int, default=50)
    parser.add_argument("--submitting", type=int, default=10)
    parser.add_argument("--budget", type=int, default=40, help="evaluations of a composition")
    parser.add_argument("--modules", type=int, default=20_000)
    parser.add_argument("--ramp", type=float, default=30, help="seconds in which people come")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="load-"))
    folder.chmod(0o711)
    try:
        run(folder / "var", given)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(var: Path, given: argparse.Namespace) -> None:
    fill(var, given.modules)
    before = os.getloadavg()[0]
    site = Site(var, {"BEHIND_TLS_PROXY": "true"})
    try:
        accounts = make_accounts(given)
        warm_up(accounts[0])
        people = Run(
            book=Book(), known=known(), until=time.monotonic() + 60 * given.minutes,
            draw=random.Random(given.seed), ramp=min(given.ramp, 15 * given.minutes),
        )  # fmt: skip
        watching = Watch(site.process.pid, postmaster(var))
        watching.start()
        asyncio.run(everybody(people, site.port, accounts, given))
        watching.stop()
        wrong_at_the_end(people, accounts)
        report(people, watching, given)
    finally:
        close_database()
        site.stop()
    print(f"\n{os.cpu_count()} cores, load {before:.1f} before the run.")
    for line in complaints(site.log):
        print(f"serve said: {line}")


# --- before --------------------------------------------------------------------------------------


def fill(var: Path, modules: int) -> None:
    """The database that `serve` will find running, and Django here, on it."""
    from hub_site import embedded

    embedded.start(var)
    os.environ |= {"VAR_DIR": str(var), "ENV_FILE": os.devnull, "LOG_LEVEL": "ERROR"}
    os.environ["DJANGO_SETTINGS_MODULE"] = "hub_site.settings"
    import django

    django.setup()
    from django.core.management import call_command

    from benchmarks.search import fill_database

    call_command("migrate", verbosity=0)
    fill_database(modules)
    from modules.finding import facets

    facets.recount()
    close_database()


def close_database() -> None:
    from django.db import connections

    connections.close_all()


def postmaster(var: Path) -> int:
    from hub_site import embedded

    return int((embedded.home_of(var) / "data" / "postmaster.pid").read_text().split()[0])


def make_accounts(given: argparse.Namespace, named: str = "person") -> list[Account]:
    """Accounts with an open session and a token; those who will sign in have a password."""
    from django.conf import settings
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.hashers import make_password
    from django.contrib.sessions.backends.db import SessionStore

    from hub_site.accounts import tokens
    from hub_site.accounts.models import User

    hashed, found = make_password(PASSWORD), []
    for number in range(given.browsing + given.uploading + given.submitting + 1):
        user = User.objects.create_user(f"{named}-{number}")
        User.objects.filter(pk=user.pk).update(password=hashed)
        user.refresh_from_db()
        session = SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.create()
        token = tokens.create_token(user, name="load", scope="write")[1]
        cookies = {settings.SESSION_COOKIE_NAME: session.session_key}
        found.append(Account(user.username, cookies, token, PASSWORD))
    return found


def warm_up(account: Account) -> None:
    """Some compositions, published as recipes: those of the filled library have no weights."""
    from composer import publishing, services
    from composer.models import FewShotTask, Search
    from hub_site.accounts.models import User

    user = User.objects.get(username=account.name)
    tasks = FewShotTask.objects.demo()[:WARM_UP_RECIPES]
    jobs = [services.submit_job(task=task, user=user, overrides={"budget": 40}) for task in tasks]
    for job in jobs:
        until = time.monotonic() + 300
        while not job.is_over:
            if time.monotonic() > until:
                raise SystemExit("The first compositions did not end.")
            time.sleep(0.3)
            job.refresh_from_db()
        search = Search.objects.get(pk=job.pk)
        publishing.publish(
            search=search, user=user, title=search.title, description="", show_examples=True
        )


def known() -> Known:
    from django.db import connection

    from composer.models import FewShotTask, Recipe

    def column(sql: str) -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return [row[0] for row in cursor.fetchall()]

    some = "ORDER BY random() LIMIT 400"
    stat = "SELECT search FROM modules_loramodule ORDER BY md5(id::text) LIMIT 2000"
    return Known(
        modules=column(
            f"""SELECT n.name || '/' || p.name FROM modules_loramodule m
            JOIN modules_repo p ON p.id = m.repo_id JOIN accounts_namespace n ON n.id = p.owner_id
            WHERE is_listed {some}"""
        ),
        words=column(
            f"""SELECT word FROM (SELECT word FROM ts_stat($${stat}$$)
            WHERE word ~ '^[a-z]{{4,}}$' AND ndoc > 3 ORDER BY ndoc DESC LIMIT 2000) s {some}"""
        ),
        base_models=column(
            f"SELECT base_model_name FROM modules_loramodule WHERE is_listed {some}"
        ),
        tags=column(f"SELECT unnest(tag_names) FROM modules_loramodule WHERE is_listed {some}"),
        licences=column("SELECT DISTINCT licence FROM modules_loramodule WHERE licence <> ''"),
        recipes=[
            recipe.get_absolute_url() for recipe in Recipe.objects.published()[:WARM_UP_RECIPES]
        ],
        tasks=[task.get_absolute_url() for task in FewShotTask.objects.demo()],
    )


# --- the run -------------------------------------------------------------------------------------


async def everybody(
    run: Run, port: int, accounts: list[Account], given: argparse.Namespace
) -> None:
    """Sessions of the accounts are used up in this order: browsing, uploading, submitting."""
    some = iter(accounts[1:])

    def line(cookies: dict[str, str] | None = None) -> Line:
        return Line(port, run.book, some_address(), cookies or {})

    acts: list[Any] = []
    sign_ins = int(SIGN_INS_A_MINUTE * given.minutes)
    for number in range(given.browsing):
        account = next(some)
        if number < sign_ins:
            after = (number + 1) / (sign_ins + 1) * (60 * given.minutes - run.ramp)
            acts.append(browse(run, line(), account, after))
        else:
            is_in = number < sign_ins + SIGNED_IN * given.browsing
            acts.append(browse(run, line(account.cookies if is_in else None), account, None))
    for number in range(given.uploading):
        account = next(some)
        acts.append(upload(run, line(account.cookies), account, by_protocol=number % 2 == 1))
    submitters = [next(some) for _ in range(given.submitting)]
    for number, account in enumerate(submitters):
        own = line(account.cookies)
        acts.append(submit(run, own, account, number % 3 == 2, given.budget))
    for number in range(given.watching if submitters else 0):
        account = submitters[number % len(submitters)]
        acts.append(watch(run, line(account.cookies), account))
    await asyncio.gather(*acts)


def wrong_at_the_end(run: Run, accounts: list[Account]) -> None:
    """What no answer showed: jobs that failed, uploads that are not there."""
    from hub_site.jobs.models import Job
    from modules.models import LoraModule

    for job in Job.objects.filter(state="failed"):
        run.book.wrong("job", f"{job.kind} failed: {job.error_code}, {job.error_message}")
    names = [account.name for account in accounts]
    there = LoraModule.objects.filter(repo__owner__name__in=names)
    if (count := there.count()) != run.uploaded:
        run.book.wrong("upload", f"{run.uploaded} were answered as published, {count} are there")
    for module in there.filter(status=LoraModule.REJECTED):
        run.book.wrong("upload", f"{module} did not pass its checks: {module.rejected_reason}")


# --- after ---------------------------------------------------------------------------------------


def report(run: Run, watching: Watch, given: argparse.Namespace) -> None:
    from hub_site.jobs.models import Job

    book = run.book
    print(f"\n{len(book.errors)} errors in {book.requests:,} requests, "
          f"{book.requests / watching.seconds:.0f} a second for {watching.seconds:.0f} s; "
          f"{book.bytes_in / 1e6:.0f} MB came.")  # fmt: skip
    for error in book.errors[:50]:
        print(f"- {error}")
    print("\n| page | requests | p50, ms | p95, ms | max, ms |\n|---|---:|---:|---:|---:|")
    everything = [seconds for some in book.seconds.values() for seconds in some]
    for kind, some in [*book.seconds.items(), ("all", everything)]:
        low, high, most = (1000 * each for each in percentiles(some))
        print(f"| {kind} | {len(some)} | {low:.0f} | {high:.0f} | {most:.0f} |")
    print(
        "\n| part | processes | PSS in the first quarter, MB | in the last | most | of one core |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for part in PARTS:
        first, last, most = watching.quarters(part)
        count = max(sample.processes[part] for sample in watching.samples)
        share = f"{100 * watching.shares[part]:.0f} %"
        print(f"| {part} | {count} | {first:.0f} | {last:.0f} | {most:.0f} | {share} |")
    for other in ("this client", "everything else on the machine"):
        print(f"| {other} | | | | | {100 * watching.shares[other]:.0f} % |")
    states = {
        (kind, state): Job.objects.filter(kind=kind, state=state).count()
        for kind in ("compose", "check_module")
        for state in ("queued", "running", "done", "failed")
    }
    print(
        f"\n{given.browsing} browsing, {given.uploading} uploading, {given.watching} watching, "
        f"{given.submitting} submitting; {given.modules:,} modules. {run.submitted} compositions "
        f"submitted and {run.uploaded} modules uploaded. Jobs at the end: "
        + ", ".join(f"{count} {kind} {state}" for (kind, state), count in states.items() if count)
        + "."
    )
    polled = {s: c for (kind, s), c in book.statuses.items() if kind == POLL}
    print(f"Answers to the status of jobs: {json.dumps(polled)}.")


def percentiles(values: list[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    return (
        ordered[len(ordered) // 2],
        ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        ordered[-1],
    )


def complaints(log: Path) -> Iterator[str]:
    """Warnings and errors of the site's own log, a line each."""
    for line in log.read_text(errors="replace").splitlines():
        if " ERROR " in line or " WARNING " in line or "Traceback" in line:
            yield line[:300]


if __name__ == "__main__":
    main()
