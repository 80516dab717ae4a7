"""Let the site's workers load a base model: `manage.py add_base_model NAME --folder DIR`."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from composer.engine.errors import CommonsError
from modules.bases import base_models
from modules.models import Repo


class Command(BaseCommand):
    help = (
        "Add a base model, or a new version of it, from a folder with config.json, tokenizer.json "
        "and safetensors weights. Its modules are found by its name and aliases."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="owner/name, as its modules' configs call it")
        parser.add_argument("--folder", type=Path, required=True)
        parser.add_argument(
            "--keep",
            action="store_true",
            help="copy the files into this site, so that visitors can download them; "
            "without it the workers read the folder where it lies",
        )
        parser.add_argument("--alias", action="append", default=[], help="another name for it")
        parser.add_argument("--summary", default="", help="one sentence for its page")

    def handle(
        self, *, name: str, folder: Path, keep: bool, alias: list[str], summary: str, **rest: Any
    ) -> None:
        try:
            if keep:
                owner, _, repo_name = name.partition("/")
                if not repo_name:
                    raise CommandError(f"{name!r} is not owner/name, which --keep needs.")
                repo = base_models.repo_of(base_models.organisation(owner), repo_name, Repo.BASE)
                added = base_models.keep_base_model(
                    repo=repo, folder=folder, aliases=alias, summary=summary
                )
            else:
                added = base_models.point_to_base_model(
                    name=name, folder=folder, aliases=alias, summary=summary
                )
        except CommonsError as error:
            raise CommandError(error.user_message) from error
        self.stdout.write(
            f"{added.name} is here at revision {added.revision[:10]}: "
            f"{added.parameters:,} parameters, {added.lora_modules.count()} modules."
        )
