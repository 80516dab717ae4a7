from django.apps import AppConfig


class ComposerConfig(AppConfig):
    name = "composer"

    def ready(self) -> None:
        from hub_site.jobs import registry

        registry.register(
            "compose",
            "composer.runner.compose",
            if_over="composer.services.tell_owner",
            reads="composer.pinned.commits_of",
            leaves_files=True,
        )
        registry.register("predict", "composer.runner.predict", reads="composer.pinned.commits_of")
