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
    help = "Loads the demo library: its base models, their modules and the unseen tasks."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--folder", type=Path, default=library.FOLDER, help="another library's folder"
        )

    def handle(self, *args: Any, folder: Path, verbosity: int, **options: Any) -> None:
        if not (folder / "tasks.json").is_file() or not library.bases_in(folder):
            raise CommandError(
                f"There is no demo library in {folder}. Make it: python -m composer.demo.train"
            )
        with transaction.atomic():
            bases, modules, tasks = load(folder)
        if verbosity:
            self.stdout.write(
                f"The demo library is loaded: {bases} base models, {modules} modules, "
                f"{tasks} tasks."
            )


def load(folder: Path) -> tuple[int, int, int]:
    """Commit what is new; returns how many bases, modules and tasks the library has."""
    owner = base_models.organisation(library.OWNER)
    bases, modules, tasks = library.bases_in(folder), 0, 0
    for of in bases:
        base = base_models.keep_base_model(
            repo=base_models.repo_of(owner, of.name, Repo.BASE),
            folder=of.folder(folder),
            summary=SUMMARY,
            revision=library.content_revision(of.folder(folder)),
        )
        for module in of.module_folders(folder):
            repo = base_models.repo_of(owner, module.name, Repo.LORA)
            base_models.mirror(repo, module, "Add the module", check_now=True)
            modules += 1
        documents = [_document(task, of) for task in library.tasks_for(of, folder)]
        tasks += task_writing.load_demo_tasks(documents, base_model=base)
    return len(bases), modules, tasks


def _document(task: library.DemoTask, of: library.DemoBase) -> dict[str, Any]:
    """The first examples of the pool, which is in random order, and all test inputs."""
    return {
        "key": of.task_key(task.key),
        "name": f"{task.name}{of.task_suffix}",
        "description": task.description,
        "template": task.template,
        "answer_options": task.answer_options,
        "shots": [(each.input, each.target) for each in task.pool[:SHOTS]],
        "held_out": [(each.input, each.target) for each in task.test],
    }
