"""Where the shipped demo library lies, read without torch: `manage.py load_demo` loads it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "library"
OWNER = "lora-commons"
BASE_NAME = "wordsmith-t5"
BASE_REPO = f"{OWNER}/{BASE_NAME}"


@dataclass(frozen=True)
class DemoExample:
    input: str
    target: str


@dataclass(frozen=True)
class DemoTask:
    """A task no module was trained for.  Examples are drawn from `pool`, scores come from `test`.

    role     "tuning": defaults may be chosen on it; "report": it only reports
    kind     "mixture" and "phrase" need several modules; "single" needs one; "no module" is known
             to the base model only; "unseen" is known to nobody, so everything must fail
    modules  the repos that together hold the skill, in the library's names
    """

    key: str
    name: str
    description: str
    template: str
    answer_options: tuple[str, ...]
    role: str
    kind: str
    modules: tuple[str, ...]
    pool: tuple[DemoExample, ...]
    test: tuple[DemoExample, ...]


def repo_name(relation: str) -> str:
    """The repo of a relation's module: "third person" -> "wordsmith-third-person"."""
    return f"wordsmith-{relation.replace(' ', '-')}"


def base_folder(library: Path = FOLDER) -> Path:
    return library / "base"


def module_folders(library: Path = FOLDER) -> list[Path]:
    """One folder a module, in the order of their names; the folder's name is the repo's name."""
    return sorted(path.parent for path in (library / "modules").glob("*/adapter_config.json"))


def _examples(rows: list[list[str]]) -> tuple[DemoExample, ...]:
    return tuple(DemoExample(text, target) for text, target in rows)


def tasks(library: Path = FOLDER) -> list[DemoTask]:
    rows = json.loads((library / "tasks.json").read_text(encoding="utf-8"))
    return [
        DemoTask(
            **{key: row[key] for key in ("key", "name", "description", "template", "role", "kind")},
            answer_options=tuple(row["answer_options"]),
            modules=tuple(row["modules"]),
            pool=_examples(row["pool"]),
            test=_examples(row["test"]),
        )
        for row in rows
    ]


def content_revision(folder: Path) -> str:
    """40 hex digits that follow from the files of a folder, its card left out.

    sha256 over "<path> <sha256 of the file>\\n" in the order of the paths, cut to 40 digits: the
    `revision` that every module's adapter_config.json names for the base model.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.is_file() and path.name != "README.md":
            digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:40]
