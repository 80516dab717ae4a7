"""What a search needs in memory, from a model's config.json alone, and what there is. No torch.

Estimates, on the safe side: they decide how much goes into one forward, and whether to warn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.engine.errors import CommonsError

# What Python and the libraries take, in bytes (measured: 0.5 to 0.7 GB).
LIBRARIES = 700 << 20


class DoesNotFit(CommonsError):
    """A job that no machine of this size can run."""

    code = "does_not_fit"


@dataclass(frozen=True)
class Shape:
    """What of a model decides how much memory a forward takes."""

    hidden: int
    inner: int  # what all heads have together
    feed_forward: int
    heads: int
    layers: int
    decoder_layers: int  # of an encoder-decoder; 0 for a decoder alone
    vocabulary: int
    gated: bool
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """From config.json, whatever its family calls things."""
        config = config.get("text_config") or config
        hidden = _first(config, "d_model", "hidden_size", "n_embd")
        heads = _first(
            config, "num_heads", "num_attention_heads", "n_head", "encoder_attention_heads"
        )
        layers = _first(config, "num_layers", "num_hidden_layers", "n_layer", "encoder_layers")
        apart = bool(config.get("is_encoder_decoder"))
        decoder = config.get("num_decoder_layers") or config.get("decoder_layers") or layers
        head = config.get("d_kv") or config.get("head_dim") or hidden // max(1, heads)
        wide = config.get("d_ff") or config.get("intermediate_size") or config.get("n_inner")
        wide = wide or config.get("encoder_ffn_dim") or 4 * hidden
        kind = str(config.get("feed_forward_proj") or config.get("model_type") or "")
        plain = kind in ("gpt2", "bart", "relu", "opt", "gpt_neox")
        return cls(
            hidden=hidden,
            inner=heads * int(head),
            feed_forward=int(wide),
            heads=heads,
            layers=layers,
            decoder_layers=int(decoder) if apart else 0,
            vocabulary=_first(config, "vocab_size"),
            gated=not plain,
            tied=bool(config.get("tie_word_embeddings", True)),
        )

    @property
    def parameters(self) -> int:
        attention = 4 * self.hidden * self.inner
        block = attention + (3 if self.gated else 2) * self.hidden * self.feed_forward
        cross = self.decoder_layers * attention
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return (self.layers + self.decoder_layers) * block + cross + tables

    def adapter(self, rank: int, layers_adapted: int) -> int:
        """Numbers in one module of this rank on so many linear layers of D × D."""
        return rank * layers_adapted * (self.hidden + self.inner)

    def forward(self, tokens: int, labels: int, bytes_per_number: int) -> int:
        """Bytes that one candidate on one example takes while a forward runs, besides its factors.

        A layer's largest moment: the residual and the normed states, and either q, k, v and the
        context or what is between the feed-forward's layers; scores where no fused attention is;
        and three times the logits, in float32.
        """
        wide = max(4 * self.inner, 3 * self.feed_forward)
        layer = tokens * (3 * self.hidden + wide) + self.heads * tokens * tokens
        if self.decoder_layers:
            layer += 2 * labels * self.heads * self.hidden
        return layer * bytes_per_number + 3 * 4 * labels * self.vocabulary


@dataclass(frozen=True)
class Needed:
    """Bytes: the base model, all modules in float32, and the smallest forward there is."""

    weights: int
    modules: int
    forward: int

    @property
    def total(self) -> int:
        return LIBRARIES + self.weights + self.modules + self.forward


def needed(
    config: Mapping[str, Any],
    *,
    modules: int,
    rank: int,
    tokens: int,
    labels: int,
    targets: int = 2,
    weights: int | None = None,
    bytes_per_number: int = 4,
) -> Needed:
    """What a search takes at least: one candidate on one example at a time.

    config   the base model's config.json
    rank     the modules' rank; `targets` linear layers of every attention carry it
    tokens   of the longest prompt, labels of the longest answer
    weights  bytes of the base model in memory, where they are known better than from its config
    """
    shape = Shape.of(config)
    adapted = targets * (shape.layers + 2 * shape.decoder_layers)
    each = 4 * shape.adapter(rank, adapted)
    return Needed(
        weights=weights if weights is not None else shape.parameters * bytes_per_number,
        modules=each * (2 * modules + 1),  # some combinations keep a second arrangement
        forward=shape.forward(tokens, labels, bytes_per_number),
    )


def check_fits(need: Needed, there_is: int) -> None:
    """Raise DoesNotFit where a search cannot run in so many bytes."""
    if need.total <= there_is:
        return
    raise DoesNotFit(
        f"This search needs about {_gb(need.total)} of memory: {_gb(need.weights)} for the base "
        f"model, {_gb(need.modules)} for the modules, {_gb(need.forward)} for one example. There "
        f"are {_gb(there_is)}. Choose fewer modules, shorter examples or a smaller base model."
    )


def free_ram(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that a process can still get: of the machine, and of its control group's limit."""
    found = [_available(proc), *_group_limits(cgroup)]
    known = [each for each in found if each is not None]
    return max(0, min(known)) if known else 1 << 30


def total_ram(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that all processes of this machine, or of this control group, may have together."""
    limits = [cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"]
    found = [_meminfo(proc, "MemTotal"), *map(_limit, limits)]
    known = [each for each in found if each is not None]
    return min(known) if known else 1 << 30


def _available(proc: Path) -> int | None:
    found = _meminfo(proc, "MemAvailable")
    return _meminfo(proc, "MemFree") if found is None else found


def _meminfo(proc: Path, name: str) -> int | None:
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    rows = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(rows[name].split()[0]) * 1024 if name in rows else None


def _group_limits(cgroup: Path) -> list[int | None]:
    """What is left below the limits of both versions of control groups, as a container sees them.
    File pages that are not in use can be given up, so they do not count as taken."""
    return [
        _left(cgroup / "memory.max", cgroup / "memory.current", cgroup / "memory.stat"),
        _left(
            cgroup / "memory" / "memory.limit_in_bytes",
            cgroup / "memory" / "memory.usage_in_bytes",
            cgroup / "memory" / "memory.stat",
        ),
    ]


def _limit(limit: Path) -> int | None:
    try:
        most = limit.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    if not most.isdigit() or int(most) >= 1 << 60:  # "max", or version 1's way to say so
        return None
    return int(most)


def _left(limit: Path, usage: Path, stat: Path) -> int | None:
    most = _limit(limit)
    if most is None:
        return None
    try:
        taken = int(usage.read_text(encoding="ascii"))
        facts = dict(line.split() for line in stat.read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    return most - taken + int(facts.get("inactive_file", 0))


def _first(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        if isinstance(config.get(name), int):
            return int(config[name])
    return 1


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 50_000_000 else f"{max(1, size // 1_000_000)} MB"
