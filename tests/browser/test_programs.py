"""Admin and the API's page: others' code, under the same policy as every page of ours."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import ROOT

OURS_ONLY = "default-src 'self'"


@pytest.fixture
def moderator(site: str, site_environment: dict[str, str], page: Page) -> Page:
    """A page of somebody who is signed in to the admin."""
    password = {"DJANGO_SUPERUSER_PASSWORD": "correct horse battery"}
    subprocess.run(
        [sys.executable, "manage.py", "createsuperuser", "--noinput"]
        + ["--username", "caretaker", "--email", "caretaker@example.org"],
        cwd=ROOT,
        env=site_environment | password,
        check=True,
    )
    page.goto(f"{site}/admin/")
    page.fill("[name=login]", "caretaker")
    page.fill("[name=password]", "correct horse battery")
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#user-tools")).to_contain_text("caretaker")
    return page


def test_the_admin_needs_nothing_that_the_policy_forbids(site: str, moderator: Page) -> None:
    """The console must stay quiet: `new_context` looks at it."""
    links = moderator.locator("#content-main a[href]").evaluate_all("(all) => all.map(a => a.href)")
    assert f"{site}/admin/accounts/user/" in links
    for link in [*links, f"{site}/admin/accounts/user/"]:
        answer = moderator.goto(link)
        assert answer is not None and answer.ok, link
        policy = answer.headers["content-security-policy"]
        assert policy.startswith(OURS_ONLY) and "unsafe" not in policy
    moderator.get_by_role("link", name="caretaker").first.click()
    expect(moderator.locator("#content form").first).to_be_visible()


def test_the_apis_page_shows_every_address_and_tries_one(
    site: str, new_context: Callable[..., BrowserContext]
) -> None:
    context = new_context()
    elsewhere: list[str] = []
    context.on("request", lambda sent: elsewhere.append(sent.url) if site not in sent.url else None)
    page = context.new_page()
    answer = page.goto(f"{site}/api/docs/")
    assert answer is not None and "unsafe" not in answer.headers["content-security-policy"]
    modules = page.locator("#operations-modules-modules_list")
    expect(modules).to_be_visible()
    for name in ("modules_create", "modules_update", "module_versions_create", "module_like"):
        expect(page.locator(f"#operations-modules-{name}")).to_be_visible()
    for operation in page.locator(".opblock-summary-control").all():
        operation.click()
    expect(page.locator(".opblock.is-open")).to_have_count(page.locator(".opblock").count())
    modules.get_by_role("button", name="Try it out").click()
    modules.get_by_role("button", name="Execute").click()
    expect(modules.locator(".live-responses-table")).to_contain_text("wordsmith")
    assert [url for url in elsewhere if not url.startswith("data:")] == []
