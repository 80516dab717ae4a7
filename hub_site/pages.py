"""What every page needs: its part at the same URL, and the address people use."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def part_id(part: str) -> str:
    """The id of a part's root: "composer/_job_status.html" -> "job-status"."""
    return PurePosixPath(part).stem.lstrip("_").replace("_", "-")


def page_or_part(
    request: HttpRequest,
    page: str,
    part: str,
    context: Mapping[str, Any] | None = None,
    status: int = 200,
) -> HttpResponse:
    """The part alone when htmx asks to replace exactly it, the whole page otherwise."""
    wants_part = request.headers.get("HX-Target") == part_id(part)
    is_restore = request.headers.get("HX-History-Restore-Request") == "true"
    template = part if wants_part and not is_restore else page
    response = render(request, template, dict(context or {}), status=status)
    # The same address has two answers: no cache may mix them up.
    response.headers["Vary"] = ", ".join(filter(None, [response.headers.get("Vary"), "HX-Target"]))
    return response


def site_address(request: HttpRequest) -> str:
    """Where this site is, for links and snippets that leave it; no slash at the end."""
    return (settings.SITE_URL or request.build_absolute_uri("/")).rstrip("/")
