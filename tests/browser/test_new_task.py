"""A task by paste: rows fill themselves, a mistake is named where it is, nothing typed is lost."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

TABLE = "input\tanswer\ncat\tcats\ndog\tdogs\nbox\tboxes"
JSON_LINES = '{"input": "cat", "target": "cats"}\n{"input": "dog", "target": "dogs"}'


@pytest.fixture
def form(site: str, new_context: Callable[..., BrowserContext]) -> Page:
    page = new_context(permissions=["clipboard-read", "clipboard-write"]).new_page()
    page.goto(f"{site}/tasks/new/")
    return page


def paste(page: Page, text: str) -> None:
    page.evaluate("text => navigator.clipboard.writeText(text)", text)
    page.keyboard.press("Control+V")


def cell(page: Page, name: str) -> str:
    return page.get_by_label(name, exact=True).input_value()


def test_a_pasted_table_fills_the_rows(form: Page) -> None:
    form.get_by_label("Input 1", exact=True).click()
    paste(form, TABLE)
    assert [cell(form, f"Input {n}") for n in (1, 2, 3)] == ["cat", "dog", "box"]
    assert cell(form, "Answer 3") == "boxes"
    expect(form.get_by_role("button", name="Compose from 3 examples")).to_be_visible()
    expect(form.locator("#preview")).to_contain_text("cats")


def test_json_lines_pasted_anywhere_fill_the_rows_and_overwrite_nothing(form: Page) -> None:
    form.get_by_label("Input 1", exact=True).fill("mine")
    form.locator("h1").click()
    paste(form, JSON_LINES)
    assert cell(form, "Input 1") == "mine"
    assert [cell(form, f"Input {n}") for n in (2, 3)] == ["cat", "dog"]


def test_rows_are_added_removed_and_counted(form: Page) -> None:
    before = form.locator("[name=shots_input]").count()
    form.get_by_role("button", name="Add rows").click()
    assert form.locator("[name=shots_input]").count() == before + 5
    form.get_by_label("Input 1", exact=True).fill("cat")
    form.get_by_label("Input 2", exact=True).fill("dog")
    form.get_by_role("button", name="Remove row 1", exact=True).click()
    assert cell(form, "Input 1") == "dog"
    assert form.locator("[name=shots_input]").count() == before + 4


def test_what_is_typed_while_an_answer_comes_is_previewed_too(form: Page) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    form.route("**/tasks/preview/", hold, times=1)
    form.get_by_label("Input 1", exact=True).fill("cat")
    while not held:
        form.wait_for_timeout(20)
    form.get_by_label("Instruction").fill("plural of {input} :")
    held[0].continue_()
    expect(form.locator("#preview")).to_contain_text("plural of cat :", timeout=20_000)


def test_a_mistake_is_named_and_mended(form: Page) -> None:
    form.get_by_label("Name").fill("Plurals in a browser")
    form.get_by_label("Input 1", exact=True).click()
    paste(form, TABLE)
    form.get_by_label("Answer 2", exact=True).fill("")
    form.get_by_label("Instruction").fill("plural of {input} :")
    expect(form.locator("#preview")).to_contain_text("plural of cat :")
    form.get_by_role("button", name="Compose from 3 examples").click()

    expect(form.get_by_role("alert")).to_contain_text("nothing you typed is lost")
    expect(form.locator("#row-2-target")).to_contain_text("The answer is empty.")
    assert cell(form, "Input 3") == "box"
    assert form.get_by_label("Instruction").input_value() == "plural of {input} :"

    form.get_by_label("Answer 2", exact=True).fill("dogs")
    form.get_by_role("button", name="Compose from 3 examples").click()
    form.wait_for_selector("#job-words, h1.sentence")
    form.wait_for_selector("h1.sentence")


def test_an_instruction_without_a_place_for_the_input_says_so_at_once(form: Page) -> None:
    form.get_by_label("Input 1", exact=True).fill("cat")
    form.get_by_label("Instruction").fill("no place")
    expect(form.locator("#preview")).to_contain_text("exactly once")
