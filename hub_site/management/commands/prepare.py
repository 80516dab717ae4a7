"""What a new version or an empty database needs before the site starts."""

from typing import Any

from django.core.management import call_command, get_commands
from django.core.management.base import BaseCommand, CommandError

from hub_site.env import env_bool


class Command(BaseCommand):
    help = "Migrates the database, collects the static files and loads the demo library."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", verbosity=0, interactive=False)
        call_command("collectstatic", verbosity=0, interactive=False)
        if "load_demo" in get_commands() and env_bool("DEMO", True):
            try:
                call_command("load_demo")
            except CommandError as error:  # the site is whole without its demo
                self.stderr.write(f"The demo library is not loaded. {error}")
