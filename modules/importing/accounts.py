"""As whom the Hub is asked."""

from __future__ import annotations

from django.conf import settings

from hub_site.accounts.models import User


def token_for(user: User | None) -> str:
    """Nobody is the site itself: its command, and what it follows for organisations. A user never
    gets the site's token, or strangers would read what only the site may."""
    return settings.HF_TOKEN if user is None else ""
