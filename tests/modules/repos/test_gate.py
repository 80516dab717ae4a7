"""The gate on the pages: what each visitor is told, asking, and the owner's answers."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core import mail
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from hub_site.accounts.models import Notice, User
from modules import services
from modules.community import moderation
from modules.locks import Gone
from modules.models import AccessRequest, LoraModule, Repo
from modules.repos import gate, ownership
from tests.modules.conftest import Publisher, make_user

PAGE = "/alice/opposites"
ASK, WITHDRAW = f"{PAGE}/ask-access", f"{PAGE}/ask-access/withdraw"
SETTINGS, ACCESS = f"{PAGE}/settings", f"{PAGE}/settings/access"
GATE, GRANT = f"{SETTINGS}/gate", f"{ACCESS}/grant"


def signed_in(user: User | None) -> Client:
    client = Client()
    if user:
        client.force_login(user)
    return client


@pytest.fixture
def gated(opposites: LoraModule) -> Repo:
    gate.set_gate(opposites.repo, Repo.MANUAL)
    return opposites.repo


@pytest.fixture
def alices(alice: User, gated: Repo) -> Client:
    return signed_in(alice)


@pytest.fixture
def bobs(bob: User, gated: Repo) -> Client:
    return signed_in(bob)


def told(user: User) -> list[str]:
    return list(Notice.objects.filter(user=user).order_by("pk").values_list("text", flat=True))


def gate_of(client: Client) -> str:
    """What the page says of the gate, as text."""
    page = client.get(PAGE)
    assert page.status_code == 200
    found = re.search(r'<section class="notice gate".*?</section>', page.text, re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split()) if found else ""


def state(repo: Repo) -> str | None:
    found = repo.access_requests.first()
    return found.state if found else None


# --- the module's page -------------------------------------------------------------------------


def test_it_says_that_it_is_gated_and_what_to_do(
    gated: Repo, alices: Client, bobs: Client, bob: User
) -> None:
    assert "Sign in to ask for access" in gate_of(Client())
    assert f"/accounts/login/?next={PAGE}" in Client().get(PAGE).text
    asks = gate_of(bobs)
    assert "alice answers every request, and sees your user name" in asks
    assert "Ask for access" in asks
    assert "people ask before they download it" in gate_of(alices)
    request = gate.ask(gated, bob, "For a study.")
    assert "you asked for access" in gate_of(bobs) and "For a study." in gate_of(bobs)
    assert "1 request waits for you" in gate_of(alices)
    gate.decide(request, gate.REJECTED, "Not for studies.")
    assert "alice has not given you access. Reason: Not for studies." in gate_of(bobs)
    assert "Ask for access" not in gate_of(bobs)
    gate.decide(request, gate.ACCEPTED)
    assert "you have access" in gate_of(bobs)
    gate.set_gate(gated, gate.OPEN)
    assert gate_of(bobs) == gate_of(alices) == ""


@pytest.mark.parametrize("page", [PAGE, f"{PAGE}/commits"])
def test_links_to_files_are_for_those_who_have_access(
    gated: Repo, alices: Client, bobs: Client, bob: User, page: str
) -> None:
    """Names, sizes and the open card are for everybody."""
    weights = "adapter_model.safetensors"
    for client, has_access in ((Client(), False), (bobs, False), (alices, True)):
        text = client.get(page).text
        assert weights in text
        assert (f"/{weights}" in text) == (f'"{PAGE}/download.zip' in text) == has_access
    assert "Use in a composition" not in bobs.get(PAGE).text
    gate.grant(gated, "bob")
    assert f"/{weights}" in bobs.get(page).text
    assert "Use in a composition" in bobs.get(PAGE).text
    assert "/README.md" in Client().get(PAGE).text


def test_snippets_ask_for_a_token(gated: Repo) -> None:
    text = Client().get(PAGE).text
    assert "COMMONS_TOKEN" in text and "It is gated: when you have access" in text


def test_lists_mark_it_and_can_leave_it_out(
    gated: Repo, alice: User, publish: Publisher, client: Client
) -> None:
    publish(alice, "open", seed=3)
    rows = client.get("/modules/")
    assert [str(m) for m in rows.context["page"].items] == ["alice/open", "alice/opposites"]
    assert rows.text.count("</svg> gated") == 1
    for wanted, names in (("true", ["alice/opposites"]), ("false", ["alice/open"])):
        found = client.get(f"/modules/?gated={wanted}")
        assert [str(m) for m in found.context["page"].items] == names
        assert found.context["counts"].total == 1
        assert found.context["active"][0].label == ("gated" if wanted == "true" else "not gated")
        api = client.get(f"/api/v1/modules/?gated={wanted}").json()["results"]
        assert [row["name"] for row in api] == names
    assert client.get("/modules/?gated=perhaps").status_code == 422
    assert client.get("/api/v1/modules/?gated=perhaps").status_code == 422


# --- asking ------------------------------------------------------------------------------------


def test_at_once_where_nobody_needs_to_answer(gated: Repo, bobs: Client, alice: User) -> None:
    gate.set_gate(gated, Repo.AUTO)
    assert "you have access at once" in gate_of(bobs)
    assert bobs.post(ASK)["Location"] == PAGE
    assert state(gated) == "accepted" and told(alice) == []
    assert bobs.get(f"{PAGE}/download.zip").status_code == 200


def test_its_owner_hears_of_a_request_once(
    gated: Repo, bobs: Client, alices: Client, alice: User, bob: User
) -> None:
    for message in ("First.", "Second."):
        assert bobs.post(ASK, {"message": message}).status_code == 302
    assert [r.message for r in gated.access_requests.all()] == ["First."]
    bobs.post(WITHDRAW)
    assert state(gated) is None
    bobs.post(ASK)
    assert told(alice) == ["bob asks for access to alice/opposites."]  # unread: not told again
    notice = Notice.objects.get(user=alice)
    page = alices.get(f"/accounts/notices/{notice.pk}/", follow=True)
    assert page.request["PATH_INFO"] == ACCESS and "bob" in page.text
    assert told(bob) == []


def test_a_request_and_its_answer_go_by_mail_to_who_wants_that(
    gated: Repo, bobs: Client, alice: User, bob: User, django_capture_on_commit_callbacks: Any
) -> None:
    User.objects.update(notify_by_email=True)
    for user in (alice, bob):
        user.emailaddress_set.create(email=f"{user.username}@x.org", verified=True, primary=True)
    with django_capture_on_commit_callbacks(execute=True):
        bobs.post(ASK)
    with django_capture_on_commit_callbacks(execute=True):
        gate.decide(gated.access_requests.get(), gate.ACCEPTED)
    assert [m.to for m in mail.outbox] == [["alice@x.org"], ["bob@x.org"]]


def test_whoever_is_not_signed_in_is_led_there_and_back(gated: Repo, base_model: Any) -> None:
    guest = User.objects.create(username="guest-1", is_guest=True)
    for client in (Client(), signed_in(guest)):
        for address in (ASK, WITHDRAW):
            assert client.post(address)["Location"] == f"/accounts/login/?next={PAGE}"
    assert "Sign in to ask for access" in gate_of(signed_in(guest))
    with pytest.raises(gate.NoAccount):
        gate.ask(gated, guest)
    assert not AccessRequest.objects.exists()


def test_odd_posts_are_told_so_and_change_nothing(
    gated: Repo, bobs: Client, alices: Client, publish: Publisher, alice: User
) -> None:
    publish(alice, "open", seed=3)
    assert "300" in bobs.post(ASK, {"message": "x" * 301}, follow=True).text
    assert "is yours" in alices.post(ASK, follow=True).text
    assert "not gated" in bobs.post("/alice/open/ask-access", follow=True).text
    assert "no request" in bobs.post(WITHDRAW, follow=True).text
    for address in (ASK, WITHDRAW):
        assert bobs.get(address).status_code == 405
    forged = Client(enforce_csrf_checks=True)
    forged.force_login(alice)
    assert forged.post(ASK).status_code == 403
    assert not AccessRequest.objects.exists()


def test_a_private_or_hidden_module_cannot_be_asked_for(
    gated: Repo, bobs: Client, secret: LoraModule, alice: User
) -> None:
    gate.set_gate(secret.repo, Repo.AUTO)
    assert bobs.post("/alice/secret/ask-access").status_code == 404
    assert Client().post("/alice/secret/ask-access").status_code == 404
    moderation.hide(gated, moderator=make_user("mara"), reason="Look at it.")
    assert bobs.post(ASK).status_code == 404
    assert not AccessRequest.objects.exists()


def test_nobody_asks_for_everything_in_one_day(
    gated: Repo, bob: User, alice: User, publish: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MOST_A_DAY", 1)
    other = publish(alice, "other", seed=3).repo
    gate.set_gate(other, Repo.MANUAL)
    gate.ask(gated, bob)
    with pytest.raises(gate.TooManyToday):
        gate.ask(other, bob)
    assert "today" in signed_in(bob).post("/alice/other/ask-access", follow=True).text
    gate.grant(other, make_user("carol").username)
    with pytest.raises(gate.TooManyToday):
        gate.grant(other, make_user("dave").username)
    gate.grant(gated, "bob")  # who asked may always be answered
    assert AccessRequest.objects.count() == 2


# --- its owner ---------------------------------------------------------------------------------


def test_an_owner_gates_it_on_the_settings_page(gated: Repo, alices: Client, bob: User) -> None:
    gate.set_gate(gated, gate.OPEN)
    assert "Gated, it stays in lists" in alices.get(SETTINGS).text
    for wanted, found in (("auto", "auto"), ("manual", "manual"), ("open", "")):
        assert alices.post(GATE, {"gated": wanted})["Location"] == SETTINGS
        gated.refresh_from_db()
        assert gated.gated == found
    alices.post(GATE, {"gated": "manual"})
    for wrong in ({}, {"gated": ""}, {"gated": "sometimes"}):
        assert alices.post(GATE, wrong).status_code == 422
        gated.refresh_from_db()
        assert gated.gated == "manual"
    assert alices.get(GATE).status_code == 405
    assert signed_in(bob).post(GATE, {"gated": "open"}).status_code == 404
    assert Client().post(GATE)["Location"] == f"/accounts/login/?next={SETTINGS}"


def test_an_owner_answers_requests(
    gated: Repo, alices: Client, bobs: Client, alice: User, bob: User
) -> None:
    def press(do: str, **more: str) -> Any:
        return alices.post(ACCESS, {"request": gated.access_requests.get().pk, "do": do, **more})

    bobs.post(ASK, {"message": "For <b>a study</b>."})
    for page in (SETTINGS, ACCESS):
        text = alices.get(page).text
        assert "bob" in text and "For &lt;b&gt;a study&lt;/b&gt;." in text
    assert press("accept")["Location"] == f"{ACCESS}?show=pending"
    assert bobs.get(f"{PAGE}/download.zip").status_code == 200
    assert "has access since" in alices.get(f"{ACCESS}?show=accepted").text
    press("revoke", reason="The study is over.")
    assert bobs.get(f"{PAGE}/download.zip").status_code == 403
    assert "The study is over." in alices.get(f"{ACCESS}?show=rejected").text
    assert bobs.post(ASK).status_code == 302
    assert state(gated) == "rejected"  # asking again does not help
    press("accept")
    assert told(bob) == [
        "alice has given you access to alice/opposites.",
        "alice has taken your access to alice/opposites away. Reason: The study is over.",
    ]  # the third says the same as the first, which is still unread
    assert "is accepted already" in alices.post(
        ACCESS, {"request": gated.access_requests.get().pk, "do": "accept"}, follow=True
    ).text  # fmt: skip


def test_an_owner_lets_somebody_in_by_name(gated: Repo, alices: Client, bob: User) -> None:
    assert alices.post(GRANT, {"user": " Bob "})["Location"] == f"{ACCESS}?show=accepted"
    assert gate.may_read(gated, bob)
    assert told(bob) == ["alice has given you access to alice/opposites."]
    assert "let in by you" in alices.get(f"{ACCESS}?show=accepted").text
    User.objects.create(username="guest-1", is_guest=True)
    for name, said in (
        ("bob", "has access"), ("alice", "has access"), ("nobody", "no user"), ("", "required"),
        ("guest-1", "no user"), ("a\0b", "Null characters"),
    ):  # fmt: skip
        answer = alices.post(GRANT, {"user": name})
        assert answer.status_code in (400, 404, 422) and said in answer.text, name
    assert gated.access_requests.count() == 1


@pytest.mark.parametrize(
    "sent",
    [
        {}, {"do": "accept"}, {"request": "x", "do": "accept"}, {"request": "0", "do": "accept"},
        {"request": "9" * 30, "do": "accept"}, {"request": "1", "do": "dance"},
    ],
)  # fmt: skip
def test_a_bad_decision_changes_nothing(
    gated: Repo, alices: Client, bob: User, sent: dict[str, str]
) -> None:
    gate.ask(gated, bob)
    answer = alices.post(ACCESS, sent)
    assert answer.status_code == 422 and "Nothing was changed" in answer.text
    assert state(gated) == "pending"


def test_another_repos_request_is_not_decided_here(
    gated: Repo, bob: User, alices: Client, publish: Publisher
) -> None:
    other = publish(bob, "his", seed=3).repo
    gate.set_gate(other, Repo.MANUAL)
    theirs = gate.ask(other, make_user("carol"))
    alices.post(ACCESS, {"request": theirs.pk, "do": "accept"})
    theirs.refresh_from_db()
    assert theirs.state == "pending"


def test_requests_are_for_the_owner_and_the_asker_alone(
    gated: Repo, bobs: Client, bob: User, alices: Client
) -> None:
    gate.ask(gated, make_user("carol"), "Between us.")
    moderator = make_user("mara")
    User.objects.filter(pk=moderator.pk).update(is_staff=True)
    for client in (Client(), bobs, signed_in(moderator)):
        assert client.get(ACCESS).status_code in (302, 404)
        assert "Between us." not in client.get(PAGE).text and "carol" not in client.get(PAGE).text
        assert "carol" not in str(client.get("/api/v1/modules/alice/opposites/").json())
    assert "Between us." in alices.get(ACCESS).text


def test_the_list_costs_the_same_for_two_rows_and_ten_and_goes_on(
    gated: Repo, alices: Client
) -> None:
    counts = []
    for n in range(25):
        gate.ask(gated, make_user(f"asker-{n:02}"))
        if n in (1, 9):
            with CaptureQueriesContext(connection) as queries:
                alices.get(ACCESS)
            counts.append(len(queries))
    assert counts[0] == counts[1]
    page = alices.get(ACCESS)
    assert [r.user.username for r in page.context["page"].items][:2] == ["asker-00", "asker-01"]
    rest = alices.get(f"{ACCESS}?after={page.context['page'].next}")
    assert [r.user.username for r in rest.context["page"].items][-1] == "asker-24"
    assert alices.get(f"{ACCESS}?show=nothing").status_code == 200


def test_empty_lists_say_what_would_stand_there(gated: Repo, alices: Client) -> None:
    for show, said in (
        ("pending", "Nobody waits"), ("accepted", "Nobody but you"), ("rejected", "turned nobody"),
    ):  # fmt: skip
        assert said in alices.get(f"{ACCESS}?show={show}").text


# --- nothing stuck -----------------------------------------------------------------------------


def test_opening_and_closing_the_gate_keeps_everybody_where_they_were(
    gated: Repo, alices: Client, bob: User
) -> None:
    request = gate.ask(gated, bob)
    gate.set_gate(gated, gate.OPEN)
    assert gate.may_read(gated, bob)
    assert "It is not gated" in alices.get(ACCESS).text
    answer = alices.post(ACCESS, {"request": request.pk, "do": "accept"}, follow=True)
    assert "is not gated" in answer.text and state(gated) == "pending"
    assert alices.post(GRANT, {"user": "bob"}).status_code == 400
    gate.set_gate(gated, Repo.AUTO)
    assert not gate.may_read(gated, bob)  # its owner had not let them in
    gate.decide(request, gate.ACCEPTED)
    assert gate.may_read(gated, bob)


def test_renaming_takes_requests_along_and_deleting_ends_them(
    gated: Repo, bobs: Client, bob: User, alices: Client, alice: User
) -> None:
    gate.grant(gated, "bob")
    ownership.rename(gated, "antonyms")
    assert bobs.get("/alice/antonyms/download.zip").status_code == 200
    assert bobs.post(ASK)["Location"] == "/alice/antonyms/ask-access"
    assert alices.get(ACCESS)["Location"] == "/alice/antonyms/settings/access"
    ownership.delete(gated)
    assert not AccessRequest.objects.exists()
    with pytest.raises(Gone):
        gate.ask(gated, bob)
    new = services.create_repo(owner=alice.namespace, name="antonyms", kind=Repo.LORA)
    gate.set_gate(new, Repo.MANUAL)
    assert not gate.may_read(new, bob)  # another repo: its name gives nobody access


def test_a_user_who_goes_takes_their_requests_along(gated: Repo, bob: User, alices: Client) -> None:
    gate.ask(gated, bob)
    bob.delete()
    assert "Nobody waits" in alices.get(ACCESS).text


def test_a_request_that_was_taken_back_is_not_decided(
    gated: Repo, bob: User, alices: Client
) -> None:
    request = gate.ask(gated, bob)
    gate.withdraw(gated, bob)
    with pytest.raises(gate.NoRequest):
        gate.decide(request, gate.ACCEPTED)
    answer = alices.post(ACCESS, {"request": request.pk, "do": "accept"}, follow=True)
    assert "taken back meanwhile" in answer.text


def test_a_base_model_is_never_gated(base_model: Any) -> None:
    with pytest.raises(gate.BadGate, match="base model"):
        gate.set_gate(base_model.repo, Repo.AUTO)
    base_model.repo.refresh_from_db()
    assert base_model.repo.gated == ""


# --- programs ----------------------------------------------------------------------------------


def test_the_api_says_and_sets_it(gated: Repo, alices: Client, bobs: Client, bob: User) -> None:
    address = "/api/v1/modules/alice/opposites/"
    assert Client().get("/api/v1/modules/").json()["results"][0]["gated"] == "manual"
    for client, has_access in ((Client(), False), (bobs, False), (alices, True)):
        found = client.get(address).json()
        assert (found["gated"], found["has_access"]) == ("manual", has_access)
        answers = {client.get(file["url"]).status_code for file in found["files"]}
        assert answers == ({200} if has_access else {200, 403 if client is bobs else 401})

    def change(client: Client, gated: str) -> Any:
        return client.patch(address, {"gated": gated}, content_type="application/json")

    for wanted in ("auto", "", "manual"):
        assert change(alices, wanted).json()["gated"] == wanted
    assert change(alices, "sometimes").status_code == 422
    assert change(bobs, "").status_code == 403
    gated.refresh_from_db()
    assert gated.gated == "manual"
