"""Base models that stay on the Hugging Face Hub: workers fetch a pinned commit of them.

What is read here, over HTTP, is small: config, tokenizer, and the headers of the weights. The hash
of every file that a worker will fetch is kept, so that it takes those bytes and no others.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from typing import Any, BinaryIO, cast

from django.conf import settings

from composer.engine.adapter_file import json_object, read_header
from composer.engine.errors import BadAdapter, BadBaseModel
from hub_site import figures
from modules.bases.base_models import facts_of, write_base_model
from modules.models import BaseModel
from modules.storage import local
from modules.storage.hub import Facts, File, Hub

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# No pickles, no code: what transformers reads besides the weights, and nothing else.
SMALL = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
SMALL_LIMIT = 100_000_000  # tokenizers of large vocabularies have tens of megabytes
MOST_SHARDS = 200


def pin_base_model(
    *, name: str, revision: str = "", summary: str = "", aliases: Iterable[str] = ()
) -> BaseModel:
    """Let workers load a base model from the Hub, in the commit that `revision` names now."""
    hub = Hub(settings.HF_TOKEN)
    found = hub.facts(name, revision or None)
    reader = _Reader(hub, found)
    config = reader.json("config.json")
    tokenizer_config = reader.json("tokenizer_config.json", needed=False)
    _refuse_code(name, config, tokenizer_config)
    weights = reader.weights()
    kept = [file for file in found.files if file.path in {*SMALL, *weights}]
    _check_size(name, kept)
    tensors: dict[str, tuple[int, ...]] = {}
    for path in weights:
        if path != INDEX:
            tensors |= reader.shapes(path)
    tokenizer = local.keep_tokenizer(reader.small("tokenizer.json"))
    if found.repo_id != name:  # the Hub leads on from old names
        aliases = [*aliases, name]
    return write_base_model(
        found.repo_id, facts_of(config, tokenizer_config, tokenizer, tensors), aliases, repo=None,
        source=BaseModel.HUB, revision=found.sha, folder="", summary=summary,
        files={file.path: reader.sha256(file) for file in kept},
    )  # fmt: skip


def _refuse_code(name: str, *configs: dict[str, Any]) -> None:
    if any("auto_map" in config for config in configs):
        raise BadBaseModel(
            f"{name} brings code of its own (auto_map), which this site never runs. Only models "
            "that transformers knows are loaded."
        )


def _check_size(name: str, files: Iterable[File]) -> None:
    size = sum(file.size for file in files)
    if size > settings.BASE_MODEL_MAX_BYTES:
        raise BadBaseModel(
            f"The files of {name} have {figures.size(size)}; "
            f"{figures.size(settings.BASE_MODEL_MAX_BYTES)} are the most (BASE_MODEL_MAX_BYTES)."
        )


class _Reader:
    """Files of one commit on the Hub."""

    def __init__(self, hub: Hub, facts: Facts) -> None:
        self.hub, self.facts = hub, facts
        self._small: dict[str, bytes] = {}

    def small(self, path: str) -> bytes:
        file = self.facts.file(path)
        if file is None:
            raise BadBaseModel(
                f"{self.facts.repo_id} has no {path} at {self.facts.sha[:10]}. A base model needs "
                "config.json, tokenizer.json (the fast format) and weights as safetensors."
            )
        if file.size > SMALL_LIMIT:
            raise BadBaseModel(
                f"{path} of {self.facts.repo_id} has {figures.size(file.size)}; "
                f"{figures.size(SMALL_LIMIT)} are the most."
            )
        if path not in self._small:
            self._small[path] = self.part(path, 0, file.size)
        return self._small[path]

    def part(self, path: str, start: int, end: int) -> bytes:
        """Exactly these bytes, whatever comes."""
        if start >= end:
            return b""
        data = bytearray()
        with self.hub.opened(self.facts.repo_id, self.facts.sha, path, start, end) as chunks:
            for chunk in chunks:
                data += chunk
                if len(data) > end - start:
                    break
        if len(data) != end - start:
            raise BadBaseModel(
                f"The Hub sent other bytes of {path} than it was asked for ({self.facts.repo_id}). "
                "Try again later."
            )
        return bytes(data)

    def json(self, path: str, needed: bool = True) -> dict[str, Any]:
        if not needed and self.facts.file(path) is None:
            return {}
        try:
            return json_object(self.small(path), path)
        except BadAdapter as error:
            raise BadBaseModel(f"{self.facts.repo_id}: {error.user_message}") from error

    def weights(self) -> list[str]:
        """The files that hold the weights, as transformers chooses them."""
        if self.facts.file(SINGLE):
            return [SINGLE]
        if self.facts.file(INDEX) is None:
            raise BadBaseModel(
                f"{self.facts.repo_id} has no safetensors weights at {self.facts.sha[:10]} "
                f"({SINGLE} or {INDEX}). Pickled weights are not loaded."
            )
        named = self.json(INDEX).get("weight_map")
        shards = sorted({str(path) for path in named.values()}) if isinstance(named, dict) else []
        for path in shards:
            if not path.endswith(".safetensors") or "/" in path or not self.facts.file(path):
                raise BadBaseModel(f"{INDEX} of {self.facts.repo_id} names {path[:200]!r}.")
        if not 1 <= len(shards) <= MOST_SHARDS:
            raise BadBaseModel(f"{INDEX} of {self.facts.repo_id} names {len(shards)} files.")
        return [INDEX, *shards]

    def shapes(self, path: str) -> dict[str, tuple[int, ...]]:
        """From the header of a file of weights; the weights stay where they are."""
        far = io.BufferedReader(_Far(self, path), 1 << 16)
        try:
            return {name: info.shape for name, info in read_header(cast(BinaryIO, far)).items()}
        except BadAdapter as error:
            raise BadBaseModel(f"{path} of {self.facts.repo_id}: {error.user_message}") from error

    def sha256(self, file: File) -> str:
        """Small files, which the Hub names by git's id, are read for it."""
        return file.sha256 or hashlib.sha256(self.small(file.path)).hexdigest()


class _Far(io.RawIOBase):
    """A file on the Hub, of which only what is read travels."""

    def __init__(self, reader: _Reader, path: str) -> None:
        file = reader.facts.file(path)
        assert file is not None
        self._reader, self._path, self._size, self._at = reader, path, file.size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, into: Any) -> int:
        end = min(self._at + len(into), self._size)
        data = self._reader.part(self._path, self._at, end)
        into[: len(data)] = data
        self._at += len(data)
        return len(data)
