"""Who may import whom, read from the source of every file; CONTRIBUTING has the map."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
APPS = {"composer", "hub_site", "modules"}
ENGINE_MAY_USE = {
    *("cma", "jinja2", "numpy", "peft", "rfc8785", "safetensors", "scipy"),
    *("tokenizers", "torch", "torchmetrics", "transformers"),
}
NO_TORCH_ENGINE = {
    f"composer.engine.{name}"
    for name in (
        *("adapter_file", "blocks", "card", "chat", "compare", "config", "errors", "examples"),
        *("memory", "prompt", "recipe", "safetensors_header", "selection"),
    )
}
MAY_USE_THE_WHOLE_ENGINE = (
    *("composer/runner.py", "composer/running.py", "composer/ranking.py"),
    *("composer/measuring.py", "composer/folds.py", "composer/model_cache.py"),
    "composer/artifacts.py",
    *("composer/verifying.py", "composer/measured_again.py"),
    *("composer/cli/", "composer/workbench.py", "composer/demo/", "composer/engine/"),
    "composer/bbh/",
    "modules/importing/process.py",  # a process of its own
)
MAY_USE_HUGGINGFACE_HUB = (
    *("modules/storage/hub.py", "modules/storage/hub_cache.py"),
    "composer/fetched.py",  # the command line and notebooks
)
HEAVY = ("torch", "transformers", "peft", "cma", "scipy")


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """Every module that a file imports, however deep, and whether at its top, at run time."""
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_types_only(node)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        at_top = node not in inside
        if isinstance(node, ast.Import):
            found += [(alias.name, at_top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).with_suffix("").parts[: -node.level or None]
            base = ".".join([*package, *([node.module] if node.module else [])])
            base = base if node.level else node.module or ""
            found += [
                (f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base, at_top)
                for alias in node.names
            ]
    return found


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def files(*folders: str) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path


def offenders(folders: Iterable[str], is_wrong: Callable[[str, str, bool], bool]) -> list[str]:
    """is_wrong(file, imported module, at the top of the file)"""
    return [
        f"{name} imports {module}"
        for name, path in files(*sorted(folders))
        for module, at_top in imports(path)
        if is_wrong(name, module, at_top)
    ]


def test_the_engine_knows_nothing_of_us() -> None:
    def is_wrong(name: str, module: str, at_top: bool) -> bool:
        first = module.partition(".")[0]
        if first in APPS:
            return not module.startswith("composer.engine")
        return first not in sys.stdlib_module_names and first not in ENGINE_MAY_USE

    assert offenders(["composer/engine"], is_wrong) == []


def test_modules_never_import_the_composer_but_for_its_torch_free_engine_files() -> None:
    def is_wrong(name: str, module: str, at_top: bool) -> bool:
        return module.partition(".")[0] == "composer" and module not in NO_TORCH_ENGINE

    assert offenders(["modules"], is_wrong) == []


def test_the_frame_imports_no_app_at_the_top_but_for_its_addresses() -> None:
    """hub_site is what the apps stand on; only errors, and what wires them, may look up."""

    def is_wrong(name: str, module: str, at_top: bool) -> bool:
        wires = (
            *("hub_site/urls.py", "hub_site/api.py", "hub_site/views.py", "hub_site/search.py"),
        )
        first = module.partition(".")[0]
        return (
            at_top
            and first in {"composer", "modules"}
            and module not in NO_TORCH_ENGINE
            and name not in wires
        )

    assert offenders(["hub_site"], is_wrong) == []


def test_only_the_storage_and_the_workers_downloads_use_huggingface_hub() -> None:
    def is_wrong(name: str, module: str, at_top: bool) -> bool:
        return module.partition(".")[0] == "huggingface_hub" and not name.startswith(
            MAY_USE_HUGGINGFACE_HUB
        )

    assert offenders(APPS, is_wrong) == []


def test_only_one_file_uses_cma() -> None:
    def is_wrong(name: str, module: str, at_top: bool) -> bool:
        return module.partition(".")[0] == "cma" and name != "composer/engine/cmaes.py"

    assert offenders(APPS, is_wrong) == []


def test_only_the_workers_side_uses_the_whole_engine() -> None:
    def is_wrong(name: str, module: str, at_top: bool) -> bool:
        heavy = module.startswith("composer.engine") and module not in NO_TORCH_ENGINE
        return (heavy or module.partition(".")[0] in HEAVY) and not name.startswith(
            MAY_USE_THE_WHOLE_ENGINE
        )

    assert offenders(APPS, is_wrong) == []


def test_tasks_import_nothing_of_the_project_at_the_top() -> None:
    def is_wrong(name: str, module: str, at_top: bool) -> bool:
        return (
            name.endswith("/tasks.py")
            and (ROOT / name).with_name("apps.py").exists()
            and at_top
            and module.partition(".")[0] in APPS
        )

    assert offenders(APPS, is_wrong) == []


def test_it_sees_imports_in_functions_relative_ones_and_submodules(tmp_path: Path) -> None:
    """The walker itself: a rule that cannot fail would hold nothing."""
    text = "from composer.engine import search\nfrom . import forms\ndef f():\n    import torch\n"
    path = ROOT / "composer" / "not_a_real_file_for_the_rules.py"
    path.write_text(text)
    try:
        found = dict(imports(path))
    finally:
        path.unlink()
    assert found == {"composer.engine.search": True, "composer.forms": True, "torch": False}


def loaded_after(code: str) -> list[str]:
    """Which heavy libraries a fresh interpreter holds after running the code."""
    report = f"import sys; print('loaded:', *[n for n in {HEAVY!r} if n in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.rpartition("loaded:")[2].split()


def test_the_web_process_never_loads_torch() -> None:
    code = """
import hub_site.wsgi
from django.apps import apps
from django.urls import get_resolver
import importlib, pkgutil

def walk(resolver):
    for pattern in resolver.url_patterns:
        if hasattr(pattern, "url_patterns"):
            walk(pattern)

walk(get_resolver())
web = ("admin", "api", "forms", "models", "querysets", "services", "tasks", "urls", "views")
for app in apps.get_app_configs():
    if app.name.partition(".")[0] in ("composer", "hub_site", "modules"):
        for found in pkgutil.walk_packages(app.module.__path__, f"{app.name}."):
            if set(found.name.split(".")) & set(web):
                importlib.import_module(found.name)
"""
    assert loaded_after(code) == []


@pytest.mark.parametrize("name", sorted(NO_TORCH_ENGINE))
def test_the_light_engine_files_load_no_torch(name: str) -> None:
    assert loaded_after(f"import {name}") == []


def test_it_notices_torch_when_it_is_loaded() -> None:
    assert "torch" in loaded_after("import torch")
