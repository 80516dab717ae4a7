"""A tiny library as the site keeps it: a random base model, random modules, checked and ready."""

from collections.abc import Callable
from pathlib import Path

from composer.engine import base_model as engine_base
from modules.bases import base_models
from modules.models import BaseModel, LoraModule, Repo
from tests.engine.conftest import WORDS, make_adapter, make_t5

__all__ = ["OWNER", "WORDS", "load_library", "loaded_library", "make_library"]

OWNER = "tiny-lab"
COUNT = 4


def make_library(root: Path, make_base: Callable[[Path], Path] = make_t5) -> Path:
    """base/ and module-0/ … module-3/, each as its user saves it."""
    make_base(root / "base")
    base = engine_base.load(root / "base")
    for place in range(COUNT):
        make_adapter(base, root / f"module-{place}", 100 + place, target_modules=_targets(base))
    return root


def _targets(base: engine_base.BaseModel) -> list[str]:
    return ["q", "v"] if base.is_encoder_decoder else ["q_proj", "v_proj"]


def load_library(root: Path) -> tuple[BaseModel, list[LoraModule]]:
    """Commit the folders as an operator's command does, checks included."""
    owner = base_models.organisation(OWNER)
    base = base_models.keep_base_model(
        repo=base_models.repo_of(owner, "tiny-t5", Repo.BASE), folder=root / "base"
    )
    for place in range(COUNT):
        repo = base_models.repo_of(owner, f"module-{place}", Repo.LORA)
        folder = root / f"module-{place}"
        config = folder / "adapter_config.json"
        text = config.read_text()
        # PEFT writes the folder the model was loaded from; a module names its base model.
        config.write_text(text.replace(str(root / "base"), base.name))
        base_models.mirror(repo, folder, "Add the module", check_now=True)
    return loaded_library()


def loaded_library() -> tuple[BaseModel, list[LoraModule]]:
    """What the database has of it."""
    base = BaseModel.objects.get()
    modules = LoraModule.objects.filter(base_model=base, status="ready").order_by("repo__name")
    return base, list(modules)
