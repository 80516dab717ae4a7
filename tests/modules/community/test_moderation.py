"""Reports, and what moderators do about them; what others see of it, at once."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import AnonymousUser, Group, Permission
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from composer.engine.errors import CommonsError
from hub_site.accounts.models import User
from modules.community import moderation
from modules.models import Collection, LoraModule, ModerationEvent, Repo, Report
from tests.modules.conftest import make_user

REPORT = "/alice/opposites/report"
SPAM = {"reason": "spam", "text": "Ten of these today."}


@pytest.fixture
def moderator(db: None) -> User:
    user = make_user("mara")
    user.is_staff = user.is_superuser = True
    user.save()
    return user


def notices(user: User) -> list[str]:
    return list(user.notices.values_list("text", flat=True))


# --- reports ---


def test_anybody_can_report(client: Client, bob: User, opposites: LoraModule) -> None:
    assert client.get(REPORT).status_code == 200
    assert client.post(REPORT, SPAM)["Location"] == "/alice/opposites"
    client.force_login(bob)
    client.post(REPORT, SPAM)
    reporters = [report.reporter for report in Report.objects.order_by("pk")]
    assert reporters == [None, bob]
    assert {report.repo_name for report in Report.objects.all()} == {"alice/opposites"}


def test_one_report_of_a_visitor_is_open_at_a_time(
    client: Client, bob: User, opposites: LoraModule, moderator: User
) -> None:
    for login in (False, True):
        if login:
            client.force_login(bob)
        for _ in range(2):
            page = client.post(REPORT, SPAM, follow=True).content.decode()
        assert "You have reported it already" in page
    assert Report.objects.count() == 2
    for report in Report.objects.all():
        moderation.close_report(report, moderator=moderator, outcome="It is fine.")
    client.post(REPORT, SPAM)
    assert Report.objects.filter(closed_at=None).count() == 1


def test_nobody_floods_the_moderators(
    client: Client, alice: User, opposites: LoraModule, publish: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(moderation, "REPORTS_A_DAY", 2)
    for number in range(3):
        publish(alice, f"m{number}", seed=number + 10)
        answer = client.post(f"/alice/m{number}/report", SPAM)
    assert answer.status_code == 429
    assert "You have sent 2 reports today" in answer.content.decode()
    assert "Ten of these today." in answer.content.decode()
    assert Report.objects.count() == 2


@pytest.mark.parametrize("given", [{}, {"reason": "rude"}, {"reason": "other", "text": " "}])
def test_a_report_says_what_is_wrong(
    client: Client, opposites: LoraModule, given: dict[str, str]
) -> None:
    answer = client.post(REPORT, given)
    assert answer.status_code == 422 and not Report.objects.exists()
    assert 'class="errors"' in answer.content.decode()


@pytest.mark.django_db(transaction=True)
def test_two_presses_at_once_are_one_report(opposites: LoraModule, bob: User) -> None:
    def press(number: int) -> bool:
        user = bob if number % 2 else AnonymousUser()
        try:
            return moderation.report(opposites.repo, user=user, address="192.0.2.1", reason="spam")[
                1
            ]
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as fingers:
        assert sum(fingers.map(press, range(12))) == 2
    assert Report.objects.count() == 2


# --- hiding ---


def test_what_is_hidden_vanishes_for_others_at_once(
    client: Client, alice: User, bob: User, opposites: LoraModule, moderator: User
) -> None:
    collection = Collection.objects.create(owner=bob.namespace, name="c", title="C")
    collection.items.create(lora_module=opposites, position=0)
    pages = [
        "/modules/",
        "/modules/?q=opposites",
        "/alice",
        "/api/v1/modules/",
        "/collections/bob/c/",
    ]
    gone = [
        "/alice/opposites", "/alice/opposites/download.zip", "/api/v1/modules/alice/opposites/",
        "/alice/opposites/resolve/main/README.md", "/alice/opposites/report",
    ]  # fmt: skip
    for url in pages:
        assert b"opposites" in client.get(url).content, url
    moderation.hide(opposites.repo, moderator=moderator, reason="Not yours to share.")
    for user in (None, bob):
        if user:
            client.force_login(user)
        for url in pages:
            found = client.get(url).content.replace(b'value="opposites"', b"")
            assert b"/alice/opposites" not in found, url
        for url in gone:
            assert client.get(url).status_code == 404, url
        assert client.post("/alice/opposites/like").status_code == 404


def test_the_owner_sees_it_as_hidden_and_why(
    client: Client, alice: User, opposites: LoraModule, moderator: User
) -> None:
    moderation.hide(opposites.repo, moderator=moderator, reason="Not yours to share.")
    client.force_login(alice)
    page = client.get("/alice/opposites").content.decode()
    assert "A moderator has hidden this module" in page and "Not yours to share." in page
    assert "Use in a composition" not in page
    assert notices(alice) == ["A moderator has hidden alice/opposites. Reason: Not yours to share."]
    moderation.restore(opposites.repo, moderator=moderator, reason="Mended.")
    page = client.get("/alice/opposites").content.decode()
    assert "has hidden" not in page
    opposites.refresh_from_db()
    assert opposites.is_listed and len(notices(alice)) == 2


def test_moderators_see_what_is_hidden_and_nobodys_private_modules(
    client: Client, opposites: LoraModule, secret: LoraModule, moderator: User
) -> None:
    moderation.hide(opposites.repo, moderator=moderator, reason="Look at it.")
    client.force_login(moderator)
    assert client.get("/alice/opposites").status_code == 200
    assert client.get("/alice/secret").status_code == 404


def test_every_act_leaves_a_line(alice: User, opposites: LoraModule, moderator: User) -> None:
    moderation.hide(opposites.repo, moderator=moderator, reason="A")
    moderation.restore(opposites.repo, moderator=moderator, reason="B")
    moderation.restore(opposites.repo, moderator=moderator)  # nothing to restore: no line
    moderation.ban_uploads(alice, moderator=moderator, reason="C")
    moderation.unban(alice, moderator=moderator, reason="D")
    lines = ModerationEvent.objects.order_by("pk").values_list("action", "subject", "reason")
    assert list(lines) == [
        ("hide", "alice/opposites", "A"),
        ("restore", "alice/opposites", "B"),
        ("ban uploads", "alice", "C"),
        ("allow uploads", "alice", "D"),
    ]
    assert set(ModerationEvent.objects.values_list("actor__username", flat=True)) == {"mara"}


def test_nothing_is_hidden_without_a_reason(opposites: LoraModule, moderator: User) -> None:
    with pytest.raises(CommonsError, match="Say why"):
        moderation.hide(opposites.repo, moderator=moderator, reason=" \n")
    opposites.repo.refresh_from_db()
    assert not opposites.repo.is_hidden


def test_hiding_answers_the_reports(bob: User, opposites: LoraModule, moderator: User) -> None:
    report, _ = moderation.report(opposites.repo, user=bob, address="", reason="spam")
    moderation.hide(opposites.repo, moderator=moderator, reason="Spam.")
    report.refresh_from_db()
    assert report.closed_by == moderator and report.outcome == "It was hidden."
    assert notices(bob) == ["A moderator looked at your report of alice/opposites: It was hidden."]


def test_a_banned_account_uploads_nothing_and_keeps_what_it_has(
    client: Client, alice: User, opposites: LoraModule, moderator: User, publish: Any
) -> None:
    moderation.ban_uploads(alice, moderator=moderator, reason="Ten copies of one module.")
    client.force_login(alice)
    assert client.get("/alice/opposites").status_code == 200
    alice.refresh_from_db()
    with pytest.raises(CommonsError, match="Ten copies of one module."):
        publish(alice, "eleventh", seed=11)
    moderation.unban(alice, moderator=moderator)
    alice.refresh_from_db()
    assert publish(alice, "other", seed=12).is_ready


# --- the admin ---


@pytest.fixture
def queue(client: Client, bob: User, opposites: LoraModule, moderator: User) -> Client:
    for number, reason in enumerate(["harmful", "spam", "other"]):
        reporter = make_user(f"reporter{number}")
        moderation.report(opposites.repo, user=reporter, address="", reason=reason, text="See it.")
    closed = Report.objects.get(reason="spam")
    moderation.close_report(closed, moderator=moderator, outcome="Not spam.")
    client.force_login(moderator)
    return client


REPORTS = "/admin/modules/report/"


def act(client: Client, url: str, action: str, pks: list[int], **more: str) -> Any:
    data = {"action": action, "_selected_action": pks, **more}
    return client.post(url, data, follow="is_sure" in more)


def test_open_reports_come_first_and_the_oldest_of_them_on_top(queue: Client) -> None:
    shown = queue.get(REPORTS).context["cl"].result_list
    assert [report.reason for report in shown] == ["harmful", "other", "spam"]


def test_a_moderator_hides_from_the_queue_with_a_reason(
    queue: Client, alice: User, opposites: LoraModule
) -> None:
    pk = Report.objects.get(reason="harmful").pk
    page = act(queue, REPORTS, "hide", [pk])
    assert page.status_code == 200 and b"Kept in the audit trail" in page.content
    page = act(queue, REPORTS, "hide", [pk], is_sure="1", reason="")
    opposites.repo.refresh_from_db()
    assert not opposites.repo.is_hidden
    act(queue, REPORTS, "hide", [pk], is_sure="1", reason="Malware.")
    opposites.repo.refresh_from_db()
    assert opposites.repo.hidden_reason == "Malware."
    assert not Report.objects.filter(closed_at=None).exists()
    act(queue, "/admin/modules/repo/", "restore", [opposites.repo_id], is_sure="1", reason="")
    opposites.repo.refresh_from_db()
    assert not opposites.repo.is_hidden


def test_a_moderator_closes_a_report_and_bans_an_uploader(queue: Client, alice: User) -> None:
    pks = list(Report.objects.filter(closed_at=None).values_list("pk", flat=True))
    act(queue, REPORTS, "ban_uploads", pks[:1], is_sure="1", reason="Again.")
    alice.refresh_from_db()
    assert alice.uploads_banned_reason == "Again."
    act(queue, REPORTS, "close", pks, is_sure="1", reason="Spoken with the author.")
    assert not Report.objects.filter(closed_at=None).exists()
    act(queue, "/admin/accounts/user/", "unban", [alice.pk], is_sure="1", reason="")
    alice.refresh_from_db()
    assert alice.uploads_banned_at is None


def test_the_audit_trail_is_read_only(queue: Client) -> None:
    trail = "/admin/modules/moderationevent/"
    event = ModerationEvent.objects.first()
    assert event is not None
    assert queue.get(trail).status_code == 200
    assert queue.get(f"{trail}add/").status_code == 403
    assert queue.post(f"{trail}{event.pk}/delete/", {"post": "yes"}).status_code == 403
    queue.post(f"{trail}{event.pk}/change/", {"reason": "changed"})
    assert ModerationEvent.objects.filter(reason="changed").count() == 0


def test_moderators_delete_no_module_report_or_collection_behind_the_trail(
    queue: Client, bob: User, opposites: LoraModule
) -> None:
    found = Collection.objects.create(owner=bob.namespace, name="c", title="A title")
    report = Report.objects.first()
    assert report is not None
    for row in (opposites, report, found):
        kind = f"/admin/modules/{row._meta.model_name}/"
        assert queue.post(f"{kind}{row.pk}/delete/", {"post": "yes"}).status_code == 403
        act(queue, kind, "delete_selected", [row.pk], post="yes")
        assert type(row)._default_manager.filter(pk=row.pk).exists()


def test_only_a_superuser_takes_a_module_down_for_good(
    queue: Client, alice: User, opposites: LoraModule, moderator: User
) -> None:
    repos = "/admin/modules/repo/"
    User.objects.filter(pk=moderator.pk).update(is_superuser=False)
    moderator = User.objects.get(pk=moderator.pk)
    moderator.user_permissions.set(Permission.objects.filter(content_type__app_label="modules"))
    act(queue, repos, "take_down", [opposites.repo_id], is_sure="1", reason="A court said so.")
    assert LoraModule.objects.filter(pk=opposites.pk).exists()
    User.objects.filter(pk=moderator.pk).update(is_superuser=True)
    act(queue, repos, "take_down", [opposites.repo_id], is_sure="1", reason="")
    assert LoraModule.objects.filter(pk=opposites.pk).exists()
    act(queue, repos, "take_down", [opposites.repo_id], is_sure="1", reason="A court said so.")
    assert not LoraModule.objects.filter(pk=opposites.pk).exists()
    assert ModerationEvent.objects.filter(action="take down", subject="alice/opposites").exists()
    assert any("A court said so." in text for text in notices(alice))


def test_what_a_moderator_edits_by_hand_stands_in_the_trail(
    queue: Client, moderator: User, opposites: LoraModule
) -> None:
    page = f"/admin/modules/loramodule/{opposites.pk}/change/"
    form = queue.get(page).context["adminform"].form
    queue.post(page, {name: form[name].value() or "" for name in form.fields})
    assert not ModerationEvent.objects.filter(action="edit module").exists()
    changed = {"status": "rejected", "rejected_reason": "It answers in rhyme."}
    queue.post(page, {name: form[name].value() or "" for name in form.fields} | changed)
    event = ModerationEvent.objects.get(action="edit module")
    assert (event.actor, event.subject) == (moderator, "alice/opposites")
    assert event.reason == "status: rejected; rejected_reason: It answers in rhyme."
    opposites.refresh_from_db()
    assert not opposites.is_listed


def test_hidden_collections_are_for_their_owner_and_moderators(
    client: Client, bob: User, alice: User, moderator: User
) -> None:
    found = Collection.objects.create(owner=bob.namespace, name="c", title="A title")
    moderation.hide_collection(found, moderator=moderator, reason="Rude.")
    for user, status in ((None, 404), (alice, 404), (bob, 200), (moderator, 200)):
        if user:
            client.force_login(user)
        assert client.get("/collections/bob/c/").status_code == status
    client.logout()
    assert b"A title" not in client.get("/collections/").content
    moderation.restore_collection(found, moderator=moderator)
    assert b"A title" in client.get("/collections/").content


def test_every_list_of_the_admin_opens(queue: Client) -> None:
    for model in admin.site._registry:
        options = model._meta
        url = reverse(f"admin:{options.app_label}_{options.model_name}_changelist")
        assert queue.get(url).status_code == 200, url


# --- the group ---


@pytest.fixture
def member(client: Client, db: None) -> Client:
    """Signed in as a moderator who is no superuser, as docs/moderation.md says."""
    moderation.prepare_group()
    user = make_user("milo")
    user.is_staff = True
    user.save()
    user.groups.add(Group.objects.get(name="Moderators"))
    client.force_login(user)
    return client


def test_a_member_does_the_whole_queue(
    member: Client, alice: User, bob: User, opposites: LoraModule, publish: Any
) -> None:
    other = publish(alice, "other", seed=5)
    for module in (opposites, other):
        moderation.report(module.repo, user=bob, address="", reason="spam", text="See it.")
    first, second = Report.objects.order_by("pk").values_list("pk", flat=True)
    assert "alice/opposites" in member.get(REPORTS).content.decode()
    assert member.get(f"{REPORTS}{first}/change/").status_code == 200
    assert member.get("/alice/opposites").status_code == 200
    act(member, REPORTS, "hide", [first], is_sure="1", reason="Malware.")
    assert Report.objects.get(pk=first).outcome == "It was hidden."
    act(member, REPORTS, "close", [second], is_sure="1", reason="It is fine.")
    act(member, REPORTS, "ban_uploads", [first], is_sure="1", reason="Again.")
    alice.refresh_from_db()
    assert alice.uploads_banned_reason == "Again."
    repos = "/admin/modules/repo/"
    act(member, repos, "restore", [opposites.repo_id], is_sure="1", reason="Mended.")
    act(member, repos, "unban", [opposites.repo_id], is_sure="1", reason="Spoken.")
    alice.refresh_from_db()
    assert alice.uploads_banned_at is None
    made = Collection.objects.create(owner=bob.namespace, name="c", title="A title")
    act(member, "/admin/modules/collection/", "hide", [made.pk], is_sure="1", reason="Rude.")
    made.refresh_from_db()
    assert made.hidden_at is not None
    actions = list(ModerationEvent.objects.order_by("pk").values_list("action", flat=True))
    assert actions == [
        "hide", "close report", "close report", "ban uploads", "restore", "allow uploads",
        "hide collection",
    ]  # fmt: skip
    assert set(ModerationEvent.objects.values_list("actor__username", flat=True)) == {"milo"}
    assert b"Again." in member.get("/admin/modules/moderationevent/").content


def test_a_member_does_nothing_else(
    member: Client, alice: User, opposites: LoraModule, secret: LoraModule
) -> None:
    shown = {"report", "repo", "collection", "tag", "tagalias", "moderationevent"}
    shown |= {"recipe", "fewshottask"}
    for model in admin.site._registry:
        options = model._meta
        address = reverse(f"admin:{options.app_label}_{options.model_name}_changelist")
        may_see = options.model_name in shown
        assert member.get(address).status_code == (200 if may_see else 403), address
        assert member.get(f"{address}add/").status_code == 403, address
        for row in model._default_manager.all()[:1]:
            page = f"{address}{row.pk}/"
            assert member.post(f"{page}delete/", {"post": "yes"}).status_code in (302, 403), page
            assert model._default_manager.filter(pk=row.pk).exists()
    act(member, "/admin/modules/repo/", "take_down", [opposites.repo_id], is_sure="1", reason="x")
    act(member, "/admin/accounts/user/", "ban_uploads", [alice.pk], is_sure="1", reason="x")
    assert LoraModule.objects.filter(pk=opposites.pk).exists()
    assert not ModerationEvent.objects.exists()


def test_a_member_sees_nobodys_private_modules(
    member: Client, bob: User, opposites: LoraModule, secret: LoraModule
) -> None:
    hidden, private = Collection.objects.bulk_create(
        [
            Collection(owner=bob.namespace, name="a", title="Rude", hidden_at=timezone.now()),
            Collection(owner=bob.namespace, name="b", title="My own", visibility="private"),
        ]
    )
    repos = member.get("/admin/modules/repo/").content.decode()
    assert "alice/opposites" in repos and "alice/secret" not in repos
    assert member.get(f"/admin/modules/repo/{secret.repo_id}/change/").status_code == 302
    found = member.get("/admin/modules/collection/").content.decode()
    assert "Rude" in found and "My own" not in found
    moderation.report(opposites.repo, user=bob, address="", reason="spam")
    Repo.objects.update(visibility=Repo.PRIVATE)
    queue = member.get(REPORTS).content.decode()
    assert "alice/opposites" in queue and "private now" in queue and "look at it" not in queue


def test_the_group_is_made_once_and_has_its_permissions_again(db: None) -> None:
    moderation.prepare_group()
    group = Group.objects.get(name="Moderators")
    wanted = set(group.permissions.values_list("codename", flat=True))
    group.permissions.add(Permission.objects.get(codename="delete_user"))
    group.permissions.remove(Permission.objects.get(codename="change_report"))
    moderation.prepare_group()
    assert set(group.permissions.values_list("codename", flat=True)) == wanted
    assert len(wanted) == sum(map(len, moderation.GROUP_MAY.values()))
