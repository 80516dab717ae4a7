"""From pasted examples to a verdict, weights moved by hand, and a recipe that others can check."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from composer.demo import library
from tests.browser.test_journey import sign_up


def as_lines(rows: list[tuple[str, str]]) -> str:
    return "\n".join("\t".join(row) for row in rows)


def open_all(page: Page) -> None:
    """Everything that a form folds away."""
    page.evaluate("document.querySelectorAll('main details').forEach(each => each.open = true)")


def bring(page: Page, site: str, file: Path) -> None:
    page.goto(f"{site}/recipes/import/")
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_role("button", name="Read it").click()


@pytest.fixture(scope="module")
def comparative() -> library.DemoTask:
    tasks = {task.key: task for task in library.tasks(base=library.BASES["t5"])}
    return tasks["comparative"]


def test_from_examples_to_a_recipe_that_is_verified_here_and_on_a_second_site(
    site: str,
    second_site: str,
    new_context: Callable[..., BrowserContext],
    comparative: library.DemoTask,
    tmp_path: Path,
) -> None:
    page = new_context().new_page()
    page.goto(f"{site}/accounts/signup/")
    sign_up(page)
    page.wait_for_url(re.compile(r"/(?!accounts/signup)"))

    # A stranger's own examples.
    page.goto(f"{site}/tasks/new/")
    open_all(page)
    page.get_by_label("Name").fill("More of it")
    page.locator("[name=template]").fill(comparative.template)
    page.locator("[name=shots_text]").fill(
        as_lines([(each.input, each.target) for each in comparative.pool[:8]])
    )
    page.locator("[name=held_out_text]").fill(
        as_lines([(each.input, each.target) for each in comparative.test[:40]])
    )
    page.locator("[data-compose-button]").click()
    page.wait_for_selector("h1.sentence")

    # The verdict, the rival it rests on, every way, and what each module did alone.
    result = page.url
    assert re.search(r"\d+ of 40", page.locator("h1.sentence").inner_text())
    assert page.locator(".intervals tbody tr").count() == 8
    expect(page.get_by_text("The verdict comes of one comparison")).to_be_visible()
    ranking = page.locator("section", has=page.locator("#ranking-head"))
    assert ranking.locator("tbody tr").count() == 20
    assert "comparative" in ranking.locator("tbody tr").first.inner_text()
    page.get_by_role("link", name="All ways side by side").click()
    expect(page.get_by_role("region", name="Answers of all ways")).to_be_visible()

    # Weights moved by hand, by the keyboard.
    page.goto(result)
    page.get_by_text("Move the weights yourself").click()
    slider = page.locator(".sliders input[type=range]").first
    before = slider.evaluate("e => e.value")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("#weighed .stat").first).to_be_visible()
    assert slider.evaluate("e => e.value") != before
    page.get_by_role("button", name="Back to what was found").click()
    expect(page.locator("#weighed")).to_contain_text("0.000")
    assert slider.evaluate("e => e.value") == before

    # Published, evaluated again by a worker, and stamped.
    page.goto(result)
    page.get_by_role("link", name="Publish as a recipe").click()
    page.locator("[name=show_examples]").check()
    page.get_by_role("button", name="Publish for everybody").click()
    page.get_by_role("button", name="Verify its evaluation").click()
    stamp = page.locator("#verified .badge.is-good")
    expect(stamp).to_contain_text("matched")

    # The file goes to whoever wants to check it, and comes back under the same name.
    recipe = page.url.split("#")[0]
    file = tmp_path / "recipe.json"
    file.write_bytes(page.request.get(f"{recipe}recipe.json").body())
    bring(page, site, file)
    page.wait_for_url(f"{recipe}*")

    # Elsewhere nothing of it is believed; a worker there finds the same, search and evaluation.
    there = new_context().new_page()
    there.goto(f"{second_site}/accounts/signup/")
    sign_up(there)
    there.wait_for_url(re.compile(r"/(?!accounts/signup)"))
    bring(there, second_site, file)
    there.wait_for_url(recipe.replace(site, second_site) + "*")
    expect(there.get_by_text("You brought this recipe as a file")).to_be_visible()
    expect(there.get_by_text("All of its modules are here")).to_be_visible()
    expect(there.get_by_text("Stated by the file, not checked here")).to_be_visible()
    expect(there.locator("#verified")).to_contain_text("Nobody has had it run again yet")
    there.get_by_role("button", name="Repeat the whole search").click()
    expect(there.locator("#verified .badge.is-good")).to_contain_text("matched")


def test_a_task_with_nothing_held_out_is_measured_by_folds(
    site: str, page: Page, comparative: library.DemoTask
) -> None:
    page.goto(f"{site}/accounts/signup/")
    sign_up(page)
    page.wait_for_url(re.compile(r"/(?!accounts/signup)"))
    page.goto(f"{site}/tasks/new/")
    open_all(page)
    page.get_by_label("Name").fill("By folds")
    page.locator("[name=template]").fill(comparative.template)
    page.locator("[name=shots_text]").fill(
        as_lines([(each.input, each.target) for each in comparative.pool[:6]])
    )
    page.get_by_role("button", name="Save, choose modules myself").click()
    folds = page.locator("[name=test_folds]")
    assert folds.input_value() == "5"
    expect(page.locator("#field-test_folds")).to_contain_text("5 folds are 6 searches")
    folds.fill("2")
    page.get_by_role("button", name="Compose from 6 examples").click()
    page.wait_for_selector("h1.sentence")
    assert page.locator("h1.sentence").inner_text().startswith("Cannot tell from so few")
    expect(page.get_by_text("Measured by 2 folds")).to_be_visible()
