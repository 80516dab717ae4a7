from django.apps import AppConfig


class HubSiteConfig(AppConfig):
    name = "hub_site"

    def ready(self) -> None:
        from hub_site import celery  # noqa: F401  the app that @shared_task belongs to
