"""Read settings from environment variables, strictly: a typo must stop the site, not change it.

An empty variable counts as not set, because compose files pass `NAME=` for what they leave out.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from django.core.exceptions import ImproperlyConfigured

TRUE = {"1", "true", "yes", "on"}
FALSE = {"0", "false", "no", "off"}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class BadSetting(ImproperlyConfigured):
    """A variable with a value we cannot use."""


class Rate(NamedTuple):
    """So many in so many seconds."""

    amount: int
    seconds: int


def env_str(name: str, default: str = "") -> str:
    return os.environ.get(name, "").strip() or default


def env_bool(name: str, default: bool) -> bool:
    text = env_str(name).lower()
    if not text:
        return default
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise BadSetting(f'{name} is "{text}". Set it to true or false.')


def env_int(name: str, default: int, *, minimum: int | None = 0, maximum: int | None = None) -> int:
    text = env_str(name)
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        raise BadSetting(f'{name} is "{text}". Set it to a whole number.') from None
    if minimum is not None and value < minimum:
        raise BadSetting(f"{name} is {value}. Set it to {minimum} or more.")
    if maximum is not None and value > maximum:
        raise BadSetting(f"{name} is {value}. Set it to {maximum} or less.")
    return value


def env_choice(name: str, default: str, choices: list[str]) -> str:
    value = env_str(name, default).lower()
    if value not in choices:
        raise BadSetting(f'{name} is "{value}". Set it to one of: {", ".join(choices)}.')
    return value


def env_list(name: str, default: list[str]) -> list[str]:
    """Values with commas between them."""
    text = env_str(name)
    return [part.strip() for part in text.split(",") if part.strip()] if text else default


def env_rate(name: str, default: str) -> Rate | None:
    """A number and a time, such as 60/m or 3000/10m; None for `off`."""
    text = env_str(name, default).lower()
    if text == "off":
        return None
    found = re.fullmatch(r"([1-9]\d{0,8})/([1-9]\d{0,3})?([smhd])", text)
    if not found:
        raise BadSetting(
            f'{name} is "{text}". Set it to a number and a time, such as 60/m, 300/h or 3000/10m, '
            "or to off."
        )
    return Rate(int(found[1]), int(found[2] or 1) * SECONDS[found[3]])


def env_url(name: str) -> str:
    """The address of a site, without a slash at its end; empty when not set."""
    url = env_str(name).rstrip("/")
    found = urlsplit(url)
    if url and (found.scheme not in ("http", "https") or not found.hostname or found.query):
        raise BadSetting(
            f'{name} is "{url}". Set it to an address such as https://commons.example.'
        )
    if found.username or found.password:
        raise BadSetting(f"{name} holds a name or a password. Set it to the address alone.")
    return url


def env_secret(name: str, default: str = "") -> str:
    """The value of NAME, or what stands in the file that NAME_FILE names."""
    value, file_name = env_str(name), env_str(f"{name}_FILE")
    if value and file_name:
        raise BadSetting(f"Both {name} and {name}_FILE are set. Keep one of them.")
    if not file_name:
        return value or default
    try:
        secret = Path(file_name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"{name}_FILE is {file_name}, which cannot be read: {error}.") from None
    if not secret:
        raise BadSetting(f"{name}_FILE is {file_name}, and that file is empty.")
    return secret


def with_password(address: str, password: str, *, of: str) -> str:
    """The address in {of}_URL with the password that was kept apart from it, in {of}_PASSWORD, so
    that only that is a secret. Neither is shown when something is wrong."""
    if not password:
        return address
    parts = urlsplit(address)
    login, _, host = parts.netloc.rpartition("@")
    if not address:
        raise BadSetting(f"{of}_PASSWORD is set, and {of}_URL is not. Set both, or neither.")
    if ":" in login:
        raise BadSetting(f"{of}_URL has a password, and {of}_PASSWORD is set. Keep one of them.")
    return parts._replace(netloc=f"{login}:{quote(password, safe='')}@{host}").geturl()


def read_env_file(path: Path) -> None:
    """Take NAME=value lines from a file; variables that are already set win."""
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.removeprefix("export ").partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name.isidentifier():
            raise BadSetting(f'{path}, line {number}: "{line}" is not NAME=value.')
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        os.environ.setdefault(name, value)
