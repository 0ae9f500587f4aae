"""Plain lines for a terminal: aligned columns, places in short words."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence


def terminal_columns() -> int:
    """Return how wide the terminal is: COLUMNS, else what it says itself, else 80."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]
    except (OSError, ValueError, AttributeError):
        return 80  # no terminal, or a closed file


def aligned(rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Return rows as lines with aligned columns; those in ``right`` are set to the right."""
    table = [list(row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def place(made_at: str | None) -> str:
    """Shorten ``FILE:LINE`` to a path below the current folder, where it is one."""
    if made_at is None:
        return "a place that is not known"
    try:
        here = os.getcwd()
    except OSError:
        return made_at  # the current folder is gone
    return made_at.removeprefix(here.rstrip(os.sep) + os.sep)


def indented(block: str) -> list[str]:
    """Return the lines of a text, set in by two."""
    return [f"  {line}".rstrip() for line in block.splitlines()]


def wrapped(text: str) -> str:
    """Break long lines between words, for a terminal; elsewhere lines stay whole."""
    if not sys.stdout.isatty():
        return text
    import textwrap

    width = max(40, terminal_columns())
    lines: list[str] = []
    for line in text.splitlines():
        margin = " " * (len(line) - len(line.lstrip()))
        deeper = f"{margin}  " if margin else ""
        lines += textwrap.wrap(line, width, subsequent_indent=deeper) or [""]
    return "\n".join(lines)
