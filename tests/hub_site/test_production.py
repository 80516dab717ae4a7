"""A site that strangers can reach does not start by half: what is missing is said, all at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEY = "k3y-0f-0ur-0wn-" * 5
READY = {
    "PRODUCTION": "true",
    "SECRET_KEY": KEY,
    "ALLOWED_HOSTS": "commons.example,127.0.0.1",
    "SITE_URL": "https://commons.example",
    "DATABASE_URL": "postgresql://commons:hush@db/commons",
    "BROKER_URL": "redis://redis:6379/0",
    "BEHIND_TLS_PROXY": "true",
}
SAFE = """
from django.conf import settings as s
print(s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE, s.SESSION_COOKIE_NAME, s.SECURE_HSTS_SECONDS)
print(s.SECURE_SSL_REDIRECT, s.SECURE_HSTS_INCLUDE_SUBDOMAINS, s.DEBUG, s.EMAIL_BACKEND)
print(s.SESSION_COOKIE_HTTPONLY, s.SESSION_COOKIE_SAMESITE, s.CSRF_COOKIE_SAMESITE)
print(s.SILENCED_SYSTEM_CHECKS)
"""


def run(tmp_path: Path, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """With this environment and no other, but for what Python itself needs."""
    bare = {
        "PATH": os.environ["PATH"],
        "VAR_DIR": str(tmp_path / "var"),
        "ENV_FILE": os.devnull,
        "DJANGO_SETTINGS_MODULE": "hub_site.settings",
    }
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=bare | environment,
        capture_output=True,
        text=True,
    )


def start(tmp_path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return run(tmp_path, "-c", SAFE, **environment)


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    done = start(tmp_path, PRODUCTION="true")
    assert done.returncode != 0
    told = done.stderr.rpartition("BadSetting:")[2]
    for name in READY:
        assert name in told
    assert "secrets.token_urlsafe" in told and ".env.example" in told
    assert not (tmp_path / "var").exists()  # no key of an accidental site is left behind


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"DEBUG": "true"}, "DEBUG is true"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY is too easy"),
        ({"SECRET_KEY": "a" * 80}, "SECRET_KEY is too easy"),
        ({"SECRET_KEY": f"django-insecure-{KEY}"}, "SECRET_KEY is too easy"),
        ({"ALLOWED_HOSTS": "*,commons.example"}, "ALLOWED_HOSTS has *"),
        ({"ALLOWED_HOSTS": ".example,commons.example"}, "ALLOWED_HOSTS has .example"),
        ({"ALLOWED_HOSTS": "127.0.0.1,localhost"}, "ALLOWED_HOSTS is missing"),
        ({"ALLOWED_HOSTS": "other.example"}, "does not name commons.example"),
        ({"SITE_URL": "http://commons.example"}, "people must come by https"),
        ({"DATABASE_URL": ""}, "DATABASE_URL is missing"),
        ({"BROKER_URL": ""}, "BROKER_URL is missing"),
        ({"BROKER_URL": "filesystem://"}, "BROKER_URL is missing, or no Redis"),
        ({"BEHIND_TLS_PROXY": "false"}, "BEHIND_TLS_PROXY is not true"),
        ({"SECURE_COOKIES": "false"}, "SECURE_COOKIES is false"),
        ({"HSTS_SECONDS": "0"}, "HSTS_SECONDS is 0"),
        ({"HSTS_SECONDS": "00"}, "HSTS_SECONDS is 0"),
        ({"METRICS_TOKEN": "x"}, "METRICS_TOKEN is too short"),
        ({"EMAIL_CONFIRMATION": "mandatory"}, "no EMAIL_HOST"),
    ],
)
def test_it_does_not_start_with_one_thing_wrong(
    tmp_path: Path, wrong: dict[str, str], told: str
) -> None:
    done = start(tmp_path, **READY | wrong)
    assert done.returncode != 0 and told in done.stderr
    assert done.stderr.count("\n  - ") == 1  # and nothing else is complained of
    assert "hush" not in done.stderr and KEY not in done.stderr


def test_secrets_may_stand_in_files(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "database").write_text(READY["DATABASE_URL"])
    files = {
        "SECRET_KEY": "",
        "SECRET_KEY_FILE": str(tmp_path / "key"),
        "DATABASE_URL": "",
        "DATABASE_URL_FILE": str(tmp_path / "database"),
    }
    assert start(tmp_path, **READY | files).returncode == 0


def test_what_production_does_not_ask_for_is_safe_by_itself(tmp_path: Path) -> None:
    done = start(tmp_path, **READY)
    assert done.stdout.splitlines() == [
        "True True __Host-sessionid 31536000",
        "True True False django.core.mail.backends.dummy.EmailBackend",
        "True Lax Lax",
        "['security.W021']",
    ], done.stderr


def test_djangos_own_check_for_deployments_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "var" / "tmp").mkdir(parents=True)  # as manage.py prepare does
    command = ("manage.py", "check", "--deploy", "--fail-level", "WARNING")
    done = run(tmp_path, *command, **READY)
    assert done.returncode == 0, done.stderr
    assert "no issues (1 silenced)" in done.stdout + done.stderr


def test_who_opens_the_site_to_others_must_say_whether_it_is_production(tmp_path: Path) -> None:
    done = start(tmp_path, ALLOWED_HOSTS="127.0.0.1,lab.example")
    assert done.returncode != 0 and "lab.example" in done.stderr
    assert "Set PRODUCTION=true" in done.stderr and "or PRODUCTION=false" in done.stderr
    assert start(tmp_path, ALLOWED_HOSTS="lab.example", PRODUCTION="false").returncode == 0


def test_a_site_for_oneself_needs_no_setting_at_all(tmp_path: Path) -> None:
    done = start(tmp_path)
    assert done.stdout.splitlines()[0] == "False False sessionid 0", done.stderr
    assert (tmp_path / "var" / "secret-key").exists()
