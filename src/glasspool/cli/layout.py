"""Plain lines for a terminal: aligned columns, places in short words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence


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
