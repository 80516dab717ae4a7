"""Finding modules by keyboard: the slash, and results while one types."""

import re

from playwright.sync_api import Page, expect

# Each of the demo's base models has one, and they are equally good answers.
PLURAL = re.compile(r"^wordsmith-(llama-)?plural$")


def test_the_slash_goes_to_the_search_box_unless_one_is_writing(site: str, page: Page) -> None:
    page.goto(f"{site}/recipes/")
    page.keyboard.press("/")
    box = page.get_by_label("Search modules, recipes, tasks and people")
    expect(box).to_be_focused()
    page.keyboard.type("anto/nym")
    expect(box).to_have_value("anto/nym")
    box.fill("antonym")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site}/search/?q=antonym")
    found = page.locator("#results .row-name", has_text="wordsmith-antonym")
    expect(found).to_have_attribute("href", "/lora-commons/wordsmith-antonym")


def test_the_list_follows_what_is_typed_and_keeps_the_focus(site: str, page: Page) -> None:
    page.goto(f"{site}/modules/")
    expect(page.locator(".rows .row")).to_have_count(20)
    box = page.get_by_placeholder("Name, author, tag or a word of the description")
    box.press_sequentially("plur", delay=40)
    expect(page.locator(".row-name").first).to_have_text(PLURAL)
    expect(page).to_have_url(re.compile(r"/modules/\?q=plur"))
    expect(box).to_be_focused()
    page.locator(".facet-list a", has_text="Checked").click()
    expect(page).to_have_url(re.compile(r"q=plur.*checked=1"))
    expect(page.locator(".row-name").first).to_have_text(PLURAL)
    expect(box).to_have_value("plur")
