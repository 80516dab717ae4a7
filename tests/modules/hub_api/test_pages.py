"""Links that the Hub's clients print lead somewhere."""

import pytest
from django.test import Client

from hub_site.accounts.models import User
from tests.modules.conftest import Publisher, make_user


@pytest.mark.django_db
def test_printed_links_lead_to_the_version(client: Client, alice: User, publish: Publisher) -> None:
    repo = publish(alice, "opposites").repo
    first = repo.head()
    assert first is not None
    for link in ("tree/main", "tree/main/", "blob/main/README.md", f"commit/{first.sha}"):
        answer = client.get(f"/alice/opposites/{link}", follow=True)
        assert answer.status_code == 200 and answer.context["commit"] == first
    assert client.get("/alice/nothing/tree/main").status_code == 404


@pytest.mark.django_db
def test_they_tell_nobody_of_private_modules(
    client: Client, alice: User, publish: Publisher
) -> None:
    publish(alice, "secret", private=True)
    client.force_login(make_user("bob"))
    assert client.get("/alice/secret/tree/main").status_code == 404
