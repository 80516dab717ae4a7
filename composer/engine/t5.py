"""T5 without waste: one forward of P candidates, for T5, FLAN-T5 and mT5 (arXiv 1910.10683).

What the library's own forward does more of, and this does not:
- padding: prompts are packed, S real tokens in all, and attention is computed per length;
- what no weight can change, again for each candidate: embeddings, position biases, and the first
  layers' base products are computed once for a batch;
- keys and values of the encoder's states for a few label tokens: with h for a head,
      score = q_hᵀ (W_k,h x) = (W_k,hᵀ q_h)ᵀ x
      context = Σ_t p_t W_v,h x_t = W_v,h (Σ_t p_t x_t)
  so that W_k and W_v meet the L labels instead of the T tokens;
- logits of padding.

Everything else (order of layers, norms, biases) is the library's. The same low-rank terms are
added as in `population`; any linear layer may have one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from composer.engine.base_model import BaseModel
from composer.engine.batch import IGNORED, Batch
from composer.engine.compose import Factors
from composer.engine.linear import linear
from composer.engine.packing import Group, Packed, pack
from composer.engine.products import Product, product_of

KINDS = ("T5ForConditionalGeneration", "MT5ForConditionalGeneration")
DTYPES = (torch.float32, torch.bfloat16)
# Tokens that go through an encoder layer at a time, so that they stay in the cache.
ROWS = 2048
# Logits held at a time.
LOGITS = 1 << 24


@dataclass(frozen=True)
class T5:
    """A model that can be run this way, and the names of its linear layers."""

    model: Any
    linears: frozenset[str]

    @property
    def heads(self) -> int:
        return int(self.model.config.num_heads)


def recognise(base: BaseModel) -> T5 | None:
    """The model, where it is a plain T5 on the CPU: ordinary linear layers in fp32 or bf16, nothing
    hooked in. None for everything else, which the generic path runs."""
    model = base.model
    if type(model).__name__ not in KINDS or model.training or base.device.type != "cpu":
        return None
    linears: set[str] = set()
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return None
        if isinstance(module, nn.Linear):
            if type(module) is not nn.Linear or module.bias is not None:
                return None
            linears.add(name)
        elif name.rpartition(".")[2] in ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"):
            return None  # a quantised layer or the like
    if any(p.dtype not in DTYPES or p.device.type != "cpu" for p in model.parameters()):
        return None
    return T5(model, frozenset(linears))


class T5Batch:
    """B examples packed for a T5, with what no candidate changes.

    Encoder rows are the S packed tokens; decoder rows are B·L label positions in the packed order.
    """

    def __init__(self, t5: T5, batch: Batch, packed: Packed) -> None:
        self.t5 = t5
        self.packed = packed
        model, config = t5.model, t5.model.config
        real = (batch.labels != IGNORED).any(dim=0)
        L = int(real.nonzero()[-1]) + 1 if bool(real.any()) else 1
        labels = batch.labels[packed.order, :L]
        self.B, self.L = labels.shape
        self.places = (labels.flatten() != IGNORED).nonzero()[:, 0]
        self.targets = labels.flatten()[self.places]
        self.example = packed.order[self.places // L]
        start = model.prepare_decoder_input_ids_from_labels(labels=labels)
        dtype = torch.promote_types(model.shared.weight.dtype, self._wo_dtype())
        self.tokens = model.encoder.embed_tokens(packed.ids)[None].to(dtype)
        self.starts = model.decoder.embed_tokens(start.flatten())[None].to(dtype)
        longest = packed.groups[-1].length
        self.bias = _attention(model.encoder, 0).compute_bias(longest, longest)
        causal = torch.full((L, L), -torch.inf).triu(1)
        self.causal = (_attention(model.decoder, 0).compute_bias(L, L) + causal).to(self.bias.dtype)
        scaled = getattr(config, "scale_decoder_outputs", False)  # mT5 has no such thing
        self.scale = config.d_model**-0.5 if scaled else 1.0
        self.kept: dict[str, Tensor] = {}

    def knows(self, factors: Factors | None) -> bool:
        """Whether every adapted layer is one of those computed here."""
        return factors is None or factors.A.keys() <= self.t5.linears

    def losses(self, factors: Factors | None) -> Tensor:
        """-log p of each answer, (P, B) in float64."""
        return self.answers(factors, None)

    def answers(self, factors: Factors | None, exact: Tensor | None) -> Tensor:
        """The same; where the greedy token differs from the label, exact (P, B) becomes False."""
        states = self._encode(factors)
        return self._answers(self._decode(factors, states), factors, exact)

    # --- encoder -----------------------------------------------------------------------------

    def _encode(self, factors: Factors | None) -> Tensor:
        """(P, S, D)"""
        P = factors.candidates if factors is not None else 1
        chunks = list(_slices(P, max(1, ROWS // self.tokens.shape[1])))
        h = [self.tokens.expand(some.stop - some.start, -1, -1) for some in chunks]
        encoder = self.t5.model.encoder
        for i, block in enumerate(encoder.block):
            name = f"encoder.block.{i}.layer."
            names = [f"{name}0.SelfAttention.{part}" for part in "qkvo"]
            q, k, v, o = (self._product(each, factors, self.tokens) for each in names)
            first = None
            if i == 0:
                x = _norm(self.tokens, block.layer[0].layer_norm)
                first = [self._first(p, x, n, P) for p, n in zip((q, k, v), names, strict=False)]
            ff = self._feed_forward(
                f"{name}1.DenseReluDense.", block.layer[1], factors, self.tokens
            )
            for c, some in enumerate(chunks):
                if first is not None:
                    mixed = [each[some] if len(each) > 1 else each for each in first]
                else:
                    x = _norm(h[c], block.layer[0].layer_norm)
                    mixed = [p.some(some)(x) for p in (q, k, v)]
                h[c] = o.some(some).onto(h[c], self._self_attention(len(h[c]), *mixed))
                h[c] = ff.some(some).onto(h[c])
        return torch.cat([_norm(part, encoder.final_layer_norm) for part in h])

    def _self_attention(self, P: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v (P, S, H·d), or (1, S, H·d) for all -> (P, S, H·d), per length."""
        groups = self.packed.groups
        H = self.t5.heads
        mixed = [
            _attend([_per_head(each, P, group, H) for each in (q, k, v)], self._bias_of(group))
            for group in groups
        ]
        parts = [each.transpose(1, 2).reshape(P, -1, q.shape[-1]) for each in mixed]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _bias_of(self, group: Group) -> Tensor:
        """A bias depends on the distance alone: that of the longest holds all others."""
        bias: Tensor = self.bias
        return bias[:, :, : group.length, : group.length]

    # --- decoder -----------------------------------------------------------------------------

    def _decode(self, factors: Factors | None, states: Tensor) -> Tensor:
        """(P, labels, D): the decoder's last states where a label is."""
        P = len(states)
        h = self.starts.expand(P, -1, -1)
        decoder = self.t5.model.decoder
        for i, block in enumerate(decoder.block):
            name = f"decoder.block.{i}.layer."
            names = [f"{name}0.SelfAttention.{part}" for part in "qkvo"]
            q, k, v, o = (self._product(each, factors, self.starts) for each in names)
            if i == 0:
                x = _norm(self.starts, block.layer[0].layer_norm)
                mixed = [self._first(p, x, n, P) for p, n in zip((q, k, v), names, strict=False)]
            else:
                x = _norm(h, block.layer[0].layer_norm)
                mixed = [p(x) for p in (q, k, v)]
            h = o.onto(h, self._causal_attention(P, *mixed))
            x = _norm(h, block.layer[1].layer_norm)
            h = self._cross_attention(f"{name}1.EncDecAttention.", h, x, states, factors)
            h = self._feed_forward(f"{name}2.DenseReluDense.", block.layer[2], factors, h).onto(h)
        x = _norm(h[:, self.places], decoder.final_layer_norm)
        return x * self.scale

    def _causal_attention(self, P: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(P, B·L, H·d), position t sees 0 … t."""
        whole = Group(first=0, count=self.B, start=0, length=self.L)
        heads = [_per_head(each, P, whole, self.t5.heads) for each in (q, k, v)]
        mixed = _attend(heads, self.causal)
        return mixed.transpose(1, 2).reshape(P, -1, q.shape[-1])

    def _cross_attention(
        self, name: str, h: Tensor, x: Tensor, states: Tensor, factors: Factors | None
    ) -> Tensor:
        """h + attention of the label positions x (P, B·L, D) over the encoder's states."""
        q = self._product(f"{name}q", factors, x)(x)
        # Against the labels, a thin product of `over` rows costs what H·labels of D numbers do.
        over = x.shape[1] * self.t5.heads // 2 if self._few_labels() else states.shape[1]
        k, v = (self._product(f"{name}{part}", factors, states, over) for part in "kv")
        over_labels = self._over_states if self._few_labels() else self._over_keys
        mixed = over_labels(q, k, v, states)
        return self._product(f"{name}o", factors, mixed).onto(h, mixed)

    def _few_labels(self) -> bool:
        """Multiply-adds of both ways, a layer: projecting all states, or meeting the labels."""
        config = self.t5.model.config
        D, inner, H = config.d_model, config.d_kv * config.num_heads, config.num_heads
        pairs = sum(g.count * self.L * g.length for g in self.packed.groups)
        labels, states = self.B * self.L, self.tokens.shape[1]
        return bool(
            2 * labels * inner * D + 2 * pairs * H * D < 2 * states * inner * D + 2 * pairs * inner
        )

    def _over_states(self, q: Tensor, k: Product, v: Product, states: Tensor) -> Tensor:
        """q (P, B·L, H·d), states (P, S, D) -> context (P, B·L, H·d), the labels going to them."""
        P, L, H, D = len(q), self.L, self.t5.heads, states.shape[-1]
        keys = k.against(q, H)  # (P, B·L, H, D)
        seen = torch.empty_like(keys)
        for group in self.packed.groups:
            some, count = self._labels_of(group).tokens, P * group.count
            tokens = states[:, group.tokens].reshape(count, group.length, D)
            scores = torch.bmm(keys[:, some].reshape(count, L * H, D), tokens.transpose(1, 2))
            weights = torch.softmax(scores.float(), dim=-1).to(tokens.dtype)
            seen[:, some] = torch.bmm(weights, tokens).view(P, -1, H, D)
        return v.per_head(seen, H)

    def _over_keys(self, q: Tensor, k: Product, v: Product, states: Tensor) -> Tensor:
        """The same, all states being projected first."""
        P, H = len(q), self.t5.heads
        keys, values = k(states), v(states)
        mixed = torch.empty_like(q)
        for group in self.packed.groups:
            labels = self._labels_of(group)
            heads = [_per_head(keys, P, group, H), _per_head(values, P, group, H)]
            context = _attend([_per_head(q, P, labels, H), *heads], None).transpose(1, 2)
            mixed[:, labels.tokens] = context.reshape(P, -1, q.shape[-1])
        return mixed

    def _labels_of(self, group: Group) -> Group:
        return Group(group.first, group.count, group.first * self.L, self.L)

    # --- logits ------------------------------------------------------------------------------

    def _answers(self, x: Tensor, factors: Factors | None, exact: Tensor | None) -> Tensor:
        """x (P, labels, D) -> (P, B): log Σ exp(logits) - logits[label], in float32, added up."""
        P = len(x)
        head = self._product("lm_head", factors, x)
        found = torch.zeros(P, self.B, dtype=torch.float64)
        width = head.weight.shape[0]
        for some in _slices(P, max(1, LOGITS // max(1, x.shape[1] * width))):
            logits = head.some(some)(x[some]).float()
            target = logits.gather(2, self.targets.expand(len(logits), -1)[..., None])[..., 0]
            losses = torch.logsumexp(logits, dim=-1) - target
            found[some].index_add_(1, self.example, losses.double())
            if exact is not None:
                wrong = logits.argmax(dim=-1) != self.targets
                missed = torch.zeros(len(wrong), self.B, dtype=torch.int32)
                exact[some] &= missed.index_add_(1, self.example, wrong.int()) == 0
        return found

    # --- parts -------------------------------------------------------------------------------

    def _product(
        self, name: str, factors: Factors | None, like: Tensor, rows: int | None = None
    ) -> Product:
        weight = self.t5.model.get_submodule(name).weight
        return product_of(name, weight, factors, rows=rows or like.shape[1])

    def _first(self, product: Product, x: Tensor, name: str, P: int) -> Tensor:
        """A product of what all candidates share: x (1, S, D) -> (P, S, D_out), or (1, S, D_out)
        where nothing is added to it."""
        if name not in self.kept:
            self.kept[name] = linear(x.to(product.weight.dtype), product.weight)
        return product.from_one(x, self.kept[name])

    def _feed_forward(
        self, name: str, layer: Any, factors: Factors | None, like: Tensor
    ) -> FeedForward:
        inner = layer.DenseReluDense
        gate = "wi_0" if hasattr(inner, "wi_0") else "wi"
        linear = self._product(f"{name}wi_1", factors, like) if gate == "wi_0" else None
        return FeedForward(
            norm=layer.layer_norm,
            act=inner.act,
            gate=self._product(name + gate, factors, like),
            linear=linear,
            out=self._product(f"{name}wo", factors, like),
        )

    def _wo_dtype(self) -> torch.dtype:
        """Where `wo` is kept in float32, what has gone through it is float32 too."""
        dtype: torch.dtype = self.t5.model.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype
        return dtype


@dataclass(frozen=True)
class FeedForward:
    norm: nn.Module
    act: nn.Module
    gate: Product
    linear: Product | None
    out: Product

    def some(self, chosen: slice) -> FeedForward:
        linear = self.linear.some(chosen) if self.linear is not None else None
        return FeedForward(
            self.norm, self.act, self.gate.some(chosen), linear, self.out.some(chosen)
        )

    def onto(self, h: Tensor) -> Tensor:
        """h + wo(act(wi(norm(h)))), or wo(act(wi_0(·)) * wi_1(·))

        The library's `gelu_new` writes its formula out; the fused one is the same function.
        """
        x = _norm(h, self.norm)
        if type(self.act).__name__ == "NewGELUActivation":
            inner = self.gate.gelu(x)
        else:
            inner = self.act(self.gate(x))
        if self.linear is not None:
            inner = self.linear.times(x, inner)
        return self.out.onto(h, inner)


def prepare(base: BaseModel, batch: Batch) -> T5Batch | None:
    """None where the generic path has to do it."""
    t5 = recognise(base)
    packed = pack(batch.input_ids, batch.attention_mask) if t5 is not None else None
    if t5 is None or packed is None:
        return None
    with torch.no_grad():
        return T5Batch(t5, batch, packed)


def _attention(stack: Any, i: int) -> Any:
    return stack.block[i].layer[0].SelfAttention


def _norm(h: Tensor, layer: Any) -> Tensor:
    """h / √(mean h² + ε) · weight, in float32 and then in the weight's dtype."""
    x = h.float()
    square: Tensor = torch.linalg.vecdot(x, x).div_(x.shape[-1]).add_(layer.variance_epsilon)
    x = x * square.rsqrt_()[..., None]
    if layer.weight.dtype != torch.float32:
        x = x.to(layer.weight.dtype)
    weight: Tensor = layer.weight
    return x.mul_(weight)


def _per_head(x: Tensor, P: int, group: Group, heads: int) -> Tensor:
    """The group's rows of x (P or 1, S, H·d) as (P·count, H, length, d)."""
    x = x[:, group.tokens].expand(P, -1, -1)
    return x.reshape(P * group.count, group.length, heads, -1).transpose(1, 2)


def _attend(heads: list[Tensor], bias: Tensor | None) -> Tensor:
    """Attention of [q, k, v], each (rows, H, T, d); T5 does not scale q·k by √d."""
    q, k, v = heads
    if bias is not None:
        bias = bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)


def _slices(P: int, size: int) -> Iterator[slice]:
    for first in range(0, P, size):
        yield slice(first, min(first + size, P))
