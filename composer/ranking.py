"""The stage before a search: every candidate measured alone on the examples, and the best of them
kept. Only workers import this."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from composer import model_cache
from composer.engine.batch import encode
from composer.engine.chunk import Chunk, OutOfMemory
from composer.engine.screening import Progress, Screening, screen_folders
from composer.module_choice import ranked_to
from composer.needs import RANKED_AT_ONCE
from composer.running import Given, NothingFound, Run

NOT_FINITE = "Its loss on the examples is infinite or not a number."


def is_due(run: Run) -> bool:
    """Once, and before the modules are loaded: a search that has begun goes on with its own."""
    evidence = run.search.evidence
    return _wanted(run) is not None and not {"screening", "load"} & evidence.keys()


def _wanted(run: Run) -> int | None:
    return ranked_to(run.job.params, len(run.search.spec["ingredients"]))


def rank(run: Run, given: Given) -> None:
    """The best of the candidates become the search's ingredients; what each did alone is noted.

    Candidates that have gone or been closed since the job was submitted are left out, by name.
    """
    candidates = {each["repo"]: each for each in run.search.spec["ingredients"]}
    folders, refused = model_cache.open_folders_of(run.search, run.lease)
    found = _screened(run, given, list(folders), list(folders.values()))
    refused = {**refused, **found.refused}
    losses, kept = found.loss(), found.top(_wanted(run) or len(candidates))
    nothing = [n for n, loss in enumerate(losses) if not np.isfinite(loss)]
    refused = {**{found.names[n]: NOT_FINITE for n in nothing}, **refused}
    if not kept:
        raise NothingFound(
            "No module could be measured on the examples: "
            + " ".join(f"{name}: {why}" for name, why in list(refused.items())[:3])
        )
    rows = [{"name": found.names[n], "loss": float(losses[n])} for n in found.ranking()]
    run.settle(
        {**run.search.spec, "ingredients": [candidates[found.names[n]] for n in kept]},
        screening={
            "modules": rows,
            "refused": refused,
            "mixed": len(kept),
            "rough": len(found.rough),
            "forwards": found.cost,
        },
    )


def _screened(run: Run, given: Given, names: Sequence[str], folders: Sequence[Path]) -> Screening:
    def progress(done: int, total: int) -> None:
        run.lease.check()
        run.show(stage_detail=f"{done} of {total} modules")

    chunk = None
    while True:
        try:
            return _screened_in(chunk, run, given, names, folders, progress)
        except OutOfMemory as error:
            if error.smaller is None:
                raise
            chunk = error.smaller


def _screened_in(
    chunk: Chunk | None,
    run: Run,
    given: Given,
    names: Sequence[str],
    folders: Sequence[Path],
    progress: Progress,
) -> Screening:
    base = given.base
    return screen_folders(
        folders,
        base,
        encode(
            given.shots,
            given.template,
            base.tokenizer,
            is_encoder_decoder=base.is_encoder_decoder,
        ),
        names=names,
        best=_wanted(run),
        at_once=RANKED_AT_ONCE,
        reduction=given.config.reduction,
        chunk=chunk,
        progress=progress,
    )
