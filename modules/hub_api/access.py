"""Access to gated repos by the Hub's protocol: who asks, who asked, and what their owner says."""

from __future__ import annotations

import re
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse

from modules.hub_api.answers import (
    HubError,
    body,
    find_repo,
    hub_view,
    iso,
    number,
    own_repo,
    text,
    with_next,
    writer,
)
from modules.models import AccessRequest, Repo
from modules.repos import gate

PAGE, JSON = 1_000, "application/json"
STATES = (gate.PENDING, gate.ACCEPTED, gate.REJECTED)


# --- whoever asks ------------------------------------------------------------------------------


@hub_view("POST")
def ask(request: HttpRequest, owner: str, name: str) -> HttpResponseBase:
    """As the page's button does, with a token; a JSON body may hold a message to the owner."""
    user = writer(request)
    repo = find_repo(user, owner, name)
    message = text(body(request), "message") if request.content_type == JSON else ""
    if len(message) > gate.MESSAGE_LENGTH:
        raise HubError(400, f"message has at most {gate.MESSAGE_LENGTH} characters")
    gate.ask(repo, user, message)
    answer = HttpResponse(status=303)
    answer["Location"] = request.build_absolute_uri(repo.get_absolute_url())
    return answer


@hub_view("POST")
def cancel(request: HttpRequest, owner: str, name: str) -> HttpResponseBase:
    """Take one's own request back while it waits."""
    user = writer(request)
    gate.withdraw(find_repo(user, owner, name), user)
    return JsonResponse({"ok": True})


# --- its owner ---------------------------------------------------------------------------------


@hub_view("GET")
def requests(request: HttpRequest, owner: str, name: str, state: str) -> HttpResponseBase:
    repo = _own_gated(request, owner, name)
    if state not in STATES:
        raise HubError(404, f"Requests are {', '.join(STATES)}; {state[:40]!r} is not")
    rows = repo.access_requests.in_state(state).select_related("user").order_by("-pk")
    if before := request.GET.get("cursor"):
        rows = rows.filter(pk__lt=_number(before))
    size = number(request, "limit", PAGE, PAGE)
    found = list(rows[: size + 1])
    more = {"cursor": str(found[size - 1].pk)} if len(found) > size else {}
    return with_next(request, [_shown(each) for each in found[:size]], **more)


@hub_view("POST")
def handle(request: HttpRequest, owner: str, name: str) -> HttpResponseBase:
    """Move a request to another list."""
    repo = _own_gated(request, owner, name)
    given = body(request)
    state, reason = text(given, "status"), text(given, "rejectionReason")
    if state not in STATES:
        raise HubError(400, f"status must be {', '.join(STATES)}; {state[:40]!r} is not")
    if len(reason) > gate.REASON_LENGTH:
        raise HubError(400, f"rejectionReason has at most {gate.REASON_LENGTH} characters")
    gate.decide(_named(repo, given), state, reason)
    return JsonResponse({})


@hub_view("POST")
def grant(request: HttpRequest, owner: str, name: str) -> HttpResponseBase:
    repo = _own_gated(request, owner, name)
    if not (user := text(body(request), "user")):
        raise HubError(400, "user must name whom to give access")
    gate.grant(repo, user)
    return JsonResponse({})


def _own_gated(request: HttpRequest, owner: str, name: str) -> Repo:
    _, repo = own_repo(request, owner, name)
    if not repo.gated:
        raise HubError(400, f"{repo} is not gated")
    return repo


def _named(repo: Repo, given: dict[str, Any]) -> AccessRequest:
    """By the asker's name, or by the id that the lists give."""
    user, request_id = text(given, "user"), text(given, "requestId")
    if bool(user) == bool(request_id):
        raise HubError(400, "Send either user or requestId")
    rows = repo.access_requests.select_related("repo__owner")
    if user:
        found = rows.filter(user__username__iexact=user).first()
    else:
        found = rows.filter(pk=_number(request_id, 16)).first()
    if found is None:
        raise HubError(404, f"{repo} has no request of {(user or request_id)[:100]!r}")
    return found


def _number(given: str, base: int = 10) -> int:
    if not re.fullmatch("[0-9a-f]{1,24}" if base == 16 else "[0-9]{1,18}", given):
        raise HubError(400, f"{given[:40]!r} is not an id that this site gave out")
    return min(int(given, base), 2**63 - 1)


def _shown(found: AccessRequest) -> dict[str, Any]:
    """Without an address: a user name is all that an owner learns of who asks."""
    name = found.user.get_username()
    row: dict[str, Any] = {
        "requestId": f"{found.pk:024x}",
        "user": {
            "_id": f"{found.user_id:024x}",
            "user": name,
            "fullname": name,
            "type": "user",
            "isPro": False,
        },
        "status": found.state,
        "timestamp": iso(found.created_at),
    }
    if found.decided_at:
        row["reviewedAt"] = iso(found.decided_at)
    if found.message:
        row["fields"] = {"message": found.message}
    return row
