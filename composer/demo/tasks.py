"""The unseen tasks: made from held-out words, in a wrapper that no training line had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from composer.demo import skills, words
from composer.demo.library import T5

POOL_SIZE = 40
TEST_SIZE = 240
POOL_SHARE = 0.3

Slot = dict[str, str]
"""What one place of a phrase may hold: {kind of word: relation asked of it}."""


@dataclass(frozen=True)
class Spec:
    """How to make one task.

    A phrase has one slot a word, in order.  A mixture has one slot, and its inputs are one or two
    words of any of its kinds.  A single task has one slot and one word.
    """

    key: str
    name: str
    description: str
    role: str
    kind: str
    template: str
    slots: tuple[Slot, ...]
    answer_options: tuple[str, ...] = field(default=())


SPECS = (
    Spec(
        "capital-and-opposite",
        "Capitals and opposites",
        "One or two words. A country becomes its capital, an adjective becomes its opposite.",
        "tuning",
        "mixture",
        "word : {input} ?",
        ({"country": "capital", "adjective": "antonym"},),
    ),
    Spec(
        "past-and-plural",
        "Past tenses and plurals",
        "One or two words. A verb goes into the past, a noun into the plural.",
        "tuning",
        "mixture",
        "input : {input} ->",
        ({"verb": "past", "noun": "plural"},),
    ),
    Spec(
        "small-puppy",
        "Opposite adjective, young animal",
        "An adjective and an animal: the opposite, then the young one. big dog becomes small "
        "puppy.",
        "tuning",
        "phrase",
        "now {input} :",
        ({"adjective": "antonym"}, {"animal": "young"}),
    ),
    Spec(
        "symbol-and-next",
        "Symbols and successors",
        "One or two words. An element becomes its symbol; a number, a day or a month becomes the "
        "next one.",
        "tuning",
        "mixture",
        "question : {input} ?",
        ({"element": "symbol", "number": "next", "day": "next", "month": "next"},),
    ),
    Spec(
        "comparative",
        "Comparatives in a new format",
        "An adjective becomes its comparative. One module knows this.",
        "tuning",
        "single",
        "please {input} ->",
        ({"adjective": "comparative"},),
    ),
    Spec(
        "sound-and-workplace",
        "Animal sounds and workplaces",
        "One or two words. An animal becomes its sound, a job becomes the place where it is done.",
        "report",
        "mixture",
        "input : {input} output :",
        ({"animal": "sound", "job": "workplace"},),
    ),
    Spec(
        "gender-and-superlative",
        "Counterparts and superlatives",
        "One or two words. A person becomes the counterpart of the other gender, an adjective "
        "becomes its superlative.",
        "report",
        "mixture",
        "say {input} ?",
        ({"person": "gender", "adjective": "superlative"},),
    ),
    Spec(
        "language-and-french",
        "Languages and French words",
        "One or two words. A country becomes its language, a noun is translated into French.",
        "report",
        "mixture",
        "word = {input} answer :",
        ({"country": "language", "noun": "french"},),
    ),
    Spec(
        "gerund-spanish-symbol",
        "Gerunds, Spanish words and symbols",
        "One or two words of three kinds. A verb gets its ing form, a noun is translated into "
        "Spanish, an element becomes its symbol.",
        "report",
        "mixture",
        "what is {input} ->",
        ({"verb": "gerund", "noun": "spanish", "element": "symbol"},),
    ),
    Spec(
        "runs-slowly",
        "Third person and adverb",
        "A verb and an adjective: the third person, then the adverb. run slow becomes runs slowly.",
        "report",
        "phrase",
        "for {input} ->",
        ({"verb": "third person"}, {"adjective": "adverb"}),
    ),
    Spec(
        "three-hands",
        "Figure and plural",
        "A number and a noun: the figure, then the plural. three hand becomes 3 hands.",
        "report",
        "phrase",
        "now {input} =",
        ({"number": "digit"}, {"noun": "plural"}),
    ),
    Spec(
        "bigger-puppy",
        "Comparative and young animal",
        "An adjective and an animal: the comparative, then the young one. big dog becomes bigger "
        "puppy.",
        "report",
        "phrase",
        "word : {input} ->",
        ({"adjective": "comparative"}, {"animal": "young"}),
    ),
    Spec(
        "three-small-puppies",
        "Figure, opposite and young animal",
        "A number, an adjective and an animal, each changed by its own module: three big dog "
        "becomes 3 small puppy.",
        "report",
        "phrase",
        "question : {input} output :",
        ({"number": "digit"}, {"adjective": "antonym"}, {"animal": "young"}),
    ),
    Spec(
        "capital",
        "Capitals in a new format",
        "A country becomes its capital. One module knows this, so there is nothing to mix.",
        "report",
        "single",
        "input : {input} answer :",
        ({"country": "capital"},),
    ),
    Spec(
        "animal-family",
        "Families of animals, from a list of answers",
        "Which family is the animal of? The list of answers says what is asked, so the base model "
        "needs no module.",
        "report",
        "single",
        "word : {input} =",
        ({"animal": "family"},),
        ("mammal", "bird", "reptile", "amphibian", "fish", "insect"),
    ),
    Spec(
        "continent",
        "Continents, a skill without a module",
        "A country becomes its continent. The base model knows this, but no module is about it.",
        "report",
        "no module",
        "what is {input} ?",
        ({"country": "continent"},),
    ),
    Spec(
        "verb-opposites",
        "Opposites of verbs, a skill nobody has",
        "A verb becomes its opposite: buy becomes sell. Neither the base model nor any module ever "
        "saw this, so every method should fail.",
        "report",
        "unseen",
        "say {input} ->",
        (),
    ),
    Spec(
        "backwards",
        "Words spelled backwards, a skill nobody has",
        "A word is spelled from its end: moon becomes noom. The base model reads words whole and "
        "cannot spell, so every method should fail.",
        "report",
        "unseen",
        "question : {input} =",
        (),
    ),
)

Pair = tuple[str, str]


def split_words(pairs: Sequence[Pair], *salt: str) -> tuple[list[Pair], list[Pair]]:
    """Cut the facts into those for the example pool and those for the test."""
    ordered = sorted(pairs, key=lambda pair: skills.stable_number("pool", *salt, pair[0]))
    cut = max(2, round(len(ordered) * POOL_SHARE))
    return ordered[:cut], ordered[cut:]


def halves(spec: Spec) -> tuple[list[dict[str, list[Pair]]], list[dict[str, list[Pair]]]]:
    """The held-out facts of each slot by relation: those for the pool, those for the test."""
    pools, tests = [], []
    for place, slot in enumerate(spec.slots):
        pool: dict[str, list[Pair]] = {relation: [] for relation in slot.values()}
        test: dict[str, list[Pair]] = {relation: [] for relation in slot.values()}
        for kind, relation in slot.items():
            table = skills.facts()[kind][relation]
            known = [(word, table[word]) for word in skills.held_out_words(kind) if word in table]
            first, second = split_words(known, spec.key, str(place))
            pool[relation] += first
            test[relation] += second
        pools.append(pool)
        tests.append(test)
    return pools, tests


def drawn(spec: Spec, slots: Sequence[dict[str, list[Pair]]], size: int, part: str) -> list[Pair]:
    """Up to `size` different inputs; fewer where the words do not allow more."""
    rng = skills.generator("task", spec.key, part)
    found: dict[str, str] = {}
    for _ in range(size * 20):
        if len(found) == size:
            break
        if spec.kind == "mixture":
            relations = list(slots[0])
            chosen = [
                rng.choice(slots[0][rng.choice(relations)]) for _ in range(rng.choice((1, 2)))
            ]
        else:
            chosen = [rng.choice(slot[rng.choice(list(slot))]) for slot in slots]
        text, target = skills.join(chosen)
        found.setdefault(text, target)
    return list(found.items())


def telling_first(pool: Sequence[Pair], slot: dict[str, list[Pair]]) -> list[Pair]:
    """Move examples to the front until every relation is shown: visitors see the first five."""
    missing = set(slot)
    front = []
    for pair in pool:
        shown = {
            name for name, facts in slot.items() if set(pair[0].split()) & {w for w, _ in facts}
        }
        if shown & missing:
            front.append(pair)
            missing -= shown
    return front + [pair for pair in pool if pair not in front]


def shuffled(pairs: Sequence[Pair], *salt: str) -> list[Pair]:
    return sorted(pairs, key=lambda pair: skills.stable_number("order", *salt, pair[0]))


def unseen_facts(key: str) -> list[Pair]:
    if key == "verb-opposites":
        return list(words.both_ways(words.VERB_OPPOSITES).items())
    every = [word for kind in ("noun", "animal", "verb", "adjective") for word in
             skills.held_out_words(kind)]  # fmt: skip
    return [(word, word[::-1]) for word in every if len(word) >= 3 and word != word[::-1]]


def pool_and_test(spec: Spec) -> tuple[list[Pair], list[Pair]]:
    """Examples to draw from and inputs to score; the two share no word."""
    if not spec.slots:
        pool, test = split_words(unseen_facts(spec.key), spec.key)
        return shuffled(pool, spec.key)[:POOL_SIZE], shuffled(test, spec.key)[:TEST_SIZE]
    pools, tests = halves(spec)
    if spec.kind in ("single", "no module"):
        (pool,), (test,) = pools[0].values(), tests[0].values()
        return shuffled(pool, spec.key)[:POOL_SIZE], shuffled(test, spec.key)[:TEST_SIZE]
    pool = drawn(spec, pools, POOL_SIZE, "pool")
    test = drawn(spec, tests, TEST_SIZE, "test")
    return (telling_first(pool, pools[0]) if spec.kind == "mixture" else pool), test


def document(spec: Spec) -> dict[str, object]:
    pool, test = pool_and_test(spec)
    relations = dict.fromkeys(relation for slot in spec.slots for relation in slot.values())
    return {
        "key": spec.key,
        "name": spec.name,
        "description": spec.description,
        "role": spec.role,
        "kind": spec.kind,
        "template": spec.template,
        "answer_options": list(spec.answer_options),
        "modules": [T5.repo_name(name) for name in relations if name in skills.MODULES],
        "pool": [list(pair) for pair in pool],
        "test": [list(pair) for pair in test],
    }


def documents() -> list[dict[str, object]]:
    return [document(spec) for spec in SPECS]
