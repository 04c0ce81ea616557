"""The server's page in a browser: texts, and what goes wrong with them."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from browsing import ENDED, ODD, NewPage, ask, button, drawn, expect, requests, shown, status, text
from serving import figure, serving, until

import charlstm
from charlstm.serve import ServeConfig

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest_plugins = ["browser_fixtures"]

MARKUP = '<img src=x onerror="document.title=1"></pre><script>document.title=2</script>&amp;'


# ---- text ---------------------------------------------------------------------------------------


def test_generating(new_page: NewPage, http: httpx.Client) -> None:
    """Piece by piece, and in the end the text that the API gives for the seed."""
    page = new_page(reduced_motion="no-preference")
    page.evaluate(
        """() => { window.sizes = []; const text = document.querySelector("#text");
        new MutationObserver(() => sizes.push(text.textContent.length))
          .observe(text, {subtree: true, childList: true, characterData: true}); }"""
    )
    ask(page, Prompt="The ", Length=200, Seed=3)
    shown(page, drawn(http, prompt="The ", max_tokens=200, seed=3, temperature=0.8))
    expect(status(page)).to_have_text("The length is reached. 200 characters, seed 3.")
    sizes = page.evaluate("sizes")
    assert sizes == sorted(sizes)
    assert len(sizes) > 5
    assert page.locator("#text .prompt").text_content() == "The "
    asked = requests(page)
    button(page, "Regenerate").click()
    expect(status(page)).to_have_text(re.compile(r".* 200 characters, seed (?!3\.)\d+\."))
    assert [("seed" in one, one["prompt"], one["max_tokens"]) for one in asked] == [(False, "The ", 200)]


def test_stopping(page: Page, http: httpx.Client) -> None:
    """By button and by Escape; the server draws no more of it, and nothing more appears."""
    for stop in (lambda: button(page, "Stop").click(), lambda: page.keyboard.press("Escape")):
        ask(page, Length=100_000)
        expect(page.locator("#text .drawn")).to_have_text(re.compile(".{40}", re.DOTALL))
        expect(button(page, "Stop")).to_be_enabled()
        stop()
        expect(status(page)).to_contain_text("Stopped. ")
        until(lambda: figure(http, 'charlstm_active_texts{model="small"}') == 0)
        before = text(page)
        assert 40 <= len(before) < 100_000
        expect(button(page, "Stop")).to_be_disabled()
        page.wait_for_timeout(100)
        assert text(page) == before
    page.get_by_label("Colour by surprise").check()  # draws as much of it again
    expect(page.locator(".piece")).to_have_count(len(before))
    assert text(page) == before
    until(lambda: figure(http, 'charlstm_active_texts{model="small"}') == 0)
    ask(page, Length=5)
    expect(status(page)).to_contain_text("5 characters,")


def test_a_text_gives_way_to_the_next(page: Page, http: httpx.Client) -> None:
    ask(page, Length=100_000)
    expect(page.locator("#text .drawn")).not_to_be_empty()
    ask(page, Length=10, Seed=1)
    shown(page, drawn(http, max_tokens=10, seed=1, temperature=0.8))
    until(lambda: figure(http, 'charlstm_active_texts{model="small"}') == 0)


def test_parameters(page: Page) -> None:
    """What is filled in is sent, and what is empty is not; the same seed gives the same text."""
    asked = requests(page)
    texts = []
    for temperature in ("0.5", "0.5", "1.5", "0.5,1.5"):
        ask(page, Prompt="The ", Length=80, Temperature=temperature, Seed=9)
        expect(status(page)).to_contain_text(ENDED)
        texts.append(text(page))
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3
    base = {"model": "small", "prompt": "The ", "max_tokens": 80, "seed": 9, "stream": True}
    assert asked == [{**base, "temperature": t} for t in (0.5, 0.5, 1.5, "0.5,1.5")]
    page.get_by_text("Samplers, stop strings").click()
    samplers = {
        "Top-k": 20, "Top-p": 0.9, "Typical": 0.95, "Min-p": 0.01, "Repetition penalty": 1.1,
        "No repeated n-gram": 9, "Repetition window": 64,
    }  # fmt: skip
    for name, value in samplers.items():
        page.get_by_label(name, exact=True).fill(str(value))
    page.get_by_label("Stop strings").fill("\\n\\n\nzz\\\\n")
    page.get_by_label("Regular expression").fill("[a-zA-Z .,]+")
    page.get_by_label("Redraw").check()
    page.get_by_label("Unknown characters").select_option("skip")
    ask(page, Prompt="Thé ", Length="", Temperature="", Seed="")
    expect(status(page)).to_contain_text(", seed ")
    assert asked[-1] == {
        "model": "small", "prompt": "Thé ", "top_k": 20, "top_p": 0.9, "typical": 0.95, "min_p": 0.01,
        "repetition_penalty": 1.1, "no_repeat_ngram": 9, "repetition_window": 64, "stop": ["\n\n", "zz\\n"],
        "regex": "[a-zA-Z .,]+", "redraw": True, "on_unknown": "skip", "stream": True,
    }  # fmt: skip
    expect(page.get_by_text("(11 set)")).to_be_visible()


def test_why_a_text_ended(page: Page, http: httpx.Client) -> None:
    page.get_by_text("Samplers, stop strings").click()
    whole = drawn(http, max_tokens=60, seed=2, temperature=0.8)
    ask(page, Stop_strings=whole[30:33], Length=60, Seed=2)
    expect(status(page)).to_contain_text("A stop string came.")
    assert text(page) == whole[: whole.find(whole[30:33])]
    ask(page, Stop_strings="", Regular_expression="[a-z]{3}")
    expect(status(page)).to_contain_text("The expression has matched.")
    assert re.fullmatch("[a-z]{3}", text(page))


# ---- what goes wrong ----------------------------------------------------------------------------


BAD = [
    ("Prompt", "Thé", "not in the vocabulary", True),
    ("Prompt", "a" * 301, "at most 300", True),
    ("Length", "100001", "100000", False),
    ("Length", "-1", "0", False),
    ("Length", "2.5", "valid value", False),
    ("Temperature", "warm", "0.5,1.0 (in turn)", True),
    ("Temperature", "-1", "0 or more", True),
    ("Temperature", "1e999", "finite", True),
    ("Seed", "1e17", "less than or equal", False),
    ("Top-p", "0", "above 0", True),
    ("Min-p", "2", "1", False),
    ("Repetition penalty", "0", "0.01", False),
    ("Regular expression", "[", "cannot be read", True),
    ("Regular expression", "(?=a)b", "lookahead", True),
    ("Stop strings", "a\n" * 17, "at most 16", True),
]  # field, what is wrong, what is told, whether the server tells it


def test_bad_input(page: Page) -> None:
    """What is wrong stands beside the field, which has the focus; put right, it is gone."""
    asked = requests(page)
    for field, value, message, from_server in BAD:
        place = page.get_by_label(field, exact=True)
        before = place.input_value()
        page.evaluate("document.querySelector('#further').open = true")
        place.fill(value)
        page.evaluate("document.querySelector('#further').open = false")
        button(page, "Generate").click()
        expect(place).to_be_focused()
        expect(place).to_have_attribute("aria-invalid", "true")
        expect(place).to_have_accessible_description(re.compile(re.escape(message)))
        assert len(asked) == from_server
        place.fill(before)
        expect(page.locator(".wrong")).to_have_count(0)
        expect(place).not_to_have_attribute("aria-invalid", "true")
        asked.clear()
    ask(page, Length=3)
    expect(status(page)).to_contain_text("3 characters,")


def test_what_is_no_number(page: Page) -> None:
    page.get_by_label("Length").fill("")
    page.get_by_label("Length").press_sequentially("1e")
    button(page, "Generate").click()
    expect(page.get_by_label("Length")).to_have_accessible_description(re.compile("number"))


def answered(answer: dict[str, Any], route: Any) -> None:
    route.fulfill(**answer)


def test_refusals_that_no_field_stands_for(page: Page) -> None:
    refusal = {"error": {"message": "too many <b>requests</b>", "type": "", "param": "n", "code": None}}
    for answer, message in [
        ({"status": 429, "json": refusal}, "too many <b>requests</b>"),
        ({"status": 502, "body": "<html>Bad gateway"}, "The server answers with status 502."),
        ({"status": 200, "body": 'data: {"error": {"message": "the model failed"}}\n\n'}, "the model failed"),
    ]:
        page.route("**/v1/completions", partial(answered, answer), times=1)
        ask(page, Length=5)
        expect(page.get_by_role("alert")).to_have_text(message)
    ask(page, Length=5)
    expect(status(page)).to_contain_text("5 characters,")
    expect(page.get_by_role("alert")).to_be_empty()


def test_a_key(new_page: NewPage, small_run: charlstm.Run) -> None:
    with serving({"small": small_run}, ServeConfig(api_key="secret")) as at:
        page = new_page(at=at, http_credentials={"username": "anybody", "password": "secret"})
        ask(page, Length=5)
        expect(status(page)).to_contain_text("5 characters,")

        def as_if_cancelled(route: Any) -> None:
            """Who has no key is asked by the browser; after that the page gets the answer."""
            answer = route.fetch(headers={**route.request.headers, "authorization": "Bearer wrong"})
            assert (answer.status, "www-authenticate" in answer.headers) == (401, True)
            route.fulfill(status=401, body=answer.body())

        page.route("**/v1/completions", as_if_cancelled)
        ask(page, Length=5)
        expect(page.get_by_role("alert")).to_contain_text("The server asks for its key: reload the page")


def test_a_server_that_goes_away(new_page: NewPage, small_run: charlstm.Run) -> None:
    """What has come stays, the page says what happened, and works again when the server does."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]

    def started() -> subprocess.Popen[str]:
        running = subprocess.Popen(
            [
                sys.executable, "-m", "charlstm", "serve", str(small_run.directory), "--port", str(port),
                "--backend", "numpy", "--max-length", "10000000",
            ],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert running.stderr is not None
        assert "http://" in running.stderr.readline()
        return running

    def killed(running: subprocess.Popen[str]) -> None:
        running.kill()
        running.wait()
        running.stderr.close()  # type: ignore[union-attr]

    running = started()
    try:
        page = new_page(at=f"http://127.0.0.1:{port}")
        ask(page, Length=10**7)
        expect(page.locator("#text .drawn")).to_have_text(re.compile(".{40}", re.DOTALL))
        killed(running)
        expect(page.get_by_role("alert")).to_contain_text("The connection to the server broke off")
        before = text(page)
        assert len(before) >= 40
        expect(button(page, "Stop")).to_be_disabled()
        ask(page, Length=5)
        expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
        assert text(page) == before
        running = started()
        ask(page, Length=5)
        expect(status(page)).to_contain_text("5 characters,")
        expect(page.get_by_role("alert")).to_be_empty()
    finally:
        killed(running)


@pytest.mark.parametrize("colour", [False, True])
def test_markup_is_text(page: Page, colour: bool) -> None:
    """In prompts, in what is drawn, in alternatives, and in the names of models."""
    page.get_by_label("Model", exact=True).select_option(ODD)
    page.get_by_text("Samplers, stop strings").click()
    ask(page, Prompt=MARKUP, Length=100, Regular_expression=re.escape(MARKUP + "é😀"), Seed=1)
    expect(status(page)).to_contain_text("The expression has matched")
    if colour:
        page.get_by_label("Colour by surprise").check()
        expect(page.locator(".piece")).to_have_count(len(MARKUP) + 2)
        page.locator(".piece").last.click()  # four bytes are one piece
        expect(page.get_by_role("table", name="What could have come").locator("tbody")).to_have_count(4)
        expect(page.locator("tr.taken")).to_have_count(4)
    assert text(page) == MARKUP + MARKUP + "é😀"
    assert page.title() == "charlstm"
    assert page.locator("main img, main script, main b:not(#facts b)").count() == 0
