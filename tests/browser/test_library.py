"""An author's whole way in a browser: upload by dropping files, be found, be liked, go again."""

import base64
import io
import json
import secrets
import urllib.request
import zipfile

import numpy as np
from playwright.sync_api import Page, expect
from safetensors.numpy import load, save

from tests.browser.test_journey import sign_up

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def an_adapter(site: str) -> dict[str, bytes]:
    """The files of a LoRA that nobody has yet: a demo module's, each factor a little larger."""
    with urllib.request.urlopen(f"{site}/api/v1/modules/?page_size=1") as answer:
        name = json.load(answer)["results"][0]["name"]
    with urllib.request.urlopen(f"{site}/{name}/download.zip") as answer:
        files = zipfile.ZipFile(io.BytesIO(answer.read()))
    factor = np.float32(1 + secrets.randbelow(1000) / 10_000)
    tensors = {key: value * factor for key, value in load(files.read(WEIGHTS)).items()}
    return {CONFIG: files.read(CONFIG), WEIGHTS: save(tensors)}


def drop(page: Page, files: dict[str, bytes]) -> None:
    """Let go of files over the drop zone, as a mouse does."""
    data = {name: base64.b64encode(content).decode() for name, content in files.items()}
    transfer = page.evaluate_handle(
        """data => {
            const transfer = new DataTransfer();
            for (const [name, text] of Object.entries(data)) {
                const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
                transfer.items.add(new File([bytes], name));
            }
            return transfer;
        }""",
        data,
    )
    page.dispatch_event("[data-drop]", "drop", {"dataTransfer": transfer})


def test_an_author_uploads_is_found_liked_and_collected_and_deletes(site: str, page: Page) -> None:
    page.goto(f"{site}/accounts/signup/")
    author = sign_up(page)
    name = f"contrary-{secrets.token_hex(3)}"

    page.goto(f"{site}/upload/")
    drop(page, an_adapter(site))
    expect(page.locator("[data-list]")).to_contain_text(WEIGHTS)
    page.get_by_role("button", name="Upload and read them").click()
    page.wait_for_url("**/upload/?files=*")
    page.fill("main [name=name]", name)
    page.fill("main [name=description]", f"Answers with the {name} of a word.")
    page.locator("main [name=tags]").press_sequentially("contrary, word")
    suggested = page.locator("#tag-options option[value='contrary, word-relations']")
    expect(suggested).to_have_count(1)  # a tag of the demo modules, offered while one types
    page.fill("main [name=tags]", "contrary, words")
    page.get_by_role("button", name="Publish the module").click()

    # The check ends while the author looks on.
    page.wait_for_url(f"{site}/{author}/{name}")
    expect(page.locator(".check-lines")).to_contain_text("values are finite")
    expect(page.locator("#module-status")).not_to_contain_text("being checked")

    # Somebody finds it by its words, and narrows the list by a facet.
    page.goto(f"{site}/modules/?q={name[:11]}")
    page.locator("aside a[href*='tag=contrary']:visible").first.click()
    expect(page.locator("[href*='tag=contrary'][aria-current]:visible").first).to_be_visible()
    page.get_by_role("link", name=name).first.click()
    page.wait_for_url(f"{site}/{author}/{name}")

    page.get_by_role("button", name="Like 0").click()
    expect(page.get_by_role("button", name="Liked 1")).to_be_visible()

    page.get_by_text("Add to a collection").click()
    page.get_by_role("link", name="Begin a collection with it").click()
    page.fill("main [name=title]", "Contrary words")
    page.locator("main form [type=submit], main form button.is-primary").first.click()
    page.wait_for_url(f"{site}/collections/{author}/contrary-words/")
    expect(page.locator("main")).to_contain_text(name)

    # A new version: other weights; the history says what changed.
    page.goto(f"{site}/{author}/{name}/upload")
    drop(page, {WEIGHTS: an_adapter(site)[WEIGHTS]})
    page.get_by_role("button", name="Upload and read them").click()
    page.wait_for_url("**/upload?files=*")
    page.fill("[name=message]", "A little louder")
    page.get_by_role("button", name="Publish this version").click()
    page.wait_for_url(f"{site}/{author}/{name}")
    page.goto(f"{site}/{author}/{name}/commits")
    expect(page.locator("main")).to_contain_text("A little louder")
    expect(page.locator("main")).to_contain_text(WEIGHTS)

    page.goto(f"{site}/{author}/{name}/settings")
    page.fill("[name=confirm]", name)
    page.get_by_role("button", name=f"Delete {name}").click()
    page.wait_for_url(f"{site}/{author}")
    gone = page.request.get(f"{site}/{author}/{name}")
    assert gone.status == 404
    page.goto(f"{site}/collections/{author}/contrary-words/")
    expect(page.locator("main")).not_to_contain_text(name)
