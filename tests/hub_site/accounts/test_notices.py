"""Notices: a line when something of yours ends, and a mail if you asked for one."""

from datetime import timedelta
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from composer.models import FewShotTask, Search
from hub_site.accounts.models import Notice, User
from hub_site.accounts.notices import notify
from hub_site.jobs import queue, worker
from hub_site.jobs.models import Job
from modules.models import BaseModel, Commit, LoraModule, Repo

pytestmark = pytest.mark.django_db
PAGE = "/accounts/notices/"


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada")


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob")


def confirm(user: User, email: str = "ada@example.org", verified: bool = True) -> None:
    EmailAddress.objects.create(user=user, email=email, primary=True, verified=verified)


def composition(user: User) -> Job:
    base, _ = BaseModel.objects.get_or_create(name="lora-commons/tiny", source=BaseModel.SITE)
    task = FewShotTask.objects.create(owner=user, name="Opposites", base_model=base)
    job = queue.submit("compose", user=user, params={})
    Search.objects.create(
        job=job, task=task, title="Opposites", preset="quick", base_model=base, spec={}, examples={}
    )
    return job


def claim() -> Job:
    job = queue.claim_next("test")
    assert job is not None
    return job


# --- when something ends -----------------------------------------------------------------------
def test_it_tells_that_a_composition_is_done(ada: User) -> None:
    job = composition(ada)
    with queue.finish(claim(), {}):
        pass
    notice = Notice.objects.get()
    assert (notice.user, notice.address) == (ada, f"/jobs/{job.pk}/")
    assert "“Opposites” is done" in notice.text


def test_it_tells_that_a_composition_failed_and_why(ada: User) -> None:
    composition(ada)
    queue.fail(claim(), "nothing_found", "Every candidate's loss was infinite.\nChoose others.")
    text = Notice.objects.get().text
    assert text == "“Opposites” failed: Every candidate's loss was infinite. Choose others."


def test_it_tells_that_a_composition_was_given_up(ada: User, settings: Any) -> None:
    settings.JOB_MAX_CRASHES = 1
    composition(ada)
    queue.strike(claim(), "killed")
    assert "failed: The worker process died" in Notice.objects.get().text


def test_whoever_cancels_needs_no_notice(ada: User) -> None:
    queue.request_cancel(composition(ada))
    composition(ada)
    running = claim()
    queue.request_cancel(running)
    queue.stop_cancelled(running)
    assert not Notice.objects.exists()


def test_a_trial_needs_no_notice(ada: User) -> None:
    queue.submit("predict", user=ada, params={})
    with queue.finish(claim(), {}):
        pass
    assert not Notice.objects.exists()


def test_nothing_is_told_of_an_end_that_was_not_kept(ada: User) -> None:
    composition(ada)
    with pytest.raises(ZeroDivisionError), queue.finish(claim(), {}):
        _ = 1 / 0
    assert not Notice.objects.exists()


@pytest.mark.parametrize(
    ("status", "said"), [("ready", "passed its checks"), ("rejected", "did not pass its checks")]
)
def test_it_tells_how_the_check_of_a_module_ended(ada: User, status: str, said: str) -> None:
    repo = Repo.objects.create(owner=ada.namespace, name="opposites", kind=Repo.LORA)
    commit = Commit.objects.create(repo=repo, sha="a" * 40, title="x", created_at=timezone.now())
    module = LoraModule.objects.create(
        repo=repo, commit=commit, published_at=timezone.now(), r=4, lora_alpha=8, status=status
    )
    params = {"lora_module": module.pk, "commit": "a" * 40}
    queue.submit("check_module", user=ada, params=params)
    with queue.finish(claim(), {}):
        pass
    notice = Notice.objects.get()
    assert (notice.user, notice.address) == (ada, "/ada/opposites")
    assert notice.text == f"ada/opposites {said}."


def test_notices_read_long_ago_are_cleared_away(ada: User) -> None:
    for text, read in (("old", 91), ("read", 89), ("unread", None)):
        notify(ada, text)
        at = read and timezone.now() - timedelta(days=read)
        Notice.objects.filter(text=text).update(read_at=at)
    job = queue.submit("prune_notices", params={})
    worker.run(claim())
    job.refresh_from_db()
    assert (job.state, job.result) == ("done", {"deleted": 1})
    assert set(Notice.objects.values_list("text", flat=True)) == {"read", "unread"}


def test_sessions_that_ran_out_are_cleared_away(client: Client, ada: User) -> None:
    for user in (ada, ada):
        Client().force_login(user)
    client.force_login(ada)
    kept = client.session.session_key
    Session.objects.exclude(pk=kept).update(expire_date=timezone.now() - timedelta(seconds=1))
    job = queue.submit("prune_sessions", params={})
    worker.run(claim())
    job.refresh_from_db()
    assert (job.state, job.result) == ("done", {"deleted": 2})
    assert [session.pk for session in Session.objects.all()] == [kept]


# --- the mail ----------------------------------------------------------------------------------
def test_a_mail_goes_out_only_when_asked_for(
    ada: User, mailoutbox: list[Any], django_capture_on_commit_callbacks: Any
) -> None:
    confirm(ada)
    with django_capture_on_commit_callbacks(execute=True):
        notify(ada, "First.")
        ada.notify_by_email = True
        notify(ada, "“Opposites”\nis done.", "/jobs/1")
        assert not mailoutbox
    (mail,) = mailoutbox
    assert mail.to == ["ada@example.org"]
    assert mail.subject == "LoRA Commons: “Opposites” is done."
    assert "/jobs/1" in mail.body
    assert "/accounts/settings/" in mail.body


def test_the_mails_link_is_whole_when_the_site_knows_its_address(
    ada: User, settings: Any, mailoutbox: list[Any], django_capture_on_commit_callbacks: Any
) -> None:
    settings.SITE_URL = "https://commons.example"
    ada.notify_by_email = True
    confirm(ada)
    with django_capture_on_commit_callbacks(execute=True):
        notify(ada, "Done.", "/jobs/1")
    assert "https://commons.example/jobs/1" in mailoutbox[0].body


@pytest.mark.parametrize("case", ["no address", "not confirmed", "guest", "nobody"])
def test_nobody_is_mailed_without_a_confirmed_address(
    ada: User, mailoutbox: list[Any], django_capture_on_commit_callbacks: Any, case: str
) -> None:
    ada.notify_by_email, ada.is_guest = True, case == "guest"
    if case != "no address":
        confirm(ada, verified=case != "not confirmed")
    with django_capture_on_commit_callbacks(execute=True):
        notify(None if case == "nobody" else ada, "Done.")
    assert not mailoutbox
    assert Notice.objects.count() == (case != "nobody")


# --- the page ----------------------------------------------------------------------------------
def test_the_page_lists_yours_and_marks_what_is_new(client: Client, ada: User, bob: User) -> None:
    client.force_login(ada)
    assert "No notices yet" in client.get(PAGE).text
    notify(ada, "Adas module passed its checks.", "/ada/x")
    notify(bob, "Bobs module passed its checks.")
    page = client.get(PAGE).text
    assert "Adas module" in page and "Bobs" not in page
    assert page.count("is-unread") == 1
    assert client.post(f"{PAGE}read/").status_code == 302
    assert "is-unread" not in client.get(PAGE).text
    assert Notice.objects.filter(read_at=None).get().user == bob


def test_following_its_link_is_reading_it(client: Client, ada: User) -> None:
    notify(ada, "Done.", "/recipes/")
    notify(ada, "Other.", "/recipes/")
    client.force_login(ada)
    notice = Notice.objects.get(text="Done.")
    assert client.get(f"{PAGE}{notice.pk}/").headers["Location"] == "/recipes/"
    assert [n.text for n in Notice.objects.filter(read_at=None)] == ["Other."]


@pytest.mark.parametrize("address", ["https://example.com/", "//example.com/", ""])
def test_a_link_never_leads_to_another_site(client: Client, ada: User, address: str) -> None:
    notify(ada, "Done.", address)
    client.force_login(ada)
    assert client.get(f"{PAGE}{Notice.objects.get().pk}/").headers["Location"] == PAGE


def test_a_stranger_sees_and_reads_nothing(client: Client, ada: User, bob: User) -> None:
    notify(ada, "Done.", "/recipes/")
    url = f"{PAGE}{Notice.objects.get().pk}/"
    for address in (PAGE, url):
        assert client.get(address).headers["Location"].startswith("/accounts/login/")
    client.force_login(bob)
    assert client.get(url).status_code == 404
    assert client.post(url).status_code == 405
    assert client.get(f"{PAGE}read/").status_code == 405
    assert Notice.objects.get().read_at is None


def test_the_menu_counts_what_is_new_with_one_query(
    client: Client, ada: User, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0):
        client.get("/accounts/login/")
    for number in range(3):
        notify(ada, f"Notice {number}.")
    client.force_login(ada)
    with django_assert_num_queries(3):  # the session, the user, the count
        page = client.get("/accounts/logout/").text
    assert '<span class="unread num">3' in page
    Notice.objects.bulk_create(Notice(user=ada, text="x") for _ in range(200))
    assert '<span class="unread num">99+' in client.get("/accounts/logout/").text
