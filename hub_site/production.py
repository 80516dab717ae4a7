"""What a site that strangers can reach must have before it starts; docs/security.md says why.

Everything that is missing is named at once, so that nobody mends it in five tries.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from django.http.request import validate_host

from hub_site.env import (
    BadSetting,
    env_bool,
    env_choice,
    env_int,
    env_list,
    env_secret,
    env_str,
    env_url,
)

LONG_ENOUGH = 50
LETTERS_ENOUGH = 10
TOKEN_LONG_ENOUGH = 16
MAKE_A_KEY = 'python -c "import secrets; print(secrets.token_urlsafe(50))"'


def is_production() -> bool:
    """As PRODUCTION says. Who opens the site to others has to say it, one way or the other."""
    names = _others(env_list("ALLOWED_HOSTS", []))
    if names and not env_str("PRODUCTION"):
        raise BadSetting(
            f"ALLOWED_HOSTS names {names[0]}, so others than you can reach this site. Set "
            "PRODUCTION=true, which demands a key, TLS and the rest of what such a site needs; "
            "or PRODUCTION=false, for a network where you trust everybody."
        )
    return env_bool("PRODUCTION", False)


def check() -> None:
    """Raise BadSetting with everything that is missing or too weak."""
    found = list(_problems())
    if found:
        lines = "\n".join(f"  - {problem}" for problem in found)
        raise BadSetting(
            f"PRODUCTION is true, and this is not ready for strangers:\n{lines}\n"
            "Set these in the environment or in .env (.env.example has a line on each), "
            "or leave PRODUCTION out to run the site for yourself on this machine."
        )


def _others(hosts: list[str]) -> list[str]:
    return [name for name in hosts if not _is_of_this_machine(name)]


def _is_of_this_machine(name: str) -> bool:
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _problems() -> Iterator[str]:
    hosts = env_list("ALLOWED_HOSTS", [])
    if env_bool("DEBUG", False):
        yield "DEBUG is true: error pages would show code and settings. Leave it out."
    yield from _about_key(env_secret("SECRET_KEY"))
    yield from _about_hosts(hosts)
    yield from _about_address(env_url("SITE_URL"), hosts if _others(hosts) else [])
    if not env_secret("DATABASE_URL"):
        yield "DATABASE_URL is missing: the embedded database is for one machine and one person."
    if not env_secret("BROKER_URL").startswith("redis"):
        yield "BROKER_URL is missing, or no Redis: name one, as in redis://host:6379/0."
    if not env_bool("BEHIND_TLS_PROXY", False):
        yield (
            "BEHIND_TLS_PROXY is not true: put a proxy that ends TLS in front, and let it set "
            "X-Forwarded-Proto and X-Forwarded-For itself (docs/security.md)."
        )
    if not env_bool("SECURE_COOKIES", True):
        yield "SECURE_COOKIES is false: sessions would travel over plain http. Leave it out."
    if env_int("HSTS_SECONDS", 1) == 0:
        yield "HSTS_SECONDS is 0: a first visit over plain http could be taken over each time."
    if 0 < len(env_secret("METRICS_TOKEN")) < TOKEN_LONG_ENOUGH:
        yield f"METRICS_TOKEN is too short: {TOKEN_LONG_ENOUGH} random letters or more."
    confirmed = env_choice("EMAIL_CONFIRMATION", "optional", ["optional", "mandatory"])
    if confirmed == "mandatory" and not env_str("EMAIL_HOST"):
        yield "EMAIL_CONFIRMATION is mandatory, but no EMAIL_HOST sends the mails."


def _about_key(key: str) -> Iterable[str]:
    weak = len(key) < LONG_ENOUGH or len(set(key)) < LETTERS_ENOUGH
    if not key:
        return [f"SECRET_KEY is missing: one of your own, made with {MAKE_A_KEY}"]
    if weak or key.startswith("django-insecure-"):
        return [
            f"SECRET_KEY is too easy to guess: {LONG_ENOUGH} random letters or more, made with "
            f"{MAKE_A_KEY}"
        ]
    return []


def _about_hosts(hosts: list[str]) -> Iterable[str]:
    if not _others(hosts):
        yield "ALLOWED_HOSTS is missing: the names that this site is asked for by, with commas."
    for name in hosts:
        if "*" in name or name.startswith("."):
            yield f"ALLOWED_HOSTS has {name}, which lets in names that are not yours. Name each."


def _about_address(address: str, hosts: list[str]) -> Iterable[str]:
    host = urlsplit(address).hostname or ""
    if not address:
        yield "SITE_URL is missing: the address that people use, as in https://commons.example"
    elif not address.startswith("https://"):
        yield f"SITE_URL is {address}: people must come by https."
    elif hosts and not validate_host(host, hosts):
        yield f"SITE_URL is {address}, and ALLOWED_HOSTS does not name {host}."
