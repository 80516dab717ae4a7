"""E-mail addresses, lost passwords, and the doors of the site: what is mailed to whom, and when."""

import os
import re
import subprocess
import sys
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.hashers import MD5PasswordHasher
from django.core.cache import cache
from django.core.mail.backends.base import BaseEmailBackend
from django.test import Client

from composer.models import FewShotTask
from hub_site.accounts import adapter, names
from hub_site.accounts.models import User
from modules.models import BaseModel

pytestmark = pytest.mark.django_db

SIGNUP, LOGIN, EMAIL = "/accounts/signup/", "/accounts/login/", "/accounts/email/"
RESET, AGAIN = "/accounts/password/reset/", "/accounts/reauthenticate/"
PASSWORD, OTHER = "a-long-walk-home", "another-long-walk"


class NoMailServer(BaseEmailBackend):
    """As when the mail server is down."""

    def send_messages(self, messages: Any) -> int:
        raise ConnectionRefusedError("no mail server here")


class CountingHasher(MD5PasswordHasher):
    """What takes the time when somebody signs in."""

    count = 0

    def encode(self, *args: Any) -> str:
        CountingHasher.count += 1
        return super().encode(*args)


@pytest.fixture(autouse=True)
def _no_limits_of_other_tests() -> None:
    cache.clear()


@pytest.fixture
def ada() -> User:
    user = User.objects.create_user("ada", email="ada@example.org", password=PASSWORD)
    EmailAddress.objects.create(user=user, email=user.email, primary=True, verified=True)
    return user


@pytest.fixture
def guest(client: Client) -> User:
    """A guest who sits at `client`, with a task."""
    guest = User(username="guest-1", is_guest=True)
    guest.set_unusable_password()
    guest.save()
    client.force_login(guest)
    base = BaseModel.objects.create(name="lora-commons/tiny", source=BaseModel.SITE)
    FewShotTask.objects.create(owner=guest, name="a try", base_model=base)
    return guest


def sign_up(client: Client, email: str = "") -> Any:
    return client.post(
        SIGNUP, {"username": "bob", "password1": PASSWORD, "email": email}, follow=True
    )


def sign_in(client: Client, password: str = PASSWORD, login: str = "ada") -> bool:
    client.post(LOGIN, {"login": login, "password": password})
    return SESSION_KEY in client.session


def all_mails_are_out() -> None:
    """Those sent beside an answer go out one after the other, and then this."""
    adapter.mails.submit(int).result()


def without_tokens(page: str) -> str:
    return re.sub(r'value="[^"]{40,}"', "", page)


def link_in(mail: Any) -> str:
    return re.search(r"https?://testserver(/\S+)", mail.body)[1]  # type: ignore[index]


# --- confirming --------------------------------------------------------------------------------
def test_an_address_typed_at_sign_up_is_confirmed_by_a_mail(
    client: Client, mailoutbox: list[Any]
) -> None:
    assert "A mail to confirm the address" in sign_up(client, "bob@example.org").text
    assert SESSION_KEY in client.session
    (mail,) = mailoutbox
    assert mail.to == ["bob@example.org"]
    assert mail.subject == "LoRA Commons: Confirm your e-mail address"
    assert mail.body.startswith("Hello bob,")
    link = link_in(mail)
    assert "bob@example.org" in client.get(link).text
    assert not EmailAddress.objects.get().verified  # looking is not confirming
    client.post(link)
    assert EmailAddress.objects.get().verified


def test_no_address_is_fine(client: Client, mailoutbox: list[Any]) -> None:
    sign_up(client)
    assert SESSION_KEY in client.session
    assert not mailoutbox


def test_nobody_signs_in_before_confirming_where_that_is_mandatory(
    client: Client, settings: Any, mailoutbox: list[Any]
) -> None:
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    settings.ACCOUNT_SIGNUP_FIELDS = ["username*", "email*", "password1*"]
    assert "required" in sign_up(client).text
    assert "A mail with a link is on its way" in sign_up(client, "bob@example.org").text
    assert not sign_in(client, login="bob")
    client.post(link_in(mailoutbox[0]))
    assert sign_in(client, login="bob")


def test_a_broken_link_is_told_so(client: Client) -> None:
    page = client.get("/accounts/confirm-email/nonsense/")
    assert "This link does not work" in page.text


def test_a_guest_who_follows_such_a_link_keeps_their_work(
    client: Client, guest: User, mailoutbox: list[Any]
) -> None:
    sign_up(Client(), "bob@example.org")
    link = link_in(mailoutbox[0])
    client.get(link)
    client.post(link)
    assert EmailAddress.objects.get().verified
    assert guest.tasks.exists()
    assert int(client.session[SESSION_KEY]) == guest.pk


def test_a_mail_server_that_is_down_does_not_stop_a_sign_up(client: Client, settings: Any) -> None:
    settings.EMAIL_BACKEND = f"{__name__}.NoMailServer"
    page = sign_up(client, "bob@example.org").text
    assert "We could not send a mail to bob@example.org" in page
    assert "A mail to confirm the address" not in page
    assert User.objects.get(username="bob").namespace.name == "bob"
    assert SESSION_KEY in client.session


# --- addresses that have an account ------------------------------------------------------------
@pytest.mark.parametrize("confirming", ["optional", "mandatory"])
def test_signing_up_does_not_say_which_addresses_have_accounts(
    ada: User, settings: Any, mailoutbox: list[Any], confirming: str
) -> None:
    settings.ACCOUNT_EMAIL_VERIFICATION = confirming
    pages = []
    for name, email in (("bob-1", ada.email), ("eve-1", "xyz@example.org")):
        client = Client()
        typed = {"username": name, "password1": PASSWORD, "email": email}
        pages.append(without_tokens(client.post(SIGNUP, typed, follow=True).text))
        pages[-1] += Client().get(f"/{name}").text  # the name is taken now, in both cases
        pages[-1] = pages[-1].replace(email, "ADDRESS").replace(name, "NAME")
    assert pages[0] == pages[1]
    assert [mail.to for mail in mailoutbox] == [[ada.email], ["xyz@example.org"]]
    assert mailoutbox[0].subject == "LoRA Commons: You have an account already"
    assert "/accounts/password/reset/" in mailoutbox[0].body


@pytest.mark.parametrize("logins", [("ada@example.org", "xyz@example.org"), ("ada", "xyz")])
def test_signing_in_takes_as_long_for_nobody_as_for_somebody(
    client: Client, settings: Any, logins: tuple[str, str], request: Any
) -> None:
    settings.PASSWORD_HASHERS = [f"{__name__}.CountingHasher"]
    request.getfixturevalue("ada")
    counts = []
    for login in logins:
        CountingHasher.count = 0
        assert not sign_in(client, "wrong", login)
        counts.append(CountingHasher.count)
    assert counts[0] == counts[1] > 0


def test_changing_an_address_does_not_say_it_either(
    client: Client, ada: User, mailoutbox: list[Any]
) -> None:
    client.force_login(User.objects.create_user("bob"))
    page = client.post(EMAIL, {"email": ada.email, "action_add": ""}, follow=True).text
    assert "A mail to confirm the address" in page
    assert mailoutbox[0].subject == "LoRA Commons: You have an account already"


def test_an_address_given_twice_opens_only_the_account_that_confirmed_it(
    client: Client, ada: User, mailoutbox: list[Any]
) -> None:
    sign_up(Client(), ada.email)
    assert sign_in(client, login=ada.email)
    assert int(client.session[SESSION_KEY]) == ada.pk
    client.post(RESET, {"email": ada.email})
    all_mails_are_out()
    assert "for ada on" in mailoutbox[-1].body and len(mailoutbox) == 2


def test_nobody_blocks_an_address_by_typing_it(
    client: Client, ada: User, mailoutbox: list[Any]
) -> None:
    """The first who confirms it has it."""
    ada.emailaddress_set.update(verified=False)
    sign_up(client, ada.email)
    client.post(link_in(mailoutbox[0]))
    assert EmailAddress.objects.get(verified=True).user.username == "bob"


def test_an_address_that_nobody_confirms_is_given_only_so_often(client: Client, ada: User) -> None:
    for number in range(names.MOST_CLAIMS):
        eve = User.objects.create_user(f"eve-{number}")
        EmailAddress.objects.create(user=eve, email="xyz@example.org")
        EmailAddress.objects.create(user=eve, email=f"{number}@example.org")
    assert "did not confirm it" in sign_up(client, "xyz@example.org").text
    client.force_login(ada)
    answer = client.post(EMAIL, {"email": "xyz@example.org", "action_add": ""})
    assert "did not confirm it" in answer.text
    assert not User.objects.filter(username="bob").exists()


# --- changing ----------------------------------------------------------------------------------
def test_a_new_address_replaces_the_old_one_once_it_is_confirmed(
    client: Client, ada: User, mailoutbox: list[Any]
) -> None:
    client.force_login(ada)
    asked = client.post(EMAIL, {"email": "new@example.org", "action_add": ""})
    wrong = client.post(asked.headers["Location"], {"password": "wrong"})
    assert "This is not your password" in wrong.text and not mailoutbox
    client.post(asked.headers["Location"], {"password": PASSWORD})
    page = client.get(EMAIL).text
    assert "ada@example.org" in page and "new@example.org</strong> is not confirmed yet" in page
    assert client.post(link_in(mailoutbox[0])).headers["Location"] == "/accounts/settings/"
    assert [a.email for a in ada.emailaddress_set.all()] == ["new@example.org"]
    ada.refresh_from_db()
    assert ada.email == "new@example.org"
    # Both addresses hear of it: the old one may be the only one its owner reads.
    assert {"ada@example.org"} <= {to for mail in mailoutbox for to in mail.to}


def test_an_address_can_be_forgotten(client: Client, ada: User, mailoutbox: list[Any]) -> None:
    client.force_login(ada)
    assert "Remove ada@example.org" in client.get(EMAIL).text
    client.post(AGAIN, {"password": PASSWORD})
    client.post(EMAIL, {"email": "ada@example.org", "action_remove": ""})
    assert not ada.emailaddress_set.exists()
    assert "Your address" in client.get(EMAIL).text


def test_a_bad_address_is_told_so(client: Client, ada: User) -> None:
    client.force_login(ada)
    page = client.post(EMAIL, {"email": "nowhere", "action_add": ""})
    assert "valid email" in page.text and "nowhere" in page.text


# --- passwords ---------------------------------------------------------------------------------
def test_a_lost_password_is_reset_by_mail(client: Client, ada: User, mailoutbox: list[Any]) -> None:
    assert "on its way" in client.post(RESET, {"email": ada.email}, follow=True).text
    all_mails_are_out()
    (mail,) = mailoutbox
    assert mail.subject == "LoRA Commons: Choose a new password"
    page = client.get(link_in(mail), follow=True)
    action = page.context["action_url"]
    answer = client.post(action, {"password1": OTHER, "password2": OTHER}, follow=True)
    assert "Your password is changed" in answer.text
    assert sign_in(client, OTHER)
    assert mailoutbox[1].subject == "LoRA Commons: Your password was reset"
    assert "no longer works" in Client().get(link_in(mail), follow=True).text


def test_it_does_not_say_which_addresses_have_accounts(
    client: Client, ada: User, mailoutbox: list[Any]
) -> None:
    texts = {
        without_tokens(client.post(RESET, {"email": email}, follow=True).text)
        for email in ("nobody@example.org", ada.email)
    }
    assert len(texts) == 1
    all_mails_are_out()
    assert [mail.to for mail in mailoutbox] == [[ada.email]]


def test_a_mail_server_that_is_down_does_not_say_it_either(
    client: Client, ada: User, settings: Any
) -> None:
    settings.EMAIL_BACKEND = f"{__name__}.NoMailServer"
    texts = set()
    for email in ("nobody@example.org", ada.email):
        answer = client.post(RESET, {"email": email}, follow=True)
        all_mails_are_out()
        texts |= {without_tokens(answer.text), without_tokens(client.get(LOGIN).text)}
    assert len(texts) == 2  # one page each, for both addresses


def test_a_password_is_changed_by_whoever_knows_it(
    client: Client, ada: User, mailoutbox: list[Any]
) -> None:
    client.force_login(ada)
    url = "/accounts/password/change/"
    new = {"password1": OTHER, "password2": OTHER}
    assert "This is not your password" in client.post(url, new | {"oldpassword": "wrong"}).text
    answer = client.post(url, new | {"oldpassword": PASSWORD})
    assert answer.headers["Location"] == "/accounts/settings/"
    assert sign_in(Client(), OTHER) and not sign_in(Client())
    assert mailoutbox[0].subject == "LoRA Commons: Your password was changed"


# --- guests ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "page",
    [
        "email",
        "password/change",
        "password/set",
        "reauthenticate",
        "settings",
        "3rdparty",
        "tokens",
    ],
)
def test_pages_of_an_account_lead_a_guest_to_signing_up(
    client: Client, guest: User, page: str
) -> None:
    url = f"/accounts/{page}/"
    for answer in (client.get(url), client.post(url, {"password1": OTHER, "password2": OTHER})):
        assert answer.headers["Location"] == SIGNUP
    guest.refresh_from_db()
    assert not guest.has_usable_password()
    assert Client().get(url).headers["Location"].startswith(LOGIN)


# --- doors -------------------------------------------------------------------------------------
def test_closed_registration_is_said_and_held(client: Client, settings: Any) -> None:
    settings.REGISTRATION_OPEN = False
    assert "Sign-up is closed" in client.get(SIGNUP).text
    assert "Sign-up is closed" in sign_up(client).text
    assert not User.objects.exists()
    assert f'href="{SIGNUP}"' not in client.get(LOGIN).text


def test_a_guest_stays_one_where_registration_is_closed(
    client: Client, guest: User, settings: Any
) -> None:
    settings.REGISTRATION_OPEN = False
    sign_up(client)
    guest.refresh_from_db()
    assert guest.is_guest and guest.tasks.exists()


@pytest.mark.parametrize("allowed", [True, False])
def test_visitors_try_without_an_account_only_where_they_may(
    client: Client, settings: Any, allowed: bool
) -> None:
    settings.GUESTS = allowed
    base = BaseModel.objects.create(name="lora-commons/tiny", source=BaseModel.SITE)
    task = FewShotTask.objects.create(demo_key="x", name="Opposites", base_model=base)
    answer = client.post(f"/tasks/{task.pk}/duplicate/")
    assert User.objects.filter(is_guest=True).exists() == allowed
    assert answer.headers["Location"].startswith(LOGIN) != allowed


def test_a_visitor_who_may_not_try_is_led_to_signing_in_and_back(
    client: Client, ada: User, settings: Any
) -> None:
    settings.GUESTS = False
    base = BaseModel.objects.create(name="lora-commons/tiny", source=BaseModel.SITE)
    FewShotTask.objects.create(demo_key="x", name="Opposites", base_model=base)
    home = client.get("/").text
    assert "no account" not in home and "After signing in" in home
    for sent_from, back in (
        ("http://testserver/tasks/?page=1", "/tasks/?page=1"),
        ("http://example.com/", "/"),
    ):
        client = Client()
        answer = client.post("/try/x/", headers={"Referer": sent_from}, follow=True)
        assert "Composing needs an account on this site" in answer.text
        field = re.search(r'name="next" value="([^"]*)"', answer.text)
        assert field and field[1] == back
        typed = {"login": "ada", "password": PASSWORD, "next": field[1]}
        assert client.post(LOGIN, typed).headers["Location"] == back


def test_nobody_types_a_task_in_vain(client: Client, settings: Any) -> None:
    settings.GUESTS = False
    assert client.get("/tasks/new/?x=1").headers["Location"] == f"{LOGIN}?next=/tasks/new/%3Fx%3D1"


def test_a_guest_is_not_asked_to_sign_up_where_registration_is_closed(
    client: Client, guest: User, settings: Any
) -> None:
    assert "Sign up to keep this" in client.get("/tasks/").text
    settings.REGISTRATION_OPEN = False
    for page in ("/tasks/", "/accounts/logout/"):
        assert "Sign up" not in client.get(page).text


# --- texts -------------------------------------------------------------------------------------
@pytest.mark.parametrize("page", ["terms", "privacy", "takedown"])
def test_the_foot_leads_to_what_the_site_promises(client: Client, page: str) -> None:
    url = f"/about/{page}/"
    assert f'href="{url}"' in client.get(LOGIN).text
    assert client.get(url).status_code == 200
    assert client.post(url).status_code == 405


# --- the mail server ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "console 587 True False ''"),
        ({"EMAIL_HOST": "smtp.example.org"}, "smtp 587 True False ''"),
        ({"EMAIL_HOST": "smtp.example.org", "EMAIL_TLS": "ssl"}, "smtp 465 False True ''"),
        ({"EMAIL_HOST": "localhost", "EMAIL_TLS": "off"}, "smtp 25 False False ''"),
        ({"EMAIL_HOST": "localhost", "EMAIL_PORT": "2525"}, "smtp 2525 True False ''"),
        ({"EMAIL_HOST": "localhost", "EMAIL_PASSWORD": "x"}, "smtp 587 True False 'x'"),
        ({"EMAIL_TLS": "yes"}, "Set it to one of: starttls, ssl, off."),
        ({"REGISTRATION": "shut"}, "Set it to one of: open, closed."),
    ],
)
def test_mails_go_where_the_environment_says(environment: dict[str, str], said: str) -> None:
    program = (
        "from hub_site import settings as s\n"
        "print(s.EMAIL_BACKEND.split('.')[-2], s.EMAIL_PORT, s.EMAIL_USE_TLS, s.EMAIL_USE_SSL,"
        " repr(s.EMAIL_HOST_PASSWORD))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"ENV_FILE": os.devnull} | environment,
        capture_output=True,
        text=True,
    )
    assert said in done.stdout + done.stderr
