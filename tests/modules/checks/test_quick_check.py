"""One upload for each rule, with a file that breaks just that rule: refused, and nothing kept."""

import html
import io
import json
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from composer.engine.errors import BadAdapter
from hub_site.accounts.models import User
from hub_site.jobs.models import Job
from modules import services
from modules.checks import pickles
from modules.models import BaseModel, Blob, Commit, LoraModule, Repo
from tests.modules.conftest import BASE, LAYERS, config_bytes, factors

FIRST = f"base_model.model.{LAYERS[0]}"
Entries = dict[str, Any]


def parts(raw: bytes) -> tuple[Entries, bytes]:
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def joined(header: Entries | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_entry(change: Callable[[Entries], Any], data: bytes = b"") -> bytes:
    """The good file with something changed in its header, and these bytes behind its data."""
    header, rest = parts(save(factors()))
    change(header)
    return joined(header, rest + data)


def overlap(header: Entries) -> None:
    """The second tensor begins within the first."""
    second = header[f"{FIRST}.lora_B.weight"]
    second["data_offsets"] = [at - 4 for at in second["data_offsets"]]


def gap(header: Entries) -> None:
    last = max(header, key=lambda name: header[name]["data_offsets"][1])
    header[last]["data_offsets"] = [at + 4 for at in header[last]["data_offsets"]]


def twice() -> bytes:
    header, data = parts(save(factors()))
    name = json.dumps(f"{FIRST}.lora_A.weight")
    text = json.dumps(header)
    return joined(f"{{{name}: {json.dumps(header[json.loads(name)])}, {text[1:]}".encode(), data)


def zipped(name: str = "adapter_model.safetensors") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, save(factors()))
    return file.getvalue()


def without(name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in factors().items() if key != name}


GOOD = save(factors())
BROKEN = {
    "nothing": (b"", "cut short"),
    "truncated header": (GOOD[:60], "cut short"),
    "truncated data": (GOOD[:-4], "cut short or has something appended"),
    "something appended": (GOOD + bytes(4), "cut short or has something appended"),
    "header of 2^40 bytes": (struct.pack("<Q", 1 << 40) + GOOD[8:], "cut short or is not safe"),
    "overlapping tensors": (with_entry(overlap), "the one before it ends at"),
    "a gap": (with_entry(gap, bytes(4)), "the one before it ends at"),
    "a name twice": (twice(), "a name stands in it twice"),
    "no JSON": (joined(b"{" * 40, b""), "not valid JSON"),
    "an unknown dtype": (
        with_entry(lambda h: h[f"{FIRST}.lora_A.weight"].update(dtype="F99")),
        "unknown dtype 'F99'",
    ),
    "eight-bit factors": (
        with_entry(lambda h: h[f"{FIRST}.lora_A.weight"].update(dtype="F8_E4M3", shape=[2, 32])),
        "dtype F8_E4M3; use F32, F16 or BF16",
    ),
    "a size that is not so": (
        with_entry(lambda h: h[f"{FIRST}.lora_A.weight"].update(shape=[2, 9])),
        "needs 72",
    ),
    "a missing B": (save(without(f"{FIRST}.lora_B.weight")), "has no lora_B"),
    "a missing A": (save(without(f"{FIRST}.lora_A.weight")), "has no lora_A"),
    "shapes that do not meet": (
        save({**factors(), f"{FIRST}.lora_B.weight": np.ones((8, 3), np.float32)}),
        "expected .r, inputs. and .outputs, r.",
    ),
    "another rank": (save(factors(r=3)), "rank 3, but adapter_config.json says r = 2"),
    "no LoRA": (save({"model.weight": np.ones((2, 2), np.float32)}), "no tensors of a LoRA"),
    "a name without end": (
        save({f"base_model.model.{'x.' * 300}q.lora_A.weight": np.ones((2, 8), np.float32)}),
        r"A tensor's name has \d+ characters; the limit is 500",
    ),
    "a dtype without end": (
        with_entry(lambda h: h[f"{FIRST}.lora_A.weight"].update(dtype="F" * 9_000)),
        "unknown dtype 'FFF.*…",
    ),
    "a pickle": (pickle.dumps(factors(), protocol=4), "is a pickle"),
    "an old pickle": (pickle.dumps(OrderedDict(a=1), protocol=0), "is a pickle"),
    "a zip": (zipped(), "is a zip archive"),
    "a zip with a pickle": (zipped("archive/data.pkl"), "is a pickle"),
}
CONFIGS = {
    "another kind": ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
    "no rank": ({"r": None}, "r is None"),
    "no alpha": ({"lora_alpha": 0}, "lora_alpha is 0"),
    "layers it leaves out": ({"target_modules": ["q"]}, "PEFT would ignore"),
    "a rank of one layer": ({"rank_pattern": {"q": 5}}, "rank 2, but .* says r = 5"),
    "no base model": ({"base_model_name_or_path": None}, "does not name the base model"),
    "a folder as base model": ({"base_model_name_or_path": "/me/t5"}, "'/me/t5', a folder on one"),
    "a rank that is a list": ({"r": [1] * 90_000}, r"r is \[1, 1, .*… in adapter_config"),
    "a rank that is a number with a point": ({"r": 2.0}, "r is 2.0 in .* a whole number"),
    "a kind without end": ({"peft_type": "x" * 90_000}, "peft_type is 'xxx.*… in adapter_config"),
    "a deep nest": ({"use_dora": json.loads("[" * 60 + "]" * 60)}, "more than 10 deep"),
    "a base model's name without end": ({"base_model_name_or_path": "x" * 900}, "900 characters"),
    "a folder of Windows": ({"base_model_name_or_path": "C:\\t5"}, "a folder on one machine"),
}  # fmt: skip


def upload(alice: User, weights: bytes = GOOD, **config: Any) -> LoraModule:
    repo = services.create_repo(owner=alice.namespace, name="m", kind=Repo.LORA)
    files = {"adapter_config.json": config_bytes(**config), "adapter_model.safetensors": weights}
    additions = {path: io.BytesIO(data) for path, data in files.items()}
    return services.publish_module(repo=repo, author=alice, title="First", additions=additions)


def refused(client: Client, alice: User, words: str, weights: bytes = GOOD, **config: Any) -> None:
    """The upload page says it in words and keeps nothing; so does what programs call."""
    client.force_login(alice)
    sent = {"adapter_config.json": config_bytes(**config), "adapter_model.safetensors": weights}
    files = [SimpleUploadedFile(name, data) for name, data in sent.items()]
    answer = client.post("/upload/", {"files": files})
    assert answer.status_code == 422
    assert re.search(words, html.unescape(answer.content.decode()))
    with pytest.raises(BadAdapter, match=words):
        upload(alice, weights, **config)
    assert not Commit.objects.exists() and not LoraModule.objects.exists()
    assert not Blob.objects.exists() and not Job.objects.exists()


@pytest.mark.parametrize(("weights", "words"), BROKEN.values(), ids=list(BROKEN))
def test_it_refuses_weights_that_break_a_rule(
    client: Client, alice: User, weights: bytes, words: str
) -> None:
    refused(client, alice, words, weights)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 3_000])
def test_it_refuses_numbers_that_no_database_can_hold(
    client: Client, alice: User, number: str
) -> None:
    config = config_bytes(alpha_pattern={"q": 0.5}).replace(b"0.5", number.encode())
    client.force_login(alice)
    sent = {"adapter_config.json": config, "adapter_model.safetensors": GOOD}
    files = [SimpleUploadedFile(name, data) for name, data in sent.items()]
    answer = client.post("/upload/", {"files": files})
    assert answer.status_code == 422 and "is too large a number" in answer.content.decode()
    assert not Blob.objects.exists()


def test_a_setting_of_any_length_is_shown_in_short(alice: User) -> None:
    module = upload(alice, init_lora_weights="x" * 9_000, modules_to_save=["lm_head"] * 1_000)
    assert module.variant["init_lora_weights"].endswith("x…")
    assert module.variant["modules_to_save"] == "1,000 entries"


@pytest.mark.parametrize(("config", "words"), CONFIGS.values(), ids=list(CONFIGS))
def test_it_refuses_a_config_that_breaks_a_rule(
    client: Client, alice: User, config: dict[str, Any], words: str
) -> None:
    refused(client, alice, words, **config)


def test_it_suggests_the_base_model_that_the_shapes_fit(alice: User, base_model: BaseModel) -> None:
    with pytest.raises(BadAdapter, match=f"shape it has in {BASE}: was it trained on that"):
        upload(alice, base_model_name_or_path="")
    Repo.objects.get(name="m").delete()
    with pytest.raises(BadAdapter) as error:
        upload(alice, save(factors(width=16)), base_model_name_or_path="")
    assert BASE not in str(error.value)


def test_it_suggests_a_base_model_for_one_it_does_not_know(
    alice: User, base_model: BaseModel, publish: Any
) -> None:
    module = publish(alice, "foreign", base_model_name_or_path="someone/else")
    assert module.base_model is None and module.is_ready
    line = next(line for line in module.checks if line["name"] == "base_model")
    assert "does not hold someone/else" in line["detail"] and BASE in line["detail"]


@pytest.mark.parametrize(
    ("config", "more", "words"),
    [
        ({"use_dora": True}, {f"{FIRST}.lora_magnitude_vector": np.ones(8, np.float32)}, "DoRA"),
        ({"bias": "all"}, {f"{FIRST}.bias": np.ones(8, np.float32)}, "biases"),
        ({"alpha_pattern": {"q|k": 9}}, {}, "alpha_pattern"),
        (
            {"modules_to_save": ["lm_head"]},
            {"base_model.model.lm_head.weight": np.ones((3, 8), np.float32)},
            "modules_to_save",
        ),
        ({"init_lora_weights": "pissa"}, {}, "pissa"),
    ],
    ids=["dora", "bias", "alpha pattern", "modules to save", "init"],
)
def test_it_keeps_what_cannot_be_composed_and_says_why(
    alice: User, base_model: BaseModel, run_job: Any, client: Any,
    config: dict[str, Any], more: dict[str, np.ndarray], words: str,
) -> None:  # fmt: skip
    module = upload(alice, save({**factors(), **more}), **config)
    assert module.variant == config
    run_job(module)
    module.refresh_from_db()
    assert module.is_ready and not module.is_composable
    assert words in module.not_composable
    assert not LoraModule.objects.composable_on(base_model).exists()
    assert words in client.get(module.get_absolute_url()).content.decode()


def test_it_refuses_such_a_module_for_a_composition_with_the_reason(
    alice: User, base_model: BaseModel, run_job: Any
) -> None:
    from composer.engine.errors import IncompatibleModules
    from composer.module_choice import ModuleChoice, choose_modules

    module = upload(alice, use_dora=True)
    run_job(module)
    for choice in (ModuleChoice("hand", modules=(module,)), ModuleChoice()):
        with pytest.raises(IncompatibleModules) as error:
            choose_modules(choice, base_model=base_model, user=alice, combination="sum")
        assert choice.how != "hand" or "DoRA" in str(error.value)


def test_ranks_and_alphas_by_layer_can_be_composed(
    alice: User, base_model: BaseModel, run_job: Any
) -> None:
    module = upload(alice, rank_pattern={"k": 4}, alpha_pattern={"q": 9})
    run_job(module)
    module.refresh_from_db()
    assert module.is_composable and module in LoraModule.objects.composable_on(base_model)


def test_modules_kept_back_for_their_patterns_alone_are_free_after_an_upgrade(
    alice: User, base_model: BaseModel
) -> None:
    from importlib import import_module

    from django.apps import apps

    upgrade = import_module("modules.migrations.0012_patterns_compose")
    module = upload(alice, alpha_pattern={"q": 9})
    others = {"a reason of its own": {}, upgrade.TEXTS[1]: {"alpha_pattern": {"q|k": 9}}}
    for reason, variant in ((upgrade.TEXTS[1], module.variant), *others.items()):
        LoraModule.objects.filter(pk=module.pk).update(not_composable=reason, variant=variant)
        upgrade.free(apps, None)
        module.refresh_from_db()
        assert module.not_composable == ("" if variant == {"alpha_pattern": {"q": 9}} else reason)


def test_it_takes_ten_thousand_tensors(alice: User) -> None:
    """As many as an adapter of every expert of a mixture has."""
    tensors = {}
    for n in range(5_000):
        tensors[f"base_model.model.h.{n}.q.lora_A.weight"] = np.ones((1, 2), np.float32)
        tensors[f"base_model.model.h.{n}.q.lora_B.weight"] = np.ones((2, 1), np.float32)
    module = upload(alice, save(tensors), r=1)
    assert module.parameters == 20_000 and module.target_modules == ["q"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle_is_known(protocol: int) -> None:
    for thing in (OrderedDict(a=1), {"w": np.ones(3)}, np.ones((500, 500))):
        assert pickles.is_pickle(pickle.dumps(thing, protocol=protocol)[: pickles.HEAD])


@given(st.integers(0, 1 << 20), st.binary(max_size=40))
def test_a_safetensors_file_is_never_called_a_pickle(padding: int, data: bytes) -> None:
    """Headers of 640 bytes begin as pickles do."""
    for length in (640, 896, 1152, 1408, padding):
        header = b'{"t":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % ((len(data),) * 2)
        raw = joined(header.ljust(length), data)
        assert not pickles.is_pickle(raw[: pickles.HEAD], raw[-pickles.HEAD :])


@given(st.text(max_size=300) | st.binary(max_size=300))
def test_any_bytes_are_looked_at_without_surprise(text: str | bytes) -> None:
    pickles.is_pickle(text.encode() if isinstance(text, str) else text)


@pytest.mark.parametrize(
    "text",
    [
        "# Card\n\nWords.",
        "---\nlicense: mit\n---\n",
        '{"a": 1}',
        "call me\nIshmael.\n",
        "it answers questions\nabout words\nMore of them below.",
        "classifier of reviews\n\nReads them all.",
        "(in German)\nit says\nwhat it is.",
    ],
)
def test_texts_are_no_pickles(text: str) -> None:
    assert not pickles.is_pickle(text.encode())
