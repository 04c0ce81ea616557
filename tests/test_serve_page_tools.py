"""The server's page in a browser: colours, models, links, copies, and that everybody can use it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from browsing import ENDED, ODD, NewPage, ask, button, drawn, expect, pasted, requests, shown, status, text
from serving import completed, serving

import charlstm
from charlstm.serve import ServeConfig

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest_plugins = ["browser_fixtures"]


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
