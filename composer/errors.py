"""Refusals of the composer, beside the engine's own."""

from composer.engine.errors import CommonsError


class NotAllowed(CommonsError):
    code = "not_allowed"
    status = 403


class NotReady(CommonsError):
    """The thing asked for is not there yet, or never will be; the message says which."""

    code = "not_ready"
    status = 409


class Withdrawn(CommonsError):
    code = "withdrawn"
    status = 403
