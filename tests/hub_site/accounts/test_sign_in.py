"""Signing up, in and out; and what happens to the work of a guest."""

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.models import AnonymousUser
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from composer.models import FewShotTask
from hub_site.accounts import guests, names
from hub_site.accounts.models import Namespace, User
from hub_site.env import Rate
from hub_site.jobs import queue
from hub_site.jobs.models import Job, JobEvent
from modules.models import BaseModel

pytestmark = pytest.mark.django_db

LOGIN, SIGNUP, LOGOUT = "/accounts/login/", "/accounts/signup/", "/accounts/logout/"
PASSWORD = "a-long-walk-home"


def sign_up(client: Client, name: str = "ada", **more: str) -> Any:
    return client.post(SIGNUP, {"username": name, "password1": PASSWORD, **more})


def sign_in(client: Client, name: str = "ada", password: str = PASSWORD, **more: str) -> Any:
    return client.post(LOGIN, {"login": name, "password": password, **more})


def signed_in(client: Client) -> int | None:
    pk = client.session.get(SESSION_KEY)
    return int(pk) if pk else None


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password=PASSWORD)


@pytest.fixture
def guest(client: Client, rf: Any) -> User:
    """A guest who is signed in with `client` and owns a task and a job."""
    request = rf.get("/")
    request.session = client.session
    request.user = AnonymousUser()
    guest = guests.start_guest(request)
    client.force_login(guest)
    base = BaseModel.objects.create(name="lora-commons/tiny", source=BaseModel.SITE)
    FewShotTask.objects.create(owner=guest, name="a try", base_model=base)
    queue.submit("test_idle", user=guest, params={})
    return guest


# --- up ----------------------------------------------------------------------------------------
def test_two_who_take_a_name_at_once_are_told_so(
    client: Client, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second looked at the names before the first was there."""
    monkeypatch.setattr(names, "check_free", lambda name: None)
    answer = sign_up(client, "Ada")
    assert answer.status_code == 409
    assert "is taken" in answer.text
    assert list(User.objects.all()) == [ada]


def test_it_signs_up_with_a_name_and_a_password(client: Client) -> None:
    assert client.get(SIGNUP).status_code == 200
    response = sign_up(client)
    assert response.status_code == 302
    assert response.headers["Location"] == reverse("home")
    user = User.objects.get(username="ada")
    assert signed_in(client) == user.pk
    assert user.namespace.name == "ada"
    assert user.check_password(PASSWORD)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("recipes", "is kept for the site itself"),
        ("a--b", "in a row"),
        ("ada.git", "ends in"),
        ("a b", "Use letters"),
        ("ADA", "is taken"),
        ("acme", "is taken"),
        ("", "required"),
    ],
)
def test_it_refuses_a_bad_name(client: Client, ada: User, name: str, why: str) -> None:
    Namespace.objects.create(name="Acme", kind=Namespace.ORGANISATION)
    response = sign_up(client, name)
    assert response.status_code == 200
    errors = " ".join(response.context["form"].errors["username"])
    assert why.replace("ends in", "cannot end in") in errors
    assert User.objects.count() == 1


def test_it_refuses_a_weak_password(client: Client) -> None:
    response = client.post(SIGNUP, {"username": "ada", "password1": "1234"})
    assert response.context["form"].errors["password1"]
    assert not User.objects.exists()


# --- in and out --------------------------------------------------------------------------------
def test_it_signs_in_and_out(client: Client, ada: User) -> None:
    assert client.get(LOGIN).status_code == 200
    assert sign_in(client).status_code == 302
    assert signed_in(client) == ada.pk
    assert client.get(LOGOUT).status_code == 200
    assert signed_in(client) == ada.pk
    assert client.post(LOGOUT).status_code == 302
    assert signed_in(client) is None
    assert User.objects.filter(pk=ada.pk).exists()


def test_it_does_not_say_which_part_was_wrong(client: Client, ada: User) -> None:
    answers = [sign_in(client, password="wrong"), sign_in(client, name="nobody")]
    said = {" ".join(a.context["form"].non_field_errors()) for a in answers}
    assert len(said) == 1
    assert signed_in(client) is None


def test_it_goes_on_to_where_the_visitor_wanted_to_be(client: Client, ada: User) -> None:
    assert sign_in(client, next="/recipes/").headers["Location"] == "/recipes/"


def test_it_does_not_lead_to_another_site(client: Client, ada: User) -> None:
    response = sign_in(client, next="https://example.com/")
    assert response.headers["Location"] == reverse("home")


@pytest.mark.parametrize("wanted", ["nowhere", "é²", "//example.com", "javascript:alert(1)"])
def test_whoever_is_signed_in_is_sent_on_wherever_to(
    client: Client, ada: User, wanted: str
) -> None:
    client.force_login(ada)
    answer = client.get(LOGIN, {"next": wanted})
    assert answer.status_code == 302
    assert "example.com" not in answer["Location"] and "script" not in answer["Location"]


def test_the_admin_has_no_door_of_its_own(client: Client, ada: User) -> None:
    door = client.post("/admin/login/", {"username": "ada", "password": PASSWORD})
    assert door.headers["Location"].startswith(LOGIN) and signed_in(client) is None
    assert client.get("/admin/", follow=True).redirect_chain[-1][0].startswith(LOGIN)
    client.force_login(ada)
    assert client.get("/admin/", follow=True).status_code == 403
    client.force_login(User.objects.create_superuser("grace"))
    assert client.get("/admin/").status_code == 200


def test_guessing_ends(client: Client, ada: User) -> None:
    for _ in range(6):
        last = sign_in(client, password="wrong")
    assert "Too many wrong passwords" in last.text
    assert "Too many wrong passwords" in sign_in(client).text
    assert signed_in(client) is None


@pytest.mark.parametrize("url", [LOGIN, SIGNUP])
def test_whoever_is_signed_in_is_sent_on(client: Client, ada: User, url: str) -> None:
    client.force_login(ada)
    assert client.get(url).status_code == 302
    assert client.post(url, {"username": "eve", "password1": PASSWORD}).status_code == 302
    assert signed_in(client) == ada.pk
    assert User.objects.count() == 1


@pytest.mark.parametrize(
    "name", ["account_reset_password", "account_change_password", "account_email"]
)
def test_the_pages_of_allauth_have_our_frame(client: Client, ada: User, name: str) -> None:
    client.force_login(ada)
    response = client.get(reverse(name))
    assert response.status_code == 200
    assert b'id="main"' in response.content


def test_a_form_that_went_stale_is_told_so_in_our_frame(ada: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.get(LOGIN)
    page = sign_in(client)
    assert page.status_code == 403
    assert "This form is too old" in page.text and 'id="main"' in page.text
    assert signed_in(client) is None


# --- guests ------------------------------------------------------------------------------------
def test_a_guest_has_no_password_and_no_namespace(guest: User) -> None:
    assert guest.is_guest
    assert not guest.has_usable_password()
    assert not Namespace.objects.exists()


def test_nobody_becomes_a_guest_twice(guest: User, rf: Any) -> None:
    request = rf.get("/")
    request.user = guest
    assert guests.start_guest(request) == guest


def test_one_address_makes_only_so_many_guests(settings: Any) -> None:
    settings.THROTTLES = settings.THROTTLES | {"guest": Rate(2, 3600)}
    base = BaseModel.objects.create(name="lora-commons/tiny", source=BaseModel.SITE)
    task = FewShotTask.objects.create(demo_key="x", name="Opposites", base_model=base)
    answers = [Client().post(f"/tasks/{task.pk}/duplicate/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [302, 302, 429]
    assert "from your address" in answers[2].text and int(answers[2]["Retry-After"]) > 0
    elsewhere = Client(REMOTE_ADDR="192.0.2.1").post(f"/tasks/{task.pk}/duplicate/")
    assert elsewhere.status_code == 302
    assert User.objects.count() == 3


@pytest.mark.parametrize("url", [LOGIN, SIGNUP])
def test_a_guest_may_come_in(client: Client, guest: User, url: str) -> None:
    response = client.get(url)
    assert response.status_code == 200
    assert b"guest" in response.content


def test_signing_up_turns_the_guest_into_the_account(client: Client, guest: User) -> None:
    assert sign_up(client).status_code == 302
    guest.refresh_from_db()
    assert (guest.username, guest.is_guest) == ("ada", False)
    assert guest.namespace.name == "ada"
    assert signed_in(client) == guest.pk
    assert guest.tasks.count() == guest.jobs.count() == 1
    assert User.objects.count() == 1


def test_a_failed_sign_up_leaves_the_guest_a_guest(client: Client, guest: User) -> None:
    sign_up(client, "recipes")
    guest.refresh_from_db()
    assert guest.is_guest
    assert guest.username.startswith("guest-")
    assert signed_in(client) == guest.pk


def test_signing_in_takes_the_guests_work_along(client: Client, guest: User, ada: User) -> None:
    assert sign_in(client).status_code == 302
    assert signed_in(client) == ada.pk
    assert ada.tasks.count() == ada.jobs.count() == 1
    assert not User.objects.filter(pk=guest.pk).exists()


def test_a_failed_sign_in_takes_nothing(client: Client, guest: User, ada: User) -> None:
    sign_in(client, password="wrong")
    assert guest.tasks.count() == 1
    assert not ada.tasks.exists()


def test_every_reference_to_a_user_is_handed_over(guest: User, ada: User) -> None:
    """Whatever an app adds later is found by itself, hidden references too."""
    models = {field.model.__name__ for field in guests._references()}
    assert {"FewShotTask", "Job", "Recipe", "Grant", "AccessToken"} <= models


def test_what_the_account_has_already_is_not_doubled(guest: User, ada: User) -> None:
    queue.submit("test_idle", user=guest, params={}, idempotency_key="same")
    kept = queue.submit("test_idle", user=ada, params={}, idempotency_key="same")
    guests.hand_over(guest, ada)
    assert list(ada.jobs.filter(idempotency_key="same")) == [kept]


def test_a_guest_who_leaves_is_forgotten(client: Client, guest: User) -> None:
    assert client.post(LOGOUT).status_code == 302
    assert not User.objects.exists()
    assert not Job.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_guest_is_forgotten_while_a_worker_writes(guest: User) -> None:
    job = queue.claim_next("test")
    assert job is not None
    writing = threading.Event()

    def write() -> None:
        with queue.checkpoint(job):
            JobEvent.objects.create(job=job, fence=job.fence, name="test")
            writing.set()
            while not is_somebody_waiting():
                time.sleep(0.01)
        connection.close()

    def is_somebody_waiting() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            return bool(cursor.fetchone()[0])

    worker = threading.Thread(target=write, daemon=True)
    worker.start()
    assert writing.wait(10)
    guests.forget(guest)
    worker.join(10)
    assert not Job.objects.exists() and not JobEvent.objects.exists()


def test_guests_are_forgotten_after_a_while(guest: User, ada: User, settings: Any) -> None:
    fresh = User.objects.create(username="guest-2", is_guest=True, last_login=timezone.now())
    long_ago = timezone.now() - timedelta(days=settings.GUEST_DAYS, seconds=1)
    User.objects.filter(pk__in=[guest.pk, ada.pk]).update(last_login=long_ago)
    call_command("prune_guests")
    assert guest in User.objects.all()  # whoever still makes things is still here
    FewShotTask.objects.update(updated_at=long_ago)
    Job.objects.update(created_at=long_ago)
    call_command("prune_guests")
    assert set(User.objects.all()) == {fresh, ada}
    assert not Job.objects.exists()
