"""What the worker of a composition may fetch with its token."""

import io
from typing import Any

import pytest
from django.db.models.functions import Now

from composer import pinned, services
from composer.models import FewShotTask, Recipe, Search
from composer.module_choice import ModuleChoice
from hub_site.accounts.models import User
from hub_site.jobs import job_tokens, queue, registry
from hub_site.jobs.models import Job
from modules.models import BaseModel, LoraModule, Repo
from modules.services import commit

pytestmark = pytest.mark.django_db


@pytest.fixture
def job(task: FewShotTask, alice: User, lora_modules: list[LoraModule]) -> Job:
    """It mixes two of the four modules."""
    choice = ModuleChoice("hand", modules=tuple(lora_modules[:2]))
    return services.submit_job(task=task, user=alice, modules=choice, overrides={"budget": 8})


def shas(job: Job) -> set[str]:
    return set(pinned.commits_of(job).values_list("sha", flat=True))


def test_its_modules_in_their_versions_and_its_base_model(
    job: Job, base_model: BaseModel, lora_modules: list[LoraModule]
) -> None:
    chosen = {module.commit.sha for module in lora_modules[:2]}
    assert shas(job) == {*chosen, base_model.pinned_commit().sha}
    commit(
        repo=lora_modules[0].repo,
        author=None,
        title="Newer",
        additions={"README.md": io.BytesIO(b"Newer.\n")},
    )
    Repo.objects.filter(pk=lora_modules[0].repo_id).update(visibility=Repo.PRIVATE)
    assert shas(job) == {*chosen, base_model.pinned_commit().sha}


def test_not_what_a_moderator_hid_since(job: Job, lora_modules: list[LoraModule]) -> None:
    Repo.objects.filter(pk=lora_modules[0].repo_id).update(hidden_at=Now())
    assert lora_modules[0].commit.sha not in shas(job)
    assert lora_modules[1].commit.sha in shas(job)


def test_a_trial_reads_what_its_search_read(job: Job, alice: User) -> None:
    search = Search.objects.get(pk=job.pk)
    search.recipe = Recipe.objects.create(
        digest="d" * 64, document={}, title="T", base_model=search.base_model
    )
    search.save()
    trial = services.submit_trial(search=search, user=alice, given="big")
    assert shas(trial) == shas(job)
    assert registry.leaves_files(job.kind) and not registry.leaves_files(trial.kind)


def test_its_token_opens_them_by_http_and_no_other(
    client: Any, job: Job, lora_modules: list[LoraModule]
) -> None:
    Repo.objects.update(visibility=Repo.PRIVATE)
    claimed = queue.claim_next("far")
    assert claimed == job
    headers = {"Authorization": f"Bearer {job_tokens.issue(claimed)}"}
    for place, module in enumerate(lora_modules):
        address = f"/{module.repo}/resolve/{module.commit.sha}/adapter_config.json"
        found = client.get(address, headers=headers)
        assert found.status_code == (200 if place < 2 else 404)
        assert client.get(address).status_code == 404


def test_an_operators_folder_is_read_beside_the_site(
    task: FewShotTask, alice: User, base_model: BaseModel
) -> None:
    overrides = {"budget": 8}
    assert "store" not in services.submit_job(task=task, user=alice, overrides=overrides).needs
    BaseModel.objects.update(source=BaseModel.FOLDER, folder="/srv/models/tiny", repo=None)
    task.refresh_from_db()
    job = services.submit_job(task=task, user=alice, overrides=overrides)
    assert job.needs["store"] and queue.needs_store(job)
