"""The doorbell. It carries nothing: the worker claims the next job itself."""

from celery import shared_task


@shared_task
def wake() -> None:
    from hub_site.jobs.worker import work_until_idle

    work_until_idle()
