"""A real site (`manage.py serve`: database, web, worker, demo library) and a real Chromium."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent.parent
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
WIDE = {"width": 1280, "height": 800}
PATIENCE = 240  # seconds; machines that run tests can be very slow
expect.set_options(timeout=PATIENCE * 1000)
OURS = ("DATABASE_URL", "BROKER_URL", "BLOB_DIR", "CACHE_DIR", "DEBUG", "DEMO", "SITE_URL")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class Result:
    """What one click on the demo came to, and the session of the guest who clicked."""

    url: str
    task_url: str
    state: Any


def _environment(var: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    return kept | {
        "VAR_DIR": str(var),
        "PORT": str(_free_port()),
        "HOST": "127.0.0.1",
        "ENV_FILE": os.devnull,
        "DJANGO_SETTINGS_MODULE": "hub_site.settings",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "GUEST_QUEUED_JOBS": "20",
    }


@contextmanager
def _served(environment: dict[str, str]) -> Iterator[str]:
    log = Path(environment["VAR_DIR"], "serve.log")
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "manage.py", "serve"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{environment['PORT']}"
    try:
        _wait_until_ready(address, server, log)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def site_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the site of this test run is started with; its commands need the same."""
    return _environment(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def site(site_environment: dict[str, str]) -> Iterator[str]:
    """The address of a site of this test run's own."""
    with _served(site_environment) as address:
        yield address


@pytest.fixture
def second_site(tmp_path: Path) -> Iterator[str]:
    """Another site, of which the first knows nothing: its own database, files, people, worker."""
    (tmp_path / "second").mkdir()
    with _served(_environment(tmp_path / "second")) as address:
        yield address


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _wait_until_ready(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/healthz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"The site did not become ready:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.fail("These tests need Chromium: apt-get install chromium")
    # Playwright leaves an event loop in this thread until the session ends, and Django then takes
    # whatever other tests ask of the database for calls out of a coroutine.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=QUIET)


@pytest.fixture
def new_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Contexts whose pages may say nothing on the console and break no security policy."""
    opened, complaints = [], []

    def make(**options: Any) -> BrowserContext:
        context = browser.new_context(**{"viewport": WIDE, **options})
        context.set_default_timeout(PATIENCE * 1000)
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on("console", lambda message: complaints.extend(_complaint(message)))
        opened.append(context)
        return context

    yield make
    for context in opened:
        context.close()
    assert not complaints


def _complaint(message: Any) -> list[str]:
    where = message.page.url if message.page else ""
    # A page may itself be the answer "not found" or "mend this form"; what it loads may not.
    is_the_page = message.text.startswith("Failed to load") and message.location["url"] == where
    is_fault = message.type in ("error", "warning") and not is_the_page
    return [f"{where}: {message.text}"] if is_fault else []


@pytest.fixture
def page(new_context: Callable[..., BrowserContext]) -> Page:
    return new_context().new_page()


@pytest.fixture(scope="session")
def result(site: str, browser: Browser) -> Result:
    """One composition of the first demo task, for all tests that only look."""
    context = browser.new_context(viewport=WIDE)
    context.set_default_timeout(PATIENCE * 1000)
    page = context.new_page()
    page.goto(site)
    page.get_by_role("button", name="Try it").first.click()
    page.wait_for_selector("h1.sentence")
    task = page.locator("nav.crumbs a").nth(1).get_attribute("href")
    found = Result(page.url, f"{site}{task}", context.storage_state())
    context.close()
    return found
