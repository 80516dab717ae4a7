"""How many honest recipes are matched when they are run again, and which tampering is named.

    python -m benchmarks.verification [--tasks 5] [--shots 5] [--held-out 30]
                                      [--tampering-only]

On the demo library, in a scratch database of its own. Each task is composed by five settings, and
each recipe published and verified twice, its evaluation and its whole search, each time by a worker
that has loaded nothing yet. Then one recipe is tampered with in twelve ways: in its file alone;
with the id and the digests made to fit; and with all that is written down made to fit, so that only
what was measured tells.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.queue_filling import own_database

if TYPE_CHECKING:
    from composer.models import FewShotTask, Recipe, Verification
    from hub_site.accounts.models import User

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "recommended": ("recommended", {}),
    "as in the paper": ("paper", {}),
    "`sum`, CMA-ES": ("recommended", {"optimiser": "cmaes"}),
    "`lorahub`, Cobyla": ("recommended", {"combination": "lorahub"}),
    "over folds, rank 16": (
        "recommended",
        {"optimiser": "random", "selection": "folds", "folds": 2, "rank": 16},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--held-out", type=int, default=30)
    parser.add_argument("--tampering-only", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="commons-verification-"))
    folder.chmod(0o711)
    try:
        with own_database(folder):
            if options.tampering_only:
                tampered_table(*one(options.shots, options.held_out))
            else:
                run(options.tasks, options.shots, options.held_out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(tasks: int, shots: int, held_out: int) -> None:
    from hub_site.accounts.models import User

    user = User.objects.create_user("someone", password="correct horse")
    start = time.perf_counter()
    recipes = list(composed(user, tasks, shots, held_out))
    print(f"{len(recipes)} recipes in {time.perf_counter() - start:.0f} s\n", flush=True)
    print("| settings | re-runs | matched | s, evaluation | s, search |\n|---|---:|---:|---:|---:|")
    total = matched = 0
    for name in SETTINGS:
        some = [recipe for each, recipe in recipes if each == name]
        outcomes, seconds = verified_all(some, user)
        total, matched = total + len(outcomes), matched + outcomes.count("matched")
        evaluation, search = (sum(part) / len(part) for part in seconds)
        print(
            f"| {name} | {len(outcomes)} | {outcomes.count('matched')} | {evaluation:.1f} | "
            f"{search:.1f} |",
            flush=True,
        )
    print(f"\n{total} honest re-runs: {matched} matched\n", flush=True)
    tampered_table(recipes[0][1], user)


def one(shots: int, held_out: int) -> tuple[Recipe, User]:
    from hub_site.accounts.models import User

    user = User.objects.create_user("someone", password="correct horse")
    return next(composed(user, 1, shots, held_out))[1], user


def composed(user: User, tasks: int, shots: int, held_out: int) -> Iterator[tuple[str, Recipe]]:
    from composer import publishing, runner, services
    from composer.models import FewShotTask, Search
    from hub_site.jobs import queue
    from hub_site.jobs.worker import Lease
    from modules.models import BaseModel

    base = BaseModel.objects.filter(is_encoder_decoder=True).first()
    for known in FewShotTask.objects.demo().filter(base_model=base)[:tasks]:
        task = smaller(known, user, shots, held_out)
        for seed, (name, (preset, overrides)) in enumerate(SETTINGS.items(), 1):
            job = services.submit_job(
                task=task, user=user, preset=preset, overrides={"seed": seed, **overrides}
            )
            claimed = queue.claim_next("benchmark")
            assert claimed is not None and claimed.pk == job.pk
            runner.compose(claimed, Lease(claimed))
            search = Search.objects.select_related("job", "recipe").get(pk=job.pk)
            title = f"{known.name}, {name}"
            yield name, publishing.publish(search=search, user=user, title=title)


def smaller(known: FewShotTask, user: User, shots: int, held_out: int) -> FewShotTask:
    """A private task of the same examples, so that their hash is salted."""
    from composer import task_writing
    from composer.models import Example

    return task_writing.create_task(
        user=user,
        name=known.name,
        base_model=known.base_model,
        template=known.template,
        shots=known.pairs(Example.SHOT)[:shots],
        held_out=known.pairs(Example.HELD_OUT)[:held_out],
    )


def verified_all(
    recipes: list[Recipe], user: User
) -> tuple[list[str], tuple[list[float], list[float]]]:
    outcomes: list[str] = []
    seconds: dict[str, list[float]] = {"evaluation": [], "search": []}
    for recipe in recipes:
        for kind, spent in seconds.items():
            start = time.perf_counter()
            row = again(recipe, user, kind)
            spent.append(time.perf_counter() - start)
            outcomes.append(row.outcome)
            if row.outcome != "matched" or row.unchecked:
                print(f"{recipe.title}: {row.outcome} {row.differs} {row.unchecked}", flush=True)
    return outcomes, (seconds["evaluation"], seconds["search"])


def again(recipe: Recipe, user: User, kind: str) -> Verification:
    """By a worker that has loaded nothing."""
    from composer import model_cache
    from tests.composer import verified

    model_cache.forget()
    return verified.verify(recipe, user, kind)


def tampered_table(recipe: Recipe, user: User) -> None:
    from composer import artifacts, proof
    from tests.composer import verified

    print("| changed | its file alone | id and digests fit | all that is written down fits |")
    print("|---|---|---|---|")
    caught = 0
    for what in proof.TWELVE:
        recipe = fresh(recipe)
        document = verified.tampered(artifacts.recipe_json(recipe), what)
        named = [{each.what for each in proof.why_not_its_id(document)}]
        for of_everything in (False, True):
            with undone():
                other = verified.put_in_place(fresh(recipe), what, of_everything=of_everything)
                row = again(other, user, "evaluation")
                named.append({each["what"] for each in row.differs})
        caught += all(what in parts for parts in named)
        cells = " | ".join(", ".join(sorted(parts)) or "–" for parts in named)
        print(f"| {what} | {cells} |", flush=True)
    print(f"\n12 kinds of tampering: {caught} named in each of the three ways")


def fresh(recipe: Recipe) -> Recipe:
    """As the database has it: what was undone there is not undone in memory."""
    from composer.models import Recipe

    rows = Recipe.objects.select_related("published_search", "base_model", "published_by")
    return rows.get(pk=recipe.pk)


@contextmanager
def undone() -> Iterator[None]:
    from django.db import transaction

    with transaction.atomic():
        yield
        transaction.set_rollback(True)


if __name__ == "__main__":
    main()
