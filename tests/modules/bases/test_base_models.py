import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from composer.demo import library
from composer.engine.errors import BadBaseModel
from composer.models import Example, FewShotTask
from modules.bases import base_models
from modules.models import BaseModel, Commit, LoraModule, Repo
from modules.storage import local
from tests.modules.conftest import CARD, config_bytes, weights_bytes


def test_it_reads_what_the_folder_says(base_model: BaseModel) -> None:
    assert base_model.is_encoder_decoder
    assert base_model.max_tokens == 64
    assert base_model.parameters == 2 * 8 * 8 + 3 * 8
    assert base_model.layers["encoder.block.0.layer.0.SelfAttention.q"] == [8, 8]
    assert BaseModel.objects.usable().get() == base_model


def test_its_folder_comes_back_from_the_store(base_model: BaseModel, base_folder: Path) -> None:
    folder = local.base_folder(base_model)
    assert folder != base_folder
    for path in base_folder.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    path = local.tokenizer_path(base_model)
    assert path is not None and path.read_text() == "{}"


def test_a_folder_that_the_site_does_not_copy(db: None, base_folder: Path) -> None:
    call_command("add_base_model", "lab/model", folder=base_folder, alias=["lab/Model-4bit"])
    base = BaseModel.objects.get()
    assert base.repo is None and not Commit.objects.exists()
    assert local.base_folder(base) == base_folder
    assert local.tokenizer_path(base) == base_folder / "tokenizer.json"
    assert BaseModel.objects.find_by_name("LAB/model-4BIT") == base
    assert BaseModel.objects.find_by_name("lab/other") is None
    assert BaseModel.objects.find_by_name(None) is None
    first = base.revision
    (base_folder / "README.md").write_text("changed")
    call_command("add_base_model", "lab/model", folder=base_folder)
    base.refresh_from_db()
    assert base.revision != first


def test_a_folder_that_the_site_keeps(db: None, base_folder: Path) -> None:
    call_command("add_base_model", "lab/model", folder=base_folder, keep=True)
    base = BaseModel.objects.get()
    assert str(base.repo) == "lab/model"
    assert base.revision == base.pinned_commit().sha
    with pytest.raises(CommandError, match="not owner/name"):
        call_command("add_base_model", "no-owner", folder=base_folder, keep=True)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("config.json", "no config.json"),
        ("tokenizer.json", "fast format"),
        ("model.safetensors", "pickles are not loaded"),
    ],
)
def test_it_says_what_a_folder_lacks(db: None, base_folder: Path, gone: str, said: str) -> None:
    (base_folder / gone).unlink()
    with pytest.raises(CommandError, match=said):
        call_command("add_base_model", "lab/model", folder=base_folder)
    assert not BaseModel.objects.exists()


def test_it_says_that_a_config_is_broken(base_folder: Path) -> None:
    (base_folder / "config.json").write_text("{")
    with pytest.raises(BadBaseModel, match="not valid JSON"):
        base_models.read_base_model(base_folder)


@pytest.fixture
def small_library(tmp_path: Path, base_folder: Path) -> Path:
    """A demo library of the real one's form: a base, three modules, two tasks."""
    folder = tmp_path / "library"
    base = library.T5.folder(folder)
    shutil.copytree(base_folder, base)
    tokenizer = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": {
        "type": "Whitespace"}, "post_processor": None, "decoder": None, "truncation": None,
        "padding": None, "model": {"type": "WordLevel", "vocab": {"<unk>": 0},
        "unk_token": "<unk>"}}  # fmt: skip
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    revision = library.content_revision(base)
    for seed, name in enumerate(["wordsmith-antonym", "wordsmith-plural", "wordsmith-past"]):
        path = library.T5.modules(folder) / name
        path.mkdir(parents=True)
        config = config_bytes(base_model_name_or_path=library.T5.repo, revision=revision)
        (path / "adapter_config.json").write_bytes(config)
        (path / "adapter_model.safetensors").write_bytes(weights_bytes(seed))
        (path / "README.md").write_text(CARD)
    rows = [
        {
            "key": key, "name": key.title(), "description": "", "template": "{input}",
            "answer_options": [], "role": role, "kind": "single", "modules": [],
            "pool": [[f"word {n}", f"answer {n}"] for n in range(8)],
            "test": [[f"other {n}", f"reply {n}"] for n in range(6)],
        }
        for key, role in (("opposites", "tuning"), ("plurals", "report"))
    ]  # fmt: skip
    (folder / "tasks.json").write_text(json.dumps(rows))
    return folder


def rows() -> Any:
    return [
        model.objects.count()
        for model in (BaseModel, Repo, Commit, LoraModule, FewShotTask, Example)
    ]


def test_the_demo_library_enters_as_uploads_do(db: None, small_library: Path) -> None:
    call_command("load_demo", folder=small_library, verbosity=0)
    assert rows() == [1, 4, 4, 3, 2, 2 * 11]
    base = BaseModel.objects.get()
    assert base.name == library.T5.repo
    assert base.revision == library.content_revision(library.T5.folder(small_library))
    assert base.pinned_commit() == base.repo.head()
    ready = LoraModule.objects.composable_on(base)
    assert ready.count() == 3
    assert str(ready.first()).startswith("lora-commons/")
    assert local.base_folder(base).joinpath("config.json").is_file()


def test_loading_the_demo_again_changes_nothing(db: None, small_library: Path) -> None:
    call_command("load_demo", folder=small_library, verbosity=0)
    before = rows()
    heads = set(Commit.objects.values_list("sha", flat=True))
    call_command("load_demo", folder=small_library, verbosity=0)
    assert rows() == before
    assert set(Commit.objects.values_list("sha", flat=True)) == heads


def test_a_new_edition_of_the_demo_becomes_a_new_version(db: None, small_library: Path) -> None:
    call_command("load_demo", folder=small_library, verbosity=0)
    module = library.T5.modules(small_library) / "wordsmith-plural"
    (module / "adapter_model.safetensors").write_bytes(weights_bytes(9))
    (module / "NOTES.md").write_text("new")
    (module / "README.md").unlink()
    call_command("load_demo", folder=small_library, verbosity=0)
    head = Repo.objects.get(name="wordsmith-plural").head()
    assert head is not None and head.parent is not None
    paths = list(head.files.values_list("path", flat=True))
    assert paths == ["NOTES.md", "adapter_config.json", "adapter_model.safetensors"]
    assert LoraModule.objects.ready().count() == 3


def test_it_loads_every_base_of_the_demo_with_modules_and_tasks_of_its_own(
    db: None, small_library: Path
) -> None:
    t5, llama = library.T5, library.LLAMA
    shutil.copytree(t5.folder(small_library), llama.folder(small_library))
    for folder in t5.module_folders(small_library):
        relation = folder.name.removeprefix("wordsmith-")
        copy = llama.modules(small_library) / llama.repo_name(relation)
        shutil.copytree(folder, copy)
        config = json.loads((copy / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = llama.repo
        (copy / "adapter_config.json").write_text(json.dumps(config))
    for _ in range(2):
        call_command("load_demo", folder=small_library, verbosity=0)
        assert rows()[:5] == [2, 8, 8, 6, 2 + 1]
    for of in (t5, llama):
        base = BaseModel.objects.get(name=of.repo)
        names = [module.repo.name for module in LoraModule.objects.composable_on(base)]
        assert set(names) == {of.repo_name(each) for each in ("antonym", "plural", "past")}
    tasks = dict(FewShotTask.objects.values_list("demo_key", "base_model__name"))
    assert tasks == {"opposites": t5.repo, "plurals": t5.repo, "llama-opposites": llama.repo}


def test_it_says_that_there_is_no_demo_library(db: None, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"composer\.demo\.train"):
        call_command("load_demo", folder=tmp_path)
