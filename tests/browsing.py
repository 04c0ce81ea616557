"""What people do with the server's page in a browser, and what they see, for tests with Playwright."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from serving import completed

playwright = pytest.importorskip("playwright.sync_api", reason="the browser's tests need playwright")
if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

expect = playwright.expect
expect.set_options(timeout=20_000)
ODD = "<b>bytes</b>"  # the name of a model
ENDED = "The length is reached"
NewPage = Callable[..., "Page"]


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def ask(page: Page, **fields: object) -> None:
    """Fill in fields by their labels, and generate."""
    for name, value in fields.items():
        page.get_by_label(name.replace("_", " "), exact=True).fill(str(value))
    button(page, "Generate").click()


def status(page: Page) -> Locator:
    return page.get_by_role("status")


def text(page: Page) -> str:
    return page.get_by_role("group", name="Text").text_content() or ""


def requests(page: Page) -> list[dict[str, Any]]:
    """What the page asks for from now on."""
    asked: list[dict[str, Any]] = []

    def note(request: Any) -> None:
        if request.method == "POST":
            asked.append(request.post_data_json)

    page.on("request", note)
    return asked


def drawn(http: httpx.Client, **asked: Any) -> str:
    """The text that the API gives, after its prompt."""
    return asked.get("prompt", "") + str(completed(http, **asked)["choices"][0]["text"])


def shown(page: Page, expected: str) -> None:
    expect(status(page)).to_contain_text(ENDED)
    assert text(page) == expected


def pasted(page: Page) -> str:
    """What is in the clipboard."""
    page.get_by_label("Prompt").fill("")
    page.get_by_label("Prompt").press("ControlOrMeta+v")
    return page.get_by_label("Prompt").input_value()
