"""Put the demo library where uploads go: `manage.py load_demo`. Run again, it only adds news."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from composer import task_writing
from composer.demo import library
from modules.bases import base_models
from modules.models import Repo

SHOTS = 5
SUMMARY = "A tiny model that knows relations between English words, and nothing else."


class Command(BaseCommand):
    help = "Loads the demo library: its base model, its modules and its unseen tasks."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--folder", type=Path, default=library.FOLDER, help="another library's folder"
        )

    def handle(self, *args: Any, folder: Path, verbosity: int, **options: Any) -> None:
        if not (folder / "tasks.json").is_file():
            raise CommandError(
                f"There is no demo library in {folder}. Make it: python -m composer.demo.train"
            )
        with transaction.atomic():
            modules, tasks = load(folder)
        if verbosity:
            self.stdout.write(f"The demo library is loaded: {modules} modules, {tasks} tasks.")


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
    return len(modules), task_writing.load_demo_tasks(tasks, base_model=base)


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
