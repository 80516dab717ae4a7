from datetime import timedelta

from django.apps import AppConfig
from django.urls import register_converter


class ModulesConfig(AppConfig):
    name = "modules"

    def ready(self) -> None:
        from hub_site.jobs import registry, retention, schedule
        from modules import converters

        register_converter(converters.Owner, "owner")
        register_converter(converters.RepoName, "repo")

        registry.register(
            "check_module",
            "modules.tasks.check_module",
            if_stopped="modules.tasks.check_failed",
            if_over="modules.tasks.tell_owner",
            reads="modules.tasks.commits_of_check",
        )
        registry.register(
            "keep_on_hub",
            "modules.tasks.keep_on_hub",
            if_stopped="modules.tasks.keeping_stopped",
            needs_store=True,
        )
        registry.register(
            "import_module",
            "modules.tasks.import_module",
            if_over="modules.tasks.import_over",
            needs_store=True,
        )
        for kind, period in {
            "retry_hub": timedelta(minutes=2),
            "follow_hub": timedelta(hours=1),
            "update_trending": timedelta(hours=1),
            "count_facets": timedelta(minutes=10),
            "prune_downloads": timedelta(days=1),
            "prune_store": timedelta(days=1),
        }.items():
            registry.register(kind, f"modules.tasks.{kind}", needs_store=kind == "prune_store")
            schedule.every(period, kind)
        retention.on_the_side("check_module", "keep_on_hub", "import_module")
