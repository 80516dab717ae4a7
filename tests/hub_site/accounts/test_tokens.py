"""Tokens: made on a page or by a command, shown once, kept as a hash, good for what they say."""

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from composer.engine.errors import CommonsError
from hub_site.accounts import tokens
from hub_site.accounts.models import AccessToken, User

pytestmark = pytest.mark.django_db

PAGE = "/accounts/tokens/"
TASKS = "/api/v1/tasks/"


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada")


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob")


def make(user: User, scope: str = "read") -> tuple[AccessToken, str]:
    return tokens.create_token(user, name="laptop", scope=scope)


def bearer(plain: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {plain}"}


# --- the row -----------------------------------------------------------------------------------
def test_it_keeps_only_the_hash(ada: User) -> None:
    token, plain = make(ada)
    assert plain.startswith("lc_")
    assert len(plain) > 40
    row = AccessToken.objects.values().get()
    assert plain not in str(row)
    assert token.digest == tokens.digest(plain)
    assert plain.startswith(token.hint)


def test_it_refuses_a_scope_that_does_not_exist(ada: User) -> None:
    with pytest.raises(CommonsError, match='"all" is no scope'):
        make(ada, "all")


def test_it_refuses_a_guest() -> None:
    with pytest.raises(CommonsError, match="Sign up first"):
        make(User.objects.create(username="guest-1", is_guest=True))


def test_it_stops_at_a_limit(ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_TOKENS", 2)
    first, _ = make(ada)
    make(ada)
    with pytest.raises(CommonsError, match="Revoke one"):
        make(ada)
    tokens.revoke(first)
    make(ada)


def test_it_notes_its_use_at_most_once_a_minute(ada: User) -> None:
    token, plain = make(ada)
    tokens.find(plain)
    token.refresh_from_db()
    first = token.last_used_at
    assert first is not None
    tokens.find(plain)
    token.refresh_from_db()
    assert token.last_used_at == first
    AccessToken.objects.update(last_used_at=timezone.now() - timedelta(minutes=2))
    tokens.find(plain)
    token.refresh_from_db()
    assert token.last_used_at is not None
    assert token.last_used_at >= first


# --- the API -----------------------------------------------------------------------------------
def test_a_token_signs_a_program_in(client: Client, ada: User) -> None:
    _, plain = make(ada)
    assert client.get(TASKS, headers=bearer(plain)).status_code == 200


@pytest.mark.parametrize("sent", ["Bearer lc_nonsense", "Bearer", "Bearer a b", "Bearer \xff"])
def test_a_wrong_token_is_told_so(client: Client, ada: User, sent: str) -> None:
    response = client.get(TASKS, headers={"Authorization": sent})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert set(response.json()) == {"code", "message", "fields"}


def test_a_revoked_token_is_worth_nothing(client: Client, ada: User) -> None:
    token, plain = make(ada)
    tokens.revoke(token)
    assert client.get(TASKS, headers=bearer(plain)).status_code == 401


def test_the_token_of_a_closed_account_is_worth_nothing(client: Client, ada: User) -> None:
    _, plain = make(ada)
    User.objects.update(is_active=False)
    assert client.get(TASKS, headers=bearer(plain)).status_code == 401


def test_a_read_token_cannot_write(client: Client, ada: User) -> None:
    _, plain = make(ada)
    response = client.post(TASKS, {}, content_type="application/json", headers=bearer(plain))
    assert response.status_code == 403
    assert response.json()["code"] == "read_only_token"
    assert "write scope" in response.json()["message"]


def test_a_write_token_can(client: Client, ada: User) -> None:
    _, plain = make(ada, "write")
    response = client.post(TASKS, {}, content_type="application/json", headers=bearer(plain))
    assert response.status_code == 422


def test_nobody_writes_without_signing_in(client: Client) -> None:
    response = client.post(TASKS, {}, content_type="application/json")
    assert response.status_code == 401


def test_a_session_writes_only_with_the_csrf_token(ada: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(ada)
    response = strict.post(TASKS, {}, content_type="application/json")
    assert response.status_code == 403
    assert set(response.json()) == {"code", "message", "fields"}


# --- the page ----------------------------------------------------------------------------------
def test_the_page_shows_a_new_token_once(client: Client, ada: User) -> None:
    client.force_login(ada)
    response = client.post(PAGE, {"name": "laptop", "scope": "write"})
    assert response.status_code == 201
    plain = response.context["new"]
    assert tokens.find(plain) is not None
    assert plain in response.content.decode()
    again = client.get(PAGE)
    assert again.status_code == 200
    assert plain not in again.content.decode()
    assert "laptop" in again.content.decode()


@pytest.mark.parametrize("data", [{"name": "", "scope": "read"}, {"name": "x", "scope": "all"}])
def test_the_page_says_what_is_wrong(client: Client, ada: User, data: dict[str, str]) -> None:
    client.force_login(ada)
    response = client.post(PAGE, data)
    assert response.status_code == 422
    assert response.context["form"].errors
    assert not AccessToken.objects.exists()


def test_the_page_needs_an_account(client: Client) -> None:
    assert client.get(PAGE).headers["Location"].startswith("/accounts/login/")
    client.force_login(User.objects.create(username="guest-1", is_guest=True))
    assert client.get(PAGE).headers["Location"] == "/accounts/signup/"


def test_the_page_shows_only_your_own(client: Client, ada: User, bob: User) -> None:
    tokens.create_token(bob, name="bobs laptop", scope="read")
    client.force_login(ada)
    assert b"bobs laptop" not in client.get(PAGE).content


def test_the_page_takes_no_other_method(client: Client, ada: User) -> None:
    client.force_login(ada)
    assert client.put(PAGE).status_code == 405


def test_the_page_revokes(client: Client, ada: User) -> None:
    token, plain = make(ada)
    client.force_login(ada)
    url = f"{PAGE}{token.pk}/revoke/"
    asked = client.get(url)
    assert "stops working at once" in asked.text and token.name in asked.text
    assert tokens.find(plain) is not None  # looking is not revoking
    assert client.post(url).status_code == 302
    assert tokens.find(plain) is None
    assert client.post(url).status_code == 404
    assert token.hint.encode() not in client.get(PAGE).content


def test_a_stranger_revokes_nothing(client: Client, ada: User, bob: User) -> None:
    token, plain = make(ada)
    url = f"{PAGE}{token.pk}/revoke/"
    assert client.post(url).status_code == 302
    client.force_login(bob)
    assert client.post(url).status_code == 404
    assert tokens.find(plain) is not None


def test_the_page_says_when_a_token_was_last_used(client: Client, ada: User) -> None:
    _, plain = make(ada)
    client.force_login(ada)
    assert ">never</td>" in client.get(PAGE).text
    client.get(TASKS, headers=bearer(plain))
    assert ">never</td>" not in client.get(PAGE).text


# --- the command -------------------------------------------------------------------------------
def test_the_command_prints_a_token(ada: User) -> None:
    out = StringIO()
    call_command("create_token", "ada", "--scope", "write", stdout=out)
    token = tokens.find(out.getvalue().strip())
    assert token is not None
    assert (token.user, token.scope) == (ada, "write")


def test_the_command_knows_only_users_there_are(db: Any) -> None:
    with pytest.raises(CommandError, match='no user "nobody"'):
        call_command("create_token", "nobody")
