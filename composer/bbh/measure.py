"""Every method on every task and draw, one row after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from composer.bbh.methods import METHODS, Draw, Readable
from composer.bbh.protocol import Protocol
from composer.bbh.rows import Row, Rows
from composer.bbh.split import BenchTask
from composer.engine.base_model import ANSWER_TOKENS, BaseModel
from composer.engine.batch import encode, encode_prompts
from composer.engine.compare import FEWEST
from composer.engine.examples import Example
from composer.engine.prompt import Template
from composer.workbench import Workbench

# Rows there are, rows in all, and what is measured next.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Step:
    readable: Readable
    draw: int | None
    method: str

    @property
    def words(self) -> str:
        draw = "" if self.draw is None else f", draw {self.draw + 1}"
        return f"{self.readable.name}{draw}: {METHODS[self.method].name}"

    def is_in(self, rows: Rows) -> bool:
        return rows.has(self.readable.name, self.readable.task.digest, self.draw, self.method)


def as_read(
    tasks: Sequence[BenchTask], base: BaseModel, template: Template, protocol: Protocol
) -> tuple[list[Readable], dict[str, str]]:
    """Each task without the examples that are too long for the base model; and by name, why a task
    is left out as a whole: fewer examples fit than a draw or a score needs."""
    found, refused = [], {}
    for task in tasks:
        every = (*task.pool, *task.test)
        long = frozenset(each for each in every if is_too_long(each, base, template))
        test = tuple(each for each in task.test if each not in long)
        pool = sum(each not in long for each in task.pool)
        fewest = min(FEWEST, len(task.test))
        if pool < protocol.shots or len(test) < fewest:
            refused[task.name] = (
                f"of its {len(task.pool)} + {len(task.test)} examples only {pool} + {len(test)} "
                f"fit into the {base.max_tokens} tokens that the base model reads, and "
                f"{protocol.shots} + {fewest} are needed"
            )
        else:
            found.append(Readable(task, test, long))
    return found, refused


def is_too_long(example: Example, base: BaseModel, template: Template) -> bool:
    """As the engine counts: it refuses such a text, and cuts nothing off."""
    if base.max_tokens is None:
        return False
    both = base.is_encoder_decoder
    prompt, _ = encode_prompts([example.input], template, base.tokenizer, is_encoder_decoder=both)
    whole = encode([example], template, base.tokenizer, is_encoder_decoder=both)
    room = 0 if both else ANSWER_TOKENS
    return prompt.shape[1] > base.max_tokens or whole.input_ids.shape[1] > base.max_tokens + room


def steps(tasks: Sequence[Readable], protocol: Protocol, methods: Sequence[str]) -> list[Step]:
    """Draw by draw, so that an early look has something of every task."""
    return [
        Step(task, draw, method)
        for draw in (None, *range(protocol.draws))
        for task in tasks
        for method in methods
        if METHODS[method].is_drawn == (draw is not None)
    ]


def measure(
    bench: Workbench,
    tasks: Sequence[Readable],
    template: Template,
    protocol: Protocol,
    methods: Sequence[str],
    rows: Rows,
    on_progress: Progress = lambda done, total, words: None,
) -> None:
    """Add what `rows` lacks. Whatever on_progress raises ends it, with all rows kept."""
    every = steps(tasks, protocol, methods)
    todo = [step for step in every if not step.is_in(rows)]
    done = len(every) - len(todo)
    for step, draw in _drawn(bench, todo, template, protocol):
        on_progress(done, len(every), step.words)
        start = time.perf_counter()
        found = METHODS[step.method].answer(draw)
        rows.add(
            Row(
                task=step.readable.name,
                digest=step.readable.task.digest,
                draw=step.draw,
                method=step.method,
                hits=found.hits,
                seconds=round(time.perf_counter() - start, 3),
                detail=found.detail,
            )
        )
        done += 1
    on_progress(done, len(every), "done")


def _drawn(
    bench: Workbench, todo: Sequence[Step], template: Template, protocol: Protocol
) -> Iterator[tuple[Step, Draw]]:
    """Steps of one task and draw share what they have in common, such as the ranking."""
    known: tuple[str, int | None] | None = None
    for step in todo:
        if known != (step.readable.name, step.draw):
            known = step.readable.name, step.draw
            draw = Draw(bench, step.readable, template, protocol, step.draw or 0)
        yield step, draw
