"""Weights by block: a module may weigh differently in some layers than in others."""

from __future__ import annotations

import re
from collections.abc import Iterable

from composer.engine.errors import BadConfig

NUMBER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


def block_of(layers: Iterable[str], blocks: str) -> dict[str, int]:
    """Which block (0 … K-1) each layer belongs to.

    all       one block
    sides     0 is the encoder, 1 the decoder
    layers:K  K groups of neighbours: the model's depth, encoder before decoder, cut in K parts
    """
    names = sorted(layers)
    if blocks == "all":
        return dict.fromkeys(names, 0)
    if blocks == "sides":
        return _sides(names)
    depths = sorted({_depth(name) for name in names})
    K = int(blocks.removeprefix("layers:"))
    if len(depths) < K:
        raise _bad(
            f"blocks is {blocks!r}, but the modules adapt layers at only {len(depths)} depths. "
            + (f"Choose at most layers:{len(depths)}." if len(depths) > 1 else "Choose 'all'.")
        )
    group = {depth: place * K // len(depths) for place, depth in enumerate(depths)}
    return {name: group[_depth(name)] for name in names}


def count(blocks: str) -> int:
    """K, the number of blocks: a search has K weights for each module."""
    if blocks == "all":
        return 1
    return 2 if blocks == "sides" else int(blocks.removeprefix("layers:"))


def _sides(names: list[str]) -> dict[str, int]:
    sides = {name: int(_is_decoder(name)) for name in names}
    if set(sides.values()) != {0, 1}:
        raise _bad(
            "blocks is 'sides', but the modules do not adapt both an encoder and a decoder. "
            "Choose 'all', or 'layers:2' for a decoder-only model."
        )
    return sides


def _is_decoder(name: str) -> bool:
    return "decoder" in name.split(".")


def _depth(name: str) -> tuple[bool, int]:
    """The decoder comes behind the encoder; a layer without a number stands first on its side."""
    number = NUMBER.search(name)
    return _is_decoder(name), int(number.group(1)) if number else -1


def _bad(message: str) -> BadConfig:
    return BadConfig(message, fields={"blocks": [message]})
