"""The like button: with and without JavaScript, for people with an account."""

from typing import Any

from django.test import Client

from hub_site.accounts.models import User
from modules.models import Like, LoraModule

LIKE = "/alice/opposites/like"


def test_a_press_likes_and_another_takes_it_back(
    client: Client, bob: User, opposites: LoraModule
) -> None:
    client.force_login(bob)
    for count in (1, 0, 1):
        answer = client.post(LIKE)
        assert answer.status_code == 302 and answer["Location"] == "/alice/opposites"
        opposites.refresh_from_db()
        assert opposites.likes == count == Like.objects.count()


def test_a_button_pressed_twice_means_what_it_said(
    client: Client, bob: User, opposites: LoraModule
) -> None:
    client.force_login(bob)
    for want, count in (("1", 1), ("1", 1), ("0", 0), ("0", 0)):
        client.post(LIKE, {"want": want})
        opposites.refresh_from_db()
        assert opposites.likes == count


def test_htmx_gets_the_button_alone(client: Client, bob: User, opposites: LoraModule) -> None:
    client.force_login(bob)
    answer = client.post(LIKE, headers={"HX-Request": "true", "HX-Target": "like"})
    page = answer.content.decode()
    assert answer.status_code == 200 and "<html" not in page
    assert 'id="like"' in page and 'aria-pressed="true"' in page and 'value="0"' in page


def test_visitors_and_guests_are_asked_to_sign_in(client: Client, opposites: LoraModule) -> None:
    back = "/accounts/login/?next=/alice/opposites"
    assert back in client.get("/alice/opposites").content.decode()
    answer = client.post(LIKE)
    assert answer.status_code == 302 and answer["Location"] == back
    answer = client.post(LIKE, headers={"HX-Request": "true", "HX-Target": "like"})
    assert answer["HX-Redirect"] == back
    guest = User.objects.create(username="guest-1", is_guest=True)
    client.force_login(guest)
    assert client.post(LIKE)["Location"] == back
    assert not Like.objects.exists()


def test_others_private_modules_cannot_be_liked(
    client: Client, alice: User, bob: User, secret: LoraModule
) -> None:
    client.force_login(bob)
    assert client.post("/alice/secret/like").status_code == 404
    client.force_login(alice)
    assert client.post("/alice/secret/like").status_code == 302


def test_it_only_takes_posts(client: Client, opposites: LoraModule) -> None:
    assert client.get(LIKE).status_code == 405


def test_my_likes_are_mine_to_see(
    client: Client, alice: User, bob: User, opposites: LoraModule, publish: Any
) -> None:
    publish(alice, "other", seed=3)
    client.force_login(bob)
    client.post(LIKE)
    assert [m.pk for m in client.get("/collections/likes/").context["page"].items] == [opposites.pk]
    client.logout()
    answer = client.get("/collections/likes/")
    assert answer.status_code == 302 and "/accounts/login/" in answer["Location"]


def test_what_became_private_is_no_longer_among_my_likes(
    client: Client, bob: User, opposites: LoraModule
) -> None:
    client.force_login(bob)
    client.post(LIKE)
    opposites.repo.visibility = "private"
    opposites.repo.save()
    assert client.get("/collections/likes/").context["page"].items == []
