"""People, a tiny library and a task."""

from pathlib import Path
from typing import Any

import pytest

from composer import task_writing
from composer.engine.examples import Example
from composer.models import FewShotTask
from hub_site.accounts.models import Namespace, User
from modules.models import BaseModel, LoraModule
from tests import tiny
from tests.keepsake import Keepsake, keep

SHOTS = [Example("big", "small"), Example("hot", "cold"), Example("the old", "new")]
HELD_OUT = [Example("up", "down"), Example("a good", "bad"), Example("left", "right")]


def make_user(name: str, **fields: Any) -> User:
    user = User.objects.create_user(name, password="correct horse", **fields)
    Namespace.objects.get_or_create(user=user, defaults={"name": name, "kind": Namespace.USER})
    return user


@pytest.fixture
def alice(db: None) -> User:
    return make_user("alice")


@pytest.fixture
def bob(db: None) -> User:
    return make_user("bob")


@pytest.fixture
def guest(db: None) -> User:
    return make_user("guest-1", is_guest=True)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_library(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def kept_library(
    tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_setup: None,
    django_db_blocker: Any,
) -> Keepsake:
    """The library as an operator's command commits it: done once, because it takes a while."""
    with django_db_blocker.unblock():
        return keep(tmp_path_factory.mktemp("store"), lambda: tiny.load_library(tiny_folder))


@pytest.fixture
def library(
    db: None, settings: Any, tmp_path: Path, kept_library: Keepsake
) -> tuple[BaseModel, list[LoraModule]]:
    settings.BLOB_DIR, settings.CACHE_DIR = tmp_path / "blobs", tmp_path / "cache"
    kept_library.put_back()
    return tiny.loaded_library()


@pytest.fixture
def base_model(library: tuple[BaseModel, list[LoraModule]]) -> BaseModel:
    return library[0]


@pytest.fixture
def lora_modules(library: tuple[BaseModel, list[LoraModule]]) -> list[LoraModule]:
    return library[1]


@pytest.fixture
def task(alice: User, base_model: BaseModel) -> FewShotTask:
    return task_writing.create_task(
        user=alice,
        name="Opposites",
        base_model=base_model,
        template="opposite of {input} :",
        shots=SHOTS,
        held_out=HELD_OUT,
    )


@pytest.fixture
def demo_task(base_model: BaseModel) -> FewShotTask:
    document = {
        "key": "opposites",
        "name": "Opposites of words",
        "shots": [["big", "small"], ["hot", "cold"]],
        "held_out": [["old", "new"], ["up", "down"]],
    }
    task_writing.load_demo_tasks([document], base_model=base_model)
    return FewShotTask.objects.get(demo_key="opposites")
