"""Which versions of which repos a composition or a trial reads: what its worker may fetch."""

from django.db.models import Q, QuerySet

from composer.models import Search
from hub_site.jobs.models import Job
from modules.models import Commit, Repo


def commits_of(job: Job) -> QuerySet[Commit]:
    """The search's modules, private ones too, in the pinned versions alone, and its base model.

    A commit's id covers all of its files, so whoever may read it here may read it under any name.
    Modules that a moderator has hidden are not among them: see `model_cache.stack_of`.
    """
    search = Search.objects.select_related("base_model__repo").get(
        pk=job.params.get("search", job.pk)
    )
    pinned = [each["revision"] for each in search.spec["ingredients"]]
    wanted = Q(sha__in=pinned, repo__kind=Repo.LORA, repo__hidden_at=None)
    base = search.base_model
    if base.source == base.SITE:
        wanted |= Q(pk=base.pinned_commit().pk)
    return Commit.objects.filter(wanted)
