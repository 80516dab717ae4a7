"""Registers the job kinds of `job_kinds.py`, in the tests and in the workers that they start."""

from django.apps import AppConfig

from hub_site.jobs import registry


class TestKinds(AppConfig):
    name = "tests"
    label = "test_kinds"

    def ready(self) -> None:
        for kind in ("count", "poison", "refuse", "bug", "idle", "shy", "mark", "hold", "warm"):
            registry.register(f"test_{kind}", f"tests.job_kinds.{kind}")
        registry.register("test_leave", "tests.job_kinds.idle", leaves_files=True)
        registry.register("test_store", "tests.job_kinds.count", needs_store=True)
