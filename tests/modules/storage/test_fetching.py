"""Where a worker's files come from and go to, beside the site and far from it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from hub_site.jobs import queue
from hub_site.jobs.queue import JobCancelled, LeaseLost
from hub_site.jobs.worker import Hindered, Lease, OutOfReach
from modules.bases import base_models
from modules.models import BaseModel, Blob, LoraModule, Repo
from modules.repos import ownership
from modules.storage import fetching, local
from tests.gate import Gate
from tests.modules.storage.conftest import claimed

pytestmark = pytest.mark.django_db(transaction=True)
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def far(settings: Any, gate: Gate, cache: Path, tmp_path: Path) -> Gate:
    """This process stands for both: the site, and a worker that knows it by its address alone."""
    settings.FETCH_FROM = gate.url
    return gate


@pytest.fixture
def leaving() -> Lease:
    queue.submit("test_leave", params={})
    job = queue.claim_next("far")
    assert job is not None
    return Lease(job)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    path = tmp_path / WEIGHTS
    save_file({"a": np.arange(50_000, dtype=np.float32)}, path)
    return path


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_beside_the_site_they_come_from_its_store(private: LoraModule, lease: Lease) -> None:
    assert fetching.folder_of(private.commit, lease) == local.materialise(private.commit)


def test_far_from_it_they_come_by_its_address(
    far: Gate, cache: Path, private: LoraModule, lease: Lease
) -> None:
    folder = fetching.folder_of(private.commit, lease)
    assert folder.is_relative_to(cache)
    assert sha256_of(folder / WEIGHTS) == private.weights_sha256


def test_a_module_may_be_renamed_meanwhile(far: Gate, private: LoraModule, lease: Lease) -> None:
    commit = private.commit  # as the job read it
    assert str(commit.repo) == "alice/secret"
    ownership.rename(Repo.objects.get(pk=private.repo_id), "renamed")
    assert "alice--renamed" in str(fetching.folder_of(commit, lease))


def test_a_module_that_is_gone_is_told_as_that(
    far: Gate, private: LoraModule, lease: Lease
) -> None:
    commit, files = private.commit, dict(private.commit.files.values_list("path", "blob_id"))
    LoraModule.objects.all().delete()
    with pytest.raises(fetching.FilesGone, match="no longer given out"):
        fetching._from_site("alice/secret", commit.sha, files, lease)
    Repo.objects.filter(pk=commit.repo_id).delete()
    with pytest.raises(fetching.FilesGone, match="was deleted"):
        fetching.folder_of(commit, lease)


@pytest.mark.parametrize("how", ["cancelled", "released"])
def test_a_claim_that_is_over_is_told_as_what_it_is(
    far: Gate, private: LoraModule, lease: Lease, leaving: Lease, adapter: Path, how: str
) -> None:
    for each in (lease, leaving):
        if how == "cancelled":
            queue.request_cancel(each.job)
        else:
            queue.release(each.job, "stepping back")
    expected = JobCancelled if how == "cancelled" else LeaseLost
    with pytest.raises(expected):
        fetching.folder_of(private.commit, lease)
    with pytest.raises(expected):
        fetching.keep(adapter, leaving)
    assert not local.local_path(sha256_of(adapter)).exists()


def test_a_site_that_takes_no_token_of_ours_is_an_operators_mistake(
    far: Gate, private: LoraModule, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub_site.jobs.job_tokens.issue", lambda job: "lcj_by_another_key")
    with pytest.raises(OutOfReach, match="SECRET_KEY must be"):
        fetching.folder_of(private.commit, lease)


def test_what_a_job_made_goes_into_the_store(
    far: Gate, leaving: Lease, adapter: Path, settings: Any
) -> None:
    kept = fetching.keep(adapter, leaving)
    assert (kept.sha256, kept.size) == (sha256_of(adapter), adapter.stat().st_size)
    assert local.local_path(kept.sha256).read_bytes() == adapter.read_bytes()
    assert not Blob.objects.filter(pk=kept.sha256).exists()
    settings.FETCH_FROM = ""
    assert fetching.keep(adapter, leaving) == kept


def test_sending_goes_on_after_the_line_broke(far: Gate, leaving: Lease, adapter: Path) -> None:
    far.cut_uploads = 2
    kept = fetching.keep(adapter, leaving)
    assert far.cut_uploads == 0
    assert local.local_path(kept.sha256).read_bytes() == adapter.read_bytes()


def test_a_refusal_is_told_in_the_sites_words(
    far: Gate, leaving: Lease, adapter: Path, settings: Any
) -> None:
    settings.MAX_FILE_BYTES = 1_000
    with pytest.raises(fetching.NotTaken, match="1,000 are the most"):
        fetching.keep(adapter, leaving)


def test_a_kind_that_leaves_no_files_is_refused(far: Gate, lease: Lease, adapter: Path) -> None:
    with pytest.raises(fetching.NotTaken, match="leaves no files"):
        fetching.keep(adapter, lease)


def test_a_site_that_is_away_is_no_fault_of_the_job(
    far: Gate, leaving: Lease, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "SEND_PAUSES", (0.1,))
    far.shut()
    with pytest.raises(OutOfReach, match=f"Nothing comes from {far.url}"):
        fetching.keep(adapter, leaving)


def test_a_file_that_the_site_has_lost_ends_after_some_tries(
    far: Gate, private: LoraModule, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The site answers with an error of its own: that may be this job's files alone."""
    monkeypatch.setattr(fetching, "FETCH_PAUSES", ())
    local.local_path(private.weights_sha256).unlink()
    with pytest.raises(Hindered, match="trouble of its own"):
        fetching.folder_of(private.commit, lease)


# --- base models -------------------------------------------------------------------------------


def test_a_base_model_of_the_site_comes_the_same_way(
    far: Gate, cache: Path, opposites: LoraModule, base_model: BaseModel, settings: Any
) -> None:
    from hub_site.jobs import registry

    lease = claimed(opposites)
    with pytest.raises(fetching.FilesGone):  # a check reads no base model
        fetching.base_folder(base_model, lease)
    settings.FETCH_FROM = ""
    assert fetching.base_folder(base_model, lease) == local.base_folder(base_model)
    assert registry.reads(lease.job).count() == 1


def test_an_operators_folder_must_be_on_the_workers_machine(
    db: None, far: Gate, base_folder: Path, leaving: Lease
) -> None:
    base = base_models.point_to_base_model(name="lab/model", folder=base_folder)
    assert fetching.base_folder(base, leaving) == base_folder
    base_folder.rename(base_folder.with_name("moved"))
    with pytest.raises(fetching.FolderMissing, match="--keep"):
        fetching.base_folder(base, leaving)
