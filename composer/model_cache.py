"""Base models and stacks that a worker keeps warm between jobs. Only workers import this."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from django.conf import settings

from composer import needs
from composer import pinned as pinned_files
from composer.engine import base_model as engine_base
from composer.engine import chunk, memory
from composer.engine import stack as engine_stack
from composer.engine.adapter_file import WEIGHTS_NAME
from composer.engine.base_model import BaseModel
from composer.engine.errors import CommonsError
from composer.engine.stack import Stack
from composer.models import Search
from hub_site.jobs import capacity
from modules.models import Commit, Repo
from modules.storage import fetching

if TYPE_CHECKING:
    from hub_site.jobs.worker import Lease

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


def check_room(search: Search) -> None:
    """Raise DoesNotFit before anything is loaded for a search that this machine cannot run.

    A guess on the safe side: see `needs`. What was free when it was submitted may be taken by now.
    """
    pinned, device = search.spec["base_model"], torch.device(_device())
    number = needs.HALF if device.type == "cuda" else needs.FLOAT32
    is_kept = _base is not None and _base[0] == (pinned["repo"], pinned["revision"])
    need = needs.memory_of(search, search.job.params, number, is_loaded=is_kept)
    memory.check_fits(need, chunk.free(device))


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def base_of(search: Search, lease: "Lease") -> BaseModel:
    """The search's base model, loaded; one is kept, because it may fill the memory. `lease` is of
    the job that reads it."""
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
        folder = fetching.base_folder(search.base_model, lease)
        _base = (key, engine_base.load(folder, device=_device()))
        capacity.keep_warm((needs.warm_name(*key),))
    return _base[1]


def stack_of(
    search: Search, lease: "Lease", ingredients: Sequence[Mapping[str, str]] | None = None
) -> Stack:
    """The search's modules as one stack, in the order of their weights; or other candidates of
    it."""
    pinned = search.spec["base_model"]
    ingredients = search.spec["ingredients"] if ingredients is None else ingredients
    commits = _open_commits(search, ingredients)
    # The same weights mean something else beside another config, and go by another's name.
    each_is = ((each["repo"], each["revision"], each["sha256"]) for each in ingredients)
    key = (pinned["repo"], pinned["revision"], *each_is)
    if key not in _stacks:
        base = base_of(search, lease)
        names = [each["repo"] for each in ingredients]
        folders = [fetching.folder_of(commit, lease) for commit in commits]
        _stacks[key] = engine_stack.load(folders, base, names=names)
    _stacks.move_to_end(key)
    while len(_stacks) > STACKS_KEPT:
        _stacks.popitem(last=False)
    return _stacks[key]


def open_folders_of(search: Search, lease: "Lease") -> tuple[dict[str, Path], dict[str, str]]:
    """The files of those of the search's modules that it may still read, by name, for a look at
    each that keeps none; and why it may not read the others."""
    folders: dict[str, Path] = {}
    refused: dict[str, str] = {}
    for ingredient in search.spec["ingredients"]:
        try:
            commit = _commit_of(ingredient)
            _refuse_closed(search, [commit])
        except ModuleGone as gone:
            refused[ingredient["repo"]] = gone.user_message
        else:
            folders[ingredient["repo"]] = fetching.folder_of(commit, lease)
    return folders, refused


def _open_commits(search: Search, ingredients: Sequence[Mapping[str, str]]) -> list[Commit]:
    """Asked each time: a module may go, be hidden or gated while a job waits."""
    commits = [_commit_of(ingredient) for ingredient in ingredients]
    _refuse_closed(search, commits)
    return commits


def _threads_for(parameters: int) -> int:
    return 1 if parameters < ONE_THREAD_BELOW else ALL_THREADS


def forget() -> None:
    """Drop everything kept, for another base model or after something went wrong."""
    global _base
    _base = None
    _stacks.clear()
    capacity.keep_warm(())


def _commit_of(ingredient: Mapping[str, str]) -> Commit:
    """The pinned revision, whatever its module is called by now."""
    owner, _, name = ingredient["repo"].partition("/")
    repo = Repo.objects.named(owner, name).first() or Repo.objects.once_named(owner, name).first()
    commit = repo.commits.filter(sha=ingredient["revision"]).first() if repo else None
    if repo is None or commit is None or commit.sha256_of(WEIGHTS_NAME) != ingredient["sha256"]:
        raise ModuleGone(
            f"The module {ingredient['repo']} is no longer here in the revision that was chosen. "
            "Submit the search again with the modules there are now."
        )
    if repo.is_hidden:
        raise ModuleGone(
            f"A moderator has hidden {ingredient['repo']} since this search was submitted. "
            "Submit it again without it."
        )
    return commit


def _refuse_closed(search: Search, commits: Sequence[Commit]) -> None:
    gated = {commit.repo.pk: commit.repo for commit in commits if commit.repo.gated}
    if not gated:
        return
    allowed = pinned_files.gated_open_to(search).filter(pk__in=gated).values_list("pk", flat=True)
    for pk in gated.keys() - set(allowed):
        raise ModuleGone(
            f"{gated[pk]} is gated, and you have no access to it, or no longer. Ask its author for "
            "access on its page, or submit the search again without it."
        )
