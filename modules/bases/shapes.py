"""A base model's layers and their shapes, and which of a module's do not fit them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from composer.engine.adapter_file import LayerShape

if TYPE_CHECKING:
    from modules.models import BaseModel

# Models whose linear layers are Conv1D, kept as [inputs, outputs].
CONV1D = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}
# Layers that a file of tied weights leaves out.
TIED = ("lm_head", "embed_tokens", "shared", "wte", "embed_out", "word_embeddings")


@dataclass(frozen=True)
class BaseShapes:
    """What a base model's config and files say of its layers; travels as JSON."""

    name: str
    revision: str = ""
    layers: dict[str, list[int]] = field(default_factory=dict, repr=False)
    is_conv1d: bool = False

    @classmethod
    def of(cls, base: BaseModel) -> BaseShapes:
        is_conv1d = base.config.get("model_type") in CONV1D
        return cls(base.name, base.revision, base.layers, is_conv1d)

    def shape_of(self, layer: str) -> list[int] | None:
        """[outputs, inputs] as the file keeps it. Files of a model without its head, or with it,
        differ from the module's names by the first part: h.0.attn is transformer.h.0.attn."""
        found = self.layers.get(layer) or self.layers.get(layer.partition(".")[2])
        return found or self._below.get(layer)

    @cached_property
    def _below(self) -> dict[str, list[int]]:
        return {name.partition(".")[2]: shape for name, shape in self.layers.items()}

    def misfits(self, layers: Mapping[str, LayerShape]) -> dict[str, str]:
        """The layers that it has not, or has in another shape, and why. Tied ones may be absent."""
        return {
            layer: why for layer, shape in layers.items() if (why := self._misfit(layer, shape))
        }

    def _misfit(self, layer: str, shape: LayerShape) -> str:
        weight = self.shape_of(layer)
        if weight is None:
            if layer.rpartition(".")[2] in TIED:
                return ""
            return f"{self.name} has no layer {layer}."
        if weight == [shape.d_out, shape.d_in]:
            return ""
        if weight == [shape.d_in, shape.d_out] and (
            self.is_conv1d or layer.rpartition(".")[2] in TIED
        ):
            return ""
        d_out, d_in = reversed(weight) if self.is_conv1d else weight
        return (
            f"Layer {layer} takes {shape.d_in:,} inputs to {shape.d_out:,} outputs; in "
            f"{self.name} it takes {d_in:,} to {d_out:,}."
        )
