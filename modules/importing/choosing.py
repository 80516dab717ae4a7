"""Which files of a repo on the Hub make a module here, told from their names and sizes."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings

from composer.engine.adapter_file import CONFIG_LIMIT, CONFIG_NAME, WEIGHTS_NAME
from composer.engine.errors import CommonsError
from hub_site import figures
from modules import cards
from modules.services import CARD_NAME
from modules.storage.hub import Facts, File
from modules.upload import staging

PICKLE_NAME = "adapter_model.bin"
CARD_LIMIT = 4 * cards.LIMIT
WHOLE_MODEL = ("model", "pytorch_model", "tf_model", "flax_model", "consolidated")


class NotImported(CommonsError):
    """This repo cannot become a module here; trying again changes nothing."""

    code = "not_imported"


@dataclass(frozen=True)
class Chosen:
    """The files to take, by the paths that they get here."""

    files: dict[str, File]

    @property
    def pickle(self) -> File | None:
        """The weights, where they must be converted."""
        weights = self.files[WEIGHTS_NAME]
        return weights if weights.path == PICKLE_NAME else None

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())


def choose(facts: Facts) -> Chosen:
    """Config, weights, card and licence texts; raises NotImported with what is there instead."""
    there = {file.path: file for file in facts.files}
    weights = there.get(WEIGHTS_NAME) or there.get(PICKLE_NAME)
    if CONFIG_NAME not in there or weights is None:
        raise NotImported(f"{facts.repo_id} {_what_it_is(facts)}")
    files = {CONFIG_NAME: there[CONFIG_NAME], WEIGHTS_NAME: weights}
    if CARD_NAME in there and there[CARD_NAME].size <= CARD_LIMIT:
        files[CARD_NAME] = there[CARD_NAME]
    files |= {file.path: file for file in _legal(facts)}
    _check_sizes(files)
    return Chosen(files)


def _legal(facts: Facts) -> list[File]:
    return [
        file
        for file in facts.files
        if staging.recognise(file.path) == file.path
        and staging.is_legal(file.path)
        and file.size <= staging.LEGAL_LIMIT
    ][: staging.MOST_LEGAL]


def _check_sizes(files: dict[str, File]) -> None:
    """Before a byte is fetched. Config and card have smaller limits than weights."""
    for path, file in files.items():
        most = CONFIG_LIMIT if path == CONFIG_NAME else settings.MAX_FILE_BYTES
        if file.size > most:
            raise NotImported(
                f"Its {file.path} has {figures.size(file.size)}; {figures.size(most)} are the most "
                "that this site takes for it."
            )
    together = sum(file.size for file in files.values())
    if together > settings.MAX_MODULE_BYTES:
        raise NotImported(
            f"Its files have {figures.size(together)} together; "
            f"{figures.size(settings.MAX_MODULE_BYTES)} are the most for a module."
        )


def _what_it_is(facts: Facts) -> str:
    """For somebody who thought that it was an adapter."""
    paths = [file.path for file in facts.files]
    names = [path.rpartition("/")[2] for path in paths]
    deeper = sorted(path.rpartition("/")[0] for path in paths if path.endswith(f"/{CONFIG_NAME}"))
    if not paths:
        return "has no files yet."
    if CONFIG_NAME in paths:
        return (
            f"has {CONFIG_NAME} but no {WEIGHTS_NAME} (nor {PICKLE_NAME}) beside it. Its weights "
            "are somewhere else, or were never uploaded."
        )
    if deeper:
        return (
            f"has its adapters in folders ({', '.join(deeper[:3])}); only one at the top of a repo "
            "can be imported. Download the folder you want and upload it here."
        )
    if WEIGHTS_NAME in paths or PICKLE_NAME in paths:
        return (
            f"has the weights of an adapter but no {CONFIG_NAME}, without which nobody can say "
            "what they mean."
        )
    if any(name.startswith("pytorch_lora_weights.") for name in names):
        return (
            "is a LoRA for diffusers, which makes images; only PEFT's adapters of language "
            "models are shared here."
        )
    if any(name.endswith(".gguf") for name in names):
        return "holds GGUF files, made for inference alone. Look for the adapter it was made from."
    if any(name.startswith(WHOLE_MODEL) for name in names):
        return (
            "is a whole model, not an adapter: there is no adapter_config.json. Modules are LoRA "
            "adapters; whoever runs the site adds base models."
        )
    return f"has no {CONFIG_NAME}, so it is no adapter that PEFT wrote."
