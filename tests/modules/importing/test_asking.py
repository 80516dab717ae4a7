"""Asking, calling off, asking again: rows and jobs, before any worker looks at them."""

from __future__ import annotations

from typing import Any

import pytest

from hub_site.accounts.models import User
from modules.importing import asking
from tests.modules.conftest import make_user
from tests.modules.importing.conftest import ask

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def hub(settings: Any) -> None:
    settings.HUB_ENDPOINT = "https://hub.example"


def test_the_same_is_not_asked_for_twice_while_it_is_on_its_way(alice: User) -> None:
    bob = make_user("bob")
    rows = ask(alice, "otto/m", "otto/M", "otto/n")
    assert [row.hub_id for row in rows] == ["otto/M", "otto/n"]
    with pytest.raises(asking.AlreadyComing):
        ask(alice, "OTTO/m")
    assert len(ask(bob, "otto/m")) == 1  # under another name it is another module


def test_one_person_has_only_so_many_on_their_way(alice: User, settings: Any) -> None:
    settings.USER_QUEUED_IMPORTS = 3
    ask(alice, "otto/a", "otto/b")
    with pytest.raises(asking.TooManyImports, match="2 imports of yours"):
        ask(alice, "otto/c", "otto/d")
    ask(alice, "otto/c")


def test_an_import_that_waits_ends_at_once_when_it_is_cancelled(alice: User) -> None:
    (row,) = ask(alice, "otto/m")
    asking.cancel([row])
    row.refresh_from_db()
    assert row.state == "cancelled" and row.job is not None and row.job.state == "cancelled"
    assert asking.again([row]) == 1
    row.refresh_from_db()
    assert row.state == "waiting" and row.job.state == "queued"


def test_the_first_few_of_a_long_list_go_before_the_rest_of_it(alice: User) -> None:
    rows = ask(alice, *(f"otto/m{n}" for n in range(20)))
    (late,) = ask(make_user("bob"), "otto/x")
    priorities = [row.job.priority for row in rows if row.job]
    assert late.job is not None and late.job.priority == priorities[0] > priorities[-1]
