"""What went wrong, told to its reader: CommonsError as a page, or as JSON to programs.

Only errors that were written for people are answered here. Anything else is a bug and goes
Django's way: logged, and reported as our fault.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import BadRequest, TooManyFilesSent
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.shortcuts import render
from django.utils.http import url_has_allowed_host_and_scheme

from composer.engine.errors import CommonsError
from hub_site.accounts.guests import SignInFirst

API = "/api/v1/"
PROGRAMS = "/api/"  # the Hub's protocol, too
DATABASE_AWAY = (OperationalError, InterfaceError)
COME_BACK_SECONDS = "10"
# What Django's own answers mean, where no view of ours spoke.
IN_WORDS = {
    400: ("bad_request", "The server could not read this request."),
    403: ("forbidden", "You may not do this. Send a token of write scope, or sign in."),
    404: ("not_found", "There is nothing at this address, or it is not yours to see."),
    500: ("our_fault", "Something broke on our side. It has been written down."),
}


class TooManyFiles(CommonsError):
    code = "too_many_files"
    status = 413


class BrokenOff(CommonsError):
    code = "broken_off"
    status = 400


def told(error: Exception) -> CommonsError | None:
    """What was written for people, or what Django says only to programmers in words for people."""
    if isinstance(error, TooManyFilesSent):
        most = settings.DATA_UPLOAD_MAX_NUMBER_FILES
        text = f"More than {most} files came at once, which is the most. Leave some out."
        return TooManyFiles(text, fields={"files": [f"{most} at most."]})
    if isinstance(error, UnreadablePostError):
        return BrokenOff(
            "What was sent did not arrive whole: the line broke, or was too slow. Nothing was "
            "kept. Try again."
        )
    return error if isinstance(error, CommonsError) else None


def status_of(error: CommonsError) -> int:
    """Errors of the site may say their status; what the engine refuses is bad input."""
    return getattr(error, "status", HTTPStatus.UNPROCESSABLE_ENTITY)


def body(
    code: str, message: str, fields: Mapping[str, Sequence[str]] | None = None
) -> dict[str, object]:
    """The one form of an error in the API."""
    return {"code": code, "message": message, "fields": dict(fields or {})}


def body_of(error: CommonsError) -> dict[str, object]:
    return body(error.code, error.user_message, getattr(error, "fields", None))


def database_away(request: HttpRequest) -> HttpResponse:
    """Drawn without the database, which every other page asks who is there."""
    if request.path.startswith(PROGRAMS):
        answer: HttpResponse = JsonResponse(
            body(
                "database_away",
                "The site cannot reach its database just now. Nothing that was saved is lost. Try "
                "again in a moment; a request with the same idempotency key does nothing twice.",
            ),
            status=503,
        )
    else:
        answer = render(None, "503.html", status=503)
    answer["Retry-After"] = COME_BACK_SECONDS
    answer["Cache-Control"] = "no-store"
    return answer


def headers_of(error: CommonsError) -> dict[str, str]:
    """When to come back, for programs; people are told in the message."""
    wait = getattr(error, "wait", None)
    return {"Retry-After": str(math.ceil(wait))} if wait else {}


def with_headers(answer: HttpResponse, error: CommonsError | None) -> HttpResponse:
    for name, value in (headers_of(error) if error else {}).items():
        answer[name] = value
    return answer


def page_of(request: HttpRequest) -> str:
    """Where the visitor stands: this page, or the one whose form they sent."""
    if request.method in ("GET", "HEAD"):
        return request.get_full_path()
    sent_from = request.headers.get("Referer", "")
    if not url_has_allowed_host_and_scheme(sent_from, allowed_hosts={request.get_host()}):
        return "/"
    return urlsplit(sent_from)._replace(scheme="", netloc="").geturl()


class OddRequestMiddleware:
    """What no browser sends, and Django would take for a bug of ours."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        session = request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")
        if "\0" in session:  # the database cannot look for it, so there is no such session
            del request.COOKIES[settings.SESSION_COOKIE_NAME]
        if (request.encoding or "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
            # As Django answers other encodings of simple forms.
            request.encoding = None
            raise BadRequest("Requests must be UTF-8.")
        return self.get_response(request)


class CommonsErrorMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        is_page = response.headers.get("Content-Type", "").startswith("text/html")
        known = IN_WORDS.get(response.status_code)
        if known and is_page and request.path.startswith(API) and not settings.DEBUG:
            return JsonResponse(body(*known), status=response.status_code)
        return response

    def process_exception(self, request: HttpRequest, raised: Exception) -> HttpResponse | None:
        error = told(raised)
        if error is None:
            return None
        status = status_of(error)
        if request.path.startswith(API):
            return with_headers(JsonResponse(body_of(error), status=status), error)
        if isinstance(error, SignInFirst):
            messages.info(request, error.user_message)
            return redirect_to_login(page_of(request))
        context = {"error": error, "status": status}
        page = "429.html" if status == 429 and headers_of(error) else "error.html"
        return with_headers(render(request, page, context, status=status), error)
