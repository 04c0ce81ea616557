"""The server's page in a browser: Chromium, driven by Playwright."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from serving import LIMITS, completed, figure, serving, until

import charlstm
from charlstm.serve import ServeConfig

playwright = pytest.importorskip("playwright.sync_api", reason="the browser's tests need playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="the browser's tests need chromium (Debian's package)"
)
if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

expect = playwright.expect
expect.set_options(timeout=20_000)
MARKUP = '<img src=x onerror="document.title=1"></pre><script>document.title=2</script>&amp;'
ODD = "<b>bytes</b>"  # the name of a model
WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""
ENDED = "The length is reached"
NewPage = Callable[..., "Page"]


@pytest.fixture(scope="module")
def bytes_run(tmp_path_factory: pytest.TempPathFactory) -> charlstm.Run:
    """A model of bytes, which writes parts of characters, and whatever a regular expression makes it write."""
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "text.txt").write_text("é😀ü" * 600, encoding="utf-8")
    config = charlstm.Config(
        charlstm.ModelConfig(hidden_size=8, num_layers=1),
        charlstm.DataConfig(tokenizer="bytes", batch_size=4, seq_len=16),
        charlstm.TrainingConfig(max_steps=3),
    )
    return charlstm.train(folder / "text.txt", config, out=folder / "run", backend="numpy", quiet=True)


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


# ---- colours ------------------------------------------------------------------------------------


def probabilities(page: Page) -> list[str]:
    return page.get_by_role("table", name="What could have come").get_by_role("row").all_text_contents()


@pytest.mark.parametrize("before", [False, True], ids=["afterwards", "while it is drawn"])
def test_surprise(page: Page, http: httpx.Client, before: bool) -> None:
    """Colours are those of the API's log-probabilities; alternatives by pointing and by keyboard."""
    asked = {"prompt": "The ", "max_tokens": 60, "seed": 4, "temperature": 0.8}
    choice = completed(http, **asked, logprobs=5)["choices"][0]
    ask(page, Prompt="The ", Length=5 if before else 60, Seed=4)
    expect(status(page)).to_contain_text(ENDED)
    page.get_by_label("Colour by surprise").check()
    if before:
        expect(page.locator(".piece")).to_have_count(5)
        ask(page, Length=60)
    expect(page.locator(".piece")).to_have_count(60)
    assert text(page) == "The " + choice["text"]
    assert page.locator(".piece").all_text_contents() == list(choice["text"])
    bits = [-value / 0.6931471805599453 for value in choice["logprobs"]["token_logprobs"]]
    levels = [sum(value >= limit for limit in (0.5, 1, 2, 4, 7)) for value in bits]
    classes = page.locator(".piece").evaluate_all("all => all.map(({className}) => className)")
    assert [int(re.findall(r"level(\d)", name)[0]) for name in classes] == levels
    expect(page.get_by_role("list", name="Colours: bits of surprise").get_by_role("listitem")).to_have_count(
        6
    )

    slider = page.get_by_role("slider", name="Token")
    best = {k: choice["logprobs"]["top_logprobs"][k] for k in (10, 20)}
    page.locator(".piece").nth(20).hover()
    expect(page.locator("#facts")).to_contain_text(f"{bits[20]:.2f} bits of surprise")
    assert len(probabilities(page)) in (len(best[20]), len(best[20]) + 1)
    page.get_by_role("heading", name="charlstm").hover()
    expect(page.locator("#facts")).to_contain_text(f"{bits[0]:.2f} bits of surprise")
    page.locator(".piece").nth(9).click()
    expect(slider).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_value("10")
    expect(page.locator("#facts")).to_contain_text(f"{bits[10]:.2f} bits of surprise")
    expect(slider).to_have_attribute(
        "aria-valuetext", re.compile(f"{bits[10]:.1f} bits of surprise. Others: ")
    )
    expect(page.locator(".selected")).to_have_attribute("data-piece", "10")
    assert "drawn" in "".join(probabilities(page))
    page.keyboard.press("End")
    expect(slider).to_have_value("59")

    page.get_by_label("Colour by surprise").uncheck()
    expect(page.locator(".piece")).to_have_count(0)
    expect(slider).to_be_hidden()
    assert text(page) == "The " + choice["text"]


def test_colours_asked_for_in_the_middle(page: Page) -> None:
    ask(page, Length=1000)
    page.get_by_label("Colour by surprise").check()
    expect(page.locator(".piece")).to_have_count(1000)
    page.get_by_label("Colour by surprise").uncheck()
    expect(page.locator(".piece")).to_have_count(0)
    assert len(text(page)) == 1000


def test_texts_with_line_feeds_stay_whole(page: Page) -> None:
    """Lines are blocks: what a selection holds, and how high the text is, stays the same."""
    look = """() => { const text = document.querySelector("#text"); getSelection().selectAllChildren(text);
        return [getSelection().toString(), text.getBoundingClientRect().height]; }"""
    ask(page, Prompt="The\n\n", Length=600, Seed=3)
    expect(status(page)).to_contain_text(ENDED)
    before = page.evaluate(look)
    assert before[0] == text(page)
    assert before[0].count("\n") > 5
    page.get_by_label("Colour by surprise").check()
    expect(page.locator(".piece")).to_have_count(600)
    assert page.evaluate(look) == before


# ---- models, links, copies ----------------------------------------------------------------------


def test_several_models(page: Page, http: httpx.Client) -> None:
    choice = page.get_by_label("Model", exact=True)
    assert choice.locator("option").all_text_contents() == ["small", ODD]
    choice.select_option(ODD)
    page.get_by_text(f"About {ODD}").click()
    expect(page.get_by_role("row", name="Network 1 layer of 8 units")).to_be_visible()
    ask(page, Length=30, Seed=1)
    shown(page, drawn(http, model=ODD, max_tokens=30, seed=1, temperature=0.8))


def test_one_model(new_page: NewPage, small_run: charlstm.Run) -> None:
    with serving({"small": small_run}, ServeConfig(max_length=50)) as at:
        page = new_page(at=at)
        expect(page.get_by_label("Model", exact=True)).to_be_hidden()
        expect(page.get_by_label("Length")).to_have_value("50")
        expect(page.locator("#only")).to_have_text("small")
        ask(page, Length=5)
        expect(status(page)).to_contain_text("5 characters,")


def test_the_card(page: Page, small_run: charlstm.Run) -> None:
    page.get_by_text("About small").click()
    table = page.get_by_role("table", name="Facts about the model")
    (best,) = [min(line["val_loss"] for line in small_run.metrics if "val_loss" in line)]
    for row in (
        re.compile(r"Trained on coffee.*characters train"),
        "Network 2 layers of 24 units",
        f"Parameters {small_run.model.num_parameters:,}",
        re.compile("Training 60 steps"),
        f"Loss in validation, lowest {best:.4f} nats per character",
    ):
        expect(table.get_by_role("row", name=row)).to_be_visible()
    curve = page.get_by_role("img", name=re.compile(r"Loss, training from \d\.\d+ to .*, validation from"))
    expect(curve).to_be_visible()
    expect(curve.locator("polyline")).to_have_count(2)
    expect(curve).to_contain_text("nats per character")
    expect(curve).to_contain_text("characters read")


def test_a_model_without_a_run(new_page: NewPage, small_run: charlstm.Run, tmp_path: Path) -> None:
    """A model directory knows its network only."""
    shutil.copytree(small_run.directory / "checkpoints" / "best", tmp_path / "model")
    with serving({"model": charlstm.load(tmp_path / "model", "numpy")}) as at:
        page = new_page(at=at)
        page.get_by_text("About model").click()
        rows = page.get_by_role("table", name="Facts about the model").get_by_role("rowheader")
        assert rows.all_text_contents() == ["Network", "Parameters", "Vocabulary"]
        expect(page.get_by_role("img")).to_have_count(0)


def test_links(new_page: NewPage, http: httpx.Client) -> None:
    """A link shows the same text once it is asked for; what it says is never sent by itself."""
    page = new_page()
    page.get_by_text("Samplers, stop strings").click()
    page.get_by_label("Redraw").check()
    page.get_by_label("Unknown characters").select_option("skip")
    page.get_by_label("Top-p", exact=True).fill("0.9")
    page.get_by_label("Stop strings").fill("zzz\nqqq")
    ask(page, Prompt="The\n&#é+ ", Length=50, Temperature="0.7")
    expect(status(page)).to_contain_text(ENDED)
    page.get_by_label("Colour by surprise").check()
    expect(page.locator(".piece")).to_have_count(50)
    page.get_by_label("Prompt").fill("Something else")  # the link is the text's, not the form's
    button(page, "Share").click()
    expect(status(page)).to_contain_text("The link to this text is copied")
    link = page.url
    assert pasted(page) == link
    other = new_page(link.removeprefix(link.partition("#")[0]))
    asked = requests(other)
    expect(status(other)).to_contain_text("Filled in from the link")
    expect(other.get_by_label("Prompt")).to_have_value("The\n&#é+ ")
    expect(other.get_by_text("(4 set)")).to_be_visible()
    other.wait_for_timeout(100)
    assert asked == []
    assert text(other) == ""
    button(other, "Generate").click()
    expect(other.locator(".piece")).to_have_count(50)
    assert text(other) == text(page)
    other.evaluate("location.hash = '#prompt=A&model=nothing&max_tokens=7&unknown=1&seed=2&temperature=0.8'")
    expect(other.get_by_role("alert")).to_contain_text("The link’s model, nothing, is not here.")
    expect(other.get_by_label("Prompt")).to_have_value("A")
    button(other, "Generate").click()
    shown(other, drawn(http, prompt="A", max_tokens=7, seed=2, temperature=0.8))


@pytest.mark.parametrize("init", ["", "Object.defineProperty(navigator, 'clipboard', {value: undefined});"])
def test_copies(new_page: NewPage, init: str) -> None:
    """With the browser's clipboard, and on plain http, where pages do not have it."""
    page = new_page(init=init)
    ask(page, Prompt="The ", Length=40, Seed=1)
    expect(status(page)).to_contain_text(ENDED)
    button(page, "Copy").click()
    expect(status(page)).to_contain_text("The text is copied.")
    expect(button(page, "Copy")).to_be_focused()
    assert pasted(page) == text(page)


# ---- everybody's page ---------------------------------------------------------------------------


def test_by_keyboard_alone(new_page: NewPage) -> None:
    page = new_page(permissions=["clipboard-write"])
    for name in ("Model", "Prompt"):
        page.keyboard.press("Tab")
        expect(page.get_by_label(name, exact=True)).to_be_focused()
    page.keyboard.type("The ")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Length")).to_be_focused()
    page.keyboard.type("30")
    page.keyboard.press("ControlOrMeta+Enter")
    expect(status(page)).to_contain_text("30 characters,")
    for control in (
        page.get_by_label("Temperature"), page.get_by_label("Seed"), page.locator("summary").first,
        button(page, "Generate"), button(page, "Regenerate"), button(page, "Copy"), button(page, "Share"),
        page.get_by_label("Colour by surprise"),
    ):  # fmt: skip
        page.keyboard.press("Tab")
        expect(control).to_be_focused()
        assert control.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    page.keyboard.press("Space")
    expect(page.locator(".piece")).to_have_count(30)
    page.keyboard.press("Tab")
    expect(page.get_by_role("slider", name="Token")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".selected")).to_have_attribute("data-piece", "1")
    ask(page, Length=100_000)
    button(page, "Stop").press("Enter")  # which is disabled then, and gives its focus back
    expect(status(page)).to_contain_text("Stopped. ")
    expect(button(page, "Generate")).to_be_focused()


def test_what_a_screen_reader_is_told(page: Page) -> None:
    page.get_by_text("Samplers, stop strings").click()
    for role, names in {
        "combobox": ["Model", "Unknown characters"],
        "textbox": ["Prompt", "Temperature", "Stop strings", "Regular expression"],
        "spinbutton": ["Length", "Seed", "Top-k", "Top-p", "Typical", "Min-p", "Repetition penalty",
                       "No repeated n-gram", "Repetition window"],
        "checkbox": ["Redraw"],
        "button": ["Generate", "Stop"],
    }.items():  # fmt: skip
        assert page.get_by_role(role).count() == len(names)  # type: ignore[arg-type]
        for name in names:
            expect(page.get_by_role(role, name=name, exact=True)).to_be_visible()  # type: ignore[arg-type]
    page.evaluate(
        """() => { window.said = []; const status = document.querySelector("[role=status]");
        new MutationObserver(() => said.push(status.textContent))
          .observe(status, {subtree: true, childList: true, characterData: true}); }"""
    )
    ask(page, Length=300, Seed=1)
    expect(status(page)).to_contain_text(ENDED)
    # the beginning and the end, not every character
    assert page.evaluate("said") == ["Writing …", "The length is reached. 300 characters, seed 1."]
    assert page.locator("[aria-live], [role=log]").count() == 0


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone(new_page: NewPage, width: int) -> None:
    page = new_page(viewport={"width": width, "height": 844}, has_touch=True, is_mobile=True)
    page.get_by_text("About small").tap()
    page.get_by_text("Samplers, stop strings").tap()
    for name, value in {"Prompt": "x" * 200, "Length": "150"}.items():
        page.get_by_label(name, exact=True).fill(value)
    button(page, "Generate").tap()
    expect(status(page)).to_contain_text(ENDED)
    page.get_by_label("Colour by surprise").tap()
    expect(page.locator(".piece")).to_have_count(150)
    page.locator(".piece").nth(7).tap()
    expect(page.get_by_role("slider", name="Token")).to_have_value("7")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    expect(page.get_by_role("slider", name="Token")).to_be_in_viewport()
    for name in ("Generate", "Copy", "Share"):
        box = button(page, name).bounding_box()
        assert box is not None
        assert box["height"] >= 44


CONTRAST = """() => {
  const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = (one) => { const color = getComputedStyle(one).backgroundColor;
    return color.includes(", 0)") ? behind(one.parentElement) : color; };
  return [...document.querySelectorAll("main *")].filter((one) => one.checkVisibility() && !one.disabled
      && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim())
    ).map((one) => { const style = getComputedStyle(one);
      const [a, b] = [light(one.matches("svg *") ? style.fill : style.color), light(behind(one))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), one.tagName + "." + one.className]; }); }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(new_page: NewPage, scheme: str) -> None:
    """4.5 to 1 or more (WCAG AA), colours of surprise and messages included."""
    page = new_page(color_scheme=scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is (scheme == "light")
    page.get_by_text("About small").click()
    page.get_by_text("Samplers, stop strings").click()
    ask(page, Prompt="The ", Length=100)
    expect(status(page)).to_contain_text(ENDED)
    page.get_by_label("Colour by surprise").check()
    expect(page.locator(".piece")).to_have_count(100)
    page.evaluate("location.hash = '#model=nothing&regex=%5B&surprise=1'")
    expect(page.get_by_role("alert")).not_to_be_empty()
    found = page.evaluate(CONTRAST)
    assert len(found) > 100
    assert [one for one in found if one[0] < 4.5] == []
