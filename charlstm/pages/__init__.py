"""Pages of HTML that need nothing else: no server, no network, no library.

Everything that comes from outside (texts, names, commands) is escaped, and each page's own security
policy forbids whatever is not its style sheet or its script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from pathlib import Path

from ..errors import CharLSTMError, UsageError
from ..wording import printable

MARK = '<meta name="generator" content="charlstm">'
STYLE = Path(__file__).with_name("page.css")


def page(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole page. `body` is HTML; `style` and `script` are the page's own, after what all pages share."""
    style = STYLE.read_text(encoding="utf-8") + style
    policy = f"default-src 'none'; style-src '{_digest(style)}'; base-uri 'none'; form-action 'none'"
    if script:
        policy += f"; script-src '{_digest(script)}'"
        body += f"<script>{script}</script>\n"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{MARK}
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title>
<style>{style}</style>
</head>
<body>
{body}</body>
</html>
"""


def check_page(path: Path) -> None:
    """Make a page's folder; UsageError where another file would be lost, CharLSTMError where it cannot be written."""
    try:
        taken = False
        if path.exists():
            with open(path, "rb") as file:  # which may be a text of any size
                taken = MARK.encode() not in file.read(1000)
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CharLSTMError(f"{path} cannot be written: {error.strerror or error}") from None
    if taken:
        raise UsageError(f"{path} exists and is no page of charlstm: choose another file")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def escaped(value: object) -> str:
    """Anything as text of a page: no character of it is markup, none is a control character."""
    return escape(printable(str(value)))


def table(rows: Iterable[tuple[str, object]], bold: Iterable[str] = ()) -> str:
    """Names and values below each other; those named in `bold` stand out."""
    body = "".join(
        f"<tr><th>{escaped(name)}</th><td{' class=changed' if name in bold else ''}>{escaped(value)}</td></tr>\n"
        for name, value in rows
    )
    return f"<table>\n{body}</table>\n"


def block(text: str) -> str:
    """A text as it is, line by line."""
    # a line end right after <pre> is not shown, so that one of the text's own would be lost
    return f'<pre dir="auto">\n{escaped(text)}</pre>\n'
