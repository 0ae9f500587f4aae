"""Rows and columns: what a table of ``glasspool top`` is, sorted, filtered, and fitted into a width.

Pure, and without Rich: the screen draws the same cells as ``--plain`` prints.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

GAP = 1


def cells(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


class Cell(NamedTuple):
    """What stands in a column: ``text`` is cut where there is no room, ``tail`` is not.

    ``short`` says the same as ``text`` in fewer signs, where that does not fit.
    """

    text: str
    tail: str = ""
    short: str = ""

    @property
    def width(self) -> int:
        """How many columns it takes."""
        return cells(self.text) + (cells(self.tail) + 1 if self.tail else 0)


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    ``rank`` says how much it is needed: where the width does not do, those of the highest rank are left
    out first; 0 is never left out. One column of a table is ``flexible``: it gets what the others leave,
    but not less than ``least``. ``most`` bounds the others, until the flexible one has what it
    could use.
    """

    key: str
    title: str
    right: bool = False
    rank: int = 0
    flexible: bool = False
    least: int = 12
    most: int = 24


@dataclass(frozen=True, slots=True)
class Row:
    """One row. ``key`` tells it from all others, also later; ``values`` are what it is sorted by.

    ``style`` is a word for how it is shown: ``busy``, ``bad``, ``faint``, ``strong`` or nothing.
    ``subject`` is what the row is about.
    """

    key: Hashable
    cells: tuple[Cell, ...]
    values: tuple[Any, ...] = ()
    style: str = ""
    subject: Any = None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns; ``empty`` says what is shown if there is no row."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...] = ()
    empty: str = ""
    sortable: bool = True


@dataclass(frozen=True, slots=True)
class Order:
    """By which column rows are sorted; an empty key: as they come."""

    key: str = ""
    descending: bool = False


def arranged(table: Table, order: Order, wanted: str = "") -> Table:
    """Return a table with the rows that hold a text, sorted."""
    rows = [row for row in table.rows if holds(row, wanted)]
    at = next((i for i, column in enumerate(table.columns) if column.key == order.key), None)
    if at is not None and table.sortable:
        # What is not known comes last in both directions.
        known = [row for row in rows if row.values[at] not in (None, "")]
        unknown = [row for row in rows if row.values[at] in (None, "")]
        known.sort(key=lambda row: row.values[at], reverse=order.descending)
        rows = known + unknown
    empty = table.empty if not table.rows else f"no row holds {wanted!r}"
    return replace(table, rows=tuple(rows), empty=empty)


def holds(row: Row, wanted: str) -> bool:
    """Tell whether a row holds a text in any of its cells, small or capital letters alike."""
    text = " ".join(f"{cell.text} {cell.tail}" for cell in row.cells)
    return wanted.casefold() in text.casefold()


def widths(table: Table, width: int) -> list[int]:
    """Share a width out; 0 for a column that is left out."""
    columns = table.columns
    wished = [
        max([cells(column.title) + 1, *(row.cells[at].width for row in table.rows)])
        for at, column in enumerate(columns)
    ]
    given = [min(column.most, wish) for column, wish in zip(columns, wished, strict=True)]
    shown = list(range(len(columns)))

    def rest() -> int:
        fixed = sum(given[at] for at in shown if not columns[at].flexible)
        return width - fixed - GAP * (len(shown) - 1)

    flexible = next((at for at, column in enumerate(columns) if column.flexible), None)
    least = 0 if flexible is None else columns[flexible].least
    while rest() < least and any(columns[at].rank for at in shown):
        shown.remove(max(shown, key=lambda at: columns[at].rank))
    spare = rest() - (0 if flexible is None else wished[flexible])
    for at in shown:
        more = max(0, min(spare, wished[at] - given[at]))
        if at != flexible:
            given[at] += more
            spare -= more
    if flexible is not None:
        given[flexible] = max(1, rest())
    return [given[at] if at in shown else 0 for at in range(len(columns))]


def heading(table: Table, shares: Sequence[int], order: Order) -> list[str]:
    """Return the fitted titles; the one that is sorted by has an arrow."""
    texts = []
    for column, share in zip(table.columns, shares, strict=True):
        is_key = table.sortable and column.key == order.key
        arrow = ("▼" if order.descending else "▲") if is_key else ""
        texts.append(fitted(Cell(column.title + arrow), share, column.right))
    return texts


def line(table: Table, row: Row, shares: Sequence[int]) -> list[str]:
    """Return the fitted cells of a row."""
    return [
        fitted(cell, share, column.right)
        for cell, share, column in zip(row.cells, shares, table.columns, strict=True)
    ]


def fitted(cell: Cell, share: int, right: bool = False) -> str:
    """Cut or fill a cell to so many columns; its tail is kept as long as it can be."""
    if share <= 0:
        return ""
    tail = f" {cell.tail}" if cell.tail else ""
    room = share - cells(tail)
    if room < 4:
        tail, room = "", share
    text = cell.short if cell.short and cells(cell.text) > room else cell.text
    text = cut(text, room) + tail
    fill = " " * (share - cells(text))
    return fill + text if right else text + fill


def cut(text: str, most: int) -> str:
    """Cut a text to so many columns, with an ellipsis if something is missing."""
    if cells(text) <= most:
        return text
    kept, used = [], 0
    for sign in text:
        used += cells(sign)
        if used > most - 1:
            break
        kept.append(sign)
    return "".join(kept) + "…" if most > 0 else ""


def joined(parts: Iterable[str]) -> str:
    """Put the fitted cells of a row side by side; columns that are left out take no room."""
    return (" " * GAP).join(part for part in parts if part)
