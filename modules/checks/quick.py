"""What makes an upload acceptable, from its config and header alone: the check in the request.

`full.py` reads the values too, in a worker. Neither needs torch or the database.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from composer.engine.adapter_file import (
    WEIGHTS_NAME,
    AdapterConfig,
    AdapterFacts,
    read_config,
    read_header,
    shown,
    survey,
)
from modules.checks import pickles

OK, WARNING, FAILED = "ok", "warning", "failed"
PICKLES = pickles.ENDINGS
MOST_TARGETS = 200
MOST_SHOWN = 2_000  # characters of one setting
# What a config says beyond r, alpha and targets, where it is not the usual.
VARIANTS = (
    "use_dora", "bias", "lora_bias", "rank_pattern", "alpha_pattern", "modules_to_save",
    "init_lora_weights", "target_parameters", "trainable_token_indices", "layer_replication",
    "exclude_modules", "layers_to_transform", "fan_in_fan_out", "alora_invocation_tokens",
    "use_qalora", "use_bdlora", "megatron_config", "velora_config", "monteclora_config",
    "arrow_config", "kasa_config",
)  # fmt: skip
USUAL = {"bias": ("none",), "init_lora_weights": (True,)}
FOLDER = re.compile(r"[/~.\\]|[A-Za-z]:[/\\]")


@dataclass(frozen=True)
class Check:
    """One line of the list on a module's page: what was looked at, and what was seen."""

    name: str
    title: str
    state: str
    detail: str
    figure: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Found:
    """The lines of the check, and a hash over what the tensors hold."""

    checks: list[Check]
    tensors_sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, answer: dict[str, Any]) -> Found:
        return cls([Check(**each) for each in answer["checks"]], str(answer["tensors_sha256"]))

    @classmethod
    def refusal(cls, reason: str, title: str = "Files") -> Found:
        return cls([Check("format", title, FAILED, reason)])


@dataclass(frozen=True)
class Reading:
    """What the quick check read: the config, and what it and the header say together."""

    config: AdapterConfig
    facts: AdapterFacts

    @property
    def target_modules(self) -> list[str]:
        """The layers' last names, as they are in the file: q, v, down_proj, ..."""
        return sorted({layer.rsplit(".", 1)[-1] for layer in self.facts.layers})[:MOST_TARGETS]

    @property
    def base_model(self) -> str:
        """The base model's name; empty where the config has none, or one machine's folder."""
        named = " ".join((self.config.base_model or "").split())
        return "" if FOLDER.match(named) else named

    @property
    def variant(self) -> dict[str, Any]:
        said = {name: self.config.raw.get(name) for name in VARIANTS}
        return {
            name: _bounded(value)
            for name, value in said.items()
            if value and value not in USUAL.get(name, ())
        }

    @property
    def not_composable(self) -> str:
        """Why it can be kept and shared but not composed; empty when it can."""
        why = self.facts.not_composable
        return f"It {why}"[:500] if why else ""


def _bounded(value: Any) -> Any:
    if len(json.dumps(value)) <= MOST_SHOWN:
        return value
    return f"{len(value):,} entries" if isinstance(value, dict | list) else shown(value)


def refuse_pickle(path: str, file: bytes | BinaryIO = b"") -> None:
    """Loading a pickle can run its author's code, so none is stored."""
    pickles.refuse(path, io.BytesIO(file) if isinstance(file, bytes) else file)


def read(config: Path | bytes, weights: Path | BinaryIO) -> Reading:
    """Read config and header alone; raises BadAdapter with what is wrong, where, and what to do.

    An upload that is not stored yet comes as bytes and as a stream.
    """
    if isinstance(weights, Path):
        with weights.open("rb") as file:
            return read(config, file)
    refuse_pickle(WEIGHTS_NAME, weights)
    settings = read_config(config)
    return Reading(settings, survey(settings, read_header(weights)))
