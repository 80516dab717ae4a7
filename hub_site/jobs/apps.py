from datetime import timedelta

from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "hub_site.jobs"
    label = "jobs"

    def ready(self) -> None:
        from hub_site.jobs import registry, schedule

        registry.register("prune_jobs", "hub_site.jobs.tasks.prune_jobs")
        schedule.every(timedelta(days=1), "prune_jobs")
