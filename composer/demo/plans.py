"""How large the demo's base models are, and how long each is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

from composer.demo import skills


@dataclass(frozen=True)
class Plan:
    """The shipped library is FULL; a test rebuilds MINIATURE."""

    d_model: int = 128
    d_ff: int = 512
    heads: int = 4
    encoder_layers: int = 3
    decoder_layers: int = 2
    base_steps: int = 5000
    base_batch: int = 160
    base_rate: float = 3e-3
    warm_up: int = 300
    second_steps: int = 1200
    second_rate: float = 1e-3
    module_steps: int = 150
    module_batch: int = 32
    module_rate: float = 3e-3
    rank: int = 8
    alpha: int = 16
    modules: tuple[str, ...] = skills.MODULES


FULL = {
    "t5": Plan(),
    "llama": Plan(encoder_layers=0, decoder_layers=5, d_ff=384, base_steps=3600, second_steps=900),
}


def miniature(plan: Plan) -> Plan:
    return replace(
        plan,
        d_model=32,
        d_ff=64,
        heads=2,
        encoder_layers=min(1, plan.encoder_layers),
        decoder_layers=1,
        base_steps=6,
        base_batch=16,
        warm_up=2,
        second_steps=4,
        module_steps=2,
        module_batch=4,
        modules=("antonym", "young", "capital"),
    )


MINIATURE = {family: miniature(plan) for family, plan in FULL.items()}
