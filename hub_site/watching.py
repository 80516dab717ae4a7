"""Who may see how the site does: /metrics, and the figures behind /healthz.

Whoever sends METRICS_TOKEN as a bearer token. Without such a setting, programs on this very
machine: a request that came through a proxy is somebody else's, whatever address it comes from.
"""

from ipaddress import ip_address
from secrets import compare_digest

from django.conf import settings
from django.http import HttpRequest

THROUGH_A_PROXY = ("X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Forwarded", "Via")


def may_watch(request: HttpRequest) -> bool:
    if settings.METRICS_TOKEN:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        right = compare_digest(token.strip().encode(), settings.METRICS_TOKEN.encode())
        return right and kind.lower() == "bearer"
    return _is_from_here(request)


def _is_from_here(request: HttpRequest) -> bool:
    if settings.BEHIND_TLS_PROXY or any(name in request.headers for name in THROUGH_A_PROXY):
        return False
    try:
        return ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:  # a socket of the file system has no address
        return False
