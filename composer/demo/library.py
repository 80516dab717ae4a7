"""Where the shipped demo library lies, read without torch: `manage.py load_demo` loads it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "library"
OWNER = "lora-commons"


@dataclass(frozen=True)
class DemoBase:
    """One of the demo's base models, with where it and its modules lie in a library's folder."""

    family: str
    name: str
    module_prefix: str
    task_prefix: str = ""
    task_suffix: str = ""

    @property
    def repo(self) -> str:
        return f"{OWNER}/{self.name}"

    def repo_name(self, relation: str) -> str:
        """The repo of a relation's module: "third person" -> "wordsmith-third-person"."""
        return f"{self.module_prefix}-{relation.replace(' ', '-')}"

    def task_key(self, key: str) -> str:
        return f"{self.task_prefix}{key}"

    def folder(self, library: Path = FOLDER) -> Path:
        return library / self.family / "base"

    def modules(self, library: Path = FOLDER) -> Path:
        return library / self.family / "modules"

    def module_folders(self, library: Path = FOLDER) -> list[Path]:
        """One folder a module, in the order of their names; the folder's name is the repo's."""
        return sorted(path.parent for path in self.modules(library).glob("*/adapter_config.json"))


T5 = DemoBase("t5", "wordsmith-t5", "wordsmith")
LLAMA = DemoBase(
    "llama",
    "wordsmith-llama",
    "wordsmith-llama",
    task_prefix="llama-",
    task_suffix=", decoder-only",
)
BASES = {base.family: base for base in (T5, LLAMA)}


def chosen(family: str) -> list[DemoBase]:
    """The bases a command's --family or --base means; "all" is every one."""
    return list(BASES.values()) if family == "all" else [BASES[family]]


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


def bases_in(library: Path = FOLDER) -> list[DemoBase]:
    """Those that a folder holds: all in the shipped one."""
    return [base for base in BASES.values() if (base.folder(library) / "config.json").is_file()]


def _examples(rows: list[list[str]]) -> tuple[DemoExample, ...]:
    return tuple(DemoExample(text, target) for text, target in rows)


def tasks(library: Path = FOLDER, base: DemoBase = T5) -> list[DemoTask]:
    """The same tasks for every base model; `modules` are the repos of this one."""
    rows = json.loads((library / "tasks.json").read_text(encoding="utf-8"))
    return [
        DemoTask(
            **{key: row[key] for key in ("key", "name", "description", "template", "role", "kind")},
            answer_options=tuple(row["answer_options"]),
            modules=tuple(base.repo_name(_relation(name)) for name in row["modules"]),
            pool=_examples(row["pool"]),
            test=_examples(row["test"]),
        )
        for row in rows
    ]


def tasks_for(base: DemoBase, library: Path = FOLDER) -> list[DemoTask]:
    """The tasks that a site offers with this base: all with the first one.  The others would only
    repeat the list, so they come with the tuning tasks, one or more of each kind that has modules;
    any other is a copy and a change of its base away."""
    every = tasks(library, base)
    return every if base == T5 else [task for task in every if task.role == "tuning"]


def _relation(t5_repo: str) -> str:
    """tasks.json names modules as the first base model's repos."""
    return t5_repo.removeprefix(f"{T5.module_prefix}-")


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
