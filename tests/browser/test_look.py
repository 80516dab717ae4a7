"""What every page promises, seen in a browser: it fits, obeys the policy, works by keyboard."""

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect, sync_playwright

from composer.models import FewShotTask, Ingredient, Recipe
from hub_site.accounts.models import Namespace, User
from modules.models import BaseModel, Commit, LoraModule, Ref, Repo

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

PUBLIC = ["/", "/modules/", "/recipes/", "/tasks/", "/tasks/new/", "/ada/past-tense", "/ada"]
PUBLIC += ["/accounts/login/", "/accounts/signup/", "/accounts/password/reset/", "/nothing/here/x"]
WIDER_THAN_THE_SCREEN = """() => [...document.querySelectorAll("body *")]
  .filter((e) => !e.closest(".visually-hidden, .scroll-x, pre, .hint, .site-nav"))
  .filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map((e) => e.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
    if path is None:
        pytest.fail("These tests need a browser: apt-get install chromium")
    # Playwright keeps an event loop in this thread, and Django then refuses the database in it.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    try:
        with sync_playwright() as playwright:
            arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run"]
            browser = playwright.chromium.launch(executable_path=path, args=arguments)
            yield browser
            browser.close()
    finally:
        os.environ.pop("DJANGO_ALLOW_ASYNC_UNSAFE", None)


@pytest.fixture
def library() -> Recipe:
    """One user with a module, a published recipe with a long name, and a demo task."""
    user = User.objects.create_user("ada", password="correct horse battery")
    owner = Namespace.objects.get_or_create(name="ada", kind=Namespace.USER, user=user)[0]
    base = BaseModel.objects.create(name="ada/a-rather-long-base-name", source=BaseModel.FOLDER)
    FewShotTask.objects.create(demo_key="shout", name="Opposites, loud", base_model=base)
    recipe = Recipe.objects.create(
        digest="c" * 64,
        document={},
        title="Somethingwithaverylongnamewithoutanyspaceinit",
        base_model=base,
        published_at=timezone.now(),
        published_by=user,
    )
    for position, name in enumerate(("past-tense", "antonyms", "a-module-with-a-very-long-name")):
        repo = Repo.objects.create(owner=owner, name=name, kind=Repo.LORA)
        commit = Commit.objects.create(repo=repo, sha=f"{position:040}", created_at=timezone.now())
        Ref.objects.create(repo=repo, kind=Ref.BRANCH, name="main", commit=commit)
        module = LoraModule.objects.create(
            repo=repo,
            commit=commit,
            status=LoraModule.READY,
            base_model=base,
            base_model_name=base.name,
            r=8,
            lora_alpha=16,
            weights_sha256="a" * 64,
            published_at=timezone.now(),
        )
        Ingredient.objects.create(
            recipe=recipe,
            position=position,
            lora_module=module,
            name=str(module),
            revision="b" * 40,
            weights_sha256="a" * 64,
            weight=0.7 - position,
        )
    return recipe


@pytest.fixture
def open_page(browser: Browser, live_server: object) -> Iterator[Callable[..., Page]]:
    contexts = []

    def open_page(path: str, width: int = 1280, **options: object) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                page.complaints.append(message.text)
                if message.type == "error" and "404" not in message.text
                else None
            ),
        )
        page.goto(f"{live_server}{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [320, 1600])
def test_every_public_page_fits_the_screen_and_obeys_the_policy(
    open_page: Callable[..., Page], library: Recipe, width: int
) -> None:
    for path in PUBLIC:
        page = open_page(path, width)
        assert page.evaluate(WIDER_THAN_THE_SCREEN) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.complaints == [], path
        assert page.locator("h1").count() == 1, path
        assert page.locator("main, nav, footer").count() >= 3, path


def test_a_term_says_its_phrase_on_focus(open_page: Callable[..., Page], library: Recipe) -> None:
    page = open_page("/", 360)
    term = page.locator(".lede .term").first
    hint = term.locator(".hint")
    expect(hint).to_be_hidden()
    term.focus()
    expect(hint).to_be_visible()
    box = hint.bounding_box()
    assert box is not None
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360


def test_the_first_tab_leads_past_the_navigation(
    open_page: Callable[..., Page], library: Recipe
) -> None:
    page = open_page("/")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


def test_the_user_menu_opens_without_javascript(
    open_page: Callable[..., Page], library: Recipe, live_server: object
) -> None:
    page = open_page("/accounts/login/", 320, java_script_enabled=False)
    page.fill("[name=login]", "ada")
    page.fill("[name=password]", "correct horse battery")
    page.click("main button[type=submit]")
    page.click(".menu summary")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    expect(page.locator("[data-copy]").first).to_be_hidden()


def test_the_menu_closes_on_escape(open_page: Callable[..., Page], library: Recipe) -> None:
    page = open_page("/accounts/login/")
    page.fill("[name=login]", "ada")
    page.fill("[name=password]", "correct horse battery")
    page.click("main button[type=submit]")
    page.click(".menu summary")
    expect(page.get_by_role("link", name="Your profile")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="Your profile")).to_be_hidden()
    expect(page.locator(".menu summary")).to_be_focused()


def test_a_hash_is_copied_whole(open_page: Callable[..., Page], library: Recipe) -> None:
    sha = f"{0:040}"
    page = open_page("/ada/past-tense", permissions=["clipboard-read", "clipboard-write"])
    page.locator(f'[data-copy="{sha}"]').first.click()
    expect(page.locator("#said")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == sha


def test_pigments_differ_between_the_themes_and_names_keep_theirs(
    open_page: Callable[..., Page], library: Recipe
) -> None:
    colour = "getComputedStyle(document.querySelector('.newest .blend rect')).fill"
    light = open_page("/", color_scheme="light").evaluate(colour)
    dark = open_page("/", color_scheme="dark").evaluate(colour)
    assert light.startswith("oklch(0.61") and dark.startswith("oklch(0.73")
    assert light.split()[-1] == dark.split()[-1]
