"""How many bytes an author may bring: bytes that the site has from them already cost nothing."""

import io
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from hub_site.accounts.models import User
from modules import services
from modules.models import Commit, Repo
from modules.upload import intake
from tests.modules.conftest import adapter

LIMITS = pytest.mark.parametrize("limit", ["USER_MAX_BYTES", "USER_BYTES_A_DAY"])


def bytes_of(*texts: bytes) -> dict[str, io.BytesIO]:
    return {str(n): io.BytesIO(text) for n, text in enumerate(texts)}


@LIMITS
def test_a_full_account_may_send_again_what_it_has(alice: User, settings: Any, limit: str) -> None:
    intake.keep(alice, bytes_of(b"a" * 1_000, b"b" * 500))
    setattr(settings, limit, 1_510)
    intake.keep(alice, bytes_of(b"a" * 1_000, b"new"))
    assert intake.room(alice).used == intake.room(alice).used_today == 1_503
    with pytest.raises(intake.OverLimit):
        intake.keep(alice, bytes_of(b"a" * 1_000, b"new but long"))


@LIMITS
def test_a_full_account_may_publish_again_what_it_has(
    alice: User, base_model: Any, publish: Any, settings: Any, limit: str
) -> None:
    publish(alice, "one")
    setattr(settings, limit, intake.room(alice).used)
    publish(alice, "two")
    with pytest.raises(intake.OverLimit):
        publish(alice, "three", seed=3)


def test_what_somebody_else_brought_counts_in_full(alice: User, bob: User, settings: Any) -> None:
    intake.keep(alice, bytes_of(b"a" * 1_000))
    settings.USER_MAX_BYTES = 999
    with pytest.raises(intake.OverLimit):
        intake.keep(bob, bytes_of(b"a" * 1_000))


def test_a_refusal_keeps_nothing(alice: User, settings: Any) -> None:
    settings.USER_MAX_BYTES = 700
    repo = services.create_repo(owner=alice.namespace, name="x", kind=Repo.LORA)
    with pytest.raises(intake.OverLimit):
        services.publish_module(repo=repo, author=alice, title="x", additions=adapter())
    assert not settings.BLOB_DIR.exists()


def test_the_same_bytes_do_not_become_modules_without_end(
    client: Client, alice: User, bob: User, base_model: Any, publish: Any, settings: Any
) -> None:
    settings.USER_VERSIONS_A_DAY = 2
    publish(alice, "one")
    client.force_login(alice)
    assert "1 of 2 left today" in client.get("/upload/").content.decode()
    publish(alice, "two")
    with pytest.raises(intake.OverLimit, match="2 versions in the last 24 hours"):
        publish(alice, "three")
    publish(bob, "another")
    Commit.objects.filter(author=alice).update(created_at=timezone.now() - timedelta(days=2))
    publish(alice, "four")
