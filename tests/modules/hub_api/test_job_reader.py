"""What a worker on another machine may read with its job's token: the files of its job, and
nothing else."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.test import Client

from hub_site.accounts.models import User
from hub_site.jobs import job_tokens, queue
from hub_site.jobs.models import Job
from modules import services
from modules.checks import checking
from modules.models import Commit, LoraModule, Repo
from modules.storage import local
from tests.modules.conftest import Publisher

pytestmark = pytest.mark.django_db
WEIGHTS = "adapter_model.safetensors"


class Worker:
    """Asks the site with the token of a job that it claimed."""

    def __init__(self, job: Job) -> None:
        self.job, self.client = job, Client()

    def ask(self, path: str, method: str = "GET", **headers: str) -> Any:
        headers["Authorization"] = f"Bearer {job_tokens.issue(self.job)}"
        return self.client.generic(method, path, headers=headers)


@pytest.fixture
def worker(secret: LoraModule) -> Worker:
    """It has claimed the check of alice's private module."""
    checking.check_later(secret)
    job = queue.claim_next("far")
    assert job is not None and job == secret.check_job
    return Worker(job)


def changed(module: LoraModule) -> Commit:
    """A newer version, which the check of the older one does not concern."""
    return services.commit(
        repo=module.repo,
        author=module.repo.owner.user,
        title="Other words",
        additions={"README.md": io.BytesIO(b"Other words.\n")},
    )


def test_it_reads_a_private_modules_files(worker: Worker, secret: LoraModule) -> None:
    sha = secret.commit.sha
    answer = worker.ask(f"/alice/secret/resolve/{sha}/{WEIGHTS}")
    stored = local.local_path(secret.weights_sha256).read_bytes()
    assert answer.status_code == 200 and b"".join(answer.streaming_content) == stored
    part = worker.ask(f"/alice/secret/resolve/{sha}/{WEIGHTS}", Range="bytes=8-15")
    assert part.status_code == 206 and b"".join(part.streaming_content) == stored[8:16]
    head = worker.ask(f"/alice/secret/resolve/{sha}/{WEIGHTS}", "HEAD")
    assert head.headers["X-Repo-Commit"] == sha
    tree = worker.ask(f"/api/models/alice/secret/tree/{sha}?recursive=true").json()
    assert {each["path"] for each in tree} == {"README.md", "adapter_config.json", WEIGHTS}
    info = worker.ask(f"/api/models/alice/secret/revision/{sha}").json()
    assert (info["sha"], info["private"]) == (sha, True)
    assert worker.ask("/api/models/alice/secret").json()["sha"] == sha


def test_it_reads_the_pinned_version_and_no_newer_one(worker: Worker, secret: LoraModule) -> None:
    old, new = secret.commit.sha, changed(secret).sha
    for address in (
        f"/alice/secret/resolve/{new}/README.md",
        "/alice/secret/resolve/main/README.md",
        f"/api/models/alice/secret/tree/{new}",
        "/api/models/alice/secret/tree/main",
        f"/api/models/alice/secret/revision/{new}",
        "/api/models/alice/secret",
    ):
        answer = worker.ask(address)
        assert answer.status_code == 404, address
        assert answer.headers["X-Error-Code"] == "RevisionNotFound"
    assert worker.ask(f"/alice/secret/resolve/{old}/README.md").status_code == 200


def test_it_sees_nothing_of_other_repos(
    worker: Worker, alice: User, publish: Publisher, opposites: LoraModule
) -> None:
    other = publish(alice, "other", seed=9, private=True)
    for module in (other, opposites):
        for address in (
            f"/{module.repo}/resolve/{module.commit.sha}/README.md",
            f"/api/models/{module.repo}/tree/{module.commit.sha}",
            f"/api/models/{module.repo}",
        ):
            answer = worker.ask(address)
            assert answer.status_code == 404, address
            assert answer.headers["X-Error-Code"] == "RepoNotFound"


@pytest.mark.parametrize(
    ("method", "address"),
    [
        ("GET", "/api/whoami-v2"),
        ("GET", "/api/models"),
        ("GET", "/api/models/alice/secret/refs"),
        ("GET", "/api/models/alice/secret/commits/main"),
        ("GET", "/api/models/alice/secret/auth-check"),
        ("POST", "/api/models/alice/secret/paths-info/main"),
        ("POST", "/api/models/alice/secret/preupload/main"),
        ("POST", "/api/models/alice/secret/commit/main"),
        ("POST", "/api/models/alice/secret/branch/new"),
        ("PUT", "/api/models/alice/secret/settings"),
        ("POST", "/alice/secret.git/info/lfs/objects/batch"),
        ("GET", "/api/models/alice/secret/xet-write-token/main"),
        ("POST", "/api/repos/create"),
        ("DELETE", "/api/repos/delete"),
        ("POST", "/api/repos/move"),
        ("POST", "/api/validate-yaml"),
        ("GET", "/alice/secret/download.zip"),
    ],
)
def test_it_has_no_other_right_on_the_hubs_routes(
    worker: Worker, method: str, address: str
) -> None:
    answer = worker.ask(address, method)
    assert answer.status_code == 403
    assert "fetches the files of its job" in answer.json()["error"]


@pytest.mark.parametrize(
    "address",
    ["modules/", "modules/alice/secret/", "jobs/", "jobs/{job}/", "tasks/", "recipes/", "tags/"],
)
def test_it_has_no_right_under_the_sites_own_api(worker: Worker, address: str) -> None:
    answer = worker.ask("/api/v1/" + address.format(job=worker.job.pk))
    assert answer.status_code == 401
    assert answer.json()["code"] == "authentication_failed"


def test_no_page_knows_it(worker: Worker) -> None:
    assert worker.ask("/alice/secret").status_code == 404
    assert worker.ask("/accounts/tokens/").status_code == 302


def test_what_it_fetches_is_nobodys_download(worker: Worker, secret: LoraModule) -> None:
    answer = worker.ask(f"/alice/secret/resolve/{secret.commit.sha}/{WEIGHTS}")
    assert b"".join(answer.streaming_content)
    secret.repo.refresh_from_db()
    assert secret.repo.downloads == 0


@pytest.mark.parametrize("how", ["expired", "released", "cancelled", "done", "forged"])
def test_a_worker_whose_claim_is_over_fetches_nothing(
    worker: Worker, secret: LoraModule, how: str
) -> None:
    address = f"/alice/secret/resolve/{secret.commit.sha}/README.md"
    assert worker.ask(address).status_code == 200
    if how == "expired":
        Job.objects.update(lease_until=Now() - timedelta(seconds=1))
    elif how == "released":
        queue.release(worker.job, "stepping back")
        assert queue.claim_next("another") is not None
    elif how == "cancelled":
        queue.request_cancel(worker.job)
    elif how == "done":
        with queue.finish(worker.job, {}):
            pass
    else:
        worker.job.fence += 1
    for each in (address, "/api/models/alice/secret", "/api/v1/modules/"):
        answer = worker.ask(each)
        assert answer.status_code == 401, each
        assert b"secret" not in answer.content


def test_a_job_of_another_kind_reads_nothing(secret: LoraModule) -> None:
    queue.submit("test_idle", params={})
    job = queue.claim_next("far")
    assert job is not None
    assert Worker(job).ask("/api/models/alice/secret").status_code == 404


def test_a_job_asks_with_few_queries(
    worker: Worker, secret: LoraModule, django_assert_max_num_queries: Any
) -> None:
    with django_assert_max_num_queries(8):
        worker.ask(f"/alice/secret/resolve/{secret.commit.sha}/README.md", "HEAD")


def test_it_reads_what_a_moderator_hid_only_to_check_it(worker: Worker, secret: LoraModule) -> None:
    """A check goes on whoever may see the module; a composition does not: see the composer."""
    Repo.objects.filter(pk=secret.repo_id).update(hidden_at=Now())
    answer = worker.ask(f"/alice/secret/resolve/{secret.commit.sha}/README.md")
    assert answer.status_code == 200
