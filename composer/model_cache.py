"""Base models and stacks that a worker keeps warm between jobs. Only workers import this."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from django.conf import settings

from composer.engine import base_model as engine_base
from composer.engine import stack as engine_stack
from composer.engine.adapter_file import WEIGHTS_NAME
from composer.engine.base_model import BaseModel
from composer.engine.errors import CommonsError
from composer.engine.stack import Stack
from composer.models import Search
from modules.models import Commit, Repo
from modules.storage import local

STACKS_KEPT = 3
# Below this size threads cost more than they bring: the demo's compositions take 2-5 s on one
# thread, and 12-16 s on two when something else uses a core.
ONE_THREAD_BELOW = 20_000_000
ALL_THREADS = torch.get_num_threads()

_base: tuple[tuple[str, str], BaseModel] | None = None
_stacks: OrderedDict[tuple[Any, ...], Stack] = OrderedDict()


class ModuleGone(CommonsError):
    """A pinned module is no longer where the search found it."""

    code = "module_gone"


def base_of(search: Search) -> BaseModel:
    """The search's base model, loaded; one is kept, because it may fill the memory."""
    global _base
    pinned = search.spec["base_model"]
    key = (pinned["repo"], pinned["revision"])
    if search.base_model.revision != pinned["revision"]:
        raise ModuleGone(
            f"The base model {pinned['repo']} has moved on to another revision since this search "
            "was submitted. Submit it again."
        )
    if _base is None or _base[0] != key:
        forget()
        torch.set_num_threads(settings.ENGINE_THREADS or _threads_for(search.base_model.parameters))
        folder = local.base_folder(search.base_model)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        _base = (key, engine_base.load(folder, device=device))
    return _base[1]


def stack_of(search: Search) -> Stack:
    """The search's modules as one stack, in the order of their weights."""
    pinned = search.spec["base_model"]
    ingredients = search.spec["ingredients"]
    _refuse_hidden(search.spec["ingredients"])
    key = (pinned["repo"], pinned["revision"], *(each["sha256"] for each in ingredients))
    if key not in _stacks:
        base = base_of(search)
        names = [each["repo"] for each in ingredients]
        _stacks[key] = engine_stack.load(folders_of(ingredients), base, names=names)
    _stacks.move_to_end(key)
    while len(_stacks) > STACKS_KEPT:
        _stacks.popitem(last=False)
    return _stacks[key]


def _refuse_hidden(ingredients: Sequence[Mapping[str, str]]) -> None:
    """Also of a stack that is kept: a module may be hidden while a job waits."""
    shas = [each["revision"] for each in ingredients]
    hidden = Repo.objects.filter(commits__sha__in=shas).exclude(hidden_at=None).distinct()
    names = {str(repo) for repo in hidden.select_related("owner")}
    if gone := sorted(names & {each["repo"] for each in ingredients}):
        raise ModuleGone(
            f"A moderator has hidden {', '.join(gone)} since this search was submitted. "
            "Submit it again without it."
        )


def _threads_for(parameters: int) -> int:
    return 1 if parameters < ONE_THREAD_BELOW else ALL_THREADS


def forget() -> None:
    """Drop everything kept, for another base model or after something went wrong."""
    global _base
    _base = None
    _stacks.clear()


def folders_of(ingredients: Sequence[Mapping[str, str]]) -> list[Path]:
    """A folder with the files of each pinned revision."""
    return [local.materialise(_commit_of(ingredient)) for ingredient in ingredients]


def _commit_of(ingredient: Mapping[str, str]) -> Commit:
    owner, _, name = ingredient["repo"].partition("/")
    repo = Repo.objects.named(owner, name).first()
    commit = repo.commits.filter(sha=ingredient["revision"]).first() if repo else None
    if commit is None or commit.sha256_of(WEIGHTS_NAME) != ingredient["sha256"]:
        raise ModuleGone(
            f"The module {ingredient['repo']} is no longer here in the revision that was chosen. "
            "Submit the search again with the modules there are now."
        )
    return commit
