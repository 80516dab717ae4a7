"""Which names people may choose: a name is the first segment of an address."""

import pytest
from django.core.exceptions import ValidationError
from django.urls import URLPattern, URLResolver, get_resolver

from hub_site.accounts import names
from hub_site.accounts.models import Namespace, User


@pytest.mark.parametrize("name", ["ada", "Ada", "a", "0", "ada.l-o_v", "x" * 96, "recipes2", "git"])
def test_it_takes_a_good_name(name: str) -> None:
    assert names.problem(name) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "Use letters"),
        ("a b", "Use letters"),
        ("a/b", "Use letters"),
        ("zoë", "Use letters"),
        ("a\n", "Use letters"),
        ("-ada", "begins and ends"),
        ("ada.", "begins and ends"),
        ("a--b", "in a row"),
        ("a..b", "in a row"),
        ("ada.git", '".git"'),
        ("ada.GIT", '".git"'),
        ("x" * 97, "97 characters"),
        ("admin", "kept"),
        ("Recipes", "kept"),
        ("datasets", "kept"),
        ("v1", "kept"),
        ("lora-commons", "kept"),
        ("guest-1", "kept"),
    ],
)
def test_it_refuses_a_bad_name_and_says_why(name: str, why: str) -> None:
    assert why in (names.problem(name) or "")


def _first_segments(patterns: list[URLPattern | URLResolver], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        route = prefix + str(pattern.pattern).lstrip("^")
        if "/" in route or isinstance(pattern, URLPattern):
            found.add(route.split("/")[0])
        else:
            found |= _first_segments(pattern.url_patterns, route)
    return {segment for segment in found if segment and not segment.startswith(("<", "("))}


def test_every_first_segment_of_ours_is_reserved(settings: object) -> None:
    ours = _first_segments(get_resolver().url_patterns) | {"static", "favicon.ico", "robots.txt"}
    assert {"accounts", "api", "healthz", "jobs", "modules", "recipes", "tasks", "try"} <= ours
    assert ours <= names.RESERVED


@pytest.mark.django_db
def test_names_differ_by_more_than_case() -> None:
    User.objects.create_user("Ada")
    Namespace.objects.create(name="Acme", kind=Namespace.ORGANISATION)
    for taken in ("ada", "ADA", "acme"):
        with pytest.raises(ValidationError, match="is taken"):
            names.check_free(taken)
    names.check_free("bob")


@pytest.mark.django_db
def test_a_new_user_owns_the_namespace_of_the_name() -> None:
    assert User.objects.create_user("ada").namespace.name == "ada"
    assert User.objects.create_superuser("grace", password="x").namespace.name == "grace"


@pytest.mark.django_db
def test_a_superuser_may_have_a_reserved_name_but_no_repos() -> None:
    User.objects.create_superuser("admin", password="x")
    assert not Namespace.objects.exists()
