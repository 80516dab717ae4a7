"""What a worker on another machine shows the site: a token of one job, for one claim of it.

Signed with the site's key, so nothing is stored; it says the job and its fence. It is good while
that very claim holds its lease, and nobody has asked for the job's end: as soon as the job is over,
cancelled or somebody else's, it is good for nothing. What it allows is said by the job's kind, in
`registry.py`.
"""

from __future__ import annotations

import uuid

from django.core.signing import BadSignature, Signer

from hub_site.jobs import queue
from hub_site.jobs.models import Job

PREFIX = "lcj_"
SALT = "hub_site.jobs.job_tokens"


def issue(job: Job) -> str:
    return PREFIX + Signer(salt=SALT).sign(f"{job.pk.hex}.{job.fence}")


def is_one(text: str) -> bool:
    return text.startswith(PREFIX)


def find(text: str) -> Job | None:
    """The running job that this token speaks for."""
    if not is_one(text):
        return None
    try:
        said = Signer(salt=SALT).unsign(text.removeprefix(PREFIX))
    except BadSignature:
        return None
    pk, _, fence = said.partition(".")
    return queue.held(uuid.UUID(pk), int(fence))
