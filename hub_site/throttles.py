"""How often one account or one address may do what costs the site something.

One row of the database for each, so all processes and machines count together. A limit of N in a
time lets N through at once, and then one more each time that an N-th of the time has passed: the
row holds the moment at which all of that is paid off (the "generic cell rate algorithm"). To look
and to count is one statement, which the database does for one request at a time.
"""

from __future__ import annotations

import ipaddress
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import connection
from django.db.models.functions import Now
from django.utils.crypto import salted_hmac

from composer.engine.errors import CommonsError
from hub_site import figures
from hub_site.addresses import address_of
from hub_site.env import Rate
from hub_site.models import Throttle

if TYPE_CHECKING:
    from django.http import HttpRequest
    from rest_framework.request import Request

WORDS = {
    "sign_in": "sign-ins",
    "sign_up": "new accounts",
    "guest": "visits without an account",
    "token": "new tokens",
    "upload": "uploads",
    "transfer": "files",
    "submit": "jobs",
    "search": "searches",
}
# The clock of the statement, and not of its transaction, which may have begun long ago.
COUNT = """
    INSERT INTO hub_site_throttle AS known (key, free_at)
    VALUES (%(key)s, statement_timestamp() + %(step)s)
    ON CONFLICT (key) DO UPDATE
    SET free_at = greatest(known.free_at, statement_timestamp()) + %(step)s
    WHERE known.free_at <= statement_timestamp() + %(most)s - %(step)s
    RETURNING true
"""
WAIT = """
    SELECT extract(epoch FROM free_at + %(step)s - %(most)s - statement_timestamp())
    FROM hub_site_throttle WHERE key = %(key)s
"""
NETWORK_BITS = 64  # of an IPv6 address: whoever has one has all that begin like it


class TooOften(CommonsError):
    code = "too_often"
    status = 429

    def __init__(self, message: str, wait: int) -> None:
        super().__init__(message)
        self.wait = wait  # seconds


def count(request: HttpRequest | Request, action: str, user: Any = None) -> None:
    """Count this request, or raise TooOften with when to come back. Call it outside of
    transactions: until one ends, nobody else of the same account could be counted."""
    rate: Rate | None = settings.THROTTLES[action]
    if rate is None:
        return
    who, whose = _who(request, user)
    wait = _wait(salted_hmac("throttle", f"{action} {who}", algorithm="sha256").hexdigest(), rate)
    if wait:
        raise TooOften(
            f"Too many {WORDS[action]} from {whose}: {rate.amount:,} in "
            f"{figures.duration(rate.seconds)} are the most. Come back in {_in_words(wait)}.",
            wait,
        )


def _wait(key: str, rate: Rate) -> int:
    """0 when it may go on, and is counted; otherwise whole seconds until the next may."""
    most = timedelta(seconds=rate.seconds)
    given = {"key": key, "most": most, "step": most / rate.amount}
    with connection.cursor() as cursor:
        cursor.execute(COUNT, given)
        if cursor.fetchone():
            return 0
        cursor.execute(WAIT, given)
        found = cursor.fetchone()
    return max(1, math.ceil(found[0])) if found else 1


def _who(request: HttpRequest | Request, user: Any) -> tuple[str, str]:
    """An account; or an address, also for guests: another guest costs nothing to become."""
    user = user or request.user
    if user.is_authenticated and not getattr(user, "is_guest", False):
        return f"account {user.pk}", "your account"
    return f"address {_network(address_of(request))}", "your address"


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    return str(ipaddress.ip_network((found, NETWORK_BITS), strict=False))


def _in_words(wait: int) -> str:
    if wait < 90:
        return "a second" if wait == 1 else f"{wait} seconds"
    return figures.duration(wait)


def prune() -> int:
    """Rows that say nothing any more; returns how many there were."""
    deleted, _ = Throttle.objects.filter(free_at__lt=Now()).delete()
    return deleted
