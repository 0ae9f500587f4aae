"""A table on the screen that draws only the rows that are seen: 200 workers or 2,000 tasks cost no more.

The cursor stays with its row, wherever sorting moves it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import Reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from glasspool.views.top import grid
from glasspool.views.top.grid import Order, Row, Table
from glasspool.views.top.looks import STYLES

_HEADING = Style(bold=True, underline=True)
_CURSOR = Style(reverse=True)


class Listing(ScrollView, can_focus=True):
    """Rows under a heading that stays, with a cursor."""

    virtual_size: Reactive[Size]

    DEFAULT_CSS: ClassVar[str] = """
    Listing {
        height: 1fr;
        overflow-x: hidden;
        overflow-y: auto;
        scrollbar-size-vertical: 1;
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home,g", "move(-1000000)", show=False),
        Binding("end,G", "move(1000000)", show=False),
        Binding("left", "app.fold(True)", show=False),
        Binding("right", "app.fold(False)", show=False),
        Binding("enter", "choose", show=False),
    ]

    class Chosen(Message):
        """Somebody wants to know more of a row."""

        def __init__(self, row: Row) -> None:
            super().__init__()
            self.row = row

    class HeadingClicked(Message):
        """Somebody wants the rows sorted by a column."""

        def __init__(self, column: str) -> None:
            super().__init__()
            self.column = column

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.table: Table = Table(())
        self.order: Order = Order()
        self._at = 0
        self._key: Hashable = None
        self._widths: list[int] = []
        self._fitted_to = 0

    # What is shown --------------------------------------------------------------------------------

    def show(self, table: Table, order: Order) -> None:
        """Show other rows; the cursor stays with its row if it is still there."""
        self.table, self.order = table, order
        keys = [row.key for row in table.rows]
        if self._key in keys:
            self._at = keys.index(self._key)
        self._settle()
        self.refresh()

    def begin_at_top(self) -> None:
        """Forget the cursor: the next rows are others."""
        self._at, self._key = 0, None
        self.scroll_to(y=0, animate=False, immediate=True)

    @property
    def current(self) -> Row | None:
        """The row at the cursor."""
        rows = self.table.rows
        return rows[self._at] if 0 <= self._at < len(rows) else None

    def _settle(self) -> None:
        count = len(self.table.rows)
        self._at = max(0, min(self._at, count - 1))
        self._key = self.table.rows[self._at].key if count else None
        self.virtual_size = Size(self.size.width, max(1, count) + 1)
        self._fitted_to = self.scrollable_content_region.width
        self._widths = grid.widths(self.table, max(1, self._fitted_to))

    def on_resize(self) -> None:
        """Share the width out anew."""
        self._settle()
        self._keep_cursor_in_sight()
        self.refresh()

    # Drawing --------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """Draw one line: the heading, a row, or nothing."""
        width = self.scrollable_content_region.width
        if self._fitted_to != width:
            self._settle()  # a scroll bar came or went
        if y == 0:
            text = grid.joined(grid.heading(self.table, self._widths, self.order))
            return _strip(text, _HEADING, width)
        rows = self.table.rows
        at = y - 1 + self.scroll_offset.y
        if not rows:
            return _strip(f" {self.table.empty}" if y == 2 else "", STYLES["faint"], width)
        if at >= len(rows):
            return Strip.blank(width, Style.null())
        style = STYLES.get(rows[at].style, Style.null())
        if at == self._at and self.has_focus:
            style = style + _CURSOR
        return _strip(grid.joined(grid.line(self.table, rows[at], self._widths)), style, width)

    # Moving ---------------------------------------------------------------------------------------

    def action_move(self, by: int) -> None:
        """Move the cursor by so many rows."""
        count = len(self.table.rows)
        if count:
            self._at = max(0, min(self._at + by, count - 1))
            self._key = self.table.rows[self._at].key
            self._keep_cursor_in_sight()
            self.refresh()

    def action_page(self, by: int) -> None:
        """Move the cursor by so many screens."""
        self.action_move(by * max(1, self.size.height - 2))

    def action_choose(self) -> None:
        """Ask for more of the row at the cursor."""
        if self.current is not None:
            self.post_message(self.Chosen(self.current))

    def _keep_cursor_in_sight(self) -> None:
        top, seen = self.scroll_offset.y, max(1, self.size.height - 1)
        if self._at < top:
            self.scroll_to(y=self._at, animate=False, immediate=True)
        elif self._at >= top + seen:
            self.scroll_to(y=self._at - seen + 1, animate=False, immediate=True)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where it was clicked; a click on the cursor's row asks for more."""
        if event.y == 0:
            column = self._column_at(event.x)
            if column is not None:
                self.post_message(self.HeadingClicked(column))
            return
        at = event.y - 1 + self.scroll_offset.y
        if at < len(self.table.rows):
            again = at == self._at
            self.action_move(at - self._at)
            if again:
                self.action_choose()

    def _column_at(self, x: int) -> str | None:
        begin = 0
        for column, share in zip(self.table.columns, self._widths, strict=True):
            if share and begin <= x < begin + share + grid.GAP:
                return column.key
            begin += share + grid.GAP if share else 0
        return None

    def on_focus(self) -> None:
        """Show the cursor."""
        self.refresh()

    def on_blur(self) -> None:
        """Hide the cursor."""
        self.refresh()

    def region_of_cursor(self) -> Region:
        """Return where the cursor is on this widget."""
        return Region(0, self._at + 1 - self.scroll_offset.y, self.size.width, 1)


def _strip(text: str, style: Style, width: int) -> Strip:
    # The text has been fitted, and is harmless: segments know no markup.
    segment = Segment(grid.fitted(grid.Cell(text), width), style)
    return Strip([segment], width)
