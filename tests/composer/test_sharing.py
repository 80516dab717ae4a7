"""Tasks that their owners share: who sees them, what others do with them, and taking them back."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import connection
from django.test import Client
from django.utils import timezone

from composer import publishing, services, sharing, task_writing
from composer.engine.examples import Example
from composer.engine.recipe import examples_hash
from composer.errors import NotAllowed, NotReady
from composer.models import FewShotTask, Recipe, Search
from hub_site.accounts import export, leaving
from hub_site.accounts.models import Notice, User
from modules.community import moderation
from modules.models import BaseModel, ModerationEvent, Report
from tests.composer import finished
from tests.composer.conftest import HELD_OUT, SHOTS, make_user
from tests.composer.test_api import Program, is_error
from tests.composer.test_views_tasks import _count_queries


@pytest.fixture
def shared(task: FewShotTask, alice: User) -> FewShotTask:
    return sharing.share(task, user=alice)


def page(task: FewShotTask, more: str = "") -> str:
    return f"{task.get_absolute_url()}{more}"


# --- sharing and taking back -------------------------------------------------------------------


def test_the_owner_shares_it_on_a_page_that_says_what_becomes_public(
    client: Client, alice: User, task: FewShotTask
) -> None:
    client.force_login(alice)
    assert page(task, "share/") in client.get(page(task)).text
    before = client.get(page(task, "share/")).text
    assert "all 3 examples" in before and "all 3 held-out ones" in before and "alice" in before
    answer = client.post(page(task, "share/"), follow=True)
    assert "anybody can see and use it" in answer.text
    assert Client().get(page(task)).status_code == 200
    client.post(page(task, "stop-sharing/"))
    assert Client().get(page(task)).status_code == 302
    task.refresh_from_db()
    assert not task.is_public


def test_sharing_twice_keeps_the_first_day(task: FewShotTask, alice: User) -> None:
    first = sharing.share(task, user=alice).published_at
    assert first is not None and sharing.share(task, user=alice).published_at == first


def test_neither_guests_nor_banned_users_share(
    client: Client, guest: User, alice: User, task: FewShotTask
) -> None:
    guests_own = task_writing.duplicate_task(task, user=guest)
    alice.uploads_banned_at, alice.uploads_banned_reason = timezone.now(), "Spam."
    alice.save()
    for user, own, words in ((guest, guests_own, "Sign up"), (alice, task, "Spam.")):
        client.force_login(user)
        answer = client.post(page(own, "share/"))
        assert answer.status_code == 422 and words in answer.text
        own.refresh_from_db()
        assert own.published_at is None


def test_nobody_shares_somebody_elses(task: FewShotTask, bob: User) -> None:
    with pytest.raises(NotReady):
        sharing.share(task, user=bob)
    task.refresh_from_db()
    assert task.published_at is None


def test_an_edit_keeps_it_shared_and_cannot_undo_what_a_moderator_did(
    shared: FewShotTask, base_model: BaseModel, bob: User
) -> None:
    loaded_before = FewShotTask.objects.get(pk=shared.pk)
    sharing.hide(shared, moderator=bob, reason="Names of children.")
    task_writing.update_task(loaded_before, name="Changed", base_model=base_model, shots=SHOTS)
    shared.refresh_from_db()
    assert shared.name == "Changed" and shared.published_at and shared.is_hidden


# --- what a stranger does with it --------------------------------------------------------------


def test_a_stranger_sees_who_shared_it_and_all_its_examples(
    client: Client, bob: User, shared: FewShotTask
) -> None:
    client.force_login(bob)
    text = client.get(page(shared)).text
    assert 'href="/alice"' in text and "the old" in text and "a good" in text
    assert page(shared, "compose/") in text and page(shared, "duplicate/") in text
    for own in ("edit/", "delete/", "share/", "stop-sharing/"):
        assert page(shared, own) not in text


def test_a_stranger_composes_on_it_and_the_owner_sees_nothing_of_that(
    client: Client, alice: User, bob: User, shared: FewShotTask
) -> None:
    client.force_login(bob)
    answer = client.post(page(shared, "compose/"), {"preset": "recommended", "key": "k"})
    search = Search.objects.get()
    assert answer["Location"] == search.get_absolute_url() and search.job.user == bob
    assert search.examples["shots"] == [[e.input, e.target] for e in SHOTS]
    client.force_login(alice)
    assert client.get(search.get_absolute_url()).status_code == 404
    assert search.get_absolute_url() not in client.get(page(shared)).text


def test_a_visitor_without_an_account_composes_on_it_as_on_a_demo_task(
    client: Client, shared: FewShotTask
) -> None:
    client.post(page(shared, "compose/"), {"preset": "recommended", "key": "k"})
    assert Search.objects.get().job.user.is_guest


def test_a_copy_is_the_copiers_own_and_private(
    client: Client, bob: User, shared: FewShotTask
) -> None:
    client.force_login(bob)
    client.post(page(shared, "duplicate/"))
    copy = FewShotTask.objects.get(owner=bob)
    assert not copy.is_public and copy.salt != shared.salt
    assert (copy.pairs("shot"), copy.pairs("held_out")) == (SHOTS, HELD_OUT)


def test_two_people_who_compose_on_it_alike_find_one_recipe(
    shared: FewShotTask, alice: User, bob: User
) -> None:
    hashes = [
        services.submit_job(task=shared, user=user).search.spec["examples_hash"]
        for user in (alice, bob)
    ]
    assert hashes == [examples_hash(SHOTS, "")] * 2


def test_what_is_private_or_hidden_is_salted(task: FewShotTask, alice: User, bob: User) -> None:
    def hashed() -> str:
        found: str = services.submit_job(task=task, user=alice).search.spec["examples_hash"]
        return found

    private = hashed()
    assert private != examples_hash(SHOTS, "")
    sharing.share(task, user=alice)
    sharing.hide(task, moderator=bob, reason="Names of children.")
    assert hashed() == private
    sharing.restore(task, moderator=bob)
    sharing.stop_sharing(task)
    assert hashed() == private


def test_publishing_says_whether_the_hash_can_be_checked(
    client: Client, alice: User, bob: User, task: FewShotTask
) -> None:
    client.force_login(alice)
    private = finished.finish(finished.start(task, alice))
    assert "salted hash" in client.get(page_of(private, "publish/")).text
    sharing.share(task, user=alice)
    client.force_login(bob)
    public = finished.finish(finished.start(task, bob))
    text = client.get(page_of(public, "publish/")).text
    assert "salted hash" not in text and "everybody can check" in text


def page_of(search: Search, more: str = "") -> str:
    return f"{search.get_absolute_url()}{more}"


# --- others keep what they made ----------------------------------------------------------------


@pytest.fixture
def bobs(shared: FewShotTask, bob: User) -> tuple[Search, Search]:
    """bob's compositions on alice's task: one published with its examples, one still to be run."""
    done = finished.finish(finished.start(shared, bob))
    publishing.publish(search=done, user=bob, title="Bob's opposites", show_examples=True)
    return done, finished.start(shared, bob, seed=7)


def unshare(task: FewShotTask) -> None:
    sharing.stop_sharing(task)
    FewShotTask.objects.filter(pk=task.pk).update(name="What alice does now")


def change(task: FewShotTask) -> None:
    other = [Example("one", "two")]
    task_writing.update_task(task, name="Other", base_model=task.base_model, shots=other)


def leave(task: FewShotTask) -> None:
    leaving.delete_account(task.owner, keep_public=False)


@pytest.mark.parametrize("end", [unshare, change, task_writing.delete_task, leave])
def test_others_keep_their_jobs_recipes_and_copies(
    end: Any, client: Client, shared: FewShotTask, bob: User, bobs: tuple[Search, Search]
) -> None:
    copy = task_writing.duplicate_task(shared, user=bob)
    before = [(each.spec, each.examples) for each in bobs]
    recipe = Recipe.objects.get()
    end(shared)

    for search, kept in zip(bobs, before, strict=True):
        search.refresh_from_db()
        assert (search.spec, search.examples) == kept and search.job.user == bob
    client.force_login(bob)
    for search in bobs:
        text = client.get(search.get_absolute_url()).text
        assert "What alice does now" not in text
        assert (page(shared) in text) == (end is change)
    assert client.get(page_of(bobs[0], "publish/")).status_code == 302
    found = Client().get(recipe.get_absolute_url())
    assert found.status_code == 200 and "the old" in found.text
    assert (page(shared) in found.text) == (end is change)
    assert Client().get(f"{recipe.get_absolute_url()}recipe.json").status_code == 200
    assert copy.pairs("shot") == SHOTS


def test_a_job_waits_in_the_queue_unharmed_when_the_task_goes(
    shared: FewShotTask, bobs: tuple[Search, Search]
) -> None:
    from hub_site.jobs import queue

    task_writing.delete_task(shared)
    claimed = queue.claim_next("test")
    assert claimed is not None and claimed.pk == bobs[1].pk
    assert claimed.search.examples["shots"] == [[e.input, e.target] for e in SHOTS]


@pytest.mark.django_db(transaction=True)
def test_whoever_presses_compose_while_it_goes_gets_a_job_or_a_reason(
    shared: FewShotTask, bob: User, settings: Any
) -> None:
    settings.USER_QUEUED_JOBS = 100

    def act(number: int) -> str:
        try:
            if number == 6:
                task_writing.delete_task(FewShotTask.objects.get(pk=shared.pk))
                return "deleted"
            services.submit_job(task=shared, user=bob, overrides={"seed": number})
            return "submitted"
        except NotReady:
            return "told"
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as people:
        outcomes = list(people.map(act, range(14)))
    assert outcomes.count("deleted") == 1
    assert Search.objects.filter(task=None).count() == outcomes.count("submitted")


@pytest.mark.django_db(transaction=True)
def test_whoever_composes_while_it_is_edited_gets_one_version_whole(
    shared: FewShotTask, base_model: BaseModel, bob: User, settings: Any
) -> None:
    settings.USER_QUEUED_JOBS = 100

    def act(number: int) -> None:
        word = f"version {number}"
        try:
            if number % 2:
                services.submit_job(task=shared, user=bob, overrides={"seed": number})
            else:
                task_writing.update_task(
                    FewShotTask.objects.get(pk=shared.pk),
                    name=word,
                    base_model=base_model,
                    shots=[Example(word, word)],
                    held_out=[Example(f"{word} held out", word)],
                )
        finally:
            connection.close()

    act(0)
    with ThreadPoolExecutor(4) as people:
        list(people.map(act, range(1, 24)))
    found = Search.objects.all()
    assert len(found) == 12
    for search in found:
        (shot,), (held_out,) = search.examples["shots"], search.examples["held_out"]
        assert search.title == shot[1] == held_out[1]


def test_nobody_composes_on_what_was_taken_back_meanwhile(shared: FewShotTask, bob: User) -> None:
    sharing.stop_sharing(shared)
    with pytest.raises(NotReady, match="no longer shared"):
        services.submit_job(task=shared, user=bob)


def test_the_export_says_what_is_shared(shared: FewShotTask, alice: User) -> None:
    import zipfile

    with zipfile.ZipFile(export.as_zip(alice, "https://commons.example")) as archive:
        [told] = json.loads(archive.read("tasks.json"))
    assert told["shared_at"] and len(told["examples"]) == 6


# --- lists -------------------------------------------------------------------------------------


def test_lists_show_it_while_it_is_shared(
    client: Client, alice: User, bob: User, shared: FewShotTask
) -> None:
    places = ["/tasks/", "/tasks/shared/", "/tasks/shared/?owner=ALICE", "/search/?q=oppos"]
    for reader in (None, bob):
        if reader:
            client.force_login(reader)
        for url in (*places, "/alice"):
            assert page(shared) in client.get(url).text, url
        assert page(shared) not in client.get("/tasks/shared/?owner=bob").text
    sharing.stop_sharing(shared)
    for url in (*places, "/alice"):
        assert page(shared) not in client.get(url).text, url
    client.force_login(alice)
    assert "No shared task yet." in client.get("/alice").text


def test_the_list_is_sorted_by_day_or_by_use(
    client: Client, alice: User, bob: User, shared: FewShotTask
) -> None:
    newer = sharing.share(task_writing.duplicate_task(shared, user=alice), user=alice)
    finished.start(shared, bob)

    def order(url: str) -> list[Any]:
        return [task.pk for task in client.get(url).context["tasks"]]

    assert order("/tasks/shared/") == [newer.pk, shared.pk]
    assert order("/tasks/shared/?sort=used") == [shared.pk, newer.pk]
    assert order("/tasks/shared/?sort=nonsense&page=x&owner=%00") == [newer.pk, shared.pk]


@pytest.mark.parametrize("url", ["/tasks/shared/", "/tasks/", "/alice", "/search/?q=T"])
def test_lists_ask_as_often_for_many_as_for_few(
    url: str, client: Client, alice: User, bob: User, base_model: BaseModel,
    django_assert_num_queries: Any,
) -> None:  # fmt: skip
    def add(count: int) -> None:
        for _ in range(count):
            task = task_writing.create_task(
                user=alice, name="T", base_model=base_model, shots=[Example("big", "small")]
            )
            sharing.share(task, user=alice)

    client.force_login(bob)
    add(3)
    few = _count_queries(client, url)
    add(6)
    with django_assert_num_queries(few):
        client.get(url)


def test_the_counts_do_not_multiply(shared: FewShotTask, alice: User, bob: User) -> None:
    finished.start(shared, bob)
    finished.start(shared, alice)
    found = FewShotTask.objects.for_cards().get(pk=shared.pk)
    assert (found.shots_count, found.held_out_count, found.searches_count) == (3, 3, 2)


def test_the_owner_is_told_why_it_was_hidden(
    client: Client, alice: User, bob: User, shared: FewShotTask
) -> None:
    sharing.hide(shared, moderator=bob, reason="Names of children.")
    client.force_login(alice)
    assert "Names of children." in client.get(page(shared)).text
    assert "Names of children." in Notice.objects.get(user=alice).text
    with pytest.raises(NotAllowed, match="Names of children"):
        sharing.stop_sharing(shared)
        sharing.share(shared, user=alice)


# --- programs ----------------------------------------------------------------------------------


def test_a_program_shares_lists_and_takes_back(
    alice: User, bob: User, task: FewShotTask, demo_task: FewShotTask
) -> None:
    mine, reader, theirs = Program(alice), Program(alice, "read"), Program(bob)
    place = f"tasks/{task.pk}/publish/"
    assert is_error(reader.post(place), 403)
    assert is_error(theirs.post(place), 404)
    assert is_error(Program(None).post(place), 401)
    shared = mine.post(place).json()
    assert shared["is_public"] and shared["owner"] == "alice" and shared["published_at"]

    def listed(program: Program, more: str = "") -> list[str]:
        return [row["name"] for row in program.get(f"tasks/{more}").json()["results"]]

    anybody = Program(None)
    assert listed(anybody) == listed(theirs) == ["Opposites of words"]
    for program in (anybody, theirs, mine):
        assert listed(program, "?public=true") == listed(program, "?owner=ALICE") == ["Opposites"]
    assert listed(theirs, "?owner=bob") == []
    assert is_error(anybody.get("tasks/?public=perhaps"), 422, "invalid")
    assert is_error(anybody.get("tasks/?owner=%00"), 422, "invalid")
    assert theirs.get(f"tasks/{task.pk}/").json()["examples"] == shared["examples"]
    made = theirs.post("jobs/", {"task": str(task.pk)})
    assert made.status_code == 202
    assert listed(mine, "?sort=used") == ["Opposites", "Opposites of words"]

    assert theirs.send("DELETE", place).status_code == 404
    assert mine.send("DELETE", place).status_code == 204
    assert is_error(theirs.get(f"tasks/{task.pk}/"), 404)
    assert listed(mine, "?owner=alice") == ["Opposites"] and listed(mine, "?public=1") == []


# --- moderation --------------------------------------------------------------------------------


@pytest.fixture
def moderator(client: Client) -> User:
    """Signed in: one of the group, no superuser."""
    moderation.prepare_group()
    user = make_user("mara")
    user.is_staff = True
    user.save()
    user.groups.add(Group.objects.get(name=moderation.GROUP))
    client.force_login(user)
    return user


def test_a_report_reaches_the_queue_and_hiding_answers_it(
    client: Client, bob: User, shared: FewShotTask, moderator: User
) -> None:
    visitor = Client()
    visitor.force_login(bob)
    assert page(shared, "report/") in visitor.get(page(shared)).text
    assert visitor.post(page(shared, "report/"), {}).status_code == 422
    given = {"reason": "personal", "text": "Names of children."}
    assert "Thank you" in visitor.post(page(shared, "report/"), given, follow=True).text
    assert "already" in visitor.post(page(shared, "report/"), given, follow=True).text
    report = Report.objects.get()

    queue = client.get("/admin/modules/report/").text
    assert "Opposites" in queue and f'href="{page(shared)}"' in queue
    assert "change_fewshottask" not in client.get(page(shared)).text
    tasks = "/admin/composer/fewshottask/"
    assert f"{tasks}?id__exact={shared.pk}" in client.get(page(shared)).text
    assert "Opposites" in client.get(f"{tasks}?id__exact={shared.pk}").text
    sent = {"action": "hide", "_selected_action": [str(shared.pk)]}
    assert "reason" in client.post(tasks, sent).text
    client.post(tasks, {**sent, "is_sure": "1", "reason": "Names of children."})

    assert visitor.get(page(shared)).status_code == 404
    assert "Names of children." in client.get(page(shared)).text
    report.refresh_from_db()
    assert report.outcome == "It was hidden." and report.closed_by == moderator
    client.post(tasks, {**sent, "action": "restore", "is_sure": "1", "reason": ""})
    assert visitor.get(page(shared)).status_code == 200
    client.post(tasks, {**sent, "action": "ban_uploads", "is_sure": "1", "reason": "Again."})
    assert User.objects.get(username="alice").uploads_banned_reason == "Again."
    trail = ModerationEvent.objects.order_by("pk").values_list("action", "subject")
    assert ("hide task", page(shared)) in trail and ("restore task", page(shared)) in trail


def test_moderators_neither_see_nor_change_private_tasks_there(
    client: Client, task: FewShotTask, moderator: User
) -> None:
    place = f"/admin/composer/fewshottask/{task.pk}/change/"
    assert "Opposites" not in client.get("/admin/composer/fewshottask/").text
    assert client.get(place).status_code == 302
    sharing.share(task, user=task.owner)
    assert client.get(place).status_code == 200 and task.salt not in client.get(place).text
    assert client.post(place, {"name": "Mine"}).status_code == 403
