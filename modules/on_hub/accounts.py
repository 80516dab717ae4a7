"""Accounts on the Hub: the site's own, and those that users connected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import requests
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from hub_site import sealed
from hub_site.accounts.models import User
from hub_site.may_idle import may_idle
from modules.models import HubAccount, HubHome

if TYPE_CHECKING:
    from modules.storage.hub import Hub

SOON = timedelta(minutes=5)
CONNECT_AGAIN = "Connect your Hugging Face account again, in your settings."


@dataclass(frozen=True)
class Account:
    """Who talks to the Hub, and under which name new repos are made there."""

    hub: Hub
    namespace: str


def site_may() -> bool:
    """Whether the site has an account of its own on the Hub."""
    return bool(settings.HF_TOKEN)


def of_site() -> Account:
    from modules.storage import hub

    if not site_may():
        raise hub.BadHubToken(
            "This site has no account on the Hub (any longer): HF_TOKEN is empty."
        )
    name = settings.HF_ORGANISATION or _name_of(settings.HUB_ENDPOINT, settings.HF_TOKEN)
    return Account(hub.Hub(settings.HF_TOKEN), name)


@lru_cache(maxsize=8)
def _name_of(endpoint: str, token: str) -> str:
    from modules.storage import hub

    return hub.Hub(token).whoami().name


def of_user(user: User | None) -> Account:
    """The user's connected account; raises BadHubToken with what to do where there is none."""
    from modules.storage import hub

    account = HubAccount.objects.filter(user=user).first() if user else None
    if account is None:
        raise hub.BadHubToken(f"No Hugging Face account is connected. {CONNECT_AGAIN}")
    return Account(hub.Hub(_token(account)), account.name)


def account_for(place: str, user: User | None) -> Account:
    return of_site() if place == HubHome.SITE else of_user(user)


def token_for(user: User | None) -> str:
    """What this user's imports are asked for with: their own token, never the site's."""
    account = HubAccount.objects.filter(user=user, broken="").first() if user else None
    return _token(account) if account else ""


@contextmanager
def noting_broken(place: str, user: User | None) -> Iterator[None]:
    """A token that the Hub no longer takes is said on its owner's settings page."""
    from modules.storage import hub

    try:
        yield
    except hub.BadHubToken as error:
        if place == HubHome.OWN and user is not None:
            text = f"{error.user_message} {CONNECT_AGAIN}"[:300]
            HubAccount.objects.filter(user=user, broken="").update(broken=text)
        raise


# --- connecting --------------------------------------------------------------------------------


def connect(
    user: User, token: str, *, refresh_token: str = "", expires_at: datetime | None = None
) -> HubAccount:
    """Remember the account that this token belongs to; asks the Hub whose it is."""
    from modules.storage import hub

    who = hub.Hub(token).whoami()
    if not who.may_write:
        raise hub.NotAllowedOnHub(
            "This token may only read. Make one on the Hub that may write to repos under your "
            "name, and connect with that."
        )
    account, _ = HubAccount.objects.update_or_create(
        user=user,
        defaults={
            "name": who.name,
            "token": sealed.seal(token),
            "refresh_token": sealed.seal(refresh_token) if refresh_token else "",
            "expires_at": expires_at,
            "broken": "",
        },
    )
    return account


def disconnect(user: User) -> bool:
    """Forget the token. What was pushed with it stays on the Hub: it is the user's."""
    return bool(HubAccount.objects.filter(user=user).delete()[0])


# --- tokens ------------------------------------------------------------------------------------


def _token(account: HubAccount) -> str:
    from modules.storage import hub

    if account.broken:
        raise hub.BadHubToken(account.broken)
    if _is_to_renew(account):
        with transaction.atomic():  # one at a time: a refresh token may be good only once
            account = HubAccount.objects.select_for_update().get(pk=account.pk)
            if _is_to_renew(account):
                _renew(account)
    token = sealed.unseal(account.token)
    if token is None:
        raise hub.BadHubToken(f"This site's secret key has changed. {CONNECT_AGAIN}")
    return token


def _is_to_renew(account: HubAccount) -> bool:
    soon = timezone.now() + SOON
    return bool(account.refresh_token and account.expires_at and account.expires_at < soon)


def _renew(account: HubAccount) -> None:
    """Tokens of a sign-in end after some hours; the refresh token buys the next one."""
    from modules.storage import hub

    # Ended in the middle, the one use of the refresh token would be lost.
    may_idle(5 * settings.HUB_TIMEOUT_SECONDS)
    refresh = sealed.unseal(account.refresh_token)
    try:
        answer = requests.post(
            f"{settings.HUB_ENDPOINT}/oauth/token",
            data={"grant_type": "refresh_token", "refresh_token": refresh or ""},
            auth=(settings.HF_OAUTH_CLIENT_ID, settings.HF_OAUTH_CLIENT_SECRET),
            timeout=settings.HUB_TIMEOUT_SECONDS,
        )
        said: dict[str, Any] = answer.json() if answer.ok else {}
    except (requests.RequestException, ValueError) as error:
        raise hub.HubDown("The Hub did not renew the connection in time.") from error
    if answer.status_code >= 500:
        raise hub.HubDown(f"The Hub has trouble of its own (status {answer.status_code}).")
    if not isinstance(said.get("access_token"), str):
        raise hub.BadHubToken("The connection to the Hub was ended there, or ran out.")
    account.token = sealed.seal(said["access_token"])
    if isinstance(said.get("refresh_token"), str):
        account.refresh_token = sealed.seal(said["refresh_token"])
    seconds = said.get("expires_in")
    account.expires_at = (
        timezone.now() + timedelta(seconds=seconds) if isinstance(seconds, int) else None
    )
    account.save(update_fields=["token", "refresh_token", "expires_at"])
