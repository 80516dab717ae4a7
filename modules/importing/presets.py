"""Published libraries that are good to start with: whose they are, and what they are called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    name: str  # on the command line
    author: str
    search: str
    base_model: str
    about: str


PRESETS = (
    Preset(
        name="lorahub",
        author="lorahub",
        search="flan_t5_large",
        base_model="google/flan-t5-large",
        about="the published modules of the LoraHub paper, for tasks of FLAN",
    ),
    Preset(
        name="lots-of-loras",
        author="Lots-of-LoRAs",
        search="Mistral-7B-Instruct-v0.2",
        base_model="mistralai/Mistral-7B-Instruct-v0.2",
        about="some five hundred modules, one for each task of Natural Instructions",
    ),
)
BY_NAME = {preset.name: preset for preset in PRESETS}
