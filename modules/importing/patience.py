"""When the Hub is asked once more, and after which pause."""

from __future__ import annotations

from django.conf import settings

from composer.engine.errors import CommonsError
from modules.storage.hub import HubFault

MOST_TRIES = 5
LONGEST = 600.0


def helps(error: CommonsError) -> bool:
    """Whether trying again can help by itself."""
    return isinstance(error, HubFault) and error.helps


def pause(error: CommonsError, tries: int) -> float:
    """Seconds: four times as long after each try, or as long as the Hub asked for."""
    asked = getattr(error, "wait", None) or 0.0
    return float(min(max(settings.HUB_RETRY_SECONDS * 4**tries, asked), LONGEST))
