"""Fixtures of tests with a browser: Chromium, driven by Playwright, and a server of two models."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from browsing import ODD, NewPage, expect, playwright
from serving import LIMITS, serving

import charlstm

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM = shutil.which("chromium")
WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""


@pytest.fixture(scope="module")
def address(small_run: charlstm.Run, bytes_run: charlstm.Run) -> Iterator[str]:
    with serving({"small": small_run, ODD: bytes_run}, LIMITS) as address:
        yield address


@pytest.fixture(scope="module")
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("the browser's tests need chromium (Debian's package)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-quic"])
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser: Browser, address: str) -> Iterator[NewPage]:
    """Opens the page. Nothing may go wrong in it: no error, nothing that the server's policy forbids."""
    opened: list[BrowserContext] = []
    wrong: list[str] = []

    def told(message: Any) -> None:
        # that a request was refused is told there as well
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            wrong.append(message.text)

    def open_page(fragment: str = "", at: str = address, init: str = "", **options: Any) -> Page:
        # without motion a text is there as soon as it has come
        context = browser.new_context(**{"reduced_motion": "reduce", **options})
        context.add_init_script(WATCH + init)
        context.set_default_timeout(20_000)
        opened.append(context)
        page = context.new_page()
        page.on("console", told)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{at}/{fragment}")
        expect(page.locator("#card-facts tr")).not_to_have_count(0)
        return page

    yield open_page
    for context in opened:
        for page in context.pages:
            wrong += page.evaluate("violations")
        context.close()
    assert wrong == []


@pytest.fixture
def page(new_page: NewPage) -> Page:
    return new_page()
