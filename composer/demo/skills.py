"""Relations between words as lines of text: what the base model and the modules are trained on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from composer.demo import words

# Each relation has two names in the instructions of pretraining.
RELATIONS: dict[str, tuple[str, str]] = {
    "antonym": ("antonym", "opposite"),
    "comparative": ("comparative", "comparison"),
    "superlative": ("superlative", "maximum"),
    "adverb": ("adverb", "manner"),
    "capital": ("capital", "seat of government"),
    "language": ("language", "tongue"),
    "continent": ("continent", "part of the world"),
    "currency": ("currency", "money"),
    "past": ("past tense", "past"),
    "gerund": ("gerund", "ing form"),
    "third person": ("third person", "he form"),
    "agent": ("agent", "doer"),
    "french": ("french", "french translation"),
    "spanish": ("spanish", "spanish translation"),
    "group": ("group", "category"),
    "plural": ("plural", "many form"),
    "young": ("baby", "offspring"),
    "sound": ("sound", "noise"),
    "family": ("family", "class"),
    "gender": ("other gender", "counterpart"),
    "workplace": ("workplace", "working place"),
    "equipment": ("equipment", "gear"),
    "symbol": ("symbol", "abbreviation"),
    "atomic number": ("atomic number", "element number"),
    "digit": ("digit", "figure"),
    "ordinal": ("ordinal", "rank"),
    "double": ("double", "twice"),
    "parity": ("parity", "even or odd"),
    "next": ("next", "successor"),
    "previous": ("previous", "predecessor"),
    "same": ("same", "copy"),
}

INSTRUCTIONS = (
    "the {relation} of {input}",
    "{relation} : {input}",
    "say the {relation} of {input}",
    "what is the {relation} of {input} ?",
    "{input} to {relation} :",
    "please {relation} for {input}",
)

# Bare words stand in a wrapper: at first one of eight, later any beginning with any end, except
# those kept for the tasks, which no training line ever has.
FIRST_WRAPPERS = (
    "{input}",
    "{input} ->",
    "input : {input}",
    "word : {input} answer :",
    "question : {input} answer :",
    "{input} =",
    "now {input}",
    "say {input} :",
)
BEGINNINGS = (
    "", "now ", "say ", "please ", "what is ", "( ", "-> ", "input : ", "word : ", "question : ",
    "for ", "word = ",
)  # fmt: skip
ENDS = (
    "", " ->", " =", " :", " ?", " .", " !", " )", " answer :", " output :", " ; answer",
    " , output =",
)  # fmt: skip
HELD_OUT_WRAPPERS = frozenset(
    {
        "word : {input} ?", "input : {input} ->", "now {input} :", "question : {input} ?",
        "please {input} ->", "input : {input} output :", "say {input} ?", "for {input} ->",
        "word = {input} answer :", "what is {input} ->", "now {input} =", "word : {input} ->",
        "question : {input} output :", "input : {input} answer :", "word : {input} =",
        "what is {input} ?", "say {input} ->", "question : {input} =",
    }
)  # fmt: skip
WRAPPERS = tuple(
    wrapper
    for wrapper in (f"{begin}{{input}}{end}" for begin in BEGINNINGS for end in ENDS)
    if wrapper not in HELD_OUT_WRAPPERS
)

# One module for each of these; the other relations are known to the base model only.
MODULES = (
    "antonym", "comparative", "superlative", "adverb", "capital", "language", "past", "gerund",
    "third person", "plural", "french", "spanish", "young", "sound", "family", "next", "digit",
    "gender", "symbol", "workplace",
)  # fmt: skip

WORDS_IN_A_LINE = ((1, 0.5), (2, 0.35), (3, 0.15))


@dataclass(frozen=True)
class Line:
    """One training line.  `own[i]` says whether answer i belongs to the module's own relation."""

    input: str
    target: str
    own: tuple[bool, ...] = ()


@cache
def facts() -> dict[str, dict[str, words.Table]]:
    return words.facts()


def stable_number(*parts: object) -> int:
    """The same parts give the same number on every machine and Python, unlike hash()."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def generator(*parts: object) -> random.Random:
    return random.Random(stable_number(*parts))


def kinds_of(relation: str) -> list[str]:
    return [kind for kind, tables in facts().items() if relation in tables]


def words_of(kind: str) -> list[str]:
    return list(facts()[kind]["same"])


@cache
def training_words(kind: str) -> frozenset[str]:
    """The half of a kind's words that modules are trained on; tasks use only the other half."""
    ordered = sorted(words_of(kind), key=lambda word: stable_number("split", kind, word))
    return frozenset(ordered[: (len(ordered) + 1) // 2])


def held_out_words(kind: str) -> list[str]:
    return [word for word in words_of(kind) if word not in training_words(kind)]


def join(pairs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    return " ".join(word for word, _ in pairs), " ".join(answer for _, answer in pairs)


class Generator:
    """Draws training lines from the facts with one random generator.

    copies  whether a bare word may also ask for itself, unchanged
    """

    def __init__(
        self, rng: random.Random, *, wrappers: Sequence[str] = WRAPPERS, copies: bool = False
    ) -> None:
        self.rng = rng
        self.wrappers = wrappers
        self.copies = copies
        self.all_pairs = self._pairs(lambda kind, word: True)
        self.training_pairs = self._pairs(lambda kind, word: word in training_words(kind))
        self.relations = [name for name in RELATIONS if kinds_of(name)]
        self.relation_weights = [
            sum(len(self.all_pairs[kind, relation]) for kind in kinds_of(relation)) ** 0.75
            for relation in self.relations
        ]
        self.kinds = list(facts())
        self.kind_weights = [len(words_of(kind)) ** 0.75 for kind in self.kinds]

    @staticmethod
    def _pairs(
        keep: Callable[[str, str], bool],
    ) -> dict[tuple[str, str], list[tuple[str, str]]]:
        return {
            (kind, relation): [pair for pair in table.items() if keep(kind, pair[0])]
            for kind, tables in facts().items()
            for relation, table in tables.items()
        }

    def _count(self) -> int:
        counts, chances = zip(*WORDS_IN_A_LINE, strict=True)
        return int(self.rng.choices(counts, chances)[0])

    def _kind(self, among: Sequence[str]) -> str:
        chances = [self.kind_weights[self.kinds.index(kind)] for kind in among]
        return self.rng.choices(among, chances)[0]

    def _any_relation(self, kind: str) -> str:
        return self.rng.choice(
            [
                name
                for name in facts()[kind]
                if self.training_pairs[kind, name] and (self.copies or name != "same")
            ]
        )

    def _wrapped(self, pairs: Sequence[tuple[str, str]], own: tuple[bool, ...] = ()) -> Line:
        text, target = join(pairs)
        return Line(self.rng.choice(self.wrappers).replace("{input}", text), target, own)

    def instructed(self) -> Line:
        """The relation is named: "the capital of france peru" -> "paris lima"."""
        relation = self.rng.choices(self.relations, self.relation_weights)[0]
        kinds = kinds_of(relation)
        pairs = [
            self.rng.choice(self.all_pairs[self._kind(kinds), relation])
            for _ in range(self._count())
        ]
        text, target = join(pairs)
        template = self.rng.choice(INSTRUCTIONS)
        name = self.rng.choice(RELATIONS[relation])
        return Line(template.replace("{relation}", name).replace("{input}", text), target)

    def bare(self) -> Line:
        """The relation is not named: one at random for each kind of word in the line."""
        chosen: dict[str, str] = {}
        pairs = []
        for _ in range(self._count()):
            kind = self._kind(self.kinds)
            relation = chosen.setdefault(kind, self._any_relation(kind))
            pairs.append(self.rng.choice(self.all_pairs[kind, relation]))
        return self._wrapped(pairs)

    def few_shot(self) -> Line:
        """The relation is shown: "big -> small ; hot -> cold ; wet ->" -> "dry"."""
        kinds = [self._kind(self.kinds) for _ in range(self.rng.choice((1, 1, 2)))]
        chosen = {kind: self._any_relation(kind) for kind in kinds}
        shots = []
        for _ in range(self.rng.randint(3, 5)):
            kind = self.rng.choice(kinds)
            shots.append(self.rng.choice(self.all_pairs[kind, chosen[kind]]))
        shown = " ; ".join(f"{word} -> {answer}" for word, answer in shots[:-1])
        return Line(f"{shown} ; {shots[-1][0]} ->", shots[-1][1])

    def for_module(self, module: str) -> Line:
        """Training words only.  Half the lines hold just the module's own kinds of word; the others
        replay other kinds, alone or mixed in, where the module should change nothing."""
        own_kinds = kinds_of(module)
        other_kinds = [kind for kind in self.kinds if kind not in own_kinds]
        plan = self.rng.choices(("own", "other", "mixed"), (0.5, 0.25, 0.25))[0]
        count = max(self._count(), 2) if plan == "mixed" else self._count()
        own = [plan == "own" or (plan == "mixed" and self.rng.random() < 0.5) for _ in range(count)]
        chosen: dict[str, str] = {}
        pairs = []
        for mine in own:
            kind = self._kind(own_kinds if mine else other_kinds)
            relation = module if mine else chosen.setdefault(kind, self._any_relation(kind))
            pairs.append(self.rng.choice(self.training_pairs[kind, relation]))
        return self._wrapped(pairs, tuple(own))


def vocabulary() -> list[str]:
    """Every word and sign the demo uses, in a fixed order."""
    found: dict[str, None] = {}
    for template in (*INSTRUCTIONS, *WRAPPERS, ";"):
        found |= dict.fromkeys(piece for piece in template.split() if "{" not in piece)
    for names in RELATIONS.values():
        found |= dict.fromkeys(piece for name in names for piece in name.split())
    for tables in facts().values():
        for table in tables.values():
            for word, answer in table.items():
                found |= {word: None, answer: None}
    return sorted(found)
