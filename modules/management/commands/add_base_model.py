"""Let workers load a base model: `manage.py add_base_model NAME --folder DIR`, or `--hub`."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from composer.engine.errors import CommonsError
from modules.bases import base_models
from modules.models import BaseModel, Repo


class Command(BaseCommand):
    help = (
        "Add a base model, or a new version of it, with config.json, tokenizer.json and "
        "safetensors weights: from a folder, or pinned on the Hugging Face Hub. Its modules are "
        "found by its name and aliases."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="owner/name, as its modules' configs call it")
        source = parser.add_mutually_exclusive_group(required=True)
        source.add_argument("--folder", type=Path)
        source.add_argument(
            "--hub",
            action="store_true",
            help="leave the files on the Hub (HUB_ENDPOINT): workers fetch the pinned commit",
        )
        parser.add_argument("--revision", default="", help="with --hub: a commit, branch or tag")
        parser.add_argument(
            "--keep",
            action="store_true",
            help="copy the folder into this site, so that visitors can download it; "
            "without it the workers read the folder where it lies",
        )
        parser.add_argument("--alias", action="append", default=[], help="another name for it")
        parser.add_argument("--summary", default="", help="one sentence for its page")

    def handle(self, *, hub: bool, keep: bool, revision: str, **rest: Any) -> None:
        if hub and keep:
            raise CommandError("--keep copies a folder; files on the Hub stay there.")
        if revision and not hub:
            raise CommandError("--revision chooses a commit on the Hub: use it with --hub.")
        try:
            added = self.pin(revision=revision, **rest) if hub else self.take(keep=keep, **rest)
        except CommonsError as error:
            raise CommandError(error.user_message) from error
        self.stdout.write(
            f"{added.name} is here at revision {added.revision[:10]}: "
            f"{added.parameters:,} parameters, {added.lora_modules.count()} modules."
        )

    def pin(
        self, *, name: str, revision: str, alias: list[str], summary: str, **rest: Any
    ) -> BaseModel:
        from modules.bases import from_hub  # the Hub's client, which nothing else here needs

        return from_hub.pin_base_model(name=name, revision=revision, aliases=alias, summary=summary)

    def take(
        self, *, name: str, folder: Path, keep: bool, alias: list[str], summary: str, **rest: Any
    ) -> BaseModel:
        if not keep:
            return base_models.point_to_base_model(
                name=name, folder=folder, aliases=alias, summary=summary
            )
        owner, _, repo_name = name.partition("/")
        if not repo_name:
            raise CommandError(f"{name!r} is not owner/name, which --keep needs.")
        repo = base_models.repo_of(base_models.organisation(owner), repo_name, Repo.BASE)
        return base_models.keep_base_model(repo=repo, folder=folder, aliases=alias, summary=summary)
