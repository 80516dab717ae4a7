"""The small things that every page shares: hints, menu, copy buttons, colours."""

from collections.abc import Callable
from urllib.parse import urljoin

from playwright.sync_api import BrowserContext, Route, expect

from tests.browser.conftest import Result

NewContext = Callable[..., BrowserContext]
PRESS_TWICE = """() => {
  const button = document.querySelector("form[action^='/try/'] button");
  button.click();
  setTimeout(() => button.click(), 300);
}"""
PHONE = {"width": 360, "height": 640}


def test_a_term_says_its_phrase_on_focus_within_a_phone(site: str, new_context: NewContext) -> None:
    page = new_context(viewport=PHONE).new_page()
    page.goto(site)
    term = page.locator(".lede .term").first
    hint = term.locator(".hint")
    expect(hint).to_be_hidden()
    term.focus()
    expect(hint).to_be_visible()
    box = hint.bounding_box()
    assert box is not None
    assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
    page.keyboard.press("Escape")
    expect(hint).to_be_hidden()


def test_the_user_menu_opens_without_javascript(
    site: str, result: Result, new_context: NewContext
) -> None:
    page = new_context(java_script_enabled=False, storage_state=result.state).new_page()
    page.goto(site)
    page.locator(".menu summary").click()
    expect(page.get_by_role("link", name="Your tasks")).to_be_visible()


def test_buttons_that_need_javascript_are_absent_without_it(
    result: Result, new_context: NewContext
) -> None:
    with_it = new_context(storage_state=result.state).new_page()
    with_it.goto(result.url)
    expect(with_it.locator(".copy").first).to_be_visible()
    without = new_context(java_script_enabled=False, storage_state=result.state).new_page()
    without.goto(result.url)
    expect(without.locator("h1.sentence")).to_be_visible()
    expect(without.locator(".copy").first).to_be_hidden()


def test_the_menu_closes_on_escape(site: str, result: Result, new_context: NewContext) -> None:
    page = new_context(storage_state=result.state).new_page()
    page.goto(site)
    page.locator(".menu summary").click()
    expect(page.get_by_role("link", name="Your tasks")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="Your tasks")).to_be_hidden()
    expect(page.locator(".menu summary")).to_be_focused()


def test_a_hash_is_copied_whole(result: Result, new_context: NewContext) -> None:
    context = new_context(
        storage_state=result.state, permissions=["clipboard-read", "clipboard-write"]
    )
    page = context.new_page()
    page.goto(result.url)
    button = page.locator(".hash [data-copy]").last
    button.click()
    expect(page.locator("#said")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == button.get_attribute("data-copy")
    assert len(copied) == 64


def test_a_module_keeps_its_hue_from_theme_to_theme(site: str, new_context: NewContext) -> None:
    colour = "getComputedStyle(document.querySelector('.row .dot')).backgroundColor"
    seen = {}
    for scheme in ("light", "dark"):
        page = new_context(color_scheme=scheme).new_page()
        page.goto(f"{site}/modules/")
        seen[scheme] = page.evaluate(colour)
    assert seen["light"] != seen["dark"]
    assert seen["light"].split()[-1] == seen["dark"].split()[-1]


def test_an_impatient_visitor_starts_one_composition(
    result: Result, new_context: NewContext
) -> None:
    page = new_context(storage_state=result.state).new_page()
    page.goto(urljoin(result.url, "/"))
    sent: list[Route] = []
    page.route("**/try/**", lambda route: sent.append(route))  # so slow an answer that one waits
    page.evaluate(PRESS_TWICE)
    page.wait_for_timeout(1000)
    assert len(sent) == 1
    sent[0].continue_()
    page.wait_for_url("**/jobs/**")
