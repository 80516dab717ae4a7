"""Errors written for people reach them, as a page or as JSON; bugs stay bugs."""

from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.test import Client
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from rest_framework import serializers
from rest_framework.exceptions import Throttled
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from composer.engine.errors import BadConfig, CommonsError
from hub_site import urls as ours
from hub_site.api import Pagination


class OverLimit(CommonsError):
    code = "over_limit"
    status = 429


RAISED: dict[str, Exception] = {
    "commons": BadConfig("The budget is -1. Use 1 or more.", fields={"budget": ["Use 1 or more."]}),
    "limit": OverLimit("Two jobs are the most."),
    "missing": Http404("secret detail"),
    "denied": PermissionDenied("secret detail"),
    "throttled": Throttled(wait=7),
    "broken": UnreadablePostError("secret detail"),
    "bug": ZeroDivisionError("secret detail"),
    "away": OperationalError("secret detail"),
}


def raising_page(request: HttpRequest, what: str) -> HttpResponse:
    raise RAISED[what]


class RaisingEndpoint(APIView):
    def get(self, request: Request, what: str) -> Response:
        raise RAISED[what]


class ExampleSerializer(serializers.Serializer[Any]):
    input = serializers.CharField()


class BodySerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=3)
    examples = ExampleSerializer(many=True)


class ValidatingEndpoint(APIView):
    authentication_classes = ()
    permission_classes = ()

    def post(self, request: Request) -> Response:
        BodySerializer(data=request.data).is_valid(raise_exception=True)
        return Response({})


class ListEndpoint(APIView):
    def get(self, request: Request) -> Response:
        pages = Pagination()
        page = pages.paginate_queryset(list(range(120)), request)
        return pages.get_paginated_response(page)


urlpatterns = [
    path("api/v1/raise/<what>/", RaisingEndpoint.as_view()),
    path("api/v1/plain/<what>/", raising_page),
    path("api/v1/validate/", ValidatingEndpoint.as_view()),
    path("api/v1/list/", ListEndpoint.as_view()),
    path("raise/<what>/", raising_page),
    path("plain-bug/", csrf_exempt(raising_page), {"what": "bug"}),
    *ours.urlpatterns,
]
handler400, handler403 = ours.handler400, ours.handler403
handler404, handler500 = ours.handler404, ours.handler500

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]


@pytest.fixture
def client() -> Client:
    return Client(raise_request_exception=False)


def test_a_page_says_what_was_wrong(client: Client) -> None:
    response = client.get("/raise/commons/")
    assert response.status_code == 422
    assert b"The budget is -1. Use 1 or more." in response.content
    assert client.get("/raise/limit/").status_code == 429


def test_a_page_with_a_bug_is_our_fault(client: Client) -> None:
    response = client.get("/raise/bug/")
    assert response.status_code == 500
    assert b"secret detail" not in response.content
    assert response.headers["Content-Type"].startswith("text/html")


def test_a_page_whose_database_is_away_says_so_and_when_to_come_back(client: Client) -> None:
    response = client.get("/raise/away/")
    assert (response.status_code, response["Retry-After"]) == (503, "10")
    assert b"cannot reach its database" in response.content
    assert b"secret detail" not in response.content


def test_a_bug_is_logged_without_what_was_sent(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Authorization": "Bearer lc_of-somebody", "Cookie": "sessionid=theirs"}
    answer = client.post("/plain-bug/?q=typed", {"password": "hush"}, headers=headers)
    assert answer.status_code == 500
    assert "ZeroDivisionError" in caplog.text
    for secret in ("lc_of-somebody", "theirs", "hush", "typed"):
        assert secret not in caplog.text


@pytest.mark.parametrize("prefix", ["raise", "plain"])
@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        ("commons", 422, "bad_config"),
        ("limit", 429, "over_limit"),
        ("missing", 404, "not_found"),
        ("denied", 403, "forbidden"),
        ("broken", 400, "broken_off"),
        ("bug", 500, "our_fault"),
        ("away", 503, "database_away"),
    ],
)
def test_the_api_answers_in_one_form(
    client: Client, prefix: str, what: str, status: int, code: str
) -> None:
    response = client.get(f"/api/v1/{prefix}/{what}/")
    assert response.status_code == status
    answer = response.json()
    assert set(answer) == {"code", "message", "fields"}
    assert answer["code"] == code
    assert "secret detail" not in response.content.decode()


def test_the_api_names_the_fields(client: Client) -> None:
    assert client.get("/api/v1/raise/commons/").json()["fields"] == {"budget": ["Use 1 or more."]}
    body = {"name": "too long", "examples": [{"input": "fine"}, {}]}
    response = client.post("/api/v1/validate/", body, content_type="application/json")
    assert response.status_code == 422
    assert set(response.json()["fields"]) == {"name", "examples.1.input"}


def test_the_api_refuses_what_is_not_json(client: Client) -> None:
    response = client.post("/api/v1/validate/", "{", content_type="application/json")
    assert (response.status_code, response.json()["code"]) == (400, "parse_error")
    response = client.post("/api/v1/validate/", "a=b", content_type="text/plain")
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("body", ["[" * 100_000, '{"a":' * 100_000])
def test_the_api_refuses_json_without_end(client: Client, body: str) -> None:
    response = client.post("/api/v1/validate/", body, content_type="application/json")
    assert (response.status_code, response.json()["code"]) == (400, "parse_error")


def test_what_a_request_says_of_itself_may_be_odd(client: Client, db: None) -> None:
    """A cookie and an encoding that no browser sends."""
    answer = client.get("/tasks/", headers={"Cookie": 'sessionid="abcdefghij\\000"'})
    assert answer.status_code == 200
    form = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n'
    for charset in ("hex", "idna", "utf-16"):
        kind = f"multipart/form-data; boundary=x; charset={charset}"
        assert client.generic("POST", "/tasks/preview/", form, kind).status_code == 400


def test_the_api_says_when_to_come_back(client: Client) -> None:
    response = client.get("/api/v1/raise/throttled/")
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) >= 7


def test_the_api_knows_no_such_address(client: Client) -> None:
    response = client.get("/api/v1/nothing/here/")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    response = client.delete("/api/v1/list/")
    assert response.status_code in (401, 405)
    assert set(response.json()) == {"code", "message", "fields"}


def test_lists_come_in_pages(client: Client) -> None:
    first = client.get("/api/v1/list/").json()
    assert set(first) == {"count", "next", "previous", "results"}
    assert (first["count"], len(first["results"]), first["previous"]) == (120, 50, None)
    second = client.get(first["next"]).json()
    assert second["results"][0] == 50
    assert len(client.get("/api/v1/list/?page_size=1000").json()["results"]) == 120
    assert client.get("/api/v1/list/?page=99").json()["code"] == "not_found"


def test_any_other_form_says_how_many_files_it_takes(settings: Any) -> None:
    """Read by the guard against forged forms, long before a view."""
    settings.DATA_UPLOAD_MAX_NUMBER_FILES = 3
    many = {f"file{n}": SimpleUploadedFile("a.txt", b"x") for n in range(4)}
    browser = Client(enforce_csrf_checks=True)
    browser.get("/accounts/login/")
    answer = browser.post("/accounts/login/", many)
    assert answer.status_code == 413 and "More than 3 files" in answer.content.decode()
