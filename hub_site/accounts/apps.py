from datetime import timedelta

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "hub_site.accounts"
    label = "accounts"

    def ready(self) -> None:
        from hub_site.jobs import registry, schedule

        for kind in ("prune_guests", "prune_notices", "prune_sessions"):
            registry.register(kind, f"hub_site.accounts.tasks.{kind}")
            schedule.every(timedelta(days=1), kind)
