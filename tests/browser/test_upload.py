"""The upload form in a browser: errors stand on the page, cancel stops, no script is needed."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browser.test_journey import sign_up
from tests.modules.conftest import config_bytes, weights_bytes

SEND = "Upload and read them"
NewContext = Callable[..., BrowserContext]


@pytest.fixture
def adapter(tmp_path: Path) -> list[Path]:
    files = {"adapter_config.json": config_bytes(), "adapter_model.safetensors": weights_bytes(41)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return [tmp_path / name for name in files]


def signed_up(site: str, page: Page) -> Page:
    page.goto(f"{site}/accounts/signup/")
    sign_up(page)
    page.goto(f"{site}/upload/")
    return page


def test_a_wrong_file_is_told_on_the_page_and_the_right_one_goes_on(
    site: str, page: Page, adapter: list[Path], tmp_path: Path
) -> None:
    signed_up(site, page)
    (tmp_path / "cut").mkdir()
    short = tmp_path / "cut" / "adapter_model.safetensors"
    short.write_bytes(adapter[1].read_bytes()[:-5])
    page.set_input_files("[name=files]", [adapter[0], short])
    expect(page.locator("[data-list]")).to_contain_text("the weights")
    page.get_by_role("button", name=SEND).click()
    expect(page.locator("#upload-error")).to_contain_text("cut short")
    expect(page.locator("[name=files]")).to_be_focused()
    page.set_input_files("[name=files]", adapter)
    expect(page.locator("#upload-error")).to_have_count(0)
    page.get_by_role("button", name=SEND).click()
    page.wait_for_url("**/upload/?files=*")
    expect(page.locator("main")).to_contain_text("lora-commons/tiny-t5")


def test_a_cancelled_upload_stops_and_may_be_sent_again(
    site: str, page: Page, adapter: list[Path]
) -> None:
    signed_up(site, page)
    held: list[Route] = []
    page.route("**/upload/", lambda route: held.append(route))
    page.set_input_files("[name=files]", adapter)
    page.get_by_role("button", name=SEND).click()
    expect(page.locator("[data-progress]")).to_be_visible()
    expect(page.get_by_role("button", name=SEND)).to_be_disabled()
    page.get_by_role("button", name="Cancel the upload").click()
    expect(page.locator("[data-problem]")).to_have_text("Cancelled. Nothing was stored.")
    expect(page.locator("[data-progress]")).to_be_hidden()
    page.unroute("**/upload/")
    page.get_by_role("button", name=SEND).click()
    page.wait_for_url("**/upload/?files=*")


def test_too_large_a_file_is_not_even_sent(site: str, page: Page, tmp_path: Path) -> None:
    signed_up(site, page)
    large = tmp_path / "adapter_model.safetensors"
    with large.open("wb") as file:
        file.truncate(400_000_000)
    sent: list[Any] = []
    page.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
    page.set_input_files("[name=files]", large)
    expect(page.locator("[data-problem]")).to_contain_text("400 MB")
    page.get_by_role("button", name=SEND).click()
    expect(page.locator("[data-progress]")).to_be_hidden()
    assert sent == []


def test_an_account_without_room_is_told_and_may_send_what_the_site_has(
    site: str, page: Page, adapter: list[Path]
) -> None:
    def nothing_left(route: Route) -> None:
        answer = route.fetch()
        full = re.sub(r'data-left="\d+"', 'data-left="100"', answer.text())
        route.fulfill(response=answer, body=full)

    signed_up(site, page)
    page.route("**/upload/", nothing_left)
    page.reload()
    page.set_input_files("[name=files]", adapter)
    expect(page.locator("[data-problem]")).to_contain_text("you may bring 100 B of new bytes")
    page.unroute("**/upload/")
    page.get_by_role("button", name=SEND).click()
    page.wait_for_url("**/upload/?files=*")


def test_it_works_without_javascript(
    site: str, new_context: NewContext, adapter: list[Path]
) -> None:
    page = signed_up(site, new_context(java_script_enabled=False).new_page())
    page.set_input_files("[name=files]", adapter)
    page.get_by_role("button", name=SEND).click()
    page.fill("[name=name]", "without-script")
    page.get_by_role("button", name="Publish the module").click()
    expect(page.locator("h1")).to_contain_text("without-script")
