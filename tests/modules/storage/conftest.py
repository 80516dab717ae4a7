"""A private module, and the worker that checks it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from safetensors.numpy import save

from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.worker import Lease
from modules import services
from modules.checks import checking
from modules.models import LoraModule
from tests.modules.conftest import factors


@pytest.fixture
def private(alice: User, secret: LoraModule) -> LoraModule:
    """A private module large enough to be cut in the middle."""
    tensors = factors(7) | {"padding": np.zeros(20_000, np.float32)}
    services.commit(
        repo=secret.repo,
        author=alice,
        title="With padding",
        additions={"notes/padding.safetensors": io.BytesIO(save(tensors))},
    )
    secret.refresh_from_db()
    return secret


def claimed(module: LoraModule) -> Lease:
    """The lease of a worker that checks this module."""
    checking.check_later(module)
    job = queue.claim_next("far")
    assert job is not None and job == module.check_job
    return Lease(job)


@pytest.fixture
def lease(private: LoraModule) -> Lease:
    return claimed(private)
