"""Transactions that wait for something outside the database while they are open."""

from django.db import connection


def may_idle(seconds: int) -> None:
    """Let the open transaction wait so long between two statements; 0 is for ever.

    Elsewhere the database ends what idles for longer than two leases (settings.py), because a
    worker that is frozen inside a transaction would hold its rows for as long as it is.
    """
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = {int(seconds) * 1000}")
