"""The stage before a search: every candidate measured alone on the examples, and the best of them
kept. Only workers import this.

What was measured is kept in the score matrix a part at a time, so that a ranking that gives way to
a short job, or is ended, goes on where it was, and the next one of the same examples costs nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from composer import model_cache, score_matrix
from composer.engine import int8, screening
from composer.engine import stack as engine_stack
from composer.engine.batch import Batch, encode
from composer.engine.chunk import Chunk, OutOfMemory, bounded
from composer.engine.likeness import cosines, folded
from composer.engine.loss import answers, parts
from composer.engine.screening import MANY, Screening, screen_folders
from composer.engine.selection import split
from composer.module_choice import ranked_to
from composer.needs import RANKED_AT_ONCE
from composer.running import Given, NothingFound, Run
from composer.score_matrix import BASE, Array, Hits, Scores
from hub_site.jobs import queue

NOT_FINITE = "Its loss on the examples is infinite or not a number."


def is_due(run: Run) -> bool:
    """Once, and before the modules are loaded: a search that has begun goes on with its own."""
    evidence = run.search.evidence
    return _wanted(run) is not None and not {"screening", "load"} & evidence.keys()


def _wanted(run: Run) -> int | None:
    return ranked_to(run.job.params)


def rank(run: Run, given: Given) -> None:
    """The best of the candidates become the search's ingredients; what each did alone is noted.

    Candidates that have gone or been closed since the job was submitted are left out, by name.
    """
    candidates = {each["repo"]: each for each in run.search.spec["ingredients"]}
    folders, refused = model_cache.open_folders_of(run.search, run.lease)
    ranked = _Ranking(run, given, folders, {name: candidates[name] for name in folders}).measured()
    found, wanted = ranked.screening, _wanted(run) or len(candidates)
    refused = {**refused, **found.refused}
    losses = found.loss()
    nothing = [n for n, loss in enumerate(losses) if not np.isfinite(loss)]
    refused = {**{found.names[n]: NOT_FINITE for n in nothing}, **refused}
    if len(nothing) == len(found.names):
        raise NothingFound(
            "No module could be measured on the examples: "
            + " ".join(f"{name}: {why}" for name, why in list(refused.items())[:3])
        )
    likeness = _Likeness(given, found, folders, wanted)
    groups = likeness.groups(found.ranking())
    with queue.checkpoint(run.job):
        score_matrix.note_task(
            run.search, ranked.scores, {v: k for k, v in ranked.versions.items()}, found.counts
        )
    exact = np.zeros_like(losses) if found.exact is None else found.exact.sum(axis=1)
    run.settle(
        {**run.search.spec, "ingredients": _ingredients(found, groups, wanted, candidates)},
        screening={
            "modules": [
                {"name": found.names[n], "loss": float(losses[n]), "exact": int(exact[n])}
                for n in found.ranking()
            ],
            "base": ranked.base_alone(),
            "examples": len(found.counts),
            "refused": refused,
            "folded": {
                found.names[first]: [found.names[n] for n in others]
                for first, others in groups.items()
                if others
            },
            "mixed": min(wanted, len(groups)),
            "rough": len(found.rough),
            "known": ranked.known,
            "forwards": ranked.forwards,
        },
        **_for_folds(run, given, found, likeness, wanted, candidates),
    )


def _ingredients(
    found: Screening,
    groups: Mapping[int, Sequence[int]],
    wanted: int,
    candidates: Mapping[str, Mapping[str, str]],
) -> list[Mapping[str, str]]:
    """The first of the groups, in the order of the candidates."""
    return [candidates[found.names[n]] for n in sorted(list(groups)[:wanted])]


def _for_folds(
    run: Run,
    given: Given,
    found: Screening,
    likeness: "_Likeness",
    wanted: int,
    candidates: Mapping[str, Mapping[str, str]],
) -> dict[str, list[list[Mapping[str, str]]]]:
    """What a ranking that has not seen a fold's part would have kept, for each fold."""
    if not (folds := int(run.job.params.get("test_folds") or 0)):
        return {}
    cut = split(len(given.shots), folds, given.config.seed)
    kept = []
    for place in range(len(cut)):
        rows = np.sort(np.concatenate([part for n, part in enumerate(cut) if n != place]))
        kept.append(_ingredients(found, likeness.groups(found.ranking(rows)), wanted, candidates))
    return {"fold_ingredients": kept}


@dataclass
class _Likeness:
    """Which modules are nearly the same, looked at among the best: as many as are in memory
    together anyway."""

    given: Given
    found: Screening
    folders: Mapping[str, Path]
    wanted: int

    def groups(self, ranking: Sequence[int]) -> dict[int, list[int]]:
        pool = list(ranking[: max(self.wanted, RANKED_AT_ONCE)])
        if len(pool) < 2:
            return {n: [] for n in pool}
        names = [self.found.names[n] for n in pool]
        stack = engine_stack.load(
            [self.folders[name] for name in names], self.given.base, names=names
        )
        groups = folded(cosines(stack), range(len(pool)))
        return {pool[first]: [pool[n] for n in others] for first, others in groups.items()}


class _Ranking:
    """Candidates on the examples: what is known already, and what is measured now."""

    def __init__(
        self,
        run: Run,
        given: Given,
        folders: Mapping[str, Path],
        candidates: Mapping[str, Mapping[str, str]],
    ) -> None:
        self.run, self.given, self.folders = run, given, folders
        self.names = list(candidates)
        self.versions = score_matrix.versions_of(candidates.values())
        self.keys = score_matrix.keys_of(given.shots, run.search, given.precision)
        self.batch: Batch = encode(
            given.shots,
            given.template,
            given.base.tokenizer,
            is_encoder_decoder=given.base.is_encoder_decoder,
        ).to(given.base.device)
        self.known = self.forwards = 0
        self.refused: dict[str, str] = {}
        self.chunk: Chunk | None = None

    def measured(self) -> "_Ranking":
        self._measure_base()
        scores = self._read()
        lacking = [name for name in self.names if not self._is_whole(scores, name)]
        self.known = len(self.names) - len(lacking)
        rough = self._first_look(lacking)
        if rough is None:
            for start in range(0, len(lacking), RANKED_AT_ONCE):
                some = lacking[start : start + RANKED_AT_ONCE]
                self._keep(self._screened(some, self.known + start))
                self.run.lease.give_way()
            rough = Screening((), np.empty((0, 0)), np.empty(0))
        self.scores = self._read()
        self.screening = self._put_together(rough)
        return self

    def base_alone(self) -> dict[str, float]:
        place = self.scores.versions.index(BASE)
        share = self.screening.counts / self.screening.counts.sum()
        loss = float(self.scores.losses[place] @ share)
        return {"loss": loss, "exact": int(self.scores.exact[place].sum())}

    # --- what is known -------------------------------------------------------------------------

    def _read(self) -> Scores:
        return score_matrix.read(self.keys, [BASE, *self.versions.values()])

    def _is_whole(self, scores: Scores, name: str) -> bool:
        if name not in self.versions:
            return False
        place = scores.versions.index(self.versions[name])
        return bool(scores.is_known[place].all())

    def _keep(self, found: Screening) -> None:
        """In the matrix, what is exact; the rough first look is for this ranking alone."""
        places = [
            n
            for n, name in enumerate(found.names)
            if name in self.versions and n not in found.rough and name not in found.refused
        ]
        assert found.exact is not None
        self.refused |= found.refused
        losses = np.where(np.isfinite(found.losses[places]), found.losses[places], np.inf)
        kept = Scores(
            tuple(self.versions[found.names[n]] for n in places), losses, found.exact[places]
        )
        with queue.checkpoint(self.run.job):
            score_matrix.keep(self.keys, kept)

    def _measure_base(self) -> None:
        if self._read().is_known[0].all():
            return
        losses, exact = self._base_answers()
        tokens = self.batch.answer_tokens.cpu().numpy()
        kept = Scores((BASE,), losses / tokens, exact)
        self.forwards += 1
        with queue.checkpoint(self.run.job):
            score_matrix.keep(self.keys, kept)

    def _base_answers(self) -> tuple[Array, Hits]:
        chunk = Chunk(candidates=1, examples=len(self.batch))
        while True:
            try:
                with torch.inference_mode(), bounded(chunk):
                    found = [
                        answers(self.given.base, None, rows)
                        for _, rows in parts(self.batch, chunk.examples)
                    ]
                    losses, exact = (torch.cat(each, dim=1) for each in zip(*found, strict=True))
                    return losses.cpu().numpy(), exact.cpu().numpy()
            except OutOfMemory as error:
                if error.smaller is None:
                    raise
                chunk = error.smaller

    # --- what is measured ----------------------------------------------------------------------

    def _first_look(self, lacking: Sequence[str]) -> Screening | None:
        """All of them in 8 bits and the best again, where that is faster; None where it is not."""
        wanted = _wanted(self.run) or len(self.names)
        if MANY * wanted > len(lacking) or not int8.pays(self.given.base):
            return None
        found = self._screened(lacking, self.known, best=wanted)
        self._keep(found)
        return found

    def _screened(self, names: Sequence[str], before: int, best: int | None = None) -> Screening:
        def progress(done: int, total: int) -> None:
            self.run.lease.check()
            self.run.show(stage_detail=f"{before + done} of {len(self.names)} modules")

        while True:
            try:
                found = screen_folders(
                    [self.folders[name] for name in names],
                    self.given.base,
                    self.batch,
                    names=names,
                    best=best,
                    at_once=RANKED_AT_ONCE,
                    reduction=self.given.config.reduction,
                    chunk=self.chunk,
                    progress=progress,
                )
            except OutOfMemory as error:
                if error.smaller is None:
                    raise
                self.chunk = error.smaller
            else:
                self.forwards += found.cost
                return found

    def _put_together(self, rough: Screening) -> Screening:
        """Everything that is known of the candidates by now, the rough ones among it."""
        losses = np.full((len(self.names), len(self.keys)), np.inf)
        exact = np.zeros(losses.shape, dtype=np.bool_)
        for n, name in enumerate(self.names):
            if self._is_whole(self.scores, name):
                place = self.scores.versions.index(self.versions[name])
                losses[n], exact[n] = self.scores.losses[place], self.scores.exact[place]
            elif name in rough.names and rough.exact is not None:
                place = rough.names.index(name)
                losses[n], exact[n] = rough.losses[place], rough.exact[place]
        return Screening(
            names=tuple(self.names),
            losses=losses,
            counts=screening.counts_of(self.batch, self.given.config.reduction),
            exact=exact,
            refused=self.refused,
            rough=frozenset(self.names.index(rough.names[n]) for n in rough.rough),
            again=rough.again,
        )
