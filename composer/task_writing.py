"""Tasks as people write them: made, changed, copied, deleted; and those of the demo."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Required, TypedDict, Unpack

from django.db import transaction

from composer.engine import examples as engine_examples
from composer.errors import NotReady
from composer.models import Example, FewShotTask
from composer.task_checks import check_task
from hub_site.accounts.models import User
from modules.models import BaseModel

WRITTEN = ("name", "description", "base_model", "template", "answer_options", "updated_at")


class TaskFields(TypedDict, total=False):
    """What a person or a program says of a task."""

    name: Required[str]
    base_model: Required[BaseModel]
    shots: Required[Sequence[engine_examples.Example]]
    held_out: Sequence[engine_examples.Example]
    description: str
    template: str
    answer_options: Sequence[str]


def create_task(*, user: User, **fields: Unpack[TaskFields]) -> FewShotTask:
    return _write_task(FewShotTask(owner=user, salt=secrets.token_hex(16)), **fields)


@transaction.atomic
def update_task(task: FewShotTask, **fields: Unpack[TaskFields]) -> FewShotTask:
    """Change a task. Searches already submitted keep the examples they were given."""
    if not FewShotTask.objects.select_for_update().filter(pk=task.pk).exists():
        raise NotReady("This task was deleted while you changed it. Write a new one.")
    return _write_task(task, **fields)


@transaction.atomic
def _write_task(
    task: FewShotTask,
    *,
    name: str,
    base_model: BaseModel,
    shots: Sequence[engine_examples.Example],
    held_out: Sequence[engine_examples.Example] = (),
    description: str = "",
    template: str = "{input}",
    answer_options: Sequence[str] = (),
) -> FewShotTask:
    check_task(base_model, shots, held_out, template, answer_options)
    task.name = name
    task.description = description
    task.base_model = base_model
    task.template = template
    task.answer_options = list(answer_options)
    # Not what others decide about it meanwhile: a moderator may be hiding it.
    task.save(update_fields=None if task._state.adding else WRITTEN)
    task.examples.all().delete()
    task.scores.all().delete()  # they were of other examples, or as another model reads them
    _write_examples(task, shots, held_out)
    return task


@transaction.atomic
def duplicate_task(task: FewShotTask, *, user: User) -> FewShotTask:
    """A copy that belongs to `user`; how a demo task becomes one that can be edited."""
    copy = FewShotTask.objects.create(
        owner=user,
        name=f"{task.name[:112]} (copy)",
        description=task.description,
        base_model=task.base_model,
        template=task.template,
        answer_options=task.answer_options,
        salt=secrets.token_hex(16),
    )
    _write_examples(copy, task.pairs(Example.SHOT), task.pairs(Example.HELD_OUT))
    return copy


@transaction.atomic
def delete_task(task: FewShotTask) -> None:
    """Remove a task and its examples. Its jobs and recipes stay: they hold their own copies."""
    for held in FewShotTask.objects.select_for_update().filter(pk=task.pk):
        held.delete()


def delete_tasks(user: User) -> None:
    """All of somebody who goes. Rows in the order of `submit_job`: the user, then the tasks."""
    User.objects.select_for_update().get(pk=user.pk)
    for held in user.tasks.order_by("pk").select_for_update():
        held.delete()


def load_demo_tasks(tasks: Iterable[Mapping[str, Any]], *, base_model: BaseModel) -> int:
    """Write the demo library's tasks; run again, it changes only what is different.

    Each: {"key", "name", "description", "template", "answer_options", "shots", "held_out"},
    examples as [input, target].
    """
    count = 0
    for document in tasks:
        shots = [engine_examples.Example(*pair) for pair in document["shots"]]
        held_out = [engine_examples.Example(*pair) for pair in document["held_out"]]
        template = document.get("template", "{input}")
        options = list(document.get("answer_options", []))
        check_task(base_model, shots, held_out, template, options)
        with transaction.atomic():
            before = FewShotTask.objects.filter(demo_key=document["key"]).first()
            task, _ = FewShotTask.objects.update_or_create(
                demo_key=document["key"],
                defaults={
                    "owner": None,
                    "name": document["name"],
                    "description": document.get("description", ""),
                    "base_model": base_model,
                    "template": template,
                    "answer_options": options,
                },
            )
            wanted = [[[e.input, e.target] for e in rows] for rows in (shots, held_out)]
            found = [
                [[e.input, e.target] for e in task.pairs(split)]
                for split in (Example.SHOT, Example.HELD_OUT)
            ]
            if wanted != found:
                task.examples.all().delete()
                _write_examples(task, shots, held_out)
            if wanted != found or (before and _read_as(before) != _read_as(task)):
                task.scores.all().delete()
        count += 1
    return count


def _read_as(task: FewShotTask) -> tuple[int, str]:
    """What decides scores besides the examples."""
    return task.base_model_id, task.template


def _write_examples(
    task: FewShotTask,
    shots: Sequence[engine_examples.Example],
    held_out: Sequence[engine_examples.Example],
) -> None:
    Example.objects.bulk_create(
        Example(task=task, split=split, position=place, input=row.input, target=row.target)
        for split, rows in ((Example.SHOT, shots), (Example.HELD_OUT, held_out))
        for place, row in enumerate(rows)
    )
