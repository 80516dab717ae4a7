"""Repos whose weights are a pickle, as they were published before safetensors."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from django.conf import settings
from safetensors.torch import load_file as load_torch

from hub_site.accounts.models import User
from modules.importing import asking
from modules.models import BaseModel, Blob, HubOrigin, Import, LoraModule, Repo
from modules.storage import local
from tests.modules.importing.conftest import (
    adapter_folder,
    ask,
    by_name,
    put_there,
    wait_for_imports,
)
from tests.other_site import OtherSite
from tests.workers import WorkerProcess

pytestmark = pytest.mark.django_db(transaction=True)
Worker = Callable[..., WorkerProcess]


def pickled(other_site: OtherSite, name: str, value: Any, tmp_path: Path) -> Path:
    """A repo with pickled weights, as they were published before safetensors."""
    folder = adapter_folder(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    other_site.upload(name, folder)
    file = tmp_path / f"{name}.bin"
    torch.save(value, file)
    put_there(other_site, name, "adapter_model.bin", file)
    return file


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def test_pickled_weights_are_converted_and_malicious_ones_refused(
    importing_worker: Worker,
    our_hub: OtherSite,
    alice: User,
    base_model: BaseModel,
    tmp_path: Path,
    client: Any,
) -> None:
    tensors = load_torch(adapter_folder(tmp_path, 7) / "adapter_model.safetensors")
    file = pickled(our_hub, "old", tensors, tmp_path)
    mark = tmp_path / "was-run"
    evil = pickled(our_hub, "evil", {**tensors, "x": Evil(f"touch {mark}")}, tmp_path)
    rows = by_name(ask(alice, "otto/old", "otto/evil"))
    importing_worker()
    wait_for_imports(rows.values())
    assert rows["old"].state == "done" and rows["evil"].state == "refused"
    assert "posix.system" in rows["evil"].reason and not mark.exists()
    assert not Repo.objects.filter(name="evil").exists()

    module = LoraModule.objects.get()
    here = load_torch(local.local_path(module.weights_sha256))
    assert here.keys() == tensors.keys()
    assert all(torch.equal(here[name], tensors[name]) for name in tensors)
    for pickle in (file, evil):
        digest = sha256(pickle.read_bytes()).hexdigest()
        assert not local.local_path(digest).exists()
        assert not Blob.objects.filter(pk=digest).exists()
    assert list(Path(settings.FILE_UPLOAD_TEMP_DIR).iterdir()) == []
    page = client.get(module.get_absolute_url()).content.decode()
    assert "Weights came as" in page and module.weights_sha256 in page
    origin = HubOrigin.objects.get(repo=module.repo)
    assert origin.converted == rows["old"].converted
    assert origin.converted["tensors"] == len(tensors)

    # The same pickle again is not converted again.
    asking.ask_for_newer(origin, alice)
    again = Import.objects.latest("pk")
    wait_for_imports([again])
    assert (again.state, again.outcome) == ("done", "same")
    assert len(our_hub.asked("otto/old/resolve")) == len({"config", "card", "weights"})
