"""What a worker does for the library. The jobs' registry knows these by their dotted paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from django.db.models import QuerySet

    from hub_site.jobs.models import Job
    from hub_site.jobs.worker import Lease
    from modules.bases.shapes import BaseShapes
    from modules.checks.quick import Found
    from modules.models import Commit


def check_module(job: Job, lease: Lease) -> None:
    """Check a module's files in full. A second run does no harm, nor does a late one."""
    from hub_site.accounts.models import User
    from hub_site.jobs import queue
    from modules.checks import checking, runner
    from modules.locks import hold_repo_of
    from modules.models import LoraModule
    from modules.storage import fetching

    module = (
        LoraModule.objects.select_related("commit", "base_model", "repo__owner")
        .filter(pk=job.params["lora_module"], commit__sha=job.params["commit"])
        .first()
    )
    if module is None:
        with queue.finish(job, {"outcome": "gone or replaced"}):
            return

    def how(folder: Path, base: BaseShapes | None, name: str) -> Found:
        return runner.check(folder, base, name, lease.check)

    folder = fetching.folder_of(module.commit, lease)
    found = checking.run_checks(module, how, folder)
    lease.check()
    with queue.finish(job, {"outcome": "checked"}):
        hold_repo_of(module.pk)
        # The row again, locked: a newer version may have come while we read this one.
        now = LoraModule.objects.select_for_update(of=("self",)).filter(
            pk=module.pk, commit__sha=job.params["commit"]
        )
        for current in now:
            if current.base_model_id == module.base_model_id:
                checking.apply_checks(current, found, folder)
            else:  # its base model came meanwhile, and the shapes were not compared with it
                asked_by = User.objects.filter(pk=job.user_id).first()  # may be gone by now
                checking.check_later(current, asked_by)


def commits_of_check(job: Job) -> QuerySet[Commit]:
    """What a check may read: the version that it was asked for."""
    from modules.models import Commit

    return Commit.objects.filter(
        sha=job.params["commit"], repo__lora_module=job.params["lora_module"]
    )


def check_failed(job: Job) -> None:
    """The check died or was stopped: say so, and never leave a module being checked for ever."""
    from modules.checks import checking
    from modules.locks import hold_repo_of
    from modules.models import LoraModule

    hold_repo_of(job.params["lora_module"])
    modules = LoraModule.objects.filter(
        pk=job.params["lora_module"], commit__sha=job.params["commit"]
    )
    for module in modules:
        if module.status != LoraModule.CHECKING:
            checking.note_unfinished(module, job.error_message)
            continue
        module.reject(
            "The check of its files did not come to an end"
            + (f": {job.error_message}" if job.error_message else ".")
            + " Upload it again; if that happens again, tell the people who run this site."
        )
        checking.update_listed(module)


def tell_owner(job: Job, state: str) -> None:
    """A notice of how the check ended; none when a newer version came meanwhile."""
    from hub_site.accounts.notices import notify
    from modules.models import LoraModule

    checked = LoraModule.objects.select_related("repo__owner__user", "repo__hub_origin").filter(
        pk=job.params["lora_module"], commit__sha=job.params["commit"]
    )
    for module in checked.exclude(status=LoraModule.CHECKING):
        if module.is_ready and (job.user_id is None or module.is_as_imported):
            continue  # nothing is wrong; nobody asked, or the end of the import is told
        found = "passed its checks" if module.is_ready else "did not pass its checks"
        notify(module.repo.owner.user, f"{module} {found}.", module.get_absolute_url())


def keep_on_hub(job: Job, lease: Lease) -> None:
    """Make a module's repo on the Hub equal to what is here. A second run does no harm."""
    from modules.on_hub import pushing

    pushing.keep_module(job, lease)


def keeping_stopped(job: Job) -> None:
    from modules.on_hub import pushing

    pushing.push_stopped(job)


def retry_hub(job: Job, lease: Lease) -> None:
    """Ask anew for what had trouble with the Hub and is due again."""
    from hub_site.jobs import queue
    from modules.on_hub import keeping

    with queue.finish(job, {"asked": keeping.retry_due()}):
        pass


def import_module(job: Job, lease: Lease) -> None:
    """Bring a repo from the Hub, as a module or as a newer version of one."""
    from modules.importing import running

    running.run(job, lease)


def import_over(job: Job, state: str) -> None:
    """However its job ends, an import ends; and somebody hears of the last one of a list."""
    from modules.importing import running

    running.over(job, state)


def follow_hub(job: Job, lease: Lease) -> None:
    """Look whether repos on the Hub have moved on, for the modules that follow them."""
    from hub_site.jobs import queue
    from modules.importing import following

    found = following.look_for_newer(lease.check)
    following.forget_old_imports()
    with queue.finish(job, found):
        pass


def update_trending(job: Job, lease: Lease) -> None:
    """Recent downloads and likes, decayed, of every module."""
    from hub_site.jobs import queue
    from modules.community.trending import update_trending

    with queue.finish(job, {"changed": update_trending()}):
        pass


def count_facets(job: Job, lease: Lease) -> None:
    """How many listed modules have each facet and tag, for lists that show the whole library; and
    which of them are known best, for searches."""
    from hub_site.jobs import queue
    from modules.finding import facets, search

    search.mark_known()
    with queue.finish(job, {"modules": facets.recount()}):
        pass


def prune_downloads(job: Job, lease: Lease) -> None:
    """Forget who fetched what more than a month ago."""
    from hub_site.jobs import queue
    from modules.community.counting import prune_downloads

    with queue.finish(job, {"deleted": prune_downloads()}):
        pass


def prune_store(job: Job, lease: Lease) -> None:
    """Clear away stored bytes that nothing names any more."""
    from hub_site.jobs import queue
    from modules.storage import pruning

    found: dict[str, int | str]
    try:
        done = pruning.prune()
    except pruning.AlreadyPruning as busy:  # by hand, or a backup goes on; tomorrow is soon enough
        found = {"left": busy.user_message}
    else:
        found = {"deleted": done.blobs, "bytes": done.size, "leftovers": done.leftovers}
    with queue.finish(job, found):
        pass
