"""Which modules fit a search, and how some of them are chosen."""

import pytest

from composer.engine.errors import IncompatibleModules
from composer.module_choice import ModuleChoice, choose_modules, modules_for
from hub_site.accounts.models import User
from modules.models import BaseModel, LoraModule, Repo


def test_it_says_why_a_module_does_not_fit(
    base_model: BaseModel, lora_modules: list[LoraModule], alice: User
) -> None:
    waiting, wide, *_ = lora_modules
    LoraModule.objects.filter(pk=waiting.pk).update(status="checking")
    LoraModule.objects.filter(pk=wide.pk).update(r=64)
    reasons = {fit.lora_module.pk: fit.reason for fit in modules_for(base_model, alice, "linear")}
    assert "being checked" in reasons[waiting.pk]
    assert "It has rank 64" in reasons[wide.pk] and "the others have rank 2" in reasons[wide.pk]
    assert [reason for reason in reasons.values() if not reason] == ["", ""]
    published = {fit.lora_module.pk: fit for fit in modules_for(base_model, alice, "lorahub")}
    assert published[wide.pk].fits and "not the paper's" in published[wide.pk].note
    assert sum(bool(fit.note) for fit in published.values()) == 1
    exact = modules_for(base_model, alice, "sum")
    assert [fit.lora_module.pk for fit in exact if not fit.fits] == [waiting.pk]


def test_it_hides_a_strangers_private_module(
    base_model: BaseModel, lora_modules: list[LoraModule], alice: User
) -> None:
    Repo.objects.filter(pk=lora_modules[0].repo_id).update(visibility="private")
    found = [fit.lora_module for fit in modules_for(base_model, alice)]
    assert lora_modules[0] not in found
    with pytest.raises(IncompatibleModules, match="does not belong"):
        choose_modules(
            ModuleChoice("hand", modules=(lora_modules[0],)),
            base_model=base_model,
            user=alice,
            combination="sum",
        )


def test_it_draws_the_same_modules_from_the_same_seed(
    base_model: BaseModel, lora_modules: list[LoraModule], alice: User
) -> None:
    def draw(seed: int) -> list[str]:
        choice = ModuleChoice("random", count=2, seed=seed)
        chosen = choose_modules(choice, base_model=base_model, user=alice, combination="sum")
        return [str(module) for module in chosen]

    assert draw(1) == draw(1)
    assert len({tuple(draw(seed)) for seed in range(8)}) > 1
    assert all(len(draw(seed)) == 2 for seed in range(8))
