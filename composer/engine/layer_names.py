"""Which layers an adapter's config means, and what rank and alpha it gives each of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

PLAIN_NAME = re.compile(r"\^?[\w.-]+\$?")
Number = TypeVar("Number", int, float)


class NamingConfig(Protocol):
    """What is needed of adapter_file.AdapterConfig."""

    @property
    def r(self) -> int: ...
    @property
    def lora_alpha(self) -> float: ...
    @property
    def target_modules(self) -> tuple[str, ...] | str: ...
    @property
    def rank_pattern(self) -> Mapping[str, int]: ...
    @property
    def alpha_pattern(self) -> Mapping[str, float]: ...
    @property
    def raw(self) -> dict[str, Any]: ...
    def scaling_of(self, alpha: float, r: int) -> float: ...


class NamedLayers:
    """What the config says of single layers, by their names, read once: a file may hold 25,000
    layers, and its config may name as many.

    A name is a layer's whole name, or what it ends with behind a dot. Where the config has a
    pattern instead, anything is possible: we never run a stranger's regular expression.
    """

    def __init__(self, config: NamingConfig) -> None:
        self.config, raw = config, config.raw
        targets = config.target_modules
        # target_parameters name parameters, not layers
        is_open = isinstance(targets, str) or bool(raw.get("target_parameters"))
        self.targets = None if is_open else frozenset(targets)
        self.excluded = frozenset(_those(raw.get("exclude_modules"), str))
        chosen = raw.get("layers_to_transform")
        self.numbers = None
        if chosen not in (None, []):
            self.numbers = frozenset(_those(chosen if isinstance(chosen, list) else [chosen], int))
        words = raw.get("layers_pattern")
        self.words = frozenset(_those([words] if isinstance(words, str) else words, str))
        self.ranks, self.alphas = Pattern(config.rank_pattern), Pattern(config.alpha_pattern)
        self.any_rank, self.any_rank_said = None, ""
        if self.ranks.is_open:
            self.any_rank = frozenset({config.r, *config.rank_pattern.values()})
            self.any_rank_said = " or ".join(map(str, sorted(self.any_rank)[:10]))

    def ranks_of(self, layer: str) -> frozenset[int]:
        if self.any_rank is not None:
            return self.any_rank
        return frozenset({self.ranks.of(layer, self.config.r)})

    def scaling_of(self, layer: str, r: int) -> float:
        """s of a layer whose factors have rank r."""
        return self.config.scaling_of(self.alphas.of(layer, self.config.lora_alpha), r)

    def left_out_by(self, layer: str) -> str:
        """Where config and weights disagree, PEFT would load less than the file holds."""
        if self.targets is not None and self.targets.isdisjoint(_endings(layer)):
            return self._said("target_modules")
        if not self.excluded.isdisjoint(_endings(layer)):
            return self._said("exclude_modules")
        if self.numbers is None or (self.targets is not None and layer in self.targets):
            return ""  # PEFT does not ask for the number of a layer that is named in full
        return "" if self._number(layer) in self.numbers else self._said("layers_to_transform")

    def _number(self, layer: str) -> int | None:
        """The first one behind any word, or behind one of layers_pattern."""
        parts = layer.split(".")
        for place in range(1 if self.words else 2, len(parts) - 1):
            if parts[place].isdecimal() and (not self.words or parts[place - 1] in self.words):
                return int(parts[place])
        return None

    def _said(self, setting: str) -> str:
        value = self.config.raw.get(setting)
        some = value[:20] if isinstance(value, list) else [value]
        return f"{setting} in adapter_config.json ({', '.join(map(str, some))[:200]})"


class Pattern(Generic[Number]):
    """rank_pattern or alpha_pattern, for layers by their names.

    The first name that fits counts, as in PEFT; "^" begins a whole one. It is open where it holds
    regular expressions: then it says nothing of a layer.
    """

    def __init__(self, pattern: Mapping[str, Number]) -> None:
        self.is_open = not all(PLAIN_NAME.fullmatch(each) for each in pattern)
        self.ends: dict[str, tuple[int, Number]] = {}
        self.whole: dict[str, tuple[int, Number]] = {}
        for place, (each, value) in enumerate(pattern.items()):
            found = self.whole if each.startswith("^") else self.ends
            found.setdefault(each.strip("^$"), (place, value))

    def of(self, layer: str, usual: Number) -> Number:
        if self.is_open:
            return usual
        found = [self.ends[end] for end in _endings(layer) if end in self.ends]
        if layer in self.whole:
            found.append(self.whole[layer])
        return min(found)[1] if found else usual


def _endings(layer: str) -> Iterator[str]:
    yield layer
    while "." in layer:
        layer = layer.partition(".")[2]
        yield layer


def _those(value: Any, kind: type) -> list[Any]:
    return [each for each in value if isinstance(each, kind)] if isinstance(value, list) else []
