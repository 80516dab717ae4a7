"""What is closed here is closed on the Hub, whatever else happens at the same time."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connection, transaction

from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import Job
from modules.community import moderation
from modules.models import LoraModule, ModuleOnHub, Repo
from modules.on_hub import keeping, pushing
from modules.repos import ownership
from tests.other_site import OtherSite, Work
from tests.workers import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

NAME = "otto/alice-opposites"


def is_private_there(site: OtherSite) -> bool:
    return site.client(f"print(api.model_info({NAME!r}).private)").strip() == "True"


def home_of(module: LoraModule) -> ModuleOnHub:
    return ModuleOnHub.objects.get(repo=module.repo)


@pytest.mark.parametrize("how", ["private", "hidden"])
@pytest.mark.parametrize("state", [LoraModule.REJECTED, LoraModule.CHECKING])
def test_a_module_that_cannot_be_pushed_is_closed_there_anyway(
    hub_here: OtherSite, alice: User, opposites: LoraModule, work: Work, how: str, state: str
) -> None:
    keeping.choose(opposites.repo, "site")
    work()
    LoraModule.objects.filter(pk=opposites.pk).update(status=state)
    if how == "private":
        ownership.set_visibility(opposites.repo, Repo.PRIVATE)
    else:
        moderation.hide(opposites.repo, moderator=alice, reason="A test.")
    work()
    assert is_private_there(hub_here) and home_of(opposites).is_private


def test_a_push_that_waited_for_a_change_sees_it(opposites: LoraModule, settings: Any) -> None:
    """The worker reads its home while the change that closes the module is being written."""
    settings.HF_TOKEN = "never used"
    keeping.choose(opposites.repo, "site")
    job = queue.claim_next("a worker of the test")
    assert job is not None and job.kind == "keep_on_hub"
    found: list[Any] = []

    def begin() -> None:
        try:
            rows = ModuleOnHub.objects.select_related("repo__owner__user")
            found.append(pushing.begin(job, rows))
        finally:
            connection.close()

    worker = threading.Thread(target=begin)
    with transaction.atomic():
        ownership.set_visibility(opposites.repo, Repo.PRIVATE)
        worker.start()
        wait_until(_somebody_waits, "the worker to wait for the home")
    worker.join(60)
    assert found[0].repo.is_private


def _somebody_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


def test_a_module_closed_while_it_is_pushed_is_never_shown(
    hub_here: OtherSite, opposites: LoraModule
) -> None:
    """Before the job that closing it asks for: that one may have to wait for long."""
    ownership.set_visibility(opposites.repo, Repo.PRIVATE)
    keeping.choose(opposites.repo, "site")
    job = queue.claim_next("a worker of the test")
    assert job is not None
    _run(job)
    assert is_private_there(hub_here)
    ownership.set_visibility(opposites.repo, Repo.PUBLIC)
    job = queue.claim_next("a worker of the test")
    assert job is not None
    hub_here.misbehave("/preupload/")
    pushing_it = threading.Thread(target=_run_and_close, args=(job,))
    asked = len(hub_here.asked("/preupload/"))
    pushing_it.start()
    wait_until(lambda: len(hub_here.asked("/preupload/")) > asked, "the push to come so far")
    ownership.set_visibility(opposites.repo, Repo.PRIVATE)
    hub_here.behave()
    pushing_it.join(120)
    assert is_private_there(hub_here) and home_of(opposites).again is False
    assert home_of(opposites).job is not None  # it was asked for once more


def _run(job: Job) -> None:
    from hub_site.jobs import worker

    worker.run(job)


def _run_and_close(job: Job) -> None:
    try:
        _run(job)
    finally:
        connection.close()
