"""The server's page in a real browser: Chromium, driven by Playwright."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import LIMITS, completed, figure, serving, until

import charlstm
from charlstm.serve import ServeConfig

playwright = pytest.importorskip(
    "playwright.sync_api", reason='Playwright is not installed (pip install -e ".[test]")'
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (apt-get install chromium)")
HTML = "<img src=x onerror=alert(1)></pre><script>alert(2)</script>&amp;"
expect = playwright.expect
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def markup_run(tmp_path_factory: pytest.TempPathFactory) -> charlstm.Run:
    """A run whose vocabulary has what markup is made of."""
    folder = tmp_path_factory.mktemp("markup")
    (folder / "markup.txt").write_text(HTML * 40)
    config = charlstm.Config(
        charlstm.ModelConfig(hidden_size=8, num_layers=1),
        charlstm.DataConfig(batch_size=4, seq_len=16),
        charlstm.TrainingConfig(max_steps=3),
    )
    return charlstm.train(folder / "markup.txt", config, out=folder / "run", backend="numpy", quiet=True)


@pytest.fixture(scope="module")
def address(small_run: charlstm.Run, markup_run: charlstm.Run) -> Iterator[str]:
    with serving({"small": small_run, "markup": markup_run}, LIMITS) as address:
        yield address


@pytest.fixture(scope="module")
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-quic"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Opens pages; fails where one of them complains, runs what it should not, or breaks its policy."""
    contexts, complaints = [], []

    def complain(message: Any) -> None:
        # what a test provokes: an answer that is an error is also told on the console
        if message.type == "error" and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    def new(url: str, **options: Any) -> Any:
        context = browser.new_context(**{"reduced_motion": "reduce", **options})
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", complain)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.goto(url)
        return page

    yield new
    for context in contexts:
        context.close()
    assert complaints == []


def fill(page: Any, **fields: Any) -> None:
    for label, text in fields.items():
        field = page.get_by_label(label.replace("_", " "), exact=True)
        if not field.is_visible():
            page.get_by_text("Samplers, stop strings, expressions").click()
        field.fill(str(text))


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def drawn(page: Any, **fields: Any) -> str:
    """The text that the page has once it is whole."""
    fill(page, **fields)
    press(page, "Generate")
    expect(page.get_by_role("status")).to_contain_text(re.compile(r"characters?, seed \d+"))
    text: str = page.locator("#text .drawn").text_content()
    return text


def test_a_text_is_that_of_its_seed(visit: Open, http: httpx.Client, address: str) -> None:
    page = visit(address)
    text = drawn(page, Prompt="I ", Length=80, Temperature=0.7, Seed=5)
    asked = {"prompt": "I ", "max_tokens": 80, "temperature": 0.7, "seed": 5}
    assert text == completed(http, **asked)["choices"][0]["text"]
    assert page.locator("#text .prompt").text_content() == "I "
    assert drawn(page, Seed=6) != text
    assert drawn(page, Seed=5) == text
    press(page, "Regenerate")
    expect(page.get_by_role("status")).not_to_contain_text("seed 5.")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("")


def test_a_text_appears_little_by_little(visit: Open, address: str) -> None:
    page = visit(address, reduced_motion="no-preference")
    fill(page, Length=400)
    page.evaluate("""() => {
        window.sizes = [];
        const look = () => {
            sizes.push(document.querySelector("#text .drawn").textContent.length);
            requestAnimationFrame(look);
        };
        look();
    }""")
    press(page, "Generate")
    expect(page.get_by_role("status")).to_contain_text("seed")
    sizes = page.evaluate("sizes")
    assert max(sizes) == 400
    assert len(set(sizes)) > 10
    assert sizes == sorted(sizes)


def test_stopping_frees_the_server(visit: Open, http: httpx.Client, address: str) -> None:
    page = visit(address)
    for end in (lambda: press(page, "Stop"), lambda: page.keyboard.press("Escape")):
        fill(page, Length=100_000)
        press(page, "Generate")
        until(lambda: len(page.locator("#text .drawn").text_content()) > 20)
        assert figure(http, 'charlstm_active_texts{model="small"}') == 1
        end()
        expect(page.get_by_role("status")).to_contain_text("Stopped. ")
        until(lambda: figure(http, 'charlstm_active_texts{model="small"}') == 0)
        text = page.locator("#text .drawn").text_content()
        assert f"{len(text):,}" in page.get_by_role("status").text_content()
        expect(page.get_by_role("button", name="Stop", exact=True)).to_be_disabled()


def test_parameters_reach_the_server(visit: Open, address: str) -> None:
    page = visit(address)
    with page.expect_request("**/v1/completions") as sent:
        text = drawn(
            page, Length=60, Seed=1, Temperature="1.2:0.4", **{
                "Top-k": 9, "Top-p": 0.9, "Typical": 0.95, "Min-p": 0.01, "Repetition_penalty": 1.1,
                "No_repeated_n-gram": 7, "Repetition_window": 40, "Stop_strings": "zzz\\n\nqq",
                "Regular_expression": "[^x]*",
            }
        )  # fmt: skip
    assert sent.value.post_data_json == {
        "prompt": "", "max_tokens": 60, "seed": 1, "temperature": "1.2:0.4", "top_k": 9, "top_p": 0.9,
        "typical": 0.95, "min_p": 0.01, "repetition_penalty": 1.1, "no_repeat_ngram": 7, "repetition_window": 40,
        "stop": ["zzz\n", "qq"], "regex": "[^x]*", "model": "small", "stream": True,
    }  # fmt: skip
    assert "x" not in text
    expect(page.get_by_text("(9 set)")).to_be_visible()
    page.get_by_label("Redraw").check()
    assert drawn(page) != text


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("Top-p", "7", "1"),
        ("Length", "1e9", "100000"),
        ("Temperature", "hot", "temperature"),
        ("Regular_expression", "(", "regular expression"),
        ("Prompt", "日本", "日"),
        ("Prompt", "a" * 400, "300"),
    ],
)
def test_bad_input_is_told_where_it_is(
    visit: Open, address: str, field: str, value: str, message: str
) -> None:
    page = visit(address)
    fill(page, **{field: value})
    press(page, "Generate")
    place = page.get_by_label(field.replace("_", " "), exact=True)
    told = page.locator(".wrong, #failure:not(:empty)")
    expect(told).to_be_visible()
    assert message in told.text_content()
    expect(place).to_have_attribute("aria-invalid", "true")
    expect(place).to_be_focused()
    expect(place).to_have_accessible_description(re.compile(re.escape(told.text_content()[:20])))
    place.fill(
        ""
        if field in ("Top-p", "Regular_expression")
        else {"Length": "5", "Temperature": "1"}.get(field, "a")
    )
    expect(told).to_have_count(0)
    assert drawn(page, Length=5)


def test_a_server_that_goes_away(visit: Open, small_run: charlstm.Run) -> None:
    """What has come stays, the page says so, and goes on with the next server at the same address."""

    def server(port: int) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "charlstm", "serve", str(small_run.directory), "--port", str(port)]
        command += ["--backend", "numpy", "--max-length", "1000000"]
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert running.stderr is not None
        with running.stderr as told:
            found = re.search(r"http://\S+:\d+", told.readline())
        assert found is not None
        return running, found[0]

    running, url = server(0)
    try:
        page = visit(url)
        fill(page, Length=1_000_000)
        press(page, "Generate")
        until(lambda: len(page.locator("#text .drawn").text_content()) > 20)
        running.send_signal(signal.SIGKILL)
        expect(page.get_by_role("alert")).to_contain_text("broke off")
        assert len(page.locator("#text .drawn").text_content()) > 20
        press(page, "Generate")
        expect(page.get_by_role("alert")).to_contain_text("does not answer")
        running.wait()
        running, _ = server(int(url.rpartition(":")[2]))
        assert len(drawn(page, Length=30)) == 30
        expect(page.get_by_role("alert")).to_be_empty()
    finally:
        running.kill()
        running.wait()


def test_markup_is_text(visit: Open, address: str) -> None:
    page = visit(address)
    page.get_by_label("Model", exact=True).select_option("markup")
    text = drawn(page, Prompt=HTML, Length=200, Regular_expression=re.escape(HTML))
    assert text == HTML
    page.get_by_label("Colour by surprise").check()
    expect(page.get_by_role("status")).to_contain_text("Coloured")
    shown = page.locator("#text")
    assert shown.text_content() == HTML * 2
    assert shown.locator("img, script, pre").count() == 0
    page.get_by_label("Prompt").fill("<b>ö</b>")
    press(page, "Generate")
    expect(page.locator(".wrong")).to_contain_text("ö")


def test_links_and_copies(visit: Open, address: str) -> None:
    page = visit(address, permissions=["clipboard-read", "clipboard-write"])
    text = drawn(page, Prompt="My ", Length=50, **{"Top-k": 5})
    press(page, "Copy")
    expect(page.get_by_role("status")).to_contain_text("copied")
    assert page.evaluate("navigator.clipboard.readText()") == "My " + text
    press(page, "Share")
    expect(page.get_by_role("status")).to_contain_text("link")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    assert "#" in link
    other = visit(link)
    expect(other.get_by_label("Prompt")).to_have_value("My ")
    expect(other.get_by_label("Top-k")).to_have_value("5")
    expect(other.get_by_role("status")).to_contain_text("Filled in")
    assert drawn(other) == text
    broken = visit(link.replace("model=small", "model=gone"))
    expect(broken.get_by_role("alert")).to_contain_text("gone")


def test_surprise_and_alternatives(visit: Open, http: httpx.Client, address: str) -> None:
    page = visit(address)
    text = drawn(page, Length=40, Seed=2)
    page.get_by_label("Colour by surprise").check()
    expect(page.get_by_role("status")).to_contain_text("Coloured")
    assert page.locator("#text .drawn").text_content() == text
    told = completed(http, max_tokens=40, seed=2, temperature=0.8, logprobs=5)["choices"][0]["logprobs"]
    spans = page.locator("#text .drawn span")
    assert spans.count() == 40
    facts = page.locator("#facts")
    spans.nth(7).hover()
    expect(facts).to_contain_text(f"{-told['token_logprobs'][7] / 0.6931471805599453:.2f} bits")
    assert page.get_by_role("table", name="What could have come").get_by_role("row").count() >= 5
    page.mouse.move(0, 0)
    slider = page.get_by_role("slider", name="Token")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(facts).to_contain_text(f"{-told['token_logprobs'][3] / 0.6931471805599453:.2f} bits")
    expect(spans.nth(3)).to_have_class(re.compile("selected"))
    expect(slider).to_have_attribute("aria-valuetext", re.compile("bits of surprise. Others: "))
    page.get_by_label("Colour by surprise").uncheck()
    expect(slider).to_be_hidden()
    assert page.locator("#text .drawn").text_content() == text


def test_models_and_their_cards(visit: Open, address: str) -> None:
    page = visit(address)
    page.get_by_text("About small").click()
    facts = page.get_by_role("table", name="Facts about the model")
    expect(facts).to_contain_text("2 layers of 24 units")
    expect(page.get_by_role("img", name="Loss, training from")).to_be_visible()
    page.get_by_label("Model", exact=True).select_option("markup")
    expect(facts).to_contain_text("1 layer of 8 units")
    with page.expect_request("**/v1/completions") as sent:
        drawn(page, Length=3)
    assert sent.value.post_data_json["model"] == "markup"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phones_schemes_and_contrast(visit: Open, address: str, scheme: str) -> None:
    page = visit(
        address, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True, is_mobile=True
    )
    drawn(page, Prompt="I " * 100, Length=300)
    page.get_by_label("Colour by surprise").check()
    expect(page.get_by_role("status")).to_contain_text("Coloured")
    page.get_by_text("About small").click()
    page.get_by_text("Samplers, stop strings, expressions").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    contrasts = page.evaluate("""() => {
        const linear = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
        const light = (colour) => {
            const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(linear);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const behind = (element) => {
            const colour = getComputedStyle(element).backgroundColor;
            return /, 0\\)$/.test(colour) && element.parentElement ? behind(element.parentElement) : colour;
        };
        return [...document.querySelectorAll("label, p, li, summary, h1, h2, th, td, .prompt, button:enabled")]
            .filter((element) => element.checkVisibility() && element.textContent.trim())
            .map((element) => {
                const pair = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
                return [(pair[0] + 0.05) / (pair[1] + 0.05), element.outerHTML.slice(0, 80)];
            });
    }""")
    assert len(contrasts) > 30
    assert [pair for pair in contrasts if pair[0] < 4.5] == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 128")
    assert dark == (scheme == "dark")


def test_by_keyboard_alone_and_by_name(visit: Open, address: str) -> None:
    page = visit(address)
    page.get_by_text("Samplers, stop strings, expressions").click()
    named = page.evaluate("""() => [...document.querySelectorAll("input, select, textarea, button, [role]")].map(
        (e) => [e.id || e.outerHTML,
                e.labels?.[0]?.textContent ?? e.getAttribute("aria-label") ?? e.textContent.trim(),
                e.hasAttribute("aria-labelledby")])""")
    without = [name for name, label, by in named if not label and not by]
    assert set(without) <= {"failure", "status"}  # which speak only when there is something to say
    page.reload()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "prompt":
            break
    page.keyboard.type("I ")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("status")).to_contain_text("seed")
    assert page.locator("#text").text_content().startswith("I ")


def test_behind_a_key(visit: Open, small_run: charlstm.Run) -> None:
    with serving({"small": small_run}, ServeConfig(api_key="secret")) as url:
        page = visit(url, http_credentials={"username": "anyone", "password": "secret"})
        assert len(drawn(page, Length=20)) == 20
        with pytest.raises(playwright.Error, match="INVALID_AUTH"):
            visit(url)


def test_what_it_is_made_of(http: httpx.Client) -> None:
    """Files of the server's own, and no markup made of strings."""
    folder = Path(charlstm.__file__).parent / "serve" / "static"
    for path in folder.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", path.read_text()
        )
        assert http.get(f"/static/{path.name}").status_code == 200
    page = http.get("/").text
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == [
        "static/style.css",
        "data:,",
        "static/app.js",
        "docs",
    ]
    assert "style=" not in page
    json.dumps(http.get("/page/models").json())
