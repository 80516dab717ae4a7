"""Which versions of which repos a composition or a trial reads: what its worker may fetch."""

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q, QuerySet

from composer.models import Search
from hub_site.jobs.models import Job
from modules.models import Commit, Repo


def commits_of(job: Job) -> QuerySet[Commit]:
    """The search's modules, private ones too, in the pinned versions alone, and its base model.

    A commit's id covers all of its files, so whoever may read it here may read it under any name.
    Modules that a moderator has hidden, or that are closed to whoever composes, are not among them:
    see `model_cache.stack_of`.
    """
    search = Search.objects.select_related("base_model__repo", "job__user", "recipe").get(
        pk=job.params.get("search", job.pk)
    )
    pinned = [each["revision"] for each in search.spec["ingredients"]]
    wanted = Q(sha__in=pinned, repo__kind=Repo.LORA, repo__hidden_at=None)
    wanted &= Q(repo__gated="") | Q(repo__in=gated_open_to(search))
    base = search.base_model
    if base.source == base.SITE:
        wanted |= Q(pk=base.pinned_commit().pk)
    return Commit.objects.filter(wanted)


def gated_open_to(search: Search) -> QuerySet[Repo]:
    """The gated repos that this search may mix: whoever composes must have access, still. What was
    published stays as it was (see `publishing.closed_ingredients`)."""
    gated = Repo.objects.exclude(gated="")
    if search.recipe is not None and search.recipe.published_at is not None:
        return gated
    readable = Repo.objects.readable_by(search.job.user or AnonymousUser())
    return gated.filter(pk__in=readable.values("pk"))
