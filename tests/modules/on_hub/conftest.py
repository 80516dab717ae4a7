"""This site with an account on the other one, and jobs run here and now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hub_site.jobs import queue, worker
from hub_site.jobs.models import Job
from modules.models import LoraModule, ModuleOnHub
from tests.other_site import OtherSite

Work = Callable[[], list[Job]]


@pytest.fixture
def hub_here(other_site: OtherSite, settings: Any, monkeypatch: pytest.MonkeyPatch) -> OtherSite:
    """The other site is our Hub, and we have its account's token."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    settings.HUB_ENDPOINT, settings.HF_TOKEN = other_site.url, other_site.token
    settings.HF_ORGANISATION, settings.HUB_TIMEOUT_SECONDS = "", 10
    return other_site


@pytest.fixture
def work() -> Work:
    """Do the waiting jobs of keeping things on the Hub, as a worker does; returns them."""

    def work() -> list[Job]:
        done = []
        while job := queue.claim_next("a worker of the test"):
            worker.run(job)
            job.refresh_from_db()
            done.append(job)
        return [job for job in done if job.kind == "keep_on_hub"]

    return work


def home_of(module: LoraModule) -> ModuleOnHub:
    return ModuleOnHub.objects.get(repo=module.repo)
