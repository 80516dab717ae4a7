"""What is kept out of a search, and what the model will read."""

from typing import Any

import pytest

from composer import task_writing
from composer.engine.errors import BadExamples
from composer.engine.examples import Example
from composer.models import FewShotTask
from composer.task_checks import preview_prompt
from hub_site.accounts.models import User
from modules.models import BaseModel
from tests.composer.conftest import SHOTS


@pytest.mark.parametrize(
    ("shots", "held_out", "words", "field"),
    [
        ([], [], "1 to 200", None),
        ([Example("big", " ")], [], "empty", "target"),
        ([Example("big", "small")] * 2, [], "repeats line 1", "input"),
        ([Example("big", "small")], [Example("big", "large")], "also in line 1", "input"),
        ([Example("big " * 600, "small")], [], "tokens", "input"),
        ([Example("a\x00b", "small")], [], "not text", "input"),
    ],
)
def test_it_refuses_examples_that_cannot_be_searched_on(
    alice: User, base_model: BaseModel, shots: Any, held_out: Any, words: str, field: str | None
) -> None:
    with pytest.raises(BadExamples, match=words) as caught:
        task_writing.create_task(
            user=alice, name="T", base_model=base_model, shots=shots, held_out=held_out
        )
    assert caught.value.field == field
    assert not FewShotTask.objects.exists()


def test_it_refuses_an_answer_that_is_no_option(alice: User, base_model: BaseModel) -> None:
    with pytest.raises(BadExamples, match="'small' in line 1"):
        task_writing.create_task(
            user=alice, name="T", base_model=base_model, shots=SHOTS, answer_options=["a", "b"]
        )


def test_it_shows_what_the_model_will_read(base_model: BaseModel) -> None:
    preview = preview_prompt(base_model, "opposite of {input} :", "big")
    assert preview.prompt == "opposite of big :"
    assert preview.pieces == ["opposite", "of", "big", ":", "</s>"]
    assert preview.tokens == 5 and preview.fits
