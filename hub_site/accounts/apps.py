from datetime import timedelta

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "hub_site.accounts"
    label = "accounts"

    def ready(self) -> None:
        from hub_site.jobs import registry, schedule

        registry.register("prune_guests", "hub_site.accounts.tasks.prune_guests")
        schedule.every(timedelta(days=1), "prune_guests")
