"""manage.py load_demo: commit the shipped demo library and its tasks; a second time, nothing."""

import hashlib
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from composer import services
from composer.demo import library
from modules import base_models
from modules.models import LoraModule, Repo

SHOTS = 5
SUMMARY = "A tiny model that knows relations between English words, and nothing else."


class Command(BaseCommand):
    help = "Load the demo library: its base model, its modules and its unseen tasks."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--library", type=Path, default=library.FOLDER, help="another folder")
        parser.add_argument("--again", action="store_true", help="even if nothing changed")

    def handle(self, *args: Any, library: Path, again: bool, **options: Any) -> None:  # noqa: A002
        if not (library / "tasks.json").is_file():
            raise CommandError(
                f"There is no demo library in {library}. Make it: python -m composer.demo.train"
            )
        stamp, state = settings.VAR_DIR / "demo-loaded", _state(library)
        if not again and stamp.is_file() and stamp.read_text() == state and _is_there():
            self.stdout.write("The demo library is loaded already.")
            return
        with transaction.atomic():
            modules, tasks = load(library)
        stamp.write_text(state)
        self.stdout.write(f"Loaded the demo library: {modules} modules, {tasks} tasks.")


def load(folder: Path) -> tuple[int, int]:
    """Commit what is new; returns how many modules and tasks the library has."""
    owner = base_models.organisation(library.OWNER)
    base = base_models.keep_base_model(
        repo=base_models.repo_of(owner, library.BASE_NAME, Repo.BASE),
        folder=library.base_folder(folder),
        summary=SUMMARY,
        revision=library.content_revision(library.base_folder(folder)),
    )
    modules = library.module_folders(folder)
    for module in modules:
        repo = base_models.repo_of(owner, module.name, Repo.LORA)
        base_models.mirror(repo, module, "Add the module", check_now=True)
    tasks = [_document(task) for task in library.tasks(folder)]
    return len(modules), services.load_demo_tasks(tasks, base_model=base)


def _document(task: library.DemoTask) -> dict[str, Any]:
    """The first examples of the pool, which is in random order, and all test inputs."""
    return {
        "key": task.key,
        "name": task.name,
        "description": task.description,
        "template": task.template,
        "answer_options": task.answer_options,
        "shots": [(each.input, each.target) for each in task.pool[:SHOTS]],
        "held_out": [(each.input, each.target) for each in task.test],
    }


def _state(folder: Path) -> str:
    """Changes when the library's files do: a start of the site asks every time."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_there() -> bool:
    return LoraModule.objects.filter(repo__owner__name=library.OWNER).exists()
