"""Where a running job's worker leaves a file: only the job's own token, only whole and right."""

from __future__ import annotations

import hashlib
import io
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings as site
from django.db.models.functions import Now
from django.test import Client

from hub_site.accounts import tokens
from hub_site.accounts.models import User
from hub_site.jobs import job_tokens, queue
from hub_site.jobs.models import Job, JobEvent
from modules.api.job_files import KEPT
from modules.models import Blob
from modules.storage import local

pytestmark = pytest.mark.django_db
DATA = b"the bytes of an adapter"
SHA256 = hashlib.sha256(DATA).hexdigest()


def claim(kind: str = "test_leave") -> Job:
    queue.submit(kind, params={})
    job = queue.claim_next("far")
    assert job is not None
    return job


@pytest.fixture
def job() -> Job:
    return claim()


def put(
    job: Job, data: bytes = DATA, sha256: str = SHA256, token: str | None = None, **more: Any
) -> Any:
    sent = job_tokens.issue(job) if token is None else token
    return Client().put(
        f"/api/v1/jobs/{more.pop('pk', job.pk)}/files/{sha256}",
        data,
        content_type="application/octet-stream",
        headers={"Authorization": f"Bearer {sent}"} if sent else {},
        **more,
    )


def stored() -> list[str]:
    return sorted(path.name for path in site.BLOB_DIR.rglob("*") if path.is_file())


def test_the_bytes_lie_in_the_store_without_a_row(job: Job) -> None:
    answer = put(job)
    assert answer.status_code == 200
    git_sha1 = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()
    assert answer.json() == {"sha256": SHA256, "size": len(DATA), "git_sha1": git_sha1}
    assert local.local_path(SHA256).read_bytes() == DATA
    assert not Blob.objects.exists()
    event = JobEvent.objects.get(job=job, name=KEPT)
    assert (event.fence, event.detail) == (job.fence, {"sha256": SHA256, "size": len(DATA)})


def test_the_same_again_changes_nothing(job: Job) -> None:
    assert put(job).json() == put(job).json()
    assert stored() == [SHA256]


def test_an_empty_file_is_a_file(job: Job) -> None:
    assert put(job, b"", hashlib.sha256().hexdigest()).status_code == 200


def test_other_bytes_than_announced_are_refused(job: Job) -> None:
    answer = put(job, DATA + b"!")
    assert (answer.status_code, answer.json()["code"]) == (422, "wrong_bytes")
    assert stored() == [] and not JobEvent.objects.filter(name=KEPT).exists()


@pytest.mark.parametrize("name", ["x", "g" * 64, SHA256.upper(), "..%2f..%2fetc"])
def test_a_name_must_be_a_hash(job: Job, name: str) -> None:
    assert put(job, sha256=name).status_code in (404, 422)
    assert stored() == []


def test_it_may_be_as_large_as_any_file(job: Job, settings: Any) -> None:
    settings.MAX_FILE_BYTES = len(DATA) - 1
    answer = put(job)
    assert (answer.status_code, answer.json()["code"]) == (413, "file_too_large")
    settings.MAX_FILE_BYTES = len(DATA)
    assert put(job).status_code == 200


def test_one_that_does_not_say_its_size_has_none(job: Job) -> None:
    answer = put(job, CONTENT_LENGTH="")
    assert (answer.status_code, answer.json()["code"]) == (422, "wrong_bytes")
    assert stored() == []


@pytest.mark.parametrize("how", ["expired", "released", "cancelled", "done", "stale"])
def test_a_worker_whose_claim_is_over_writes_nothing(job: Job, how: str) -> None:
    if how == "expired":
        Job.objects.update(lease_until=Now() - timedelta(seconds=1))
    elif how == "released":
        queue.release(job, "stepping back")
    elif how == "cancelled":
        queue.request_cancel(job)
    elif how == "done":
        with queue.finish(job, {}):
            pass
    else:
        job.fence -= 1
    answer = put(job)
    assert (answer.status_code, answer.json()["code"]) == (401, "authentication_failed")
    assert stored() == [] and not JobEvent.objects.filter(name=KEPT).exists()


def test_a_job_that_ends_while_its_file_comes_is_told_so(job: Job) -> None:
    token = job_tokens.issue(job)
    body = _Cancelling(job)
    answer = Client().generic(
        "PUT",
        f"/api/v1/jobs/{job.pk}/files/{SHA256}",
        headers={"Authorization": f"Bearer {token}"},
        **{"wsgi.input": body, "CONTENT_LENGTH": str(len(DATA))},
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "job_over")
    assert not JobEvent.objects.filter(name=KEPT).exists() and not Blob.objects.exists()


class _Cancelling(io.BytesIO):
    """A body whose bytes come after somebody cancelled the job."""

    def __init__(self, job: Job) -> None:
        super().__init__(DATA)
        self.job = job

    def read(self, size: int | None = -1) -> bytes:
        queue.request_cancel(self.job)
        return super().read(size)


def test_a_token_writes_for_its_own_job_alone(job: Job) -> None:
    other = claim()
    for pk in (other.pk, uuid.uuid4()):
        answer = put(job, pk=pk)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_this_job")
    assert stored() == []


def test_a_kind_that_leaves_no_files_leaves_none() -> None:
    answer = put(claim("test_idle"))
    assert (answer.status_code, answer.json()["code"]) == (403, "not_this_job")
    assert stored() == []


def test_people_and_strangers_have_no_business_here(job: Job, alice: User) -> None:
    plain = tokens.create_token(alice, name="t", scope="write")[1]
    for token in (plain, "lcj_nonsense", "", "x"):
        assert put(job, token=token).status_code == 401
    client = Client()
    client.force_login(alice)
    address = f"/api/v1/jobs/{job.pk}/files/{SHA256}"
    assert client.put(address, DATA, content_type="application/octet-stream").status_code == 401
    assert stored() == []


def test_other_methods_are_none(job: Job) -> None:
    token = job_tokens.issue(job)
    for method in ("GET", "POST", "DELETE", "PATCH"):
        answer = Client().generic(
            method,
            f"/api/v1/jobs/{job.pk}/files/{SHA256}",
            headers={"Authorization": f"Bearer {token}"},
        )
        assert answer.status_code == 405, method


def test_a_job_leaves_a_few_files_and_not_the_whole_disk(job: Job) -> None:
    for n in range(4):
        data = f"file {n}".encode()
        assert put(job, data, hashlib.sha256(data).hexdigest()).status_code == 200
    assert put(job).json()["code"] == "too_many_files"
    again = hashlib.sha256(b"file 0").hexdigest()
    assert put(job, b"file 0", again).status_code == 200


def test_it_stands_in_no_schema_because_only_our_workers_come_here(client: Client) -> None:
    assert "/files/" not in client.get("/api/schema/?format=json").content.decode()
