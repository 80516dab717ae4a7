from datetime import timedelta

from django.apps import AppConfig


class HubSiteConfig(AppConfig):
    name = "hub_site"

    def ready(self) -> None:
        from hub_site import celery  # noqa: F401  the app that @shared_task belongs to
        from hub_site.jobs import registry, schedule

        registry.register("prune_throttles", "hub_site.tasks.prune_throttles")
        schedule.every(timedelta(days=1), "prune_throttles")
