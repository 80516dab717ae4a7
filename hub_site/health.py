"""GET /healthz: is everything there that the site needs?

Everybody may ask, and is told what is amiss; the figures are for whoever may see /metrics.
"""

import os
from typing import Any

from django.conf import settings
from django.db import Error, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from kombu.exceptions import KombuError

from hub_site import disk
from hub_site.celery import app
from hub_site.jobs import overview
from hub_site.watching import may_watch

OK = "ok"


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    answers = {"database": _database(), "broker": _broker(), "disk": _disk()}
    workers = _workers()
    healthy = {*answers.values(), *workers.values()} == {OK}
    body: dict[str, Any] = {"status": OK if healthy else "failing", **answers, "workers": workers}
    if may_watch(request):
        body["free"] = {
            room.name: {"bytes": room.free, "share": round(room.share, 4)} for room in disk.rooms()
        }
    return JsonResponse(body, status=200 if healthy else 503)


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error:
        return "does not answer"
    return OK


def _broker() -> str:
    if settings.CELERY_BROKER_URL.startswith("filesystem:"):
        folder = settings.BROKER_DIR / "queue"
        return OK if os.access(folder, os.W_OK | os.X_OK) else "folder is not writable"
    try:
        with app.connection_for_write() as broker:
            broker.ensure_connection(max_retries=1, interval_start=0, timeout=3)
    except (KombuError, OSError):
        return "does not answer"
    return OK


def _disk() -> str:
    try:
        return "is nearly full" if disk.trouble() else OK
    except OSError:
        return "cannot be read"


def _workers() -> dict[str, str]:
    """For each queue that is expected to be served: did a worker speak within one lease?"""
    try:
        live = overview.live_queues()
    except Error:
        return dict.fromkeys(settings.EXPECT_QUEUES, "unknown")
    silence = f"none has reported for {settings.JOB_LEASE_SECONDS:g} seconds"
    return {name: OK if name in live else silence for name in settings.EXPECT_QUEUES}
