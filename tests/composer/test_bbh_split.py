"""A folder of task files, the split of each, and what is drawn from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from composer.bbh import split
from composer.bbh.split import POOL, BadBenchmark
from composer.engine.examples import Example
from tests.composer.bbh_files import some_examples, write


def test_the_split_is_the_same_every_time_and_shares_nothing(tmp_path: Path) -> None:
    examples = some_examples(300)
    path = write(tmp_path / "pairs.json", examples)
    task = split.read(path, test=150, seed=42)
    assert (len(task.pool), len(task.test), task.repeated) == (100, 150, 0)
    assert not set(task.pool) & set(task.test)
    assert set(task.pool) | set(task.test) < set(examples)
    assert list(task.pool) != examples[:100]
    assert split.read(path, test=150, seed=42) == task
    other = split.read(path, test=150, seed=43)
    assert set(other.pool) != set(task.pool)


def test_a_smaller_test_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.json", some_examples(146))
    whole, part = (split.read(path, test=size, seed=42) for size in (150, 20))
    assert len(whole.test) == 46, "what is left"
    assert part.test == whole.test[:20]
    assert part.pool == whole.pool


def test_an_input_that_stands_twice_is_in_one_half_only(tmp_path: Path) -> None:
    once = some_examples(120)
    again = [Example(f" {each.input} ", "left") for each in once[:30]]
    task = split.read(write(tmp_path / "pairs.json", [*once, *again]), test=150, seed=42)
    assert task.repeated == 30
    assert {*task.pool, *task.test} == set(once)


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("sorting", "counting", "lies"):
        write(tmp_path / f"{name}.json", some_examples(110, first=len(name)))
    (tmp_path / "README.md").write_text("not a task")
    every = split.read_folder(tmp_path, test=150, seed=42)
    assert [task.name for task in every] == ["counting", "lies", "sorting"]
    assert len({task.digest for task in every}) == 3
    chosen = split.read_folder(tmp_path, test=150, seed=42, names=["sorting", "lies"])
    assert chosen == every[1:]


def rows(count: int, **last: object) -> str:
    found = [{"input": each.input, "target": each.target} for each in some_examples(count)]
    return json.dumps({"examples": [*found[:-1], {**found[-1], **last}]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "broken.json cannot be read as JSON"),
        ("\udc80", "broken.json cannot be read as JSON"),
        ("[]", 'broken.json has no list "examples"'),
        ('{"examples": {}}', 'broken.json has no list "examples"'),
        ('{"examples": ["big"]}', 'Example 1 of broken.json has no text in "input"'),
        (rows(120, target=8), 'Example 120 of broken.json has no text in "target"'),
        (rows(120, target=" "), 'Example 120 of broken.json has no text in "target"'),
        (rows(120, input="a\x00"), 'Example 120 of broken.json has no text in "input"'),
        (rows(100), "broken.json has 100 different examples"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path / "good.json", some_examples(120))
    (tmp_path / "broken.json").write_text(text, errors="surrogateescape")
    with pytest.raises(BadBenchmark) as caught:
        split.read_folder(tmp_path, test=150, seed=42)
    assert said in caught.value.user_message


def test_a_folder_without_tasks_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadBenchmark, match="There is no folder .*nowhere"):
        split.read_folder(tmp_path / "nowhere", test=150, seed=42)
    with pytest.raises(BadBenchmark, match=f"no .json file in .*{tmp_path.name}"):
        split.read_folder(tmp_path, test=150, seed=42)
    write(tmp_path / "pairs.json", some_examples(120))
    with pytest.raises(BadBenchmark, match=r"There is no lies.json in .* Tasks there: pairs\."):
        split.read_folder(tmp_path, test=150, seed=42, names=["lies"])


# --- draws ---------------------------------------------------------------------------------------


def test_a_draw_follows_from_its_number() -> None:
    pool = some_examples(POOL)
    draws = [
        split.drawn_examples(pool, 5, seed=42, draw=each, without=frozenset()) for each in range(5)
    ]
    assert all(len(set(draw)) == 5 and set(draw) < set(pool) for draw in draws)
    assert len({tuple(draw) for draw in draws}) == 5
    again = split.drawn_examples(pool, 5, seed=42, draw=3, without=frozenset())
    assert again == draws[3]


def test_what_is_too_long_makes_room_for_the_next_and_moves_nothing_else() -> None:
    pool = some_examples(POOL)
    usual = split.drawn_examples(pool, 6, seed=42, draw=0, without=frozenset())
    without = split.drawn_examples(pool, 5, seed=42, draw=0, without=frozenset([usual[2]]))
    assert without == [*usual[:2], *usual[3:]]


def test_modules_are_drawn_without_repeating_any() -> None:
    draws = [split.drawn_modules(196, 20, seed=42, draw=each) for each in range(5)]
    assert all(len(set(draw)) == 20 and draw == sorted(draw) for draw in draws)
    assert len({tuple(draw) for draw in draws}) == 5
    assert all(0 <= place < 196 for draw in draws for place in draw)
    assert split.drawn_modules(7, 20, seed=42, draw=1) == list(range(7))


def test_every_order_has_the_same_examples() -> None:
    drawn = some_examples(5)
    first, *others = split.orders(drawn, 3, seed=42, draw=0)
    assert first == drawn
    assert len(others) == 2
    assert all(set(each) == set(drawn) for each in others)
    assert len({tuple(each) for each in (first, *others)}) == 3
