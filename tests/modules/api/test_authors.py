"""The library for programs that write: uploads, versions, changes and likes."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from hub_site.accounts import tokens
from hub_site.accounts.models import User
from modules.models import BaseModel, Blob, LoraModule, Repo
from tests.modules.conftest import adapter, config_bytes, weights_bytes

MODULES = "/api/v1/modules/"
OPPOSITES = f"{MODULES}alice/opposites/"
SECRET = f"{MODULES}alice/secret/"


class Program:
    """A client with a token."""

    def __init__(self, user: User | None, scope: str = "write") -> None:
        self.client = Client()
        self.headers: dict[str, str] = {}
        if user:
            _, plain = tokens.create_token(user, name="test", scope=scope)
            self.headers["Authorization"] = f"Bearer {plain}"

    def upload(self, path: str, files: Any, **fields: Any) -> Any:
        parts = [
            SimpleUploadedFile(name, data.getvalue() if isinstance(data, io.BytesIO) else data)
            for name, data in (files.items() if isinstance(files, dict) else files)
        ]
        return self.client.post(path, {**fields, "files": parts}, headers=self.headers)

    def send(self, method: str, path: str, data: Any = None) -> Any:
        kind = "application/json"
        send = getattr(self.client, method)
        if data is None:
            return send(path, headers=self.headers)
        return send(path, data, content_type=kind, headers=self.headers)


class NeverRead:
    """A body that nobody may ask for a byte."""

    def read(self, *size: int) -> bytes:
        raise AssertionError("the body was read")

    readline = read


def said(answer: Any) -> tuple[int, str]:
    body = answer.json()
    assert set(body) == {"code", "message", "fields"} and body["message"]
    return answer.status_code, body["code"]


@pytest.fixture
def program(alice: User) -> Program:
    return Program(alice)


# --- uploads -----------------------------------------------------------------------------------


def test_a_program_uploads_a_module(program: Program, alice: User, base_model: BaseModel) -> None:
    answer = program.upload(MODULES, adapter(), name="opposites", message="First")
    assert answer.status_code == 201, answer.content
    found = answer.json()
    assert found["name"] == "alice/opposites" and found["visibility"] == "public"
    assert found["status"] == "checking" and found["base_model"] == base_model.name
    assert found["tags"] == ["opposites", "words"]
    assert answer["Location"] == found["url"] == "http://testserver/alice/opposites"
    module = LoraModule.objects.get()
    assert (module.commit.title, module.commit.author) == ("First", alice)
    assert program.send("get", OPPOSITES).json() | {"left_out": []} == found
    weights = {file["path"]: file for file in found["files"]}["adapter_model.safetensors"]
    assert Client().get(weights["url"]).getvalue() == weights_bytes()


def test_it_may_be_private_from_the_first(program: Program, bob: User, base_model: Any) -> None:
    answer = program.upload(MODULES, adapter(), name="secret", visibility="private")
    assert answer.status_code == 201 and answer.json()["visibility"] == "private"
    assert program.send("get", SECRET).status_code == 200
    assert Program(bob).send("get", SECRET).status_code == 404


@pytest.mark.parametrize(
    ("fields", "status", "code", "field"),
    [
        ({}, 422, "invalid", "name"),
        ({"name": "a/b"}, 422, "bad_name", "name"),
        ({"name": "Opposites"}, 409, "name_taken", "name"),
        ({"name": "x", "visibility": "hidden"}, 422, "invalid", "visibility"),
        ({"name": "x", "messages": "y"}, 422, "invalid", "messages"),
        ({"name": "x", "message": "y" * 2_001}, 422, "invalid", "message"),
        ({"name": "x", "message": "y\0"}, 422, "invalid", "message"),
    ],
)
def test_it_says_which_field_is_wrong_and_makes_no_module(
    program: Program, opposites: LoraModule, fields: Any, status: int, code: str, field: str
) -> None:
    answer = program.upload(MODULES, adapter(seed=5), **fields)
    assert said(answer) == (status, code)
    assert answer.json()["fields"][field]
    assert [str(repo) for repo in Repo.objects.filter(kind=Repo.LORA)] == ["alice/opposites"]


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ([], "invalid"),
        ({"README.md": b"# only words"}, "bad_upload"),
        ({"adapter_config.json": config_bytes()}, "bad_upload"),
        ({"notes.docx": b"what is this"}, "bad_upload"),
        ({**adapter(), "adapter_config.json": b"{}"}, "bad_adapter"),
        ({**adapter(), "adapter_model.safetensors": b"\x80\x04pickle"}, "bad_adapter"),
        ({**adapter(), "adapter_model.safetensors": b"\xff" * 100}, "bad_adapter"),
        ([("README.md", b"a"), ("README.md", b"b")], "bad_upload"),
        ({"adapter.zip": b"PK\x03\x04 but no zip"}, "bad_zip"),
    ],
)
def test_what_the_quick_check_refuses_is_not_stored(
    program: Program, alice: User, files: Any, code: str
) -> None:
    answer = program.upload(MODULES, files, name="broken")
    assert said(answer) == (422, code)
    assert answer.json()["fields"]["files"]
    assert not Repo.objects.exists() and not Blob.objects.exists()


def test_a_read_token_writes_nothing(alice: User, opposites: LoraModule) -> None:
    reader = Program(alice, scope="read")
    assert said(reader.upload(MODULES, adapter(), name="x")) == (403, "read_only_token")
    assert said(reader.upload(f"{OPPOSITES}versions/", adapter())) == (403, "read_only_token")
    assert said(reader.send("put", f"{OPPOSITES}like/")) == (403, "read_only_token")
    assert reader.send("get", OPPOSITES).status_code == 200


def test_nobody_writes_without_a_token(opposites: LoraModule) -> None:
    nobody = Program(None)
    assert nobody.upload(MODULES, adapter(), name="x").status_code == 401
    assert nobody.upload(f"{OPPOSITES}versions/", adapter()).status_code == 401
    assert nobody.send("put", f"{OPPOSITES}like/").status_code == 401


def test_the_apis_page_uploads_with_a_session_and_its_csrf_token(
    alice: User, base_model: BaseModel
) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(alice)
    script = browser.get("/api/docs/?script=").content.decode()
    token = re.findall(r'\["X-CSRFTOKEN"\] = "(\w+)"', script)[0]

    def upload(**headers: str) -> Any:
        parts = [SimpleUploadedFile(name, data.getvalue()) for name, data in adapter().items()]
        return browser.post(MODULES, {"name": "opposites", "files": parts}, headers=headers)

    assert upload().status_code == 403
    assert not Blob.objects.filter(grants__user=alice).exists()
    assert upload(**{"X-CSRFToken": token}).status_code == 201


def test_only_forms_with_files_are_uploads(program: Program) -> None:
    assert program.send("post", MODULES, {"name": "x"}).status_code == 415


def test_who_has_no_name_is_asked_for_one(db: None) -> None:
    guest = User.objects.create_user("guest-1", is_guest=True)
    client = Client()
    client.force_login(guest)
    parts = [SimpleUploadedFile(name, data.getvalue()) for name, data in adapter().items()]
    answer = client.post(MODULES, {"name": "x", "files": parts})
    assert said(answer) == (403, "no_account")


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"USER_MAX_BYTES": 700}, "over_limit"),
        ({"USER_BYTES_A_DAY": 700}, "over_limit"),
        ({"MAX_MODULE_BYTES": 700}, "file_too_large"),
    ],
)
def test_the_limits_are_those_of_the_pages(
    program: Program, settings: Any, limits: dict[str, int], code: str
) -> None:
    for name, value in limits.items():
        setattr(settings, name, value)
    assert said(program.upload(MODULES, adapter(), name="x")) == (413, code)
    assert not Repo.objects.exists()


def test_it_says_how_many_files_may_come_at_once(program: Program, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_NUMBER_FILES = 3
    many = {f"notes-{n}.txt": b"x" for n in range(4)}
    answer = program.upload(MODULES, many, name="x")
    assert said(answer) == (413, "too_many_files")
    assert "More than 3 files" in answer.json()["message"] and answer.json()["fields"]["files"]
    assert not Repo.objects.exists() and not Blob.objects.exists()


def test_what_is_much_too_large_is_not_read(program: Program, settings: Any) -> None:
    settings.MAX_MODULE_BYTES = 1_000
    told = {"CONTENT_LENGTH": "200000", "CONTENT_TYPE": "multipart/form-data; boundary=b"}
    body = {"wsgi.input": NeverRead()}
    answer = program.client.post(MODULES, headers=program.headers, **body, **told)
    assert said(answer) == (413, "over_limit")


def test_who_may_not_upload_is_told_so(program: Program, alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(uploads_banned_at="2026-01-01T00:00Z")
    assert said(program.upload(MODULES, adapter(), name="x")) == (403, "uploads_banned")


def test_a_zip_is_unpacked_and_what_was_not_taken_is_said(
    program: Program, base_model: BaseModel
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in adapter().items():
            archive.writestr(name, data.getvalue())
        archive.writestr("optimizer.pt", b"state")
    answer = program.upload(MODULES, {"opposites.zip": packed}, name="zipped")
    assert answer.status_code == 201, answer.content
    assert {file["path"] for file in answer.json()["files"]} == {*adapter()}
    assert answer.json()["left_out"] == ["optimizer.pt"]


# --- versions ----------------------------------------------------------------------------------


def test_a_new_version_keeps_what_is_not_sent(program: Program, opposites: LoraModule) -> None:
    first = opposites.commit.sha
    answer = program.upload(
        f"{OPPOSITES}versions/",
        {"adapter_model.safetensors": weights_bytes(seed=3)},
        message="Trained longer",
    )
    assert answer.status_code == 201, answer.content
    found = answer.json()
    assert found["revision"] != first and found["status"] == "checking"
    assert {file["path"] for file in found["files"]} == {*adapter()}
    rows = program.send("get", f"{OPPOSITES}versions/").json()["results"]
    assert [row["title"] for row in rows] == ["Trained longer", "First version"]
    assert [row["revision"] for row in rows] == [found["revision"], first]
    assert rows[0]["author"] == "alice"
    old = Client().get(rows[1]["download_url"])
    assert old.status_code == 200 and old["X-Repo-Commit"] == first
    assert Client().get(rows[1]["url"]).status_code == 200


def test_a_new_card_needs_no_new_check(program: Program, opposites: LoraModule) -> None:
    card = b"---\nlicense: mit\ntags: [other]\n---\nNew words."
    found = program.upload(f"{OPPOSITES}versions/", {"README.md": card}).json()
    assert (found["status"], found["licence"], found["tags"]) == ("ready", "mit", ["other"])
    assert found["summary"] == "New words."


def test_the_same_files_again_make_no_version(program: Program, opposites: LoraModule) -> None:
    found = program.upload(f"{OPPOSITES}versions/", adapter()).json()
    assert found["revision"] == opposites.commit.sha
    assert opposites.repo.commits.count() == 1


def test_a_stranger_cannot_add_a_version(
    bob: User, opposites: LoraModule, secret: LoraModule
) -> None:
    stranger = Program(bob)
    assert said(stranger.upload(f"{OPPOSITES}versions/", adapter(3))) == (403, "not_yours")
    assert said(stranger.upload(f"{SECRET}versions/", adapter(3))) == (404, "not_found")
    assert said(stranger.send("get", f"{SECRET}versions/")) == (404, "not_found")
    assert opposites.repo.commits.count() == secret.repo.commits.count() == 1


def test_versions_cost_the_same_for_10_and_20(
    program: Program, opposites: LoraModule, django_assert_max_num_queries: Any
) -> None:
    for n in range(12):
        program.upload(f"{OPPOSITES}versions/", {"README.md": f"Version {n}".encode()})
    with django_assert_max_num_queries(7):
        rows = program.send("get", f"{OPPOSITES}versions/").json()["results"]
    assert len(rows) == 13


# --- changes -----------------------------------------------------------------------------------


def test_a_program_changes_what_the_card_says(program: Program, opposites: LoraModule) -> None:
    change = {"description": "Says the opposite.", "tags": ["words", "new"], "licence": "mit"}
    found = program.send("patch", OPPOSITES, change)
    assert found.status_code == 200, found.content
    page = found.json()
    assert page["summary"] == "Says the opposite." and page["licence"].lower() == "mit"
    assert page["tags"] == ["new", "words"] or page["tags"] == ["words", "new"]
    assert page["status"] == "ready" and page["revision"] != opposites.commit.sha
    card = Client().get("/alice/opposites/resolve/main/README.md").getvalue().decode()
    assert "Trained on *eighty* words." in card and "language: en" in card
    assert program.send("patch", OPPOSITES, change).json()["revision"] == page["revision"]


def test_it_writes_the_card_itself(program: Program, opposites: LoraModule) -> None:
    program.send("patch", OPPOSITES, {"card": "# Opposites\n\nAll new.\n"})
    card = Client().get("/alice/opposites/resolve/main/README.md").getvalue().decode()
    assert card.endswith("# Opposites\n\nAll new.\n") and "tags: [words, opposites]" in card


def test_a_program_hides_and_shows(program: Program, bob: User, opposites: LoraModule) -> None:
    program.send("patch", OPPOSITES, {"visibility": "private"})
    assert Program(bob).send("get", OPPOSITES).status_code == 404
    assert Program(bob).send("get", MODULES).json()["results"] == []
    program.send("patch", OPPOSITES, {"visibility": "public"})
    assert len(Program(bob).send("get", MODULES).json()["results"]) == 1


def test_a_program_renames(program: Program, opposites: LoraModule) -> None:
    found = program.send("patch", OPPOSITES, {"name": "antonyms"}).json()
    assert found["name"] == "alice/antonyms" and found["url"].endswith("/alice/antonyms")
    assert program.send("get", f"{MODULES}alice/antonyms/").status_code == 200
    assert Client().get("/alice/opposites").status_code in (301, 302, 308)


@pytest.mark.parametrize(
    ("change", "status", "code", "field"),
    [
        ({"name": "a b"}, 422, "bad_name", "name"),
        ({"name": "secret"}, 409, "name_taken", "name"),
        ({"visibility": "link"}, 422, "invalid", "visibility"),
        ({"licence": "none of the known"}, 422, "invalid", "licence"),
        ({"tags": ["<b>"]}, 422, "invalid", "tags"),
        ({"downloads": 9}, 422, "invalid", "downloads"),
        ({"description": ["x"]}, 422, "invalid", "description"),
    ],
)
def test_a_wrong_change_is_named_and_nothing_is_changed(
    program: Program, opposites: LoraModule, secret: LoraModule, change: Any, status: int,
    code: str, field: str,
) -> None:  # fmt: skip
    before = program.send("get", OPPOSITES).json()
    answer = program.send("patch", OPPOSITES, {"description": "New words.", **change})
    assert said(answer) == (status, code)
    assert answer.json()["fields"][field]
    assert program.send("get", OPPOSITES).json() == before


def test_a_program_deletes(program: Program, opposites: LoraModule) -> None:
    assert program.send("delete", OPPOSITES).status_code == 204
    assert program.send("get", OPPOSITES).status_code == 404
    assert program.send("delete", OPPOSITES).status_code == 404


@pytest.mark.parametrize("method", ["patch", "delete"])
def test_only_the_owner_changes_and_deletes(
    alice: User, bob: User, opposites: LoraModule, secret: LoraModule, method: str
) -> None:
    data = {"visibility": "private"} if method == "patch" else None
    stranger, reader, nobody = Program(bob), Program(alice, scope="read"), Program(None)
    assert said(stranger.send(method, OPPOSITES, data)) == (403, "not_yours")
    assert said(stranger.send(method, SECRET, data)) == (404, "not_found")
    assert said(reader.send(method, OPPOSITES, data)) == (403, "read_only_token")
    assert nobody.send(method, OPPOSITES, data).status_code == 401
    assert Repo.objects.filter(kind=Repo.LORA, visibility=Repo.PUBLIC).count() == 1


# --- likes -------------------------------------------------------------------------------------


def test_a_program_likes_and_unlikes(bob: User, opposites: LoraModule) -> None:
    program, url = Program(bob), f"{OPPOSITES}like/"
    for _ in range(2):
        assert program.send("put", url).json() == {"liked": True, "likes": 1}
    assert program.send("get", OPPOSITES).json()["likes"] == 1
    for _ in range(2):
        assert program.send("delete", url).json() == {"liked": False, "likes": 0}


def test_what_is_private_cannot_be_liked(bob: User, secret: LoraModule) -> None:
    assert said(Program(bob).send("put", f"{SECRET}like/")) == (404, "not_found")


def test_the_openapi_document_tells_how_to_write(client: Client, db: None) -> None:
    paths = client.get("/api/schema/", {"format": "json"}).json()["paths"]
    form = paths[MODULES]["post"]["requestBody"]["content"]
    assert set(form) == {"multipart/form-data"}
    one = f"{MODULES}{{owner}}/{{name}}/"
    assert {"get", "post"} <= set(paths[f"{one}versions/"])
    assert {"put", "delete"} <= set(paths[f"{one}like/"])
