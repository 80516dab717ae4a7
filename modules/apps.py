from django.apps import AppConfig


class ModulesConfig(AppConfig):
    name = "modules"

    def ready(self) -> None:
        from hub_site.jobs import registry

        registry.register(
            "check_module",
            "modules.tasks.check_module",
            if_stopped="modules.tasks.check_failed",
            if_over="modules.tasks.tell_owner",
        )
