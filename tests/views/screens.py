"""The text of a screen of Textual, and the stored pictures with which it is compared.

A picture is the text alone, as a terminal would show it: it says what the screen tells, and does not change
with each release of Textual, as an SVG does. To renew all: ``RENEW_PICTURES=1 pytest tests/views``.
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

from textual.app import App

PICTURES = Path(__file__).parent / "pictures"

_TEXT = re.compile(r'<text [^>]*?x="([\d.]+)"[^>]*clip-path="[^"]*-line-(\d+)\)"[^>]*>(.*?)</text>')
_CELL_WIDTH = 12.2


def text_of(app: App) -> str:
    """Return what is on the screen, line by line."""
    width, height = app.size
    rows = [[" "] * width for _ in range(height)]
    for x, line, words in _TEXT.findall(app.export_screenshot()):
        column = round(float(x) / _CELL_WIDTH)
        for at, sign in enumerate(html.unescape(words).replace("\xa0", " ")):
            if column + at < width:
                rows[int(line)][column + at] = sign
    return "\n".join("".join(row).rstrip() for row in rows).rstrip("\n")


def agrees(app: App, name: str) -> None:
    """Compare the screen with a stored picture.

    Raises:
        AssertionError: It is another one; with both.
    """
    now = text_of(app) + "\n"
    path = PICTURES / f"{name}.txt"
    if os.environ.get("RENEW_PICTURES"):
        path.write_text(now)
    stored = path.read_text()
    assert now == stored, f"{path.name} is another picture now:\n{now}\nand was:\n{stored}"
