"""Where a request comes from, and a name for it that says nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allauth.core.internal.httpkit import get_client_ip
from django.core.exceptions import ImproperlyConfigured
from django.utils.crypto import salted_hmac

if TYPE_CHECKING:
    from datetime import date

    from django.http import HttpRequest


def address_of(request: HttpRequest) -> str:
    """The visitor's address: behind a proxy, as BEHIND_TLS_PROXY says, not the proxy's own."""
    try:
        return get_client_ip(request) or ""
    except ImproperlyConfigured:  # the proxy sent fewer addresses than it should
        return request.META.get("REMOTE_ADDR", "")


def visitor_hash(purpose: str, user: Any, address: str, day: date) -> str:
    """The same for one user, or one address, on one day; only who has the site's key can make it.

    So it tells visitors of one day apart, and does not tell who they were or that they came back.
    """
    who = f"user {user.pk}" if user is not None and user.is_authenticated else f"at {address}"
    return salted_hmac(purpose, f"{day.isoformat()} {who}", algorithm="sha256").hexdigest()[:32]


def hidden_key(key: str, prefix: str, version: int) -> str:
    """What is counted by address is kept without the address."""
    return salted_hmac("cache", f"{prefix} {version} {key}", algorithm="sha256").hexdigest()
