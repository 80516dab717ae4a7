from types import SimpleNamespace
from typing import Any

import pytest

from composer.job_words import OUR_FAULT, job_words
from composer.progress import LossPoint, Progress


def words(state: str, *, cancel: bool = False, code: str = "", **progress: Any) -> Any:
    fields: dict[str, Any] = {
        "state": state, "queue_position": None, "starts_in": None, "held_back": False, "stage": "",
        "stage_detail": "", "generation": 0, "evaluations": 0, "budget": 200,
        "best_loss": None, "first_loss": None, "evaluations_per_second": None,
        "seconds_left": None, **progress,
    }  # fmt: skip
    job = SimpleNamespace(state=state, cancel_requested=cancel, error_code=code)
    return job_words(SimpleNamespace(job=job), Progress(**fields))  # type: ignore[arg-type]


def test_a_search_says_generation_loss_and_time() -> None:
    said = words(
        "running", stage="searching", generation=7, evaluations=96, best_loss=0.42,
        seconds_left=20.0, curve=[LossPoint(6, 84, 0.5), LossPoint(7, 96, 0.42)],
    )  # fmt: skip
    assert said.sentence == "Generation 7 of 16, best loss 0.42, about 20 s left."
    assert said.announcement == "Searching, 25 % done."


def test_the_last_generation_is_unknown_after_the_first() -> None:
    said = words(
        "running", stage="searching", best_loss=1.0, evaluations=21,
        curve=[LossPoint(0, 21, 1.0)],
    )  # fmt: skip
    assert said.sentence == "Generation 0, best loss 1.00."


def test_measuring_says_what_is_measured() -> None:
    said = words("running", stage="measuring", stage_detail="fresh lora")
    assert said.sentence == "Measuring on the held-out examples: fresh lora."


@pytest.mark.parametrize(
    ("position", "said"),
    [
        (1, "Accepted; it is the next one to start."),
        (2, "Accepted; 1 job before this one."),
        (5, "Accepted; 4 jobs before this one."),
    ],
)
def test_the_queue_in_words(position: int, said: str) -> None:
    assert words("queued", queue_position=position).sentence == said


def test_it_says_when_a_waiting_one_may_start() -> None:
    said = words("queued", queue_position=3, starts_in=200.0)
    assert said.sentence == "Accepted; 2 jobs before this one. It starts in about 3 min."
    assert said.announcement == "Accepted; 2 jobs before this one."
    held = words("queued", queue_position=1, starts_in=40.0, held_back=True)
    assert "as many of yours run already" in held.sentence and "about 40 s" in held.sentence


def test_stopping_comes_before_anything_else() -> None:
    assert words("running", cancel=True, stage="searching").sentence.startswith("Stopping")
    assert words("cancelled", evaluations=12).sentence == "Cancelled after 12 evaluations."


@pytest.mark.parametrize("code", sorted(OUR_FAULT))
def test_our_faults_are_called_ours(code: str) -> None:
    assert words("failed", code=code).fault == "That is our fault, not yours."


def test_other_faults_are_not() -> None:
    assert "our fault" not in words("failed", code="bad_examples").fault
