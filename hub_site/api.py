"""What every endpoint under /api/v1/ shares: pages, who may do what, and how errors look."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.core.exceptions import PermissionDenied
from django.http import Http404
from rest_framework import exceptions, parsers, serializers
from rest_framework.pagination import PageNumberPagination
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle

from hub_site import errors, throttles
from hub_site.accounts.models import AccessToken

if TYPE_CHECKING:
    from rest_framework.views import APIView  # it imports this file


class Pagination(PageNumberPagination):
    """{"count", "next", "previous", "results"}; follow `next` rather than counting pages."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200


class JSONParser(parsers.JSONParser):
    """JSON nested a thousand deep is as unreadable as what is no JSON."""

    def parse(self, stream: Any, *args: Any, **options: Any) -> Any:
        try:
            return super().parse(stream, *args, **options)
        except RecursionError:
            raise exceptions.ParseError("This JSON is nested too deeply.") from None


class Given(serializers.Serializer):
    """What a program sends. A name we do not know is an error, not a setting silently ignored."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        unknown = sorted(set(data) - set(self.fields)) if isinstance(data, Mapping) else []
        if unknown:
            known = ", ".join(name for name, field in self.fields.items() if not field.read_only)
            raise serializers.ValidationError(
                {name: [f"Unknown field. Known here: {known}."] for name in unknown}
            )
        found: dict[str, Any] = super().to_internal_value(data)
        return found


class ReadOrOwnWrite(BasePermission):
    """Anybody reads what is public; writing needs a session or a token of write scope.

    Which rows a caller sees or may change is the querysets' part (`visible_to`, `editable_by`):
    what is not yours is answered 404.
    """

    code = "read_only_token"
    message = "This token may only read. Make one with write scope."

    def has_permission(self, request: Request, view: "APIView") -> bool:
        if request.method in SAFE_METHODS:
            return True
        if not request.user.is_authenticated:
            return False
        return not isinstance(request.auth, AccessToken) or request.auth.scope == AccessToken.WRITE


class Throttle(BaseThrottle):
    """Counts what a view names in `counts_as`, by method, before the body of a request is read."""

    def allow_request(self, request: Request, view: "APIView") -> bool:
        action = getattr(view, "counts_as", {}).get(request.method)
        if action:
            throttles.count(request, action)
        return True


def document_errors(result: dict[str, Any], **given: Any) -> dict[str, Any]:
    """For the OpenAPI document: whatever goes wrong, every endpoint tells it in one form."""
    result["components"]["schemas"]["Error"] = {
        "type": "object",
        "properties": {
            "code": {"type": "string"},
            "message": {"type": "string", "description": "What is wrong, in words for people."},
            "fields": {
                "type": "object",
                "description": "What is wrong with which field.",
                "additionalProperties": {"type": "array", "items": {"type": "string"}},
            },
        },
        "required": ["code", "message", "fields"],
    }
    error = {
        "description": "What went wrong. With 429, Retry-After says in how many seconds to return.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for path in result["paths"].values():
        for operation in path.values():
            operation["responses"].setdefault("default", error)
    return result


def answer_error(error: Exception, context: dict[str, Any]) -> Response | None:
    """{"code", "message", "fields"} for what we expect; None lets a bug be a bug."""
    from rest_framework.views import set_rollback

    headers: dict[str, str] = {}
    if told := errors.told(error):
        status, answer = errors.status_of(told), errors.body_of(told)
        headers |= errors.headers_of(told)
    elif isinstance(error, Http404):
        status, answer = 404, errors.body(*errors.IN_WORDS[404])
    elif isinstance(error, PermissionDenied):
        status, answer = 403, errors.body(*errors.IN_WORDS[403])
    elif isinstance(error, exceptions.ValidationError):
        status, answer = 422, _validation(error)
    elif isinstance(error, exceptions.APIException):
        status, answer = error.status_code, _api_error(error)
        if challenge := getattr(error, "auth_header", None):
            headers["WWW-Authenticate"] = challenge
        if wait := getattr(error, "wait", None):
            headers["Retry-After"] = str(int(wait) + 1)
    else:
        return None
    set_rollback()
    return Response(answer, status=status, headers=headers)


def _api_error(error: exceptions.APIException) -> dict[str, object]:
    codes = error.get_codes()
    return errors.body(codes if isinstance(codes, str) else error.default_code, str(error.detail))


def _validation(error: exceptions.ValidationError) -> dict[str, object]:
    fields = _by_field(error.detail)
    general = fields.pop("non_field_errors", [])
    named = [f"{name}: {messages[0]}" for name, messages in fields.items() if messages]
    return errors.body("invalid", " ".join(general) or "; ".join(named) or "Bad input.", fields)


def _by_field(detail: Any, path: str = "") -> dict[str, list[str]]:
    """Nested serializers' errors flat: {"examples.2.input": ["…"]}."""
    if isinstance(detail, dict):
        items = [(f"{path}.{key}" if path else str(key), value) for key, value in detail.items()]
    elif isinstance(detail, list) and any(isinstance(item, dict | list) for item in detail):
        items = [(f"{path}.{n}" if path else str(n), value) for n, value in enumerate(detail)]
    else:
        found = [
            _sendable(str(item)) for item in (detail if isinstance(detail, list) else [detail])
        ]
        return {path or "non_field_errors": found} if found else {}
    flat: dict[str, list[str]] = {}
    for key, value in items:
        flat |= _by_field(value, key)
    return flat


def _sendable(text: str) -> str:
    """A message may repeat what was sent: half a surrogate pair cannot be written as UTF-8."""
    return text.encode("utf-8", "replace").decode()
