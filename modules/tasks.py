"""What a worker does for the library. The jobs' registry knows these by their dotted paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hub_site.jobs.models import Job
    from hub_site.jobs.worker import Lease


def check_module(job: Job, lease: Lease) -> None:
    """Check a module's files in full. A second run does no harm, nor does a late one."""
    from hub_site.jobs import queue
    from modules import services
    from modules.models import LoraModule

    module = (
        LoraModule.objects.select_related("commit", "base_model", "repo__owner")
        .filter(pk=job.params["lora_module"], commit__sha=job.params["commit"])
        .first()
    )
    if module is None:
        with queue.finish(job, {"outcome": "gone or replaced"}):
            return
    found = services.run_checks(module)
    lease.check()
    with queue.finish(job, {"outcome": "checked"}):
        # The row again, locked: a newer version may have come while we read this one.
        now = LoraModule.objects.select_for_update(of=("self",)).filter(
            pk=module.pk, commit__sha=job.params["commit"]
        )
        for current in now:
            services.apply_checks(current, found)


def check_failed(job: Job) -> None:
    """The check died or was stopped: say so, and never leave a module being checked for ever."""
    from modules import services
    from modules.models import LoraModule

    stuck = LoraModule.objects.filter(
        pk=job.params["lora_module"],
        commit__sha=job.params["commit"],
        status=LoraModule.CHECKING,
    )
    for module in stuck:
        module.reject(
            "The check of its files did not come to an end"
            + (f": {job.error_message}" if job.error_message else ".")
            + " Upload it again; if that happens again, tell the people who run this site."
        )
        services.update_listed(module)
