"""Base models that stay on a Hub: here this very site, asked by its address."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from safetensors.numpy import save

from hub_site.jobs import queue
from hub_site.jobs.worker import Lease
from modules.bases import base_models
from modules.models import BaseModel, Commit, LoraModule, Repo
from modules.services import commit
from modules.storage import fetching, local
from tests.gate import Gate
from tests.modules.conftest import BASE, LAYERS, WIDTH, Publisher

pytestmark = pytest.mark.django_db(transaction=True)
PADDING = 300_000


def weights(names: list[str], **more: np.ndarray) -> bytes:
    return save({f"{name}.weight": np.zeros((WIDTH, WIDTH), np.float32) for name in names} | more)


@pytest.fixture
def there(settings: Any, gate: Gate, cache: Path, base_folder: Path) -> Repo:
    """A repo on the Hub, with more in it than a base model needs."""
    settings.HUB_ENDPOINT, settings.HF_TOKEN = gate.url, ""
    (base_folder / "model.safetensors").write_bytes(
        weights(LAYERS, padding=np.ones(PADDING, np.float32))
    )
    (base_folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 48}))
    (base_folder / "spiece.model").write_bytes(b"\x0a\x00 not looked into")
    (base_folder / "modeling_own.py").write_text("raise SystemExit")
    (base_folder / "onnx").mkdir()
    (base_folder / "onnx" / "config.json").write_text("{}")
    repo = base_models.repo_of(base_models.organisation("lora-commons"), "tiny-t5", Repo.BASE)
    base_models.mirror(repo, base_folder, "Add the base model")
    return repo


@pytest.fixture
def lease() -> Lease:
    queue.submit("test_idle", params={})
    job = queue.claim_next("worker")
    assert job is not None
    return Lease(job)


def add(**options: Any) -> BaseModel:
    call_command("add_base_model", options.pop("name", BASE), hub=True, **options)
    return BaseModel.objects.get()


def change(repo: Repo, deletions: tuple[str, ...] = (), **files: bytes | dict[str, Any]) -> Commit:
    data = {
        path.replace("__", "."): json.dumps(what).encode() if isinstance(what, dict) else what
        for path, what in files.items()
    }
    return commit(
        repo=repo,
        author=None,
        title="Change",
        additions={path: io.BytesIO(each) for path, each in data.items()},
        deletions=deletions,
    )


def test_it_says_of_it_what_its_folder_would_say(
    there: Repo, base_folder: Path, gate: Gate
) -> None:
    base = add(summary="Tiny.", alias=["tiny"])
    assert (base.name, base.source, base.repo, base.folder) == (BASE, BaseModel.HUB, None, "")
    head = there.head()
    assert head is not None and base.revision == head.sha
    for column, value in base_models.read_base_model(base_folder).items():
        assert getattr(base, column) == value, column
    assert (base.max_tokens, base.summary, base.aliases) == (48, "Tiny.", ["tiny"])
    assert list(BaseModel.objects.usable()) == [base]
    assert gate.passed < 4 * PADDING / 2  # the weights stayed where they are


def test_it_pins_what_a_worker_needs_and_no_code(there: Repo) -> None:
    head = there.head()
    assert head is not None
    stored = dict(head.files.values_list("path", "blob_id"))
    names = {
        "config.json", "tokenizer.json", "tokenizer_config.json", "spiece.model",
        "model.safetensors",
    }  # fmt: skip
    assert add().files == {name: stored[name] for name in names}


def test_a_worker_fetches_what_was_pinned_though_the_hub_moves_on(
    there: Repo, base_folder: Path, cache: Path, lease: Lease
) -> None:
    base = add()
    change(there, config__json={"model_type": "other"})
    folder = fetching.base_folder(base, lease)
    assert folder.is_relative_to(cache)
    there_now = {path.name for path in folder.rglob("*") if path.is_file()}
    assert there_now == set(base.files)
    for name in base.files:
        assert (folder / name).read_bytes() == (base_folder / name).read_bytes()
    again = add()
    assert again.revision != base.revision and again.config == {"model_type": "other"}


def test_weights_in_several_files_are_all_pinned(there: Repo, lease: Lease) -> None:
    shards = {name: f"model-0000{n}-of-00002.safetensors" for n, name in enumerate(LAYERS, 1)}
    index = {"weight_map": {f"{name}.weight": shard for name, shard in shards.items()}}
    change(
        there,
        ("model.safetensors",),
        **{shard: weights([name]) for name, shard in shards.items()},
        **{"model.safetensors.index.json": index, "consolidated.safetensors": b"not read"},
    )
    base = add()
    assert base.layers == {name: [WIDTH, WIDTH] for name in LAYERS}
    assert base.parameters == 2 * WIDTH * WIDTH
    assert {*shards.values(), "model.safetensors.index.json"} < set(base.files)
    assert "consolidated.safetensors" not in base.files
    assert set(base.files) == {p.name for p in fetching.base_folder(base, lease).iterdir()}


@pytest.mark.parametrize(
    ("gone", "files", "said"),
    [
        (("model.safetensors",), {}, "no safetensors weights"),
        (("config.json",), {}, "no config.json"),
        (("tokenizer.json",), {}, "no tokenizer.json"),
        ((), {"config__json": {"auto_map": {"AutoModel": "own.py"}}}, "code of its own"),
        ((), {"tokenizer_config__json": {"auto_map": {}}}, "code of its own"),
        ((), {"config__json": b"{"}, "not valid JSON"),
        ((), {"config__json": b"[]"}, "JSON object"),
        ((), {"model__safetensors": b"\xff" * 64}, "model.safetensors of lora-commons/tiny-t5"),
        (
            ("model.safetensors",),
            {"model__safetensors__index__json": {"weight_map": {"a": "../secret.safetensors"}}},
            "names '../secret.safetensors'",
        ),
        (
            ("model.safetensors",),
            {"model__safetensors__index__json": {"weight_map": {"a": "pytorch_model.bin"}}},
            "names 'pytorch_model.bin'",
        ),
        (
            ("model.safetensors",),
            {"model__safetensors__index__json": {"weight_map": {}}},
            "names 0 files",
        ),
    ],
)
def test_it_says_what_it_does_not_take(
    there: Repo, gone: tuple[str, ...], files: dict[str, Any], said: str
) -> None:
    change(there, gone, **files)
    with pytest.raises(CommandError, match=said):
        add()
    assert not BaseModel.objects.exists()


def test_it_takes_nothing_larger_than_it_is_told_to(there: Repo, settings: Any) -> None:
    settings.BASE_MODEL_MAX_BYTES = 4 * PADDING
    with pytest.raises(CommandError, match="BASE_MODEL_MAX_BYTES"):
        add()
    settings.BASE_MODEL_MAX_BYTES = 4 * PADDING + 10_000
    assert add().files


def test_a_revision_may_be_chosen(there: Repo) -> None:
    first = there.head()
    assert first is not None
    change(there, config__json={"model_type": "other"})
    assert add(revision=first.sha).revision == first.sha
    with pytest.raises(CommandError, match="has no lora-commons/tiny-t5"):
        add(revision="no-such-branch")
    assert BaseModel.objects.get().revision == first.sha


def test_what_is_not_there_or_does_not_answer_is_told(there: Repo, gate: Gate) -> None:
    with pytest.raises(CommandError, match="has no nobody/nothing"):
        add(name="nobody/nothing")
    Repo.objects.update(visibility=Repo.PRIVATE)
    with pytest.raises(CommandError, match=f"has no {BASE}"):
        add()
    gate.shut()
    with pytest.raises(CommandError, match="cannot be reached"):
        add()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "required"),
        ({"hub": True, "keep": True}, "--keep"),
        ({"folder": Path(), "revision": "main"}, "--hub"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    db: None, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(CommandError, match=said):
        call_command("add_base_model", BASE, **options)


def test_its_tokens_are_counted_without_asking_the_hub(
    there: Repo, gate: Gate, lease: Lease, settings: Any
) -> None:
    base = add()
    gate.shut()
    path = local.tokenizer_path(base)
    assert path is not None and path.read_text() == "{}"
    path.unlink()  # somebody cleared the cache
    assert local.tokenizer_path(base) is None
    gate.open()
    fetching.base_folder(base, lease)  # a worker brings it back
    assert local.tokenizer_path(base) == path


def test_modules_that_came_before_it_find_it(there: Repo, alice: Any, publish: Publisher) -> None:
    module = publish(alice, "opposites")
    assert module.base_model is None
    base = add()
    module = LoraModule.objects.get(pk=module.pk)
    assert module.base_model == base and module.check_job is not None
