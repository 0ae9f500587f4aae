"""Pieces of HTML: whatever comes from the program is made harmless here, and nowhere else."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from glasspool.views.table import harmless


def esc(text: object) -> str:
    """Return a text for HTML, also between quotes: no markup, nothing unprintable, on one line."""
    return html.escape(_tied(str(text)))


def _tied(text: str) -> str:
    """Make a text harmless, but for the blank that ties a number to its unit."""
    return "\u00a0".join(harmless(part) for part in text.split("\u00a0"))


def lines(text: str) -> str:
    """Return a text of several lines for a ``<pre>``."""
    return "\n".join(esc(line) for line in text.splitlines())


def cut(text: str, most: int) -> str:
    """Shorten a text, so that it shows that it was."""
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: HTML, and the number by which its column is sorted, if it is one."""

    html: str
    number: float | None = None
    style: str = ""


def text(value: object, most: int = 300) -> Cell:
    """Return a cell with a text of the program's."""
    return Cell(esc(cut(str(value), most)))


def number(shown: str, value: float | None) -> Cell:
    """Return a cell with a number, as it is shown and as it is sorted."""
    return Cell(esc(shown), 0.0 if value is None else value, "n")


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    sortable: bool = True,
    foot: Sequence[Cell] | None = None,
    style: str = "",
) -> str:
    """Return a table that scrolls sideways where there is no room; numbers are set to the right."""
    body = list(rows)
    numbers = {
        at
        for row in [*body, *([foot] if foot else [])]
        for at, cell in enumerate(row)
        if cell.style == "n"
    }
    head = "".join(
        f"<th{' class=n' if at in numbers else ''} scope=col>{esc(word)}</th>"
        for at, word in enumerate(headings)
    )
    told = "".join(_row(row) for row in body)
    end = f"<tfoot>{_row(foot)}</tfoot>" if foot else ""
    classes = " ".join(
        word for word in ("sort" if sortable and len(body) > 2 else "", style) if word
    )
    attribute = f' class="{classes}"' if classes else ""
    return (
        f"<div class=wide><table{attribute}><thead><tr>{head}</tr></thead>"
        f"<tbody>{told}</tbody>{end}</table></div>"
    )


def _row(row: Sequence[Cell]) -> str:
    return "<tr>" + "".join(_cell(cell) for cell in row) + "</tr>\n"


def _cell(cell: Cell) -> str:
    style = f' class="{cell.style}"' if cell.style else ""
    value = "" if cell.number is None else f' data-v="{cell.number:.9g}"'
    return f"<td{style}{value}>{cell.html}</td>"


def folded(heading: str, body: str, *, is_open: bool = False) -> str:
    """Return a part that is shown on request; printed, it is open where it was."""
    state = " open" if is_open else ""
    return f"<details{state}><summary>{esc(heading)}</summary>\n{body}</details>\n"


def section(heading: str, body: str, hint: str = "") -> str:
    """Return a part with its heading; nothing if it is empty."""
    if not body:
        return ""
    told = f"<p class=hint>{esc(hint)}</p>" if hint else ""
    return f"<section><h3>{esc(heading)}</h3>{told}\n{body}</section>\n"
