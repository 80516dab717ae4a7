"""The demo's facts agree with each other, and its lines and tasks keep their promises."""

from __future__ import annotations

import pytest

from composer.demo import skills, tasks, words


def test_it_gives_every_word_one_kind() -> None:
    kinds: dict[str, list[str]] = {}
    for kind in skills.facts():
        for word in skills.words_of(kind):
            kinds.setdefault(word, []).append(kind)
    assert {word: found for word, found in kinds.items() if len(found) > 1} == {}


def test_it_answers_every_fact_with_one_word() -> None:
    for tables in skills.facts().values():
        for table in tables.values():
            for word, answer in table.items():
                assert word == word.strip() and len(word.split()) == 1
                assert len(answer.split()) == 1 and answer != "-"


@pytest.mark.parametrize(
    "text",
    [
        words.GRADED_OPPOSITES.strip() + words.OTHER_OPPOSITES,
        words.PERSONS,
        words.VERB_OPPOSITES,
        words.IRREGULAR_VERBS,
    ],
)
def test_it_names_no_word_twice_in_a_table_of_pairs(text: str) -> None:
    found = [word for pair in words.pairs(text) for word in pair]
    firsts = [first for first, _ in words.pairs(text)]
    assert len(set(firsts)) == len(firsts)
    if text != words.IRREGULAR_VERBS:
        assert len(set(found)) == len(found)


@pytest.mark.parametrize(("relation", "kind"), [("antonym", "adjective"), ("gender", "person")])
def test_it_turns_back_where_a_relation_is_symmetric(relation: str, kind: str) -> None:
    table = skills.facts()[kind][relation]
    assert all(table[answer] == word for word, answer in table.items())


def test_it_undoes_next_with_previous() -> None:
    for kind in skills.kinds_of("next"):
        tables = skills.facts()[kind]
        assert all(tables["previous"][after] == word for word, after in tables["next"].items())


@pytest.mark.parametrize(
    ("kind", "relation", "word", "answer"),
    [
        ("adjective", "comparative", "big", "bigger"),
        ("adjective", "superlative", "happy", "happiest"),
        ("adjective", "comparative", "late", "later"),
        ("adjective", "adverb", "gentle", "gently"),
        ("adjective", "adverb", "vague", "vaguely"),
        ("adjective", "adverb", "lucky", "luckily"),
        ("verb", "past", "stop", "stopped"),
        ("verb", "past", "play", "played"),
        ("verb", "past", "carry", "carried"),
        ("verb", "gerund", "tie", "tying"),
        ("verb", "gerund", "agree", "agreeing"),
        ("verb", "gerund", "run", "running"),
        ("verb", "third person", "catch", "catches"),
        ("verb", "third person", "go", "goes"),
        ("noun", "plural", "knife", "knives"),
        ("noun", "plural", "key", "keys"),
        ("noun", "plural", "city", "cities"),
        ("person", "plural", "policeman", "policemen"),
        ("element", "atomic number", "uranium", "92"),
        ("number", "ordinal", "ninety", "ninetieth"),
        ("number", "double", "twenty", "forty"),
        ("numeral", "double", "42", "84"),
        ("numeral", "next", "99", None),
        ("month", "next", "december", "january"),
    ],
)
def test_it_spells_as_english_does(kind: str, relation: str, word: str, answer: str | None) -> None:
    assert skills.facts()[kind][relation].get(word) == answer


def test_it_never_uses_a_held_out_word_in_a_template() -> None:
    known = {word for kind in skills.facts() for word in skills.held_out_words(kind)}
    names = [name for both in skills.RELATIONS.values() for name in both]
    templates = [spec.template for spec in tasks.SPECS]
    for text in (*skills.INSTRUCTIONS, *skills.WRAPPERS, *templates, *names):
        assert not known & set(text.split()), text


def test_it_trains_modules_on_training_words_only() -> None:
    for module in skills.MODULES:
        generator = skills.Generator(skills.generator("check", module))
        held_out = {word for kind in skills.facts() for word in skills.held_out_words(kind)}
        wrapping = {piece for text in skills.WRAPPERS for piece in text.split()}
        for _ in range(200):
            line = generator.for_module(module)
            assert not (set(line.input.split()) - wrapping) & held_out
            assert len(line.own) == len(line.target.split())


def test_it_leaves_about_half_of_each_kind_out() -> None:
    for kind in skills.facts():
        total = len(skills.words_of(kind))
        assert abs(len(skills.held_out_words(kind)) - total / 2) <= 1


def test_it_draws_the_same_lines_from_the_same_seed() -> None:
    def lines(seed: int) -> list[skills.Line]:
        generator = skills.Generator(skills.generator("pretraining", seed))
        makers = (generator.instructed, generator.bare, generator.few_shot)
        return [make() for make in makers for _ in range(20)]

    assert lines(0) == lines(0)
    assert lines(0) != lines(1)


def test_it_offers_enough_tasks_of_each_role() -> None:
    roles = [spec.role for spec in tasks.SPECS]
    assert roles.count("tuning") >= 4
    assert roles.count("report") >= 8
    assert set(roles) == {"tuning", "report"}


def test_it_makes_tasks_from_held_out_words_in_a_wrapper_never_trained() -> None:
    training = {word for kind in skills.facts() for word in skills.training_words(kind)}
    for spec in tasks.SPECS:
        assert spec.template in skills.HELD_OUT_WRAPPERS
        assert spec.template not in skills.WRAPPERS
        if not spec.slots:
            continue
        pool, test = tasks.pool_and_test(spec)
        for text, _ in pool + test:
            assert not set(text.split()) & training, (spec.key, text)


def test_it_shares_no_word_between_examples_and_test() -> None:
    for spec in tasks.SPECS:
        pool, test = tasks.pool_and_test(spec)
        pool_words = {word for text, _ in pool for word in text.split()}
        test_words = {word for text, _ in test for word in text.split()}
        assert not pool_words & test_words, spec.key
        assert len({text for text, _ in test}) == len(test)
        assert len(pool) >= 10


def test_it_has_two_hundred_test_inputs_where_words_combine() -> None:
    for spec in tasks.SPECS:
        if spec.kind in ("mixture", "phrase"):
            assert len(tasks.pool_and_test(spec)[1]) >= 200, spec.key


def test_it_never_shows_the_base_a_relation_that_must_stay_unknown() -> None:
    opposites = words.both_ways(words.VERB_OPPOSITES)
    for tables in skills.facts().values():
        for table in tables.values():
            assert not [word for word, answer in table.items() if opposites.get(word) == answer]


def test_it_offers_only_answers_that_a_task_asks_for() -> None:
    for spec in tasks.SPECS:
        if spec.answer_options:
            pool, test = tasks.pool_and_test(spec)
            assert {answer for _, answer in pool + test} <= set(spec.answer_options)
