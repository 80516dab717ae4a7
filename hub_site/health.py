"""GET /healthz: is everything there that the site needs?"""

import os
from collections.abc import Callable
from datetime import timedelta

from django.conf import settings
from django.db import Error, connection
from django.db.models.functions import Now
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from kombu.exceptions import KombuError

from hub_site.celery import app
from hub_site.jobs.models import Worker


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    checks: dict[str, Callable[[], str]] = {
        "database": _database,
        "broker": _broker,
        "worker": _worker,
    }
    answers = {name: check() for name, check in checks.items()}
    healthy = all(answer == "ok" for answer in answers.values())
    body = {"status": "ok" if healthy else "failing", **answers}
    return JsonResponse(body, status=200 if healthy else 503)


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error:
        return "does not answer"
    return "ok"


def _broker() -> str:
    if settings.CELERY_BROKER_URL.startswith("filesystem:"):
        folder = settings.BROKER_DIR / "queue"
        return "ok" if os.access(folder, os.W_OK | os.X_OK) else "folder is not writable"
    try:
        with app.connection_for_write() as broker:
            broker.ensure_connection(max_retries=1, interval_start=0, timeout=3)
    except (KombuError, OSError):
        return "does not answer"
    return "ok"


def _worker() -> str:
    """A worker that said something within one lease."""
    lease = timedelta(seconds=settings.JOB_LEASE_SECONDS)
    try:
        found = Worker.objects.filter(seen_at__gt=Now() - lease).exists()
    except Error:
        return "unknown"
    return "ok" if found else f"none has reported for {lease.total_seconds():g} seconds"
