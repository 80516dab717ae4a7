"""Every page: on a small phone, by keyboard, in the dark, with a quiet console."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import Result

PAGES = [
    "/", "/modules/", "/tasks/", "/tasks/new/", "/tasks/shared/", "/recipes/", "/collections/",
    "/accounts/login/", "/accounts/signup/", "/nothing-is-here/",
]  # fmt: skip

TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const over = (element) => element.getBoundingClientRect().right > width + 1;
  const all = [...document.querySelectorAll("body *")].filter(over);
  return all.slice(0, 5).map((element) => `${element.tagName}.${element.className}`);
}"""


def addresses(site: str, result: Result, page: Page) -> list[str]:
    """Every page a guest with a finished composition can reach."""
    page.goto(f"{site}/modules/")
    module = page.locator("main a.row-name").first.get_attribute("href")
    own = [result.url, result.task_url, f"{result.task_url}compose/", f"{result.url}publish/"]
    return [*(site + path for path in PAGES), f"{site}{module}", *own]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_scrolls_sideways_on_a_small_phone(
    site: str, result: Result, new_context: Callable[..., BrowserContext], scheme: str
) -> None:
    context = new_context(
        viewport={"width": 320, "height": 640}, color_scheme=scheme, storage_state=result.state
    )
    page = context.new_page()
    for address in addresses(site, result, page):
        page.goto(address)
        for summary in page.locator("main details > summary").all():
            if summary.is_visible():
                summary.click()
        assert page.evaluate(TOO_WIDE) == [], address


def test_every_page_has_one_heading_and_a_name_for_every_control(
    site: str, result: Result, new_context: Callable[..., BrowserContext]
) -> None:
    page = new_context(storage_state=result.state).new_page()
    for address in addresses(site, result, page):
        page.goto(address)
        assert page.locator("h1").count() == 1, address
        assert page.title(), address
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("input, textarea, select, button, a")]
              .filter((e) => e.type !== "hidden" && e.tabIndex >= 0 && e.checkVisibility())
              .filter((e) => !(e.labels?.length || e.ariaLabel || e.textContent.trim()
                || e.getAttribute("aria-labelledby")))
              .map((e) => e.outerHTML.slice(0, 120))"""
        )
        assert nameless == [], address


def reach(page: Page, name: str, most: int = 60) -> None:
    """Press Tab until the button of this name has the focus; fail when it never does."""
    for _ in range(most):
        page.keyboard.press("Tab")
        words = page.evaluate(
            "() => document.activeElement.innerText || document.activeElement.ariaLabel || ''"
        )
        if name in words:
            ring = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
            assert ring != "none", "the focus is not visible"
            return
    pytest.fail(f"No {name!r} within {most} tabs on {page.url}")


def test_the_demo_starts_by_keyboard_alone(site: str, page: Page) -> None:
    page.goto(site)
    reach(page, "Try it")
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/*/")


def test_a_task_is_made_by_keyboard_alone(site: str, page: Page) -> None:
    page.goto(f"{site}/tasks/new/")
    page.get_by_label("Name").focus()
    page.keyboard.type("By keyboard")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    for word in ("cat", "cats"):
        page.keyboard.type(word)
        page.keyboard.press("Tab")
    reach(page, "Compose from 1 example")
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/*/")


def test_the_skip_link_comes_first(site: str, page: Page) -> None:
    page.goto(f"{site}/recipes/")
    page.keyboard.press("Tab")
    assert "Skip to the content" in page.evaluate("() => document.activeElement.innerText")
    page.keyboard.press("Enter")
    assert page.evaluate("() => location.hash") == "#main"


def test_a_live_job_can_be_cancelled(site: str, page: Page) -> None:
    page.goto(f"{site}/accounts/signup/")
    page.fill("main [name=username]", "impatient")
    page.fill("main [name=password1]", "correct horse battery")
    page.locator("main form [type=submit]").first.click()
    page.goto(f"{site}/tasks/")
    page.locator("main a.row-name").first.click()
    page.get_by_text("Budget, seed and the rest").click()
    page.get_by_label("Budget").fill("2000")  # much longer than it takes to press two buttons
    page.locator("#compose-form").get_by_role("button", name="Compose from").click()
    page.get_by_text("Cancel…").click()
    page.get_by_role("button", name="Cancel this composition").click()
    expect(page.locator("#job-words")).to_contain_text("Cancelled")
    expect(page.get_by_role("link", name="Compose again")).to_be_visible()
