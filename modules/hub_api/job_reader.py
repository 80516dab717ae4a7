"""A worker that asks with the token of its job: see `hub_site/jobs/job_tokens.py`."""

from __future__ import annotations

from functools import cached_property

from django.contrib.auth.models import AnonymousUser

from hub_site.jobs import registry
from hub_site.jobs.models import Job
from modules.models import Commit, Repo
from modules.querysets import RepoQuerySet


class JobReader(AnonymousUser):
    """Sees the commits that its job pins, private ones too. To code that does not know it, it is a
    stranger."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    @cached_property
    def _pinned(self) -> dict[int, int]:
        """The commits, each with its repo."""
        commits = registry.reads(self.job)
        return {} if commits is None else dict(commits.values_list("pk", "repo"))

    def repos(self) -> RepoQuerySet:
        return Repo.objects.filter(pk__in=set(self._pinned.values()))

    def may_read(self, commit: Commit) -> bool:
        return commit.pk in self._pinned
