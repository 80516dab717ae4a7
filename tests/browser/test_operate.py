"""The operator's page: live, on a phone too, in the dark, with a quiet console."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import ROOT, Result
from tests.browser.test_every_page import TOO_WIDE

NAME, PASSWORD = "operator-olga", "correct horse battery"
MAKE = f"""
from hub_site.accounts.models import User
User.objects.create_superuser({NAME!r}, password={PASSWORD!r})
"""
FAIL = """
from hub_site.jobs import queue
from hub_site.jobs.models import Job
from django.utils import timezone
job = queue.submit("predict", params={}, queue="gpu")
Job.objects.filter(pk=job.pk).update(
    state="failed", error_code="our_fault", finished_at=timezone.now(),
    error_message="Something broke on our side, in words that are long enough to need two lines.")
queue.submit("predict", params={}, queue="gpu")
"""


def program(environment: dict[str, str], code: str) -> None:
    command = [sys.executable, "manage.py", "shell", "-v", "0", "-c", code]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


@pytest.fixture(scope="module")
def operator(site: str, result: Result, site_environment: dict[str, str]) -> None:
    """One composition has run; one job has failed, and one waits that nobody can do."""
    program(site_environment, MAKE)


@pytest.fixture
def sign_in(site: str, operator: None) -> Callable[[BrowserContext], Page]:
    def sign_in(context: BrowserContext) -> Page:
        page = context.new_page()
        page.goto(f"{site}/accounts/login/?next=/operate/")
        page.fill("main [name=login]", NAME)
        page.fill("main [name=password]", PASSWORD)
        page.locator("main form [type=submit]").first.click()
        expect(page.get_by_role("heading", name="Operating the site")).to_be_visible()
        return page

    return sign_in


def test_it_shows_what_happens_while_it_is_looked_at(
    site_environment: dict[str, str],
    new_context: Callable[..., BrowserContext],
    sign_in: Callable[[BrowserContext], Page],
) -> None:
    page = sign_in(new_context())
    expect(page.get_by_label("Queue cpu")).to_contain_text("worker")
    expect(page.locator("#overview")).not_to_contain_text("needs a GPU")
    program(site_environment, FAIL)
    expect(page.locator("#overview")).to_contain_text("Something broke on our side")
    expect(page.locator("#overview")).to_contain_text("needs a GPU")
    page.get_by_role("link", name="All jobs").click()
    expect(page.locator("#result_list")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_small_phone(
    site: str,
    new_context: Callable[..., BrowserContext],
    sign_in: Callable[[BrowserContext], Page],
    scheme: str,
) -> None:
    page = sign_in(new_context(viewport={"width": 320, "height": 640}, color_scheme=scheme))
    assert page.evaluate(TOO_WIDE) == []
    assert page.locator("h1").count() == 1
