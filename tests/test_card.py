"""Model cards: whatever names and samples hold, it stays text in YAML and in Markdown."""

from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from charlstm.card import Card, Figure, fenced, markdown, yaml_string

HOSTILE = [
    "---\nlicense: evil\n---\n# Title", "a: b # c", 'quote " and \\ backslash', "```\n# out of the block\n```",
    "~~~~\n````\n`````", "<script>alert(1)</script>", "![x](http://e.vil/a.png) [y](javascript:z)", "| a |\n|---|",
    "\x00\x07\x1b[31m\x85\u2028\u2029\ufeff", "\ud800 lone", "é😀", "", "$x$ *a* _b_ ~~c~~ &amp; !&lt;",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_and_samples_stay_text(text: str) -> None:
    card = Card(text, "character", [text], [Figure("test", 1.0, None)], sample=text, sampled_by="drawn")
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", str(card), re.S).groups()  # type: ignore[union-attr]
    data = yaml.safe_load(front)
    assert set(data) == {"library_name", "pipeline_tag", "tags", "model-index"}
    name = data["model-index"][0]["results"][0]["dataset"]["name"]
    assert name == text.replace("\ud800", "\ufffd")
    title, facts, table, heading, sampled, block, use = split_blocks(body)
    assert title.startswith("# A CIFG-LSTM language model of ")
    assert facts.startswith("- ")
    for line in (title, facts):
        assert "\n" not in line
        assert not re.search(r"<|(?<!\\)[`\[\]!|]", line)
    assert table.startswith("| part of the text |")
    assert (heading, sampled) == ("## A sample", "drawn:")
    assert use.startswith("## How to use it")
    fence = re.match("`+", block).group()  # type: ignore[union-attr]
    assert block.endswith(f"\n{fence}")
    assert fence not in block.removeprefix(fence).removesuffix(fence)
    assert "\x1b" not in str(card)


def split_blocks(body: str) -> list[str]:
    """The card's parts, its sample and what follows in one piece each."""
    before, fence, rest = re.split(r"(?m)^(`{3,})text$", body, maxsplit=1)
    inside, after = rest.split(f"\n{fence}\n", 1)
    return [*before.strip("\n").split("\n\n"), f"{fence}text{inside}\n{fence}", after.strip("\n")]


@settings(max_examples=25, deadline=None)
@given(st.text())
def test_quoted_text_comes_back(text: str) -> None:
    assert yaml.safe_load(f"- {yaml_string(text)}") == [text]
    assert yaml_string(text).isprintable()
    assert len(markdown(text).splitlines()) <= 1
    assert fenced(text).count("\n") >= 3
