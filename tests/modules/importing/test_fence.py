"""A worker that lost an import's job to another one writes nothing more of it, in no table."""

from collections.abc import Callable

import pytest

from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import Job
from modules.importing import asking, running
from modules.importing.addresses import Address
from modules.models import Import
from modules.storage.hub import HubDown, NotOnHub
from tests.hub_site.jobs.test_queue import expire
from tests.keepsake import all_rows

pytestmark = pytest.mark.django_db
Writer = Callable[[Import, Job], object]
WRITERS: dict[str, Writer] = {
    "say what is done": lambda row, job: running._Teller(row, job)("fetching README.md"),
    "note a fault": lambda row, job: running._note(row, job, HubDown("It is down.")),
    "give up": lambda row, job: running._give_up(row, job, NotOnHub("There is none.")),
}


@pytest.fixture
def claimed(alice: User) -> tuple[Import, Job]:
    address = Address("otto/m", "", "")
    asking.ask(user=alice, owner=alice.namespace, addresses=[address])
    job = queue.claim_next("the one that froze")
    assert job is not None
    return Import.objects.get(), job


@pytest.mark.parametrize("writer", WRITERS)
def test_it_writes_while_it_has_the_job(claimed: tuple[Import, Job], writer: str) -> None:
    before = all_rows()
    WRITERS[writer](*claimed)
    assert all_rows() != before


@pytest.mark.parametrize("writer", WRITERS)
def test_it_writes_nothing_afterwards(claimed: tuple[Import, Job], writer: str) -> None:
    row, job = claimed
    expire(job)
    queue.reap()
    assert queue.claim_next("the next one") == job
    before = all_rows()
    try:
        WRITERS[writer](row, job)
    except queue.LeaseLost:
        assert writer == "give up"
    assert all_rows() == before
