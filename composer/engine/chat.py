"""Chat templates: how an instruct model is asked. No torch and no transformers here.

The text is Jinja, run in Jinja's sandbox. It is rendered here, and not by transformers, so that the
site counts the very tokens that the engine will read, and so that a template that asks for today's
date (Llama 3's do) is told one fixed day: a recipe must read the same tomorrow. For every other
template this is transformers' `apply_chat_template`, which the tests hold it to.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from composer.engine.errors import BadBaseModel

# The day that Llama 3's own template falls back to.
DAY = datetime.datetime(2024, 7, 26)
# Stands where an answer will stand; no template trims or changes it.
_ANSWER = "answer0of0the0assistant"
_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


@dataclass(frozen=True)
class Chat:
    """A chat template, and the special tokens it may name."""

    text: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def ask(self, prompt: str) -> str:
        """The prompt as a user's turn, up to where the assistant begins to write."""
        return self._render([{"role": "user", "content": prompt}], add_generation_prompt=True)

    def around_answer(self) -> tuple[str, str]:
        """What stands between `ask` and an answer, and what follows the answer."""
        asked = self.ask("question")
        turns = [
            {"role": "user", "content": "question"},
            {"role": "assistant", "content": _ANSWER},
        ]
        before, _, after = self._render(turns, add_generation_prompt=False).partition(_ANSWER)
        return (before.removeprefix(asked) if before.startswith(asked) else ""), after

    def _render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        try:
            return _compiled(self.text).render(
                **self.tokens,
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                # Answers are short and are scored as they stand: nothing is thought aloud before.
                enable_thinking=False,
                date_string=DAY.strftime("%d %b %Y"),
            )
        except Exception as error:  # whatever the template's own expressions come to
            raise BadBaseModel(
                f"The tokenizer's chat template cannot be rendered: {error}. Turn the chat "
                "template off, or repair it in the model's folder."
            ) from error


def chat_template_hash(tokenizer: Any) -> str | None:
    """sha256 of the tokenizer's chat template, which a recipe records; None where it has none."""
    chat = of_tokenizer(tokenizer)
    return None if chat is None else chat.hash


def of_tokenizer(tokenizer: Any) -> Chat | None:
    """The chat template of a loaded tokenizer."""
    text = _default(getattr(tokenizer, "chat_template", None))
    if text is None:
        return None
    tokens = {name: getattr(tokenizer, name, None) for name in _TOKENS}
    return Chat(text, {name: str(token) for name, token in tokens.items() if token})


def of_folder(folder: Path) -> Chat | None:
    """The same from a model's files, for those who only count tokens."""
    config: dict[str, Any] = {}
    path = folder / "tokenizer_config.json"
    if path.is_file():
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadBaseModel(f"{path.name} in {folder.name!r} is not JSON: {error}.") from error
    own = folder / "chat_template.jinja"  # where newer versions of transformers keep it
    named = own.read_text(encoding="utf-8") if own.is_file() else config.get("chat_template")
    text = _default(named)
    if text is None:
        return None
    tokens = {name: config.get(name) for name in _TOKENS}
    written = {k: v["content"] if isinstance(v, dict) else v for k, v in tokens.items() if v}
    return Chat(text, {name: str(token) for name, token in written.items()})


def _default(named: Any) -> str | None:
    """Some tokenizers have several, by name: {name: text}, or [{"name": …, "template": …}]."""
    if isinstance(named, list):
        named = {each.get("name"): each.get("template") for each in named}
    if isinstance(named, Mapping):
        named = named.get("default")
    return named if isinstance(named, str) and named else None


@functools.lru_cache(maxsize=16)
def _compiled(text: str) -> jinja2.Template:
    """As transformers sets Jinja up: blocks leave no empty lines, and a few names are known."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = DAY.strftime
    return environment.from_string(text)


class _Generation(Extension):
    """{% generation %} marks what an assistant wrote, for training; it changes no text."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
