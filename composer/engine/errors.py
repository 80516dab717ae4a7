"""The one error family. A message says what is wrong, with which value, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class CommonsError(Exception):
    """An error written for the person who reads it. Anything else that is raised is a bug."""

    code: str = "error"

    def __init__(
        self, user_message: str, *, fields: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        super().__init__(user_message)
        self.user_message = user_message
        self.fields: dict[str, list[str]] = {k: list(v) for k, v in (fields or {}).items()}


class BadAdapter(CommonsError):
    code = "bad_adapter"


class IncompatibleModules(CommonsError):
    code = "incompatible_modules"


class BadConfig(CommonsError):
    code = "bad_config"


class BadRecipe(CommonsError):
    code = "bad_recipe"


class BadBaseModel(CommonsError):
    code = "bad_base_model"


class ResumeMismatch(CommonsError):
    """The stored generations are not what this search would have produced."""

    code = "resume_mismatch"


class BadExamples(CommonsError):
    """An example that cannot be used; `line` counts from 1 within `part`."""

    code = "bad_examples"

    def __init__(
        self,
        user_message: str,
        *,
        line: int | None = None,
        field: str | None = None,
        part: str = "examples",
    ) -> None:
        super().__init__(user_message, fields={part: [user_message]})
        self.line = line
        self.field = field
        self.part = part
