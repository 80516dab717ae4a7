import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hub_site.env import (
    BadSetting,
    env_bool,
    env_int,
    env_list,
    env_secret,
    env_str,
    env_url,
    read_env_file,
    with_password,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("Yes", True), ("off", False), ("0", False)]
)
def test_it_reads_a_switch(monkeypatch: pytest.MonkeyPatch, text: str, value: bool) -> None:
    monkeypatch.setenv("SWITCH", text)
    assert env_bool("SWITCH", not value) is value


@pytest.mark.parametrize("text", ["", "  "])
def test_it_takes_an_empty_variable_for_not_set(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("NAME", text)
    assert env_bool("NAME", True) is True
    assert env_int("NAME", 7) == 7
    assert env_str("NAME", "x") == "x"
    assert env_list("NAME", ["a"]) == ["a"]
    assert env_secret("NAME") == ""


def test_it_refuses_a_switch_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUG", "ture")
    with pytest.raises(BadSetting, match='DEBUG is "ture". Set it to true or false.'):
        env_bool("DEBUG", False)


@pytest.mark.parametrize("text", ["eight", "8.5", "-1", "70000"])
def test_it_refuses_a_number_that_cannot_be(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PORT", text)
    with pytest.raises(BadSetting, match="PORT is"):
        env_int("PORT", 8000, minimum=1, maximum=65535)


def test_it_splits_a_list_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTS", "a.example, b.example,")
    assert env_list("HOSTS", []) == ["a.example", "b.example"]


def test_it_takes_an_address_without_its_last_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    assert env_url("SITE") == ""
    monkeypatch.setenv("SITE", " https://commons.example/hub/ ")
    assert env_url("SITE") == "https://commons.example/hub"


@pytest.mark.parametrize(
    "text", ["web:8000", "ftp://web", "http://", "http://web/?a=b", "http://me:word@web"]
)
def test_it_refuses_what_is_no_address(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SITE", text)
    with pytest.raises(BadSetting, match="SITE"):
        env_url("SITE")


@pytest.mark.parametrize(
    ("given", "is_enough"),
    [
        ({}, False),
        ({"SECRET_KEY": "k"}, False),
        ({"DATABASE_URL": "postgresql://u:p@db/x"}, False),
        ({"SECRET_KEY": "k", "DATABASE_URL": "postgresql://u:p@db/x"}, True),
    ],
)
def test_a_worker_elsewhere_is_told_what_it_needs(
    tmp_path: Path, given: dict[str, str], is_enough: bool
) -> None:
    environment = {
        "FETCH_FROM": "http://web:8000",
        "VAR_DIR": str(tmp_path),
        "ENV_FILE": os.devnull,
    }
    done = subprocess.run(
        [sys.executable, "-c", "import hub_site.settings"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment, **given},
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) == is_enough
    assert ("BROKER_URL and SECRET_KEY. Set them" in done.stderr) != is_enough


def test_it_reads_a_secret_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    monkeypatch.setenv("KEY_FILE", str(tmp_path / "secret"))
    assert env_secret("KEY") == "s3cret"


def test_it_refuses_a_secret_given_twice_missing_or_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KEY_FILE", str(tmp_path / "absent"))
    with pytest.raises(BadSetting, match="cannot be read"):
        env_secret("KEY")
    (tmp_path / "empty").write_text("\n")
    monkeypatch.setenv("KEY_FILE", str(tmp_path / "empty"))
    with pytest.raises(BadSetting, match="is empty"):
        env_secret("KEY")
    monkeypatch.setenv("KEY", "value")
    with pytest.raises(BadSetting, match="Both KEY and KEY_FILE are set"):
        env_secret("KEY")


@pytest.mark.parametrize(
    ("address", "whole"),
    [
        ("redis://redis:6379/0", "redis://:p%40%2F%3A%25@redis:6379/0"),
        ("postgresql://me@db:5432/site?sslmode=require",
         "postgresql://me:p%40%2F%3A%25@db:5432/site?sslmode=require"),
        ("rediss://me@[::1]:6379/0", "rediss://me:p%40%2F%3A%25@[::1]:6379/0"),
    ],
)  # fmt: skip
def test_a_password_may_stand_apart_from_its_address(address: str, whole: str) -> None:
    assert with_password(address, "p@/:%", of="X") == whole
    assert with_password(address, "", of="X") == address


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", "X_PASSWORD is set, and X_URL is not"),
        ("redis://:other@redis/0", "X_URL has a password, and X_PASSWORD is set"),
    ],
)
def test_but_not_without_one_nor_twice(address: str, why: str) -> None:
    with pytest.raises(BadSetting, match=why) as error:
        with_password(address, "s3cret", of="X")
    assert "s3cret" not in str(error.value) and "other" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "broker"),
    [
        ({}, "filesystem://"),
        ({"BROKER_URL": "redis://redis/0", "BROKER_PASSWORD_FILE": "file"}, "redis://:p@redis/0"),
        ({"BROKER_URL_FILE": "url"}, "redis://:x@redis/0"),
    ],
)
def test_the_broker_may_have_a_password(tmp_path: Path, given: dict[str, str], broker: str) -> None:
    (tmp_path / "file").write_text("p\n")
    (tmp_path / "url").write_text("redis://:x@redis/0\n")
    places = {
        name: str(tmp_path / value) if name.endswith("_FILE") else value
        for name, value in given.items()
    }
    ours = {"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path), "ENV_FILE": os.devnull}
    done = subprocess.run(
        [sys.executable, "-c", "from hub_site import settings; print(settings.CELERY_BROKER_URL)"],
        cwd=ROOT,
        env=ours | places,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == broker, done.stderr


def test_it_reads_an_env_file_and_lets_set_variables_win(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".env"
    file.write_text("# why\n\nONE=1\nexport TWO = 'two words'\nTHREE=from=file\n")
    monkeypatch.setenv("ONE", "set before")
    for name in ("TWO", "THREE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    read_env_file(file)
    assert [env_str(name) for name in ("ONE", "TWO", "THREE")] == [
        "set before",
        "two words",
        "from=file",
    ]


def test_it_names_the_line_of_an_env_file_that_it_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("PORT 8000\n")
    with pytest.raises(BadSetting, match="line 1"):
        read_env_file(file)
    read_env_file(tmp_path / "absent")


def test_the_example_file_names_every_variable_that_is_read() -> None:
    example = (ROOT / ".env.example").read_text()
    read = {
        name
        for app in ("composer", "hub_site", "modules")
        for path in (ROOT / app).rglob("*.py")
        for name in re.findall(
            r'\benv_(?:bool|choice|int|list|rate|secret|str|url)\("([A-Z_]+)"', path.read_text()
        )
    }
    assert len(read) > 20
    assert {name for name in read if f"# {name}=" not in example} == set()
