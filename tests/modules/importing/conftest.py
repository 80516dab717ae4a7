"""A site whose Hub is another one of ours: workers and commands that import from it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from hub_site.accounts.models import User
from modules.importing import addresses, asking
from modules.models import Import, LoraModule
from modules.storage import local
from tests.modules.conftest import CARD, config_bytes, weights_bytes
from tests.other_site import OtherSite
from tests.workers import ROOT, WorkerProcess, wait_until

STORE = ("BLOB_DIR", "CACHE_DIR")
PUT = """
from django.db import transaction
from modules import services
from modules.models import Ref, Repo
from modules.storage import local
from modules.upload import intake

repo = Repo.objects.select_related("owner").get(name={name!r})
with open({path!r}, "rb") as file:
    stored = local.put(file)
with transaction.atomic():
    blob = intake.own(None, {{"x": stored}})["x"]
    head = repo.head()
    files = dict(head.files.values_list("path", "blob_id")) | {{{there!r}: blob.sha256}}
    made = services._write(repo, head, None, "Put there", "", files)
    Ref.objects.filter(repo=repo, name="main").update(commit=made)
"""


def adapter_folder(root: Path, seed: int = 0, card: str = CARD, **config: Any) -> Path:
    folder = root / f"adapter-{seed}-{len(list(root.glob('adapter-*')))}"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes(config_bytes(**config))
    (folder / "adapter_model.safetensors").write_bytes(weights_bytes(seed))
    (folder / "README.md").write_text(card)
    return folder


def put_there(other_site: OtherSite, name: str, there: str, file: Path) -> None:
    """A file that the other site takes from no client, as one of its repo's newest version."""
    other_site.run(PUT.format(name=name, path=str(file), there=there))


@pytest.fixture
def our_hub(other_site: OtherSite, settings: Any) -> OtherSite:
    """The Hub that this process names in addresses and messages; it asks nothing of it."""
    settings.HUB_ENDPOINT = other_site.url
    return other_site


@pytest.fixture
def hub_settings(our_hub: OtherSite, settings: Any) -> dict[str, str]:
    """For processes that do ask."""
    Path(settings.FILE_UPLOAD_TEMP_DIR).mkdir(exist_ok=True)
    return {
        **{name: str(getattr(settings, name)) for name in STORE},
        "HUB_ENDPOINT": our_hub.url,
        "HF_HUB_OFFLINE": "0",
        "HUB_RETRY_MS": "200",
    }


@pytest.fixture
def importing_worker(
    start_worker: Callable[..., WorkerProcess], hub_settings: dict[str, str]
) -> Callable[..., WorkerProcess]:
    """Its leases are long: what ends one here is a death, not a machine that is slow."""
    return lambda **more: start_worker(**({"JOB_LEASE_MS": "60000"} | hub_settings | more))


def ask(user: User, *lines: str) -> list[Import]:
    batch = asking.ask(
        user=user, owner=user.namespace, addresses=[addresses.parse(line) for line in lines]
    )
    return list(Import.objects.filter(batch=batch))


def wait_for_imports(rows: Iterable[Import]) -> None:
    def over() -> bool:
        for row in rows:
            row.refresh_from_db()
        return all(row.is_over for row in rows)

    wait_until(over, "the imports to end")


def by_name(rows: Iterable[Import]) -> dict[str, Import]:
    return {row.hub_id.partition("/")[2]: row for row in rows}


def text_of(module: LoraModule, path: str) -> str:
    head = module.repo.head()
    assert head is not None
    return local.local_path(str(head.sha256_of(path))).read_text()


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def import_modules(transactional_db: None, hub_settings: dict[str, str]) -> Command:
    """`manage.py import_modules …` in a process of its own."""

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", "import_modules", *words],
            cwd=ROOT,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.worker_settings"}
            | hub_settings
            | more,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture
def page(alice: User) -> Client:
    client = Client()
    client.force_login(alice)
    return client
