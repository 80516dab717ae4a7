"""What one composition leaves in the database and in the store, so that years are arithmetic.

    python -m benchmarks.job_rows [--copies 1000]

Runs a demo task by both presets, as a worker does, in a scratch database of its own, and counts the
rows that each table got. Then the rows are copied some hundred times under new names, and each
table's growth, indexes and TOAST included, is divided by that: a single row would tell nothing of
pages and indexes. Blobs are counted as they are.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.queue_filling import clear, make_users, own_database

if TYPE_CHECKING:
    from django.db.models import Model

    from hub_site.jobs.models import Job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--copies", type=int, default=1000)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="job-rows-"))
    folder.chmod(0o711)
    try:
        with own_database(folder):
            for preset in ("recommended", "paper"):
                clear()
                measure(preset, given.copies)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(preset: str, copies: int) -> None:
    from composer.models import Search

    job, seconds = compose(preset)
    search = Search.objects.select_related("recipe__adapter").get(pk=job.pk)
    assert search.recipe is not None and search.recipe.adapter is not None
    budget = search.spec["search"]["budget"]
    print(f"\n### {preset}: {budget} evaluations, in {seconds:.0f} s\n")
    print("| table | rows | bytes in the table | with indexes and TOAST |\n|---|---:|---:|---:|")
    sums = [0, 0, 0]
    for model, chosen, replaced in tables(search):
        rows = count(model, chosen)
        before = size(model)
        copy(model, chosen, replaced, copies)
        grown = [(now - then) / copies for now, then in zip(size(model), before, strict=True)]
        figures = [rows, *grown]
        sums = [have + more for have, more in zip(sums, figures, strict=True)]
        name = model._meta.db_table
        print(f"| {name} | {rows} | {grown[0]:,.0f} | {grown[1]:,.0f} |", flush=True)
    print(f"| all | {sums[0]} | {sums[1]:,.0f} | {sums[2]:,.0f} |")
    print(f"\nThe adapter: {search.recipe.adapter.size:,} bytes in the store.")


def compose(preset: str) -> tuple[Job, float]:
    """Submit and run one, here."""
    from composer import services
    from composer.models import FewShotTask
    from hub_site.accounts.models import User
    from hub_site.jobs import queue, worker

    user = User.objects.first() or make_users(1)[0]
    task = FewShotTask.objects.demo()[0]
    services.submit_job(task=task, user=user, preset=preset)
    job = queue.claim_next(f"bench:{os.getpid()}:000000:{os.getpid()}")
    assert job is not None
    began = time.perf_counter()
    worker.run(job)
    job.refresh_from_db()
    assert job.state == "done", job.error_message
    return job, time.perf_counter() - began


def tables(search: Any) -> list[tuple[type[Model], str, dict[str, str]]]:
    """Each with a condition for this composition's rows, and columns that a copy has otherwise."""
    from composer.models import Generation, Ingredient, Recipe, Search
    from hub_site.accounts.models import Notice
    from hub_site.jobs.models import Job, JobEvent

    job, digest = f"'{search.pk}'", f"'{search.recipe_id}'"
    new_job = "md5({} || i)::uuid".format("{column}::text")
    new_recipe = "md5({0} || i) || md5(i || {0})".format("{column}")
    own_id = {"id": ""}
    return [
        (Job, f"id = {job}", {"id": new_job, "idempotency_key": "NULL"}),
        (JobEvent, f"job_id = {job}", {**own_id, "job_id": new_job}),
        (Recipe, f"digest = {digest}", {"digest": new_recipe}),
        (Ingredient, f"recipe_id = {digest}", {**own_id, "recipe_id": new_recipe}),
        (Search, f"job_id = {job}", {"job_id": new_job, "recipe_id": new_recipe}),
        (Generation, f"search_id = {job}", {**own_id, "search_id": new_job}),
        (Notice, f"address = '{search.get_absolute_url()}'", own_id),
    ]


def count(model: type[Model], chosen: str) -> int:
    return int(ask(f"SELECT count(*) FROM {model._meta.db_table} WHERE {chosen}")[0])


def size(model: type[Model]) -> tuple[int, int]:
    table = model._meta.db_table
    first, whole = ask(f"SELECT pg_table_size('{table}'), pg_total_relation_size('{table}')")
    return int(first), int(whole)


def copy(model: type[Model], chosen: str, replaced: dict[str, str], copies: int) -> None:
    """An empty expression leaves the column to the table's own default."""
    columns, selected = [], []
    for field in model._meta.concrete_fields:
        expression = replaced.get(field.column, "{column}")
        if expression:
            columns.append(f'"{field.column}"')
            selected.append(expression.format(column=f't."{field.column}"'))
    run(
        f"INSERT INTO {model._meta.db_table} ({', '.join(columns)}) SELECT {', '.join(selected)} "
        f"FROM {model._meta.db_table} t, generate_series(1, {copies}) i WHERE {chosen}"
    )
    run(f"VACUUM {model._meta.db_table}")


def ask(sql: str) -> Any:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()


def run(sql: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(sql)


if __name__ == "__main__":
    main()
