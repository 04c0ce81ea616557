"""Properties of the characters of a text that a cell may have learned to follow."""

from __future__ import annotations

import unicodedata

import numpy as np

TAB = 4  # columns that a tab indents
OPENING, CLOSING = "([{", ")]}"


def properties(text: str) -> dict[str, np.ndarray]:
    """By name, the value of each property at each character of a text (N,), as float64.

    Most are 1 or 0. Each tells of the text up to and with the character, as a state after it does; but the last
    two look ahead by one character.
    """
    kinds = {name: np.array([holds(s) for s in text], np.float64) for name, holds in _KINDS.items()}
    return {**_nested(text), **_lines(text), **kinds, **_words(text)}


def of_tokens(text_of: list[str]) -> dict[str, np.ndarray]:
    """The properties after each of N tokens, (N,) float64, from what each adds to the text.

    A token has the properties of its last character, one that adds none those of the character before.
    """
    ends = np.cumsum([len(text) for text in text_of])
    last = np.maximum(ends, 1) - 1
    return {name: values[last] for name, values in properties("".join(text_of)).items()}


def _is_punctuation(s: str) -> bool:
    return unicodedata.category(s)[0] in "PS"


def _is_vowel(s: str) -> bool:
    """One of a, e, i, o, u, whatever accents it carries."""
    return unicodedata.normalize("NFD", s)[0] in "aeiouAEIOU"


_KINDS = {
    "line end": lambda s: s == "\n",
    "space": lambda s: s in " \t",
    "upper case": str.isupper,
    "vowel": _is_vowel,
    "digit": str.isdigit,
    "punctuation": _is_punctuation,
}


def _nested(text: str) -> dict[str, np.ndarray]:
    """Inside of quotes, and of brackets.

    A straight quote opens or closes in turn, and an empty line closes what was left open; a closing bracket
    closes the last open one of its kind and all within.
    """
    quoted, bracketed = np.zeros(len(text)), np.zeros(len(text))
    inside, opened, before = False, "", ""
    for k, s in enumerate(text):
        if s == '"':
            inside = not inside
        elif s in "“«":
            inside = True
        elif s in "”»" or (s == "\n" and before == "\n"):
            inside = False
        elif s in OPENING:
            opened += s
        elif s in CLOSING:
            own = OPENING[CLOSING.index(s)]
            opened = opened[: opened.rindex(own)] if own in opened else opened
        quoted[k], bracketed[k], before = inside, bool(opened), s
    return {"inside quotes": quoted, "inside brackets": bracketed}


def _lines(text: str) -> dict[str, np.ndarray]:
    """How long the line is so far, whether the character is its first, and how far the line is indented."""
    length, first, indentation = np.zeros(len(text)), np.zeros(len(text)), np.zeros(len(text))
    at, indent, leading = 0, 0, True
    for k, s in enumerate(text):
        if s == "\n":
            at, indent, leading = 0, 0, True
            continue
        at += 1
        leading = leading and s in " \t"
        indent += (TAB if s == "\t" else 1) * leading
        length[k], first[k], indentation[k] = at, at == 1, indent
    return {"length of the line so far": length, "first of a line": first, "indentation": indentation}


def _words(text: str) -> dict[str, np.ndarray]:
    """Places within words, which are made of letters, digits and what combines with these."""
    word = np.array([s.isalnum() or unicodedata.category(s)[0] == "M" for s in text] + [False], bool)
    before = np.concatenate(([False], word[:-2]))
    place, at = np.zeros(len(text)), 0
    for k in range(len(text)):
        at = at + 1 if word[k] else 0
        place[k] = at
    this, after = word[:-1], word[1:]
    found = {
        "first of a word": this & ~before,
        "inside a word": this & after,
        "last of a word": this & ~after,
    }
    return {
        "length of the word so far": place,
        **{name: values.astype(float) for name, values in found.items()},
    }
