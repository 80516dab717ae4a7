"""From the first page to an adapter that loads, with and without JavaScript."""

import json
import os
import re
import secrets
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import BrowserContext, Page, expect

from composer.engine.prompt import normalise_answer

PASSWORD = "correct horse battery"
LOOKS = 300


def sign_up(page: Page) -> str:
    name = f"eve-{secrets.token_hex(4)}"
    page.fill("main [name=username]", name)
    page.fill("main [name=password1]", PASSWORD)
    page.locator("main form [type=submit]").first.click()
    return name


def run_snippet(snippet: str, given: str, folder: Path) -> str:
    """What the page's own snippet prints for an input, in a Python of its own."""
    assert "your input here" in snippet
    script = folder / "use.py"
    script.write_text(snippet.replace("your input here", given), encoding="utf-8")
    own = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=folder,
        env=os.environ | own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def top_logits(folder: Path, prompt: str, token_ids: list[int]) -> list[float]:
    """The first answer token's logits, by PEFT alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    [config] = folder.glob("hf/hub/*/snapshots/*/config.json")  # where the snippet put it
    tokenizer = AutoTokenizer.from_pretrained(config.parent)
    base = AutoModelForSeq2SeqLM.from_pretrained(config.parent)
    model = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
    start = torch.tensor([[base.config.decoder_start_token_id]])
    with torch.inference_mode():
        inputs = tokenizer(prompt, return_tensors="pt")
        logits = model(**inputs, decoder_input_ids=start).logits[0, -1]
    return [float(logits[token]) for token in token_ids]


def test_from_the_first_page_to_an_adapter_that_loads(
    site: str, page: Page, tmp_path: Path
) -> None:
    page.goto(site)
    page.get_by_role("button", name="Try it").first.click()

    # Live: words, bars and curve change without a reload.
    page.evaluate("window.sameDocument = true")
    expect(page.locator("#job-words")).not_to_be_empty()
    page.wait_for_selector("#live-blend, h1.sentence")
    if page.locator("#live-blend").count():
        assert page.evaluate("window.sameDocument")
    sentence = page.locator("h1.sentence").inner_text()
    assert re.search(r"\d+ of \d+", sentence)
    result = page.url
    assert "/jobs/" in result

    # Try it: both models answer.
    page.locator("#try-it textarea").fill("big")
    page.get_by_role("button", name="Answer this input").click()
    expect(page.locator("#try-it table")).to_be_visible()
    expect(page.locator("#said")).to_contain_text("Composed:")

    # Sign up: the guest's work stays.
    page.get_by_role("link", name="Sign up to keep this").click()
    name = sign_up(page)
    page.wait_for_url(result)
    assert page.locator("h1.sentence").inner_text() == sentence
    assert page.locator("#guest-banner").count() == 0

    # Publish.
    page.get_by_role("link", name="Publish as a recipe").click()
    page.get_by_label("Title").fill("Found in a browser")
    page.get_by_role("button", name="Publish for everybody").click()
    expect(page.get_by_role("heading", name="Found in a browser")).to_be_visible()
    expect(page.get_by_role("main").get_by_text(f"by {name}")).to_be_visible()

    # Download, and use it as the page says.
    with page.expect_download() as coming:
        page.get_by_role("link", name="Download the adapter").click()
    archive = tmp_path / "adapter.zip"
    coming.value.save_as(archive)
    with zipfile.ZipFile(archive) as files:
        files.extractall(tmp_path / "adapter")
    snippet = page.locator("section", has_text="How to use it").locator("pre").inner_text()

    page.goto(f"{result}?all=1")
    row = page.locator("#predictions tbody tr").first
    given, composed = row.locator("td").first.inner_text(), row.locator("td").last.inner_text()
    said = run_snippet(snippet, given, tmp_path)
    assert normalise_answer(said) == normalise_answer(composed.replace("(nothing)", ""))

    recipe = json.loads((tmp_path / "adapter" / "recipe.json").read_text())
    probe = recipe["evidence"]["adapter"]["probe"]
    seen = top_logits(tmp_path, probe["prompt"], probe["token_ids"])
    assert max(abs(a - b) for a, b in zip(seen, probe["logits"], strict=True)) < 1e-3


def test_the_whole_way_without_javascript(
    site: str, new_context: Callable[..., BrowserContext]
) -> None:
    page = new_context(java_script_enabled=False).new_page()
    page.goto(site)
    page.get_by_role("button", name="Try it").first.click()
    page.wait_for_selector("h1.sentence")  # the page asks again by itself

    result = page.url
    page.locator("#predictions").get_by_role("link", name="Wrong").click()
    assert "show=wrong" in page.url

    page.locator("#try-it textarea").fill("big")
    page.get_by_role("button", name="Answer this input").click()
    for _ in range(LOOKS):
        page.wait_for_timeout(
            500
        )  # until the answer's own page is there; it never changes by itself
        if page.locator("#try-it table").count():
            break
        page.get_by_role("link", name="Look again").click()
    expect(page.locator("#try-it table")).to_be_visible()

    with page.expect_download() as coming:
        page.get_by_role("link", name="Download the adapter").click()
    assert coming.value.suggested_filename.endswith(".zip")

    page.goto(f"{site}/tasks/new/")
    page.get_by_label("Name").fill("Without a script")
    for place, (given, wanted) in enumerate([("cat", "cats"), ("dog", "dogs")], 1):
        page.get_by_label(f"Input {place}", exact=True).fill(given)
        page.get_by_label(f"Answer {place}", exact=True).fill(wanted)
    before = page.locator("[name=shots_input]").count()
    page.get_by_role("button", name="Add rows").click()
    assert page.locator("[name=shots_input]").count() > before
    assert page.get_by_label("Input 2", exact=True).input_value() == "dog"
    page.get_by_role("button", name="Update the preview").click()
    expect(page.locator("#preview")).to_contain_text("cat")
    page.get_by_role("button", name="Save, choose modules myself").click()
    page.get_by_role("button", name="Compose from 2 examples").click()
    page.wait_for_selector("h1.sentence")
    assert page.url != result
