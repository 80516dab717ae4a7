from datetime import timedelta

from django.apps import AppConfig


class ComposerConfig(AppConfig):
    name = "composer"

    def ready(self) -> None:
        from hub_site.jobs import registry, retention, schedule

        registry.register(
            "compose",
            "composer.runner.compose",
            if_over="composer.services.tell_owner",
            reads="composer.pinned.commits_of",
            leaves_files=True,
        )
        registry.register("predict", "composer.runner.predict", reads="composer.pinned.commits_of")
        registry.register("weigh", "composer.runner.weigh", reads="composer.pinned.commits_of")
        registry.register(
            "verify",
            "composer.verifying.verify",
            if_over="composer.verifications.tell_owner",
            reads="composer.verifications.commits_of",
        )
        registry.register(
            "push_recipe",
            "composer.pushing.push_recipe",
            if_stopped="composer.pushing.push_stopped",
            needs_store=True,
        )
        registry.register("retry_recipes", "composer.pushing.retry_recipes")
        schedule.every(timedelta(minutes=2), "retry_recipes")
        registry.register("thin_searches", "composer.retention.thin_searches")
        schedule.every(timedelta(days=1), "thin_searches")
        registry.register("forget_scores", "composer.retention.forget_scores")
        schedule.every(timedelta(days=1), "forget_scores")
        retention.on_the_side("predict", "weigh", "push_recipe")
