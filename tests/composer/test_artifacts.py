"""Composed adapters as files: what is in them, and what is not."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import close_session

from composer import artifacts, model_cache, publishing, services
from composer.engine.adapter_file import WEIGHTS_NAME
from composer.models import FewShotTask, Ingredient, Recipe, Search
from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.worker import run
from modules.models import BaseModel, LoraModule, Repo
from modules.services import commit
from modules.storage import local

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def search(task: FewShotTask, alice: User) -> Search:
    """With nothing held out, which is much quicker."""
    task.examples.filter(split="held_out").delete()
    return searched(task, alice)


@pytest.fixture
def measured(task: FewShotTask, alice: User) -> Search:
    return searched(task, alice)


def searched(task: FewShotTask, user: User) -> Search:
    model_cache.forget()
    torch.set_num_threads(1)
    services.submit_job(task=task, user=user, overrides={"budget": 10})
    job = queue.claim_next("test")
    assert job is not None
    run(job)
    found = Search.objects.select_related("recipe__adapter", "base_model__repo").get(pk=job.pk)
    assert found.recipe is not None, found.job.error_message
    return found


def files_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_zip_holds_a_peft_folder_with_card_and_recipe(search: Search) -> None:
    assert search.recipe is not None and search.recipe.adapter is not None
    chunks = list(artifacts.zip_adapter(search.recipe, search))
    files = files_of(b"".join(chunks))
    stored = local.local_path(search.recipe.adapter.sha256).read_bytes()
    assert files[WEIGHTS_NAME] == stored
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "tiny-lab/tiny-t5"
    assert config["revision"] == search.base_model.revision
    assert config["r"] == search.evidence["adapter"]["r"] == config["lora_alpha"]
    card = files["README.md"].decode()
    assert card.startswith('---\nbase_model: "tiny-lab/tiny-t5"\nlibrary_name: "peft"\n')
    assert "| tiny-lab/module-0 |" in card and search.recipe.digest in card
    assert json.loads(files["recipe.json"])["id"] == search.recipe.digest


def test_a_large_zip_comes_in_pieces(search: Search) -> None:
    pieces = list(artifacts._zip({"a.txt": "a"}, "b.bin", (b"x" * 1000 for _ in range(50)), 50_000))
    assert len(pieces) > 50
    assert files_of(b"".join(pieces)) == {"a.txt": b"a", "b.bin": b"x" * 50_000}


@pytest.fixture
def hub(live_server: Any) -> Iterator[str]:
    """This site as the Hub of a client in this process."""
    yield live_server.url
    close_session()  # or its connections would hold the server's, and these the database


def test_the_snippet_runs_as_it_stands(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: str
) -> None:
    """Only the word "your input here" is strange to the tiny model; it answers all the same."""
    assert search.recipe is not None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapter").mkdir()
    for name, data in files_of(b"".join(artifacts.zip_adapter(search.recipe))).items():
        (tmp_path / "adapter" / name).write_bytes(data)
    code = artifacts.snippet(search.recipe, hub)
    said: list[str] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    exec(compile(code, "snippet", "exec"), {"print": said.append})  # noqa: S102
    assert len(said) == 1 and isinstance(said[0], str)
    assert list(tmp_path.glob("hub/*/snapshots/*/config.json"))


def test_the_snippet_keeps_to_the_base_model_of_the_recipe(
    search: Search, base_model: BaseModel
) -> None:
    assert search.recipe is not None and base_model.repo is not None
    pinned = base_model.revision
    later = commit(
        repo=base_model.repo, author=None, title="x", additions={"new.json": io.BytesIO(b"{}")}
    )
    BaseModel.objects.update(revision=later.sha)
    code = artifacts.snippet(Recipe.objects.get(pk=search.recipe_id))
    assert f'"{pinned}")' in code and later.sha not in code


def test_private_texts_stay_out_of_what_is_public(measured: Search, alice: User) -> None:
    assert measured.recipe is not None
    recipe = publishing.publish(search=measured, user=alice, title="T")
    hidden = json.dumps(artifacts.recipe_json(recipe))
    assert all(word not in hidden for word in ('"small"', '"down"', '"predictions"', '"answers"'))
    Recipe.objects.update(published_at=None)  # a published one never changes
    Recipe.objects.update(shows_examples=True)
    shown = artifacts.recipe_json(Recipe.objects.get())
    assert shown["evidence"]["examples"]["shots"][0] == ["big", "small"]
    assert len(shown["evidence"]["predictions"]) == 3


def test_losses_by_example_are_as_private_as_the_examples(measured: Search, alice: User) -> None:
    """Whoever has a guess at a text could confirm it by the base model's loss."""
    measured.evidence["left_out"] = {"bob/secret": "It is private."}
    measured.save()
    recipe = publishing.publish(search=measured, user=alice, title="T")
    evidence = artifacts.recipe_json(recipe)["evidence"]
    assert evidence["methods"] and not any("losses" in row for row in evidence["methods"])
    assert "left_out" not in evidence and "bob/secret" not in json.dumps(evidence)
    Recipe.objects.update(published_at=None)
    Recipe.objects.update(shows_examples=True)
    shown = artifacts.recipe_json(Recipe.objects.get())["evidence"]
    assert all(len(row["losses"]) == 3 for row in shown["methods"])


def test_a_single_module_of_a_fold_that_is_private_is_not_named(
    measured: Search, alice: User, lora_modules: list[LoraModule]
) -> None:
    """The recipe need not hold it, so nobody was asked to open it."""
    public, closed = map(str, lora_modules[:2])
    rows = measured.evidence["methods"]
    single = next(row for row in rows if row["key"] == "best_single")
    single["detail"] = f"{public}; {closed}; gone/away"
    measured.save()
    Ingredient.objects.filter(recipe=measured.recipe, name=closed).delete()
    Repo.objects.filter(pk=lora_modules[1].repo_id).update(visibility="private")
    recipe = publishing.publish(search=measured, user=alice, title="T")
    evidence = artifacts.recipe_json(recipe)["evidence"]
    assert [r["detail"] for r in evidence["methods"] if r["key"] == "best_single"] == [public]
