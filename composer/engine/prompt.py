"""The template that turns an input into a prompt, answers as they are compared, token counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from composer.engine.chat import Chat
from composer.engine.errors import BadBaseModel, BadExamples

SLOT = "{input}"


@dataclass(frozen=True)
class Template:
    """A text with one {input}. Other braces are ordinary text.

    chat: whether a decoder-only model reads the prompt as a user's turn of its tokenizer's chat
    template. None: where the tokenizer has one. Encoder-decoder models have no chats.
    """

    text: str = SLOT
    chat: bool | None = None

    def __post_init__(self) -> None:
        if not is_text(self.text):
            raise BadExamples(
                "The template holds characters that are not text. Retype it.",
                field="template",
                part="template",
            )
        count = self.text.count(SLOT)
        if count != 1:
            raise BadExamples(
                f"The template holds {SLOT} {count} times; it must hold it exactly once, at the "
                "place where an example's input goes.",
                field="template",
                part="template",
            )

    def render(self, input: str) -> str:  # noqa: A002 (the field's name, as in the dataset)
        before, after = self.text.split(SLOT)
        return before + input + after


def is_text(text: str) -> bool:
    """No U+0000 and no half of a surrogate pair: what tokenizers and databases can take."""
    return "\x00" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def normalise_answer(text: str) -> str:
    """Strip, lower, drop one final full stop. LoraHub's code drops every full stop, so that it
    takes 3.5 for 35."""
    return text.strip().lower().removesuffix(".").strip()


class TokenCounter:
    """Counts tokens with the base model's own tokenizer.json, without loading a model.

    chat is the model's chat template, where its prompts are asked in one.
    """

    def __init__(self, tokenizer_json: Path, chat: Chat | None = None) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        except Exception as error:  # the library raises a bare Exception
            raise BadBaseModel(
                f"{tokenizer_json.name} is not a usable tokenizer: {error}"
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._chat = chat

    def count(self, text: str) -> int:
        """Tokens of a text as it stands, the special ones that are added included."""
        return len(self._tokenizer.encode(text).ids)

    def count_prompt(self, prompt: str) -> int:
        """Tokens the model reads of a rendered prompt, the chat template's own included."""
        return len(self.tokens(prompt))

    def tokens(self, prompt: str) -> list[str]:
        """The pieces that the model reads of a rendered prompt."""
        if self._chat is None:
            return list(self._tokenizer.encode(prompt).tokens)
        # The template writes the special tokens itself: added again, they would stand twice.
        asked = self._chat.ask(prompt)
        return list(self._tokenizer.encode(asked, add_special_tokens=False).tokens)
