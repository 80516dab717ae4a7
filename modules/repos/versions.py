"""A repo's history: each version with what it changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from composer.engine.adapter_file import CONFIG_LIMIT, CONFIG_NAME
from modules.models import Commit, CommitFile
from modules.storage import local

# What of the config changes what a module is; shown from one version to the next.
TOLD = {
    "base_model_name_or_path": "base model",
    "r": "r",
    "lora_alpha": "alpha",
    "target_modules": "target modules",
    "use_rslora": "rsLoRA",
    "use_dora": "DoRA",
    "bias": "bias",
    "task_type": "task type",
}
# What PEFT takes where the config says nothing.
USUAL = {"use_rslora": False, "use_dora": False, "bias": "none"}


@dataclass(frozen=True)
class FileChange:
    path: str
    kind: str  # "added", "changed", "removed"
    size: int
    size_before: int


@dataclass(frozen=True)
class FactChange:
    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Version:
    commit: Commit
    files: list[FileChange] = field(default_factory=list)
    facts: list[FactChange] = field(default_factory=list)
    is_first: bool = False


def with_changes(commits: Sequence[Commit]) -> list[Version]:
    """Two queries for any number of versions; configs are small and read from the store."""
    wanted = {c.pk for c in commits} | {c.parent_id for c in commits if c.parent_id}
    trees: dict[int, dict[str, tuple[str, int]]] = {pk: {} for pk in wanted}
    rows = CommitFile.objects.filter(commit__in=wanted).select_related("blob")
    for row in rows.order_by("path"):
        trees[row.commit_id][row.path] = (row.blob_id, row.blob.size)
    return [
        Version(
            commit,
            list(_files(trees.get(commit.parent_id or 0, {}), trees[commit.pk])),
            _facts(trees.get(commit.parent_id or 0, {}), trees[commit.pk]),
            commit.parent_id is None,
        )
        for commit in commits
    ]


def _files(before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]]) -> Any:
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old is None and new is not None:
            yield FileChange(path, "added", new[1], 0)
        elif new is None and old is not None:
            yield FileChange(path, "removed", 0, old[1])
        elif old is not None and new is not None and old[0] != new[0]:
            yield FileChange(path, "changed", new[1], old[1])


def _facts(
    before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]]
) -> list[FactChange]:
    if CONFIG_NAME not in before or CONFIG_NAME not in after:
        return []
    if before[CONFIG_NAME] == after[CONFIG_NAME]:
        return []
    old, new = _told(before[CONFIG_NAME][0]), _told(after[CONFIG_NAME][0])
    return [
        FactChange(title, old[key], new[key]) for key, title in TOLD.items() if old[key] != new[key]
    ]


@lru_cache(maxsize=1024)  # bytes of a hash never change
def _told(sha256: str) -> dict[str, str]:
    try:
        with local.local_path(sha256).open("rb") as file:
            config = json.loads(file.read(CONFIG_LIMIT))
    except (OSError, ValueError, RecursionError):
        config = {}
    config = config if isinstance(config, dict) else {}
    return {key: _text((USUAL | config).get(key)) for key in TOLD}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(sorted(map(str, value)))[:200]
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value in (None, "") else str(value)[:200]
