"""What a recipe says of itself, part by part, and which part was changed where something differs.

No torch: pages, the import of files and workers use it. What only a model can tell is in
verifying.py.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import rfc8785

from composer.engine import recipe as engine_recipe
from composer.engine.config import COMBINATIONS
from composer.engine.errors import CommonsError
from composer.engine.examples import Example

if TYPE_CHECKING:
    from composer.models import Search

# A recipe's parts by name, as pages and the API say them.
WEIGHT, SIGN, ORDER = "weight", "sign", "module order"
FILE, REVISION, BASE_REVISION = "module file", "revision", "base revision"
TEMPLATE, EXAMPLE, SPLIT, SEED = "template", "example", "split", "seed"
COMBINATION, SCALING = "combination", "scaling rule"
TWELVE = (
    *(WEIGHT, SIGN, FILE, ORDER, REVISION, BASE_REVISION),
    *(TEMPLATE, EXAMPLE, SPLIT, SEED, COMBINATION, SCALING),
)
# Where a value of the spec stands, for the parts that are one value.
SINGLE: dict[str, tuple[str, ...]] = {
    "base model": ("base_model", "repo"),
    BASE_REVISION: ("base_model", "revision"),
    COMBINATION: ("combination",),
    SCALING: ("scaling",),
    "rank rule": ("rank",),
    "objective": ("objective",),
    "search settings": ("search",),
    SEED: ("seed",),
    TEMPLATE: ("template",),
    "chat template": ("chat_template",),
    "answer options": ("answer_options",),
    SPLIT: ("split",),
    EXAMPLE: ("examples_hash",),
}
DIGITS = 32
SHOWN = 80  # letters of a value in a sentence


@dataclass(frozen=True)
class Difference:
    """A part that is not as the recipe states it, in words."""

    what: str
    stated: str
    found: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


# --- a recipe as its parts -----------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """The parts of a recipe, as values or as digests of them. Lists go by ingredient, `weights` by
    weight; `names` are for sentences alone."""

    single: Mapping[str, Any]
    files: Sequence[str]
    revisions: Sequence[str]
    weights: Sequence[Any]
    signs: str
    names: Sequence[str] = ()

    @classmethod
    def of(cls, spec: Mapping[str, Any], weights: Sequence[float]) -> Parts:
        pinned = spec["ingredients"]
        return cls(
            single={name: _at(spec, place) for name, place in SINGLE.items()},
            files=[each["sha256"] for each in pinned],
            revisions=[each["revision"] for each in pinned],
            weights=[abs(float(w)) for w in weights],
            signs="".join("-" if w < 0 else "+" for w in weights),
            names=[each["repo"] for each in pinned],
        )

    def digests(self) -> dict[str, Any]:
        """As the evidence carries them: a file that was changed by hand says what was changed."""
        return {
            **{name: _digest(value) for name, value in self.single.items()},
            FILE: [_digest(each) for each in self.files],
            REVISION: [_digest(each) for each in self.revisions],
            WEIGHT: [_digest(each) for each in self.weights],
            SIGN: self.signs,
        }

    @classmethod
    def from_digests(cls, kept: Mapping[str, Any]) -> Parts | None:
        """None where a file's evidence holds something else."""
        files, revisions, weights = (_texts(kept.get(name)) for name in (FILE, REVISION, WEIGHT))
        signs = kept.get(SIGN)
        if files is None or revisions is None or weights is None or not isinstance(signs, str):
            return None
        if len(files) != len(revisions) or len(weights) != len(signs):
            return None
        return cls({name: kept.get(name) for name in SINGLE}, files, revisions, weights, signs)


def _texts(value: Any) -> list[str] | None:
    is_list = isinstance(value, list) and all(isinstance(each, str) for each in value)
    return value if is_list else None


def _at(spec: Mapping[str, Any], place: Sequence[str]) -> Any:
    found: Any = spec
    for key in place:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()[:DIGITS]


def compare(stated: Parts, found: Parts, source: str) -> list[Difference]:
    """What of the recipe differs from the parts that `source` holds: values, in sentences."""
    return _Comparison(stated, stated, found, lambda value: f"{source}: {shown(value)}").rows()


def changed(stated: Parts, digests: Mapping[str, Any]) -> list[Difference]:
    """What of the recipe does not fit the digests in its evidence."""
    own, kept = Parts.from_digests(stated.digests()), Parts.from_digests(digests)
    if own is None or kept is None:
        return []
    said = "its digest in the evidence is of something else"
    return _Comparison(stated, own, kept, lambda value: said).rows()


@dataclass(frozen=True)
class _Comparison:
    """`own` and `found` are compared, both values or both digests; `stated` is what is shown."""

    stated: Parts
    own: Parts
    found: Parts
    say: Callable[[Any], str]

    def rows(self) -> list[Difference]:
        own, found = self.own, self.found
        rows = [
            Difference(name, shown(self.stated.single[name]), self.say(found.single.get(name)))
            for name, value in own.single.items()
            if found.single.get(name) != value
        ]
        if len(own.files) != len(found.files) or len(own.weights) != len(found.weights):
            counts = [f"{len(p.files)} modules, {len(p.weights)} weights" for p in (own, found)]
            return [*rows, Difference(FILE, counts[0], self.say(counts[1]))]
        has_moved = _is_moved(own.files, found.files)
        if has_moved:
            rows.append(Difference(ORDER, "the order of the ingredients", self.say("another")))
        else:
            rows += self._by_module(FILE, self.stated.files, own.files, found.files)
            rows += self._by_module(REVISION, self.stated.revisions, own.revisions, found.revisions)
        return rows + self._weights(has_moved)

    def _by_module(
        self, what: str, stated: Sequence[Any], own: Sequence[Any], found: Sequence[Any]
    ) -> list[Difference]:
        return [
            Difference(what, f"{_name(self.stated, n)}: {shown(stated[n])}", self.say(found[n]))
            for n in range(len(own))
            if own[n] != found[n]
        ]

    def _weights(self, has_moved: bool) -> list[Difference]:
        own, found = self.own, self.found
        if _is_moved(own.weights, found.weights):
            if has_moved:
                return []  # they went with their modules
            return [Difference(ORDER, "the order of the weights", self.say("another"))]
        rows = self._by_module(WEIGHT, self.stated.weights, own.weights, found.weights)
        if has_moved or self._is_turned():
            return rows
        for n, size in enumerate(own.weights):
            if size == found.weights[n] and own.signs[n] != found.signs[n]:
                said = f"{_name(self.stated, n)}: {own.signs[n]}"
                rows.append(Difference(SIGN, said, self.say(found.signs[n])))
        return rows

    def _is_turned(self) -> bool:
        """Another combination writes the same weights with all signs turned."""
        other = self.own.single[COMBINATION] != self.found.single[COMBINATION]
        pairs = zip(self.own.signs, self.found.signs, strict=True)
        return other and all(a != b for a, b in pairs)


def _name(parts: Parts, place: int) -> str:
    """Weights of later blocks go by their module too."""
    names = parts.names
    return names[place % len(names)] if names else f"ingredient {place + 1}"


def _is_moved(stated: Sequence[Any], found: Sequence[Any]) -> bool:
    return list(stated) != list(found) and Counter(stated) == Counter(found)


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


# --- what the evidence keeps so that it can be checked -------------------------------------------


def of_search(search: Search, weights: Sequence[float], salt: str | None) -> dict[str, Any]:
    """What a search measured that only the same search measures again, for its evidence.

    first  of generation 0: the loss of all-zero weights, which base model, examples, template and
           objective decide; of each module alone, by its file; and the digest of its state, which
           the seed and the settings decide besides
    """
    spec = search.spec
    kept: dict[str, Any] = {
        "parts": Parts.of(spec, weights).digests(),
        "split": {
            "rule": spec["split"],
            "examples": len(search.examples["shots"]),
            "held_out": len(search.examples["held_out"]),
        },
    }
    if salt is not None:
        kept["split"]["held_out_hash"] = hash_of(search.examples["held_out"], salt)
    rows = list(
        search.generations.filter(round="").order_by("number").values_list("record", flat=True)
    )
    if rows and rows[0].get("labels"):  # not thinned
        kept["first"] = _first(rows[0], spec)
    return kept


def _first(record: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    losses = [_finite(float.fromhex(text)) for text in record["losses"]]
    alone = dict(zip(record["labels"], losses, strict=True))
    return {
        "zero": alone.get("zero"),
        "singles": [
            {"sha256": each["sha256"], "loss": alone[f"single:{place}"]}
            for place, each in enumerate(spec["ingredients"])
            if f"single:{place}" in alone
        ],
        "digest": record["digest"],
    }


def _finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if math.isfinite(value) else None


def hash_of(pairs: Sequence[Sequence[str]], salt: str) -> str:
    return engine_recipe.examples_hash([Example(*pair) for pair in pairs], salt)


# --- what needs no model to be checked -----------------------------------------------------------


def inconsistencies(
    spec: Mapping[str, Any], weights: Sequence[float], evidence: Mapping[str, Any]
) -> list[Difference]:
    """Where a recipe contradicts itself or its own evidence."""
    parts, kept = Parts.of(spec, weights), _mapping(evidence.get("proof"))
    rows = changed(parts, _mapping(kept.get("parts")))
    rows += _rules(spec) + _canonical(spec, weights)
    rows += _split(spec, _mapping(kept.get("split")))
    rows += _order(parts, _mapping(kept.get("first")))
    return once(rows)


def once(rows: Sequence[Difference]) -> list[Difference]:
    """One row a part and statement, the first that was found."""
    seen: dict[tuple[str, str], Difference] = {}
    for row in rows:
        seen.setdefault((row.what, row.stated), row)
    return list(seen.values())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _rules(spec: Mapping[str, Any]) -> list[Difference]:
    combination = spec["combination"]
    if combination not in COMBINATIONS:
        return [Difference(COMBINATION, shown(combination), "no combination that is known")]
    done = engine_recipe.SCALING[combination]
    if spec["scaling"] != done:
        return [Difference(SCALING, shown(spec["scaling"]), f"“{combination}” is built by: {done}")]
    return []


def _canonical(spec: Mapping[str, Any], weights: Sequence[float]) -> list[Difference]:
    """(Σ wA)(Σ wB) is the same for w and -w: the recipe holds the one whose largest is positive."""
    if spec["combination"] != "lorahub" or not weights or not spec["ingredients"]:
        return []
    blocks = max(1, len(weights) // len(spec["ingredients"]))
    if list(engine_recipe.canonical_sign(weights, blocks)) == [float(w) + 0.0 for w in weights]:
        return []
    return [Difference(SIGN, "the largest weight is negative", "it is written with all turned")]


def _split(spec: Mapping[str, Any], kept: Mapping[str, Any]) -> list[Difference]:
    rule = kept.get("rule")
    if rule is None or rule == spec["split"]:
        return []
    return [Difference(SPLIT, shown(spec["split"]), f"its evidence was measured {shown(rule)!r}")]


def _order(parts: Parts, first: Mapping[str, Any]) -> list[Difference]:
    rows = first.get("singles")
    if not isinstance(rows, list) or len(rows) != len(parts.files):
        return []
    measured = [str(_mapping(row).get("sha256")) for row in rows]
    if _is_moved(parts.files, measured):
        said = "the order of the ingredients"
        return [Difference(ORDER, said, "its evidence measured them in another order")]
    return [
        Difference(FILE, f"{_name(parts, place)}: {shown(a)}", f"its evidence measured {shown(b)}")
        for place, (a, b) in enumerate(zip(parts.files, measured, strict=True))
        if a != b
    ]


def why_not_its_id(document: Mapping[str, Any]) -> list[Difference]:
    """For a file whose id is not its content's: what was changed in it, by its own digests."""
    evidence = _mapping(document.get("evidence"))
    try:
        return inconsistencies(document["spec"], document["weights"], evidence)
    except (LookupError, ArithmeticError, TypeError, ValueError, CommonsError):
        return []  # it is no recipe at all
