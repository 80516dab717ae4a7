"""Signing in with Hugging Face: the site talks to a provider of OpenID Connect that really runs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialAccount
from django.contrib.auth import SESSION_KEY
from django.core.cache import cache
from django.test import Client

from composer.engine.errors import CommonsError
from composer.models import FewShotTask
from hub_site import sealed
from hub_site.accounts.models import Namespace, User
from modules.models import BaseModel, HubAccount
from modules.on_hub import accounts
from tests.hub_site.accounts import oidc_server

pytestmark = pytest.mark.django_db

START, SIGNUP = "/accounts/oidc/huggingface/login/", "/accounts/3rdparty/signup/"
CONNECT, LOGIN = "/accounts/3rdparty/", "/accounts/login/"
AGAIN = "/accounts/reauthenticate/"
ADA = {
    "sub": "5f0c",
    "preferred_username": "ada",
    "name": "Ada Lovelace",
    "email": "ada@example.org",
    "email_verified": True,
}


@pytest.fixture(autouse=True)
def _no_limits_of_other_tests() -> None:
    cache.clear()


@pytest.fixture
def there(settings: Any) -> Iterator[oidc_server.Provider]:
    with oidc_server.running() as server:
        server.person = ADA
        app = {
            "provider_id": "huggingface",
            "name": "Hugging Face",
            "client_id": oidc_server.CLIENT["client_id"],
            "secret": oidc_server.CLIENT["client_secret"],
            "settings": {"server_url": server.url},
        }
        settings.SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"APPS": [app]}}
        yield server


def go(client: Client, **data: str) -> Any:
    """Press the button, agree there, and come back; the answer is where one ends up."""
    leaving = client.post(START, data)
    assert leaving.status_code == 302
    back = requests.get(leaving.headers["Location"], allow_redirects=False, timeout=10)
    home = urlsplit(back.headers["Location"])
    return client.get(f"{home.path}?{home.query}", follow=True)


def who(client: Client) -> User | None:
    return User.objects.filter(pk=client.session.get(SESSION_KEY)).first()


# --- the button --------------------------------------------------------------------------------
def test_there_is_no_trace_of_it_without_an_oauth_app(client: Client) -> None:
    for page in (LOGIN, "/accounts/signup/"):
        answer = client.get(page)
        assert "Hugging Face" not in answer.text
        assert "form-action 'self';" in answer.headers["Content-Security-Policy"]
    assert client.get(START).status_code == client.post(START).status_code == 404
    client.force_login(User.objects.create_user("ada"))
    assert client.get(CONNECT).status_code == 404
    assert "Hugging Face" not in client.get("/accounts/settings/").text


def test_the_pages_with_the_button_may_lead_there_and_no_other_page(
    client: Client, there: oidc_server.Provider
) -> None:
    for page in (LOGIN, "/accounts/signup/"):
        answer = client.get(page)
        assert "Sign in with Hugging Face" in answer.text
        assert f"form-action 'self' {there.url};" in answer.headers["Content-Security-Policy"]
    assert there.url not in client.get("/about/terms/").headers["Content-Security-Policy"]


def test_a_link_from_elsewhere_signs_nobody_in(client: Client, there: oidc_server.Provider) -> None:
    answer = client.get(START)
    assert answer.status_code == 200
    assert "Go on to Hugging Face" in answer.text


@pytest.mark.parametrize(
    ("client_id", "secret", "starts"), [("a", "b", True), ("a", "", False), ("", "b", False)]
)
def test_half_an_oauth_app_stops_the_site(client_id: str, secret: str, starts: bool) -> None:
    environment = os.environ | {
        "ENV_FILE": os.devnull,
        "HF_OAUTH_CLIENT_ID": client_id,
        "HF_OAUTH_CLIENT_SECRET": secret,
    }
    program = "from hub_site import settings as s; print(s.SOCIALACCOUNT_PROVIDERS)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) == starts
    assert ("https://huggingface.co" in done.stdout) == starts
    assert starts or "Set both HF_OAUTH_CLIENT_ID and HF_OAUTH_CLIENT_SECRET" in done.stderr


# --- signing up --------------------------------------------------------------------------------
def test_it_signs_up_under_the_name_there(client: Client, there: oidc_server.Provider) -> None:
    assert go(client).status_code == 200
    ada = User.objects.get()
    assert who(client) == ada
    assert (ada.username, ada.namespace.name, ada.is_guest) == ("ada", "ada", False)
    assert not ada.has_usable_password()
    assert EmailAddress.objects.get(user=ada, email="ada@example.org").verified


def test_it_signs_in_the_same_account_again(client: Client, there: oidc_server.Provider) -> None:
    go(client)
    other = Client()
    go(other, next="/recipes/")
    assert who(other) == User.objects.get()


@pytest.mark.parametrize(
    ("name", "why"),
    [("ada", "is taken"), ("recipes", "is kept for the site"), ("a--b", "in a row"), ("", "")],
)
def test_a_name_that_is_not_free_leads_to_a_form(
    client: Client, there: oidc_server.Provider, name: str, why: str
) -> None:
    Namespace.objects.create(name="Ada", kind=Namespace.ORGANISATION)
    there.person = ADA | {"preferred_username": name}
    page = go(client)
    assert page.redirect_chain[-1][0] == SIGNUP
    assert why in page.text
    assert not User.objects.exists()
    again = client.post(SIGNUP, {"username": "Ada", "email": "ada@example.org"})
    assert "is taken" in again.text
    client.post(SIGNUP, {"username": "countess", "email": "ada@example.org"})
    countess = User.objects.get()
    assert countess.namespace.name == "countess"
    assert who(client) == countess
    assert SocialAccount.objects.get().user == countess


def test_an_address_of_somebody_elses_account_opens_nothing(
    client: Client, there: oidc_server.Provider
) -> None:
    """Whoever typed it in there may not be who owns the account here."""
    bob = User.objects.create_user("bob", email="ada@example.org")
    EmailAddress.objects.create(user=bob, email=bob.email, primary=True, verified=True)
    page = go(client)
    assert page.redirect_chain[-1][0] == SIGNUP
    assert "ada@example.org is the confirmed address of an account here" in page.text
    assert who(client) is None
    assert not SocialAccount.objects.exists()
    client.post(SIGNUP, {"username": "ada", "email": "ada@example.org"})
    assert who(client) == User.objects.get(username="ada")  # a second account, beside bob's
    assert EmailAddress.objects.get(verified=True).user == bob


def test_an_address_that_was_not_vouched_for_tells_nothing(
    client: Client, there: oidc_server.Provider
) -> None:
    there.person = ADA | {"email_verified": False}
    bob = User.objects.create_user("bob", email="ada@example.org")
    EmailAddress.objects.create(user=bob, email=bob.email, primary=True, verified=True)
    assert "confirmed address" not in go(client).text
    assert who(client) == User.objects.get(username="ada")
    assert EmailAddress.objects.get(verified=True).user == bob


def test_closed_registration_holds_here_too(
    client: Client, there: oidc_server.Provider, settings: Any
) -> None:
    settings.REGISTRATION_OPEN = False
    assert "Sign-up is closed" in go(client).text
    assert not User.objects.exists()


def test_a_guest_takes_their_work_along(client: Client, there: oidc_server.Provider) -> None:
    _guest_at(client)
    go(client)
    ada = User.objects.get()
    assert ada.username == "ada" and ada.tasks.count() == 1


def test_a_guest_takes_their_work_along_through_the_form_too(
    client: Client, there: oidc_server.Provider
) -> None:
    _guest_at(client)
    there.person = ADA | {"preferred_username": "recipes"}
    go(client)
    client.post(SIGNUP, {"username": "countess"})
    countess = User.objects.get(username="countess")
    assert countess.tasks.count() == 1
    assert User.objects.count() == 1


# --- connecting --------------------------------------------------------------------------------
def test_an_account_is_connected_and_disconnected(
    client: Client, there: oidc_server.Provider
) -> None:
    bob = User.objects.create_user("bob", password="a-long-walk-home")
    client.force_login(bob)
    assert "not connected" in client.get(CONNECT).text
    assert "Is it you?" in go(client, process="connect").text
    again = client.post(AGAIN, {"password": "a-long-walk-home"}, follow=True)
    assert "connected</span>" in again.text
    other = Client()
    go(other)
    assert who(other) == bob
    account = SocialAccount.objects.get()
    client.post(CONNECT, {"account": account.pk})
    assert not SocialAccount.objects.exists()


def test_the_only_way_in_cannot_be_taken_away(client: Client, there: oidc_server.Provider) -> None:
    go(client)
    page = client.post(CONNECT, {"account": SocialAccount.objects.get().pk})
    assert "no password" in page.text
    assert SocialAccount.objects.exists()


def test_a_guest_connects_nothing(client: Client, there: oidc_server.Provider) -> None:
    _guest_at(client)
    go(client, process="connect")
    assert not SocialAccount.objects.exists()
    assert User.objects.get().is_guest


# --- pushing -----------------------------------------------------------------------------------
def test_signing_in_there_can_also_let_the_site_push(
    client: Client,
    there: oidc_server.Provider,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    settings.HUB_ENDPOINT = there.url
    settings.HF_OAUTH_CLIENT_ID = oidc_server.CLIENT["client_id"]
    settings.HF_OAUTH_CLIENT_SECRET = oidc_server.CLIENT["client_secret"]
    go(client)
    ada = User.objects.get()
    assert not HubAccount.objects.exists()  # signing in asks for no such right
    page = client.get("/accounts/hugging-face/")
    assert "Connect with Hugging Face" in page.text
    assert there.url in page.headers["Content-Security-Policy"]
    leaving = client.post("/accounts/hugging-face/connect/", {"process": "connect"})
    back = requests.get(leaving.headers["Location"], allow_redirects=False, timeout=10)
    home = urlsplit(back.headers["Location"])
    answer = client.get(f"{home.path}?{home.query}", follow=True)
    assert answer.redirect_chain[-1][0] == "/accounts/hugging-face/"
    assert "Connected" in answer.text and who(client) == ada
    account = HubAccount.objects.get()
    assert account.name == "ada" and not any(t in account.token for t in there.tokens)
    # It ends within the minute, so it is renewed before it is used.
    before = set(there.tokens)
    assert accounts.token_for(ada) in set(there.tokens) - before
    there.tokens.clear()  # taken back there
    with pytest.raises(CommonsError, match="ended there"):
        accounts.of_user(ada)
    client.post("/accounts/hugging-face/disconnect/")
    assert not HubAccount.objects.exists()


def test_a_token_cannot_be_read_with_another_secret_key(db: None, settings: Any) -> None:
    ada = User.objects.create_user("ada")
    HubAccount.objects.create(user=ada, name="ada", token=sealed.seal("hf_hers"))
    assert accounts.token_for(ada) == "hf_hers"
    settings.SECRET_KEY = "another"
    with pytest.raises(CommonsError, match="secret key has changed"):
        accounts.of_user(ada)


# --- what goes wrong ---------------------------------------------------------------------------
def test_stopping_there_is_no_error(client: Client, there: oidc_server.Provider) -> None:
    leaving = client.post(START)
    state = leaving.headers["Location"].split("state=")[1].split("&")[0]
    answer = client.get(
        f"{START}callback/", {"error": "access_denied", "state": state}, follow=True
    )
    assert "You did not sign in" in answer.text


@pytest.mark.parametrize("query", [{}, {"code": "x"}, {"code": "x", "state": "forged"}])
def test_a_forged_answer_opens_nothing(
    client: Client, there: oidc_server.Provider, query: dict[str, str]
) -> None:
    answer = client.get(f"{START}callback/", query)
    assert answer.status_code == 401
    assert "Signing in did not work" in answer.text
    assert who(client) is None


def test_a_provider_that_is_down_is_told_so(client: Client, there: oidc_server.Provider) -> None:
    there.is_down = True
    answer = client.post(START)
    assert answer.status_code == 502
    assert "could not reach it" in answer.text


def _guest_at(client: Client) -> None:
    guest = User(username="guest-1", is_guest=True)
    guest.set_unusable_password()
    guest.save()
    client.force_login(guest)
    base = BaseModel.objects.create(name="lora-commons/tiny", source=BaseModel.SITE)
    FewShotTask.objects.create(owner=guest, name="a try", base_model=base)
