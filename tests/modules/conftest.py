"""People, a tiny base model and tiny modules, made of numpy; no torch."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from hub_site.accounts.models import Namespace, User
from modules import services
from modules.bases import base_models
from modules.models import BaseModel, LoraModule, Repo
from tests.gate import Gate, gate_to
from tests.keepsake import Keepsake, keep

WIDTH, RANK = 8, 2
LAYERS = ["encoder.block.0.layer.0.SelfAttention.q", "encoder.block.0.layer.0.SelfAttention.v"]
BASE = "lora-commons/tiny-t5"
CARD = """---
license: apache-2.0
language: en
tags: [words, opposites]
---
# opposites

Answers with the opposite of an adjective.

Trained on *eighty* words.
"""


@pytest.fixture(autouse=True)
def _own_store(settings: Any, tmp_path: Path) -> None:
    settings.BLOB_DIR, settings.CACHE_DIR = tmp_path / "blobs", tmp_path / "cache"


def make_user(name: str) -> User:
    user = User.objects.create_user(name, password="correct horse")
    Namespace.objects.get_or_create(user=user, defaults={"name": name, "kind": Namespace.USER})
    return user


@pytest.fixture
def alice(db: None) -> User:
    return make_user("alice")


@pytest.fixture
def bob(db: None) -> User:
    return make_user("bob")


def config_bytes(**changes: Any) -> bytes:
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM",
        "base_model_name_or_path": BASE,
        "r": RANK,
        "lora_alpha": 4,
        "target_modules": ["q", "v"],
        "bias": "none",
        "inference_mode": True,
    }
    return json.dumps(config | changes).encode()


def factors(seed: int = 0, r: int = RANK, width: int = WIDTH) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    tensors = {}
    for layer in LAYERS:
        key = f"base_model.model.{layer}"
        tensors[f"{key}.lora_A.weight"] = draw.normal(size=(r, width)).astype(np.float32)
        tensors[f"{key}.lora_B.weight"] = draw.normal(size=(width, r)).astype(np.float32)
    return tensors


def weights_bytes(seed: int = 0, r: int = RANK, width: int = WIDTH) -> bytes:
    return save(factors(seed, r, width))


def adapter(seed: int = 0, card: str = CARD, **config: Any) -> dict[str, io.BytesIO]:
    """The three files of a module, as an upload brings them."""
    files = {
        "adapter_config.json": config_bytes(**config),
        "adapter_model.safetensors": weights_bytes(seed, r=config.get("r", RANK)),
        "README.md": card.encode(),
    }
    return {path: io.BytesIO(data) for path, data in files.items()}


def make_base(folder: Path) -> Path:
    """A base model's folder with the shapes that the modules here are made for."""
    folder.mkdir()
    config = {"model_type": "t5", "is_encoder_decoder": True, "n_positions": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("A tiny base model.\n")
    weights = {f"{layer}.weight": np.zeros((WIDTH, WIDTH), np.float32) for layer in LAYERS}
    save_file(
        weights | {"shared.weight": np.ones((3, WIDTH), np.float32)}, folder / "m.safetensors"
    )
    (folder / "m.safetensors").rename(folder / "model.safetensors")
    return folder


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base")


@pytest.fixture(scope="session")
def kept_base_model(
    tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: Any
) -> Keepsake:
    folder = make_base(tmp_path_factory.mktemp("base") / "base")

    def commit() -> None:
        owner = base_models.organisation("lora-commons")
        repo = base_models.repo_of(owner, "tiny-t5", Repo.BASE)
        base_models.keep_base_model(repo=repo, folder=folder, summary="Tiny.")

    with django_db_blocker.unblock():
        return keep(tmp_path_factory.mktemp("store"), commit)


@pytest.fixture
def base_model(db: None, kept_base_model: Keepsake) -> BaseModel:
    kept_base_model.put_back()
    return BaseModel.objects.get(repo__name="tiny-t5")


Publisher = Callable[..., LoraModule]


@pytest.fixture
def publish(db: None) -> Publisher:
    """Publish a module that is checked at once."""

    def publish(
        owner: User, name: str, *, seed: int = 0, private: bool = False, **files: Any
    ) -> LoraModule:
        repo = services.create_repo(
            owner=owner.namespace,
            name=name,
            kind=Repo.LORA,
            visibility=Repo.PRIVATE if private else Repo.PUBLIC,
        )
        return services.publish_module(
            repo=repo,
            author=owner,
            title="First version",
            additions=adapter(seed, **files),
            check_now=True,
        )

    return publish


@pytest.fixture
def opposites(alice: User, base_model: BaseModel, publish: Publisher) -> LoraModule:
    return publish(alice, "opposites")


@pytest.fixture
def secret(alice: User, base_model: BaseModel, publish: Publisher) -> LoraModule:
    return publish(alice, "secret", seed=7, private=True)


@pytest.fixture
def run_job() -> Any:
    """Claim the module's job and run it as the worker does, in this process."""
    from hub_site.jobs import queue, worker
    from hub_site.jobs.models import Job

    def run(module: LoraModule) -> Any:
        assert module.check_job is not None
        Job.objects.exclude(pk=module.check_job.pk).delete()
        Job.objects.filter(pk=module.check_job.pk).update(state="queued", owner="")
        job = queue.claim_next("test")
        assert job is not None
        worker.run(job)
        job.refresh_from_db()
        return job

    return run


# --- what goes by HTTP, with the stock client in this very process ------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the client keeps what it fetched. A token in the environment must not matter."""
    from huggingface_hub import constants

    folder = tmp_path / "hf"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    return folder


@pytest.fixture
def gate(live_server: Any) -> Iterator[Gate]:
    """A door to this site, which can be shut."""
    with gate_to(live_server.url) as gate:
        yield gate
