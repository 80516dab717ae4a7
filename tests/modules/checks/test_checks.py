import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.utils import timezone
from safetensors.numpy import save

from composer.engine.adapter_file import LayerShape
from modules import services
from modules.bases.shapes import BaseShapes
from modules.checks import full, quick
from modules.models import LoraModule
from tests.modules.conftest import LAYERS, adapter, config_bytes, factors

CAST = {"F16": np.float16, "F32": np.float32, "F64": np.float64}


def as_bf16(value: np.ndarray) -> bytes:
    return (value.astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()


def write(folder: Path, tensors: dict[str, np.ndarray], dtype: str = "F32", **config: Any) -> Path:
    """An adapter's folder with its weights in this type; numpy has no bf16, so we write our own."""
    import json

    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_bytes(config_bytes(**config))
    header, data = {}, b""
    for name, value in tensors.items():
        raw = as_bf16(value) if dtype == "BF16" else value.astype(CAST[dtype]).tobytes()
        end = len(data) + len(raw)
        header[name] = {
            "dtype": dtype, "shape": list(value.shape), "data_offsets": [len(data), end],
        }  # fmt: skip
        data += raw
    text = json.dumps(header).encode()
    file = struct.pack("<Q", len(text)) + text + data
    (folder / "adapter_model.safetensors").write_bytes(file)
    return folder


def states(found: list[quick.Check]) -> dict[str, str]:
    return {check.name: check.state for check in found}


def checked(folder: Path, base_model: Any, name: str) -> list[quick.Check]:
    base = BaseShapes.of(base_model) if base_model else None
    return full.check(folder, base, name).checks


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_a_good_module_passes_every_check(tmp_path: Path, base_model: Any, dtype: str) -> None:
    found = checked(write(tmp_path / "m", factors(), dtype), base_model, "")
    assert set(states(found).values()) == {"ok"}
    assert f"64 parameters, {dtype}" in found[0].detail
    assert "64 values are finite" in found[1].detail


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_it_finds_one_bad_value(tmp_path: Path, dtype: str, value: float) -> None:
    tensors = factors()
    name = list(tensors)[2]
    tensors[name][1, 3] = value
    found = checked(write(tmp_path / "m", tensors, dtype), None, "x")
    line = next(check for check in found if check.name == "finite")
    assert line.state == "failed"
    assert "1 value is NaN or infinite, in 1 of 4 tensors" in line.detail and name in line.detail


def test_the_largest_bf16_is_finite(tmp_path: Path) -> None:
    tensors = factors()
    next(iter(tensors.values()))[0, 0] = 3.38e38
    found = checked(write(tmp_path / "m", tensors, "BF16"), None, "x")
    assert states(found)["finite"] == "ok"


def test_it_finds_a_module_that_does_nothing(tmp_path: Path) -> None:
    tensors = {k: v * 0 if "lora_B" in k else v for k, v in factors().items()}
    found = checked(write(tmp_path / "m", tensors), None, "x")
    assert states(found)["zero"] == "failed"


def test_one_layer_without_effect_is_a_warning(tmp_path: Path) -> None:
    tensors = factors()
    tensors[f"base_model.model.{LAYERS[0]}.lora_B.weight"] *= 0
    found = checked(write(tmp_path / "m", tensors), None, "x")
    assert states(found)["zero"] == "warning"
    assert "1 of 2" in next(c.detail for c in found if c.name == "zero")


def test_a_factor_far_from_the_others_is_a_warning(tmp_path: Path) -> None:
    layers = [f"encoder.block.{n}.layer.0.SelfAttention.q" for n in range(5)]
    draw = np.random.default_rng(0)
    tensors = {}
    for n, layer in enumerate(layers):
        size = 1000 if n == 3 else 1
        tensors[f"base_model.model.{layer}.lora_A.weight"] = draw.normal(size=(2, 8))
        tensors[f"base_model.model.{layer}.lora_B.weight"] = draw.normal(size=(8, 2)) * size
    found = checked(write(tmp_path / "m", tensors), None, "x")
    line = next(check for check in found if check.name == "even")
    assert line.state == "warning" and "block.3" in line.detail


def test_it_compares_shapes_with_the_base_model(tmp_path: Path, base_model: Any) -> None:
    wide = checked(write(tmp_path / "m", factors(width=16)), base_model, "")
    line = next(check for check in wide if check.name == "base_model")
    assert line.state == "failed" and "16 inputs" in line.detail and "8 to 8" in line.detail


def test_it_finds_a_layer_that_the_base_model_lacks(tmp_path: Path, base_model: Any) -> None:
    tensors = {name.replace("encoder", "decoder"): value for name, value in factors().items()}
    found = checked(write(tmp_path / "m", tensors), base_model, "")
    line = next(check for check in found if check.name == "base_model")
    assert line.state == "failed" and "no layer decoder" in line.detail


LAYER = "transformer.h.0.attn.c_attn"


@pytest.mark.parametrize(
    ("layers", "is_conv1d", "fits"),
    [
        ({LAYER: [12, 8]}, False, True),
        ({LAYER: [8, 12]}, False, False),  # inputs and outputs the other way round
        ({LAYER: [8, 12]}, True, True),  # GPT-2 keeps its layers so
        ({"h.0.attn.c_attn": [8, 12]}, True, True),  # and its files name them without the head
        ({f"model.{LAYER}": [12, 8]}, False, True),  # a module of the model without its head
        ({"h.1.attn.c_attn": [8, 12]}, True, False),
        ({"transformer.h.0.attn": [12, 8]}, False, False),
    ],
)
def test_it_knows_how_base_models_keep_their_layers(
    layers: dict[str, list[int]], is_conv1d: bool, fits: bool
) -> None:
    base = BaseShapes("us/base", layers=layers, is_conv1d=is_conv1d)
    assert (base.misfits({LAYER: LayerShape(r=2, d_in=8, d_out=12)}) == {}) is fits


def test_a_tied_layer_need_not_be_in_the_base_models_file() -> None:
    base = BaseShapes("us/base", layers={"shared": [32, 8]})
    assert base.misfits({"lm_head": LayerShape(2, 8, 32), "shared": LayerShape(2, 32, 8)}) == {}
    assert "has no layer other" in str(base.misfits({"other": LayerShape(2, 8, 32)}))


def test_a_layer_with_either_factor_zero_changes_nothing(tmp_path: Path) -> None:
    tensors = factors()
    tensors[f"base_model.model.{LAYERS[0]}.lora_A.weight"] *= 0
    tensors[f"base_model.model.{LAYERS[1]}.lora_B.weight"] *= 0
    found = checked(write(tmp_path / "m", tensors), None, "x")
    assert states(found)["zero"] == "failed"


def test_zeros_are_no_fault_where_something_else_was_trained(tmp_path: Path) -> None:
    tensors = {k: v * 0 if "lora_B" in k else v for k, v in factors().items()}
    tensors["base_model.model.lm_head.weight"] = np.ones((3, 8))
    folder = write(tmp_path / "m", tensors, modules_to_save=["lm_head"])
    found = states(checked(folder, None, "x"))
    assert (found["zero"], found["composable"]) == ("warning", "warning")


def test_it_finds_a_bad_value_in_a_layer_that_is_no_lora(tmp_path: Path) -> None:
    tensors = {**factors(), "base_model.model.lm_head.weight": np.full((3, 8), np.nan)}
    folder = write(tmp_path / "m", tensors, modules_to_save=["lm_head"])
    line = next(check for check in checked(folder, None, "x") if check.name == "finite")
    assert line.state == "failed" and line.figure == "24 not finite"


def test_the_largest_numbers_can_be_added_up(tmp_path: Path) -> None:
    tensors = factors()
    next(iter(tensors.values()))[0, 0] = 3e38
    tensors = {name: value.astype(np.float64) for name, value in tensors.items()}
    tensors[f"base_model.model.{LAYERS[1]}.lora_B.weight"][:] = 1e308
    found = checked(write(tmp_path / "m", tensors, "F64"), None, "x")
    assert (states(found)["finite"], states(found)["even"]) == ("ok", "warning")


def test_an_unknown_base_model_is_a_warning(tmp_path: Path) -> None:
    found = checked(write(tmp_path / "m", factors()), None, "someone/else")
    line = next(check for check in found if check.name == "base_model")
    assert line.state == "warning" and "someone/else" in line.detail


def test_it_compares_the_base_models_version(tmp_path: Path, base_model: Any) -> None:
    for revision, state in [(base_model.revision, "ok"), ("f" * 40, "warning")]:
        found = checked(write(tmp_path / "m", factors(), revision=revision), base_model, "")
        assert states(found)["revision"] == state


def test_the_job_makes_a_module_ready(alice: Any, base_model: Any, run_job: Any) -> None:
    module = submit(alice, adapter())
    assert run_job(module).state == "done"
    module.refresh_from_db()
    assert module.status == LoraModule.READY and len(module.checks) == 6
    assert LoraModule.objects.composable_on(base_model).get() == module


def test_the_job_rejects_with_the_reason(alice: Any, base_model: Any, run_job: Any) -> None:
    tensors = factors()
    next(iter(tensors.values()))[0, 0] = np.nan
    files = adapter() | {"adapter_model.safetensors": io.BytesIO(save(tensors))}
    module = submit(alice, files)
    assert run_job(module).state == "done"
    module.refresh_from_db()
    assert module.status == LoraModule.REJECTED and "NaN" in module.rejected_reason
    assert not module.is_listed
    assert not LoraModule.objects.composable_on(base_model).exists()


def test_the_job_runs_twice(alice: Any, base_model: Any, run_job: Any) -> None:
    module = submit(alice, adapter())
    run_job(module)
    run_job(module)
    module.refresh_from_db()
    assert module.status == LoraModule.READY


def test_a_late_job_leaves_the_newer_version_alone(
    alice: Any, base_model: Any, run_job: Any
) -> None:
    module = submit(alice, adapter())
    late = module.check_job
    services.commit(
        repo=module.repo,
        author=alice,
        title="New",
        additions={"adapter_model.safetensors": io.BytesIO(save(factors(5)))},
    )
    module.check_job = late
    assert run_job(module).result == {"outcome": "gone or replaced"}
    module.refresh_from_db()
    assert module.status == LoraModule.CHECKING


def test_the_job_of_a_deleted_module_ends(alice: Any, base_model: Any, run_job: Any) -> None:
    module = submit(alice, adapter())
    LoraModule.objects.all().delete()
    assert run_job(module).state == "done"


def test_a_check_whose_bytes_are_gone_ends_in_rejection(
    alice: Any, base_model: Any, run_job: Any
) -> None:
    from modules.storage import local

    module = submit(alice, adapter())
    local.delete(module.weights_sha256)
    assert run_job(module).state == "failed"
    module.refresh_from_db()
    assert module.status == LoraModule.REJECTED and "store" in module.rejected_reason


def test_a_check_that_dies_leaves_nothing_being_checked(
    alice: Any, base_model: Any, settings: Any
) -> None:
    """The worker dies on this job again and again, until the queue gives it up."""
    from hub_site.jobs import queue

    module = submit(alice, adapter())
    for _ in range(settings.JOB_MAX_CRASHES):
        job = queue.claim_next("test")
        assert job is not None
        queue.strike(job, "killed")
    module.refresh_from_db()
    assert module.check_job is not None and module.check_job.state == "failed"
    assert module.status == LoraModule.REJECTED
    assert "died" in module.rejected_reason
    assert not module.is_listed


def test_a_cancelled_check_leaves_nothing_being_checked(alice: Any, base_model: Any) -> None:
    from hub_site.jobs import queue

    module = submit(alice, adapter())
    assert module.check_job is not None
    queue.request_cancel(module.check_job)
    module.refresh_from_db()
    assert module.status == LoraModule.REJECTED


def test_only_public_shown_and_accepted_modules_are_listed(
    opposites: LoraModule, secret: LoraModule
) -> None:
    assert opposites.is_listed and not secret.is_listed
    secret.repo.visibility = "public"
    secret.repo.save()
    services.update_listed(secret)
    assert LoraModule.objects.filter(is_listed=True).count() == 2
    secret.repo.hidden_at = timezone.now()
    secret.repo.save()
    opposites.reject("It is broken.")
    for module in (opposites, secret):
        services.update_listed(module)
    assert not LoraModule.objects.filter(is_listed=True).exists()


def test_a_module_that_cannot_be_composed_is_no_candidate(
    opposites: LoraModule, base_model: Any
) -> None:
    assert opposites.is_composable
    opposites.not_composable = "It uses DoRA."
    opposites.save()
    assert opposites.is_ready and not opposites.is_composable
    assert not LoraModule.objects.composable_on(base_model).exists()


def submit(author: Any, files: Any) -> LoraModule:
    from modules.models import Repo

    repo = services.create_repo(owner=author.namespace, name="m", kind=Repo.LORA)
    return services.publish_module(repo=repo, author=author, title="First", additions=files)
