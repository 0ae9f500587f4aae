"""``glasspool top --plain``: what the screen would show, once, as text for pipes and plain terminals."""

from __future__ import annotations

from collections.abc import Iterator

from glasspool.views.top import grid, headline, model
from glasspool.views.top.grid import Order, Table, arranged
from glasspool.views.top.session import Session

LEAST_WIDTH = 72
_BARS = str.maketrans({"█": "#", "░": "."})


def text(session: Session, width: int) -> str:
    """Return the pools of a session: for each its counters, workers, open tasks and deaths."""
    columns = max(LEAST_WIDTH, width)
    parts = []
    keys = list(session.pools)
    for number, one in enumerate(session.pools.values(), 1):
        lines = headline.lines(session, one, (number, 1), columns)
        told = [headline.plain(line) for line in lines]
        told += _table(model.workers(session, one), columns)
        deaths = model.deaths(session, one)
        if deaths.rows:
            told += ["", *_table(deaths, columns)]
        parts.append("\n".join(told))
    if not keys:
        view = session.view
        parts.append((view.text if view is not None else "") or "no pool is running")
    return "\n\n".join(parts)


def ascii_bars(text: str) -> str:
    """Replace the signs of bars, for a file whose encoding lacks them."""
    return text.translate(_BARS)


def _table(table: Table, width: int) -> Iterator[str]:
    table = arranged(table, Order())
    if not table.rows:
        return iter((f"({table.empty})",))
    shares = grid.widths(table, width)
    lines = [grid.joined(grid.heading(table, shares, Order())).rstrip()]
    lines += [grid.joined(grid.line(table, row, shares)).rstrip() for row in table.rows]
    return iter(lines)
