"""Whose job is next: everybody's turn comes round, and nobody runs more at once than one may."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection

from hub_site.accounts import guests
from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import Job

pytestmark = pytest.mark.django_db


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada")


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob")


def submit(user: User | None, **options: Any) -> Job:
    return queue.submit("test_idle", params={}, user=user, **options)


def claim() -> Job:
    job = queue.claim_next("tester")
    assert job is not None
    return job


def end(job: Job) -> None:
    with queue.finish(job, {}):
        pass


def served(count: int) -> list[str]:
    """Whose jobs one worker takes, one after the other."""
    names = []
    for _ in range(count):
        job = claim()
        names.append(job.user.username if job.user else "")
        end(job)
    return names


def test_users_take_turns_however_many_jobs_one_of_them_has(ada: User, bob: User) -> None:
    for _ in range(4):
        submit(ada)
    for _ in range(2):
        submit(bob)
    assert served(6) == ["ada", "bob", "ada", "bob", "ada", "ada"]


def test_whoever_comes_later_waits_for_one_job_of_the_others_and_not_for_all(
    ada: User, bob: User
) -> None:
    for _ in range(5):
        submit(ada)
    running = claim()
    late = submit(bob)
    assert late.queue_position() == 1
    end(running)
    assert served(2) == ["bob", "ada"]


def test_jobs_that_guests_bring_along_wait_behind_the_users_own(ada: User, bob: User) -> None:
    submit(ada)
    for name in ("guest-1", "guest-2", "guest-3"):
        guest = User.objects.create_user(name, is_guest=True)
        submit(guest)
        submit(guest)
        guests.hand_over(guest, ada)
    submit(bob)
    assert served(4) == ["ada", "bob", "ada", "ada"]
    assert len(set(Job.objects.filter(user=ada).values_list("turn", flat=True))) == 7


def test_who_waited_long_has_saved_nothing_up(ada: User, bob: User) -> None:
    """Turns that somebody did not use are not made up for."""
    for _ in range(3):
        submit(ada)
    assert served(3) == ["ada"] * 3
    for user in (ada, bob, ada, bob):
        submit(user)
    assert served(4) == ["ada", "bob", "ada", "bob"]


def test_a_turn_never_goes_before_a_higher_priority(ada: User, bob: User) -> None:
    submit(ada)
    for _ in range(2):
        submit(bob, priority=10)
    assert served(3) == ["bob", "bob", "ada"]


def test_jobs_of_nobody_take_part_in_the_present_round(ada: User) -> None:
    for _ in range(3):
        submit(ada)
    end(claim())
    running = claim()
    submit(None)
    end(running)
    assert served(2) == ["", "ada"]


def test_a_user_has_no_more_jobs_running_than_one_may(ada: User, bob: User, settings: Any) -> None:
    settings.USER_RUNNING_JOBS = 2
    for _ in range(3):
        submit(ada)
    first, second = claim(), claim()
    assert queue.claim_next("tester") is None
    submit(bob)
    assert claim().user == bob
    end(first)
    assert claim().user == ada
    assert queue.claim_next("tester") is None
    end(second)


def test_a_short_job_runs_beside_the_long_ones_of_its_user(ada: User, settings: Any) -> None:
    settings.USER_RUNNING_JOBS = 1
    submit(ada)
    claim()
    submit(ada)
    short = submit(ada, priority=10)
    assert claim() == short
    assert queue.claim_next("tester") is None


def test_guests_have_a_limit_of_their_own(settings: Any) -> None:
    settings.USER_RUNNING_JOBS, settings.GUEST_RUNNING_JOBS = 3, 1
    guest = User.objects.create_user("visitor", is_guest=True)
    for _ in range(2):
        submit(guest)
    claim()
    assert queue.claim_next("tester") is None


@pytest.mark.django_db(transaction=True)
def test_workers_that_claim_at_once_keep_to_the_limit(ada: User, bob: User, settings: Any) -> None:
    settings.USER_RUNNING_JOBS = 3
    for _ in range(8):
        submit(ada)
        submit(bob)

    def take(number: int) -> Job | None:
        try:
            return queue.claim_next(f"tester-{number}")
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        taken = [job for job in threads.map(take, range(16)) if job]
    for user in (ada, bob):
        assert sum(job.user == user for job in taken) == 3


@pytest.mark.django_db(transaction=True)
def test_nothing_is_claimed_twice_by_eight_at_once(many: Callable[[int], list[User]]) -> None:
    users = many(4)
    jobs = {submit(users[n % 4], priority=10).pk for n in range(160)}

    def take_twenty(number: int) -> list[Any]:
        try:
            return [queue.claim_next(f"tester-{number}") for _ in range(20)]
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        taken = [job.pk for some in threads.map(take_twenty, range(8)) for job in some if job]
    assert len(taken) == 160 and set(taken) == jobs


@pytest.fixture
def many() -> Callable[[int], list[User]]:
    return lambda count: [User.objects.create_user(f"user-{n}") for n in range(count)]


def test_nobody_gives_way_to_a_job_whose_user_has_no_place_left(settings: Any) -> None:
    """It would be taken up again at once, by the same worker, and never come to its end."""
    settings.JOB_GIVE_WAY_SECONDS = 0
    guest = User.objects.create_user("guest-1", is_guest=True)
    for _ in range(2):
        submit(guest)
    claim()
    submit(None, priority=-1)
    behind = claim()
    assert behind.priority == -1 and not queue.waits_higher(behind)
    submit(None)
    assert queue.waits_higher(behind)
