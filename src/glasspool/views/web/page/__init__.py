"""The page that ``glasspool serve`` shows: one document without any outside resource.

Its parts lie beside this file as they are written by hand: ``page.html`` (the skeleton), ``page.css``, and
one script for each thing that the page has. Nothing is built or bundled; ``document`` puts them into one
text, each under the nonce of the response's Content-Security-Policy.
"""

from __future__ import annotations

import functools
import html
import re
from importlib import resources

SCRIPTS = (
    "words.js",
    "elements.js",
    "frames.js",
    "palette.js",
    "tip.js",
    "lanes.js",
    "store.js",
    "feed.js",
    "head.js",
    "rows.js",
    "threads.js",
    "inspector.js",
    "gantt.js",
    "marks.js",
    "stream.js",
    "charts.js",
    "slowest.js",
    "deaths.js",
    "flame.js",
    "main.js",
)
"""In the order in which they build on each other: each gives the later ones one name."""

_MARK = re.compile(r"@(title|nonce|token|basic|style|early|scripts)@")


def document(basic_html: str, nonce: str, token: str, title: str) -> str:
    """Return the whole page as HTML.

    Args:
        basic_html: The state of the pools as a fragment of HTML, shown where no script runs. It stands in
            the page as it is: whoever made it has escaped what is in it.
        nonce: The nonce of the response's Content-Security-Policy.
        token: What the page has to show with each request; may hold anything.
        title: The document's title; may hold anything.
    """
    values = {
        "title": html.escape(title),
        "nonce": html.escape(nonce),
        "token": html.escape(token),
        "basic": basic_html,
        "style": _text("page.css"),
        "early": _text("early.js"),
        "scripts": "\n".join(
            f'<script nonce="{html.escape(nonce)}">\n{_text(name)}</script>' for name in SCRIPTS
        ),
    }
    # In one pass: what is put in is not searched for marks again, whatever names it holds.
    return _MARK.sub(lambda mark: values[mark[1]], _text("page.html"))


@functools.cache
def _text(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
