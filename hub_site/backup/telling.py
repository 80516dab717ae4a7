"""Long work says how far it is, now and then."""

import time
from collections.abc import Callable

from hub_site.figures import grouped, size

EVERY = 5.0

Say = Callable[[str], None]


class Telling:
    """Counts things and their bytes; a line every few seconds, and one at the end."""

    def __init__(self, say: Say, what: str, count: int, total: int) -> None:
        self.say, self.what, self.count, self.total = say, what, count, total
        self.done = self.bytes = 0
        self._next = time.monotonic() + EVERY

    def add(self, length: int) -> None:
        self.done, self.bytes = self.done + 1, self.bytes + length
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            self.say(str(self))

    def __str__(self) -> str:
        return (
            f"{self.what}: {grouped(self.done)} of {grouped(self.count)} files, "
            f"{size(self.bytes)} of {size(self.total)}"
        )
