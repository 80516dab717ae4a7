"""Users' accounts on the Hub: tokens that end by themselves."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from hub_site import sealed
from hub_site.accounts.models import User
from modules.models import HubAccount
from modules.on_hub import accounts
from tests.workers import wait_until


@pytest.mark.django_db(transaction=True)
def test_two_who_need_a_new_token_at_once_buy_one(alice: User, settings: Any) -> None:
    """What buys it may be good only once: the second would find the connection ended."""
    settings.HUB_ENDPOINT = "http://127.0.0.1:9"  # nothing answers there
    now = timezone.now()
    account = HubAccount.objects.create(
        user=alice,
        name="alice",
        token=sealed.seal("old"),
        refresh_token=sealed.seal("good once"),
        expires_at=now,
    )
    found: list[str] = []

    def second() -> None:
        try:
            found.append(accounts.token_for(alice))
        finally:
            connection.close()

    other = threading.Thread(target=second)
    with transaction.atomic():
        HubAccount.objects.select_for_update().get(pk=account.pk)
        other.start()
        wait_until(lambda: _somebody_waits() or not other.is_alive(), "the second")
        HubAccount.objects.update(token=sealed.seal("new"), expires_at=now + timedelta(hours=8))
    other.join(60)
    assert found == ["new"]


def _somebody_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])
