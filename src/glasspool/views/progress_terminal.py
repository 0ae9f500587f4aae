"""Progress in a terminal: one line for each job, drawn anew in place, below what the program prints.

Owns: the lines at the bottom of the terminal (``Screen``, one for the process, whichever pools its jobs
are of), and, as long as there are any, an attribute ``write`` of ``sys.stdout`` and ``sys.stderr``, which
stay the objects that they are. Threads: none of its own; the pools' progress threads draw, and threads
that print do.

The cursor rests where the first line begins. So whoever prints a whole line begins it by clearing what is
below, and the lines are drawn again after it: nothing has to be known of how many there are, or of how
wide the terminal was. The cursor is not hidden, so that nothing has to be undone if the program is killed.
Workers know from the scoreboard that there are lines (``bar_is_drawn``), and do the same. Output that does
not come through these streams (of C code, of subprocesses) may leave a piece of a line standing.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from glasspool import progress as words
from glasspool import registry
from glasspool.progress import State
from glasspool.views.table import console_on, fitted, harmless, takes_color, width_of

if TYPE_CHECKING:
    from rich.text import Text

CLEAR = "\x1b[J"
"""Clear the terminal from the cursor on."""

BAR_LEAST, BAR_MOST = 8, 40
_LABEL_LEAST = 8
_GAP = "  "
_TROUBLE = "red"


class TerminalDisplay:
    """One job's line on the screen."""

    every_s: float = 0.1

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def open(self, total: int | None) -> None:
        """Draw nothing yet: most jobs are over before the first look."""

    def show(self, told: State) -> None:
        """Draw the job's line anew."""
        screen.put(self, self._stream, told)

    def end(self, told: State) -> None:
        """Leave the job's last line standing, above the lines of those that go on."""
        screen.finish(self, self._stream, told)


class Screen:
    """The lines at the bottom of the terminal."""

    def __init__(self) -> None:
        self._rows: dict[TerminalDisplay, State] = {}
        self._lock = threading.RLock()  # reentrant: a signal handler may print
        self._drawn = ""
        self._stream: TextIO | None = None
        self._line_is_open = False
        self._followed: list[tuple[Any, Callable[[str], int], Any]] = []

    def put(self, display: TerminalDisplay, stream: TextIO, told: State) -> None:
        """Draw the line of a job, and all others."""
        with self._lock:
            self._rows[display] = told
            if not self._followed:
                self._begin(stream)
            _tell_workers(True)
            self._draw()

    def finish(self, display: TerminalDisplay, stream: TextIO, told: State) -> None:
        """Draw the last line of a job, which stays, and those that go on below it."""
        with self._lock:
            self._rows.pop(display, None)
            columns = width_of(stream) - 1
            break_ = "\n" if self._line_is_open else ""
            self._line_is_open = False
            self._drawn = self._rendered(stream)
            line = rendered(stream, [last_row(told, columns)])
            self._write(stream, f"{break_}{CLEAR}{line}\n{self._drawn}")
            if not self._rows:
                self._end()

    def _draw(self) -> None:
        if self._stream is None or self._line_is_open:
            return  # the program has begun a line, and will end it
        self._drawn = self._rendered(self._stream)
        self._write(self._stream, CLEAR + self._drawn)

    def _rendered(self, stream: TextIO) -> str:
        if not self._rows:
            return ""
        columns = width_of(stream) - 1  # the last one would make some terminals go to the next line
        lines = rows(list(self._rows.values()), columns, _height(stream))
        text = rendered(stream, lines)
        return f"{text}\r" + (f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else "")

    def _write(self, stream: TextIO, text: str) -> None:
        write = next((write for one, write, _ in self._followed if one is stream), stream.write)
        write(text)
        stream.flush()

    # The program's own output ---------------------------------------------------------------------

    def _begin(self, stream: TextIO) -> None:
        self._stream = stream
        self._line_is_open = False
        for one in {id(one): one for one in (stream, sys.stdout)}.values():
            if _is_plain(one) and _terminal_of(one) == _terminal_of(stream):
                self._follow(one)

    def _follow(self, stream: TextIO) -> None:
        write = stream.write

        def followed_write(text: str, /) -> int:
            if type(text) is not str or not text:
                return write(text)
            with self._lock:
                if not self._rows:
                    return write(text)
                before = "" if self._line_is_open else CLEAR
                self._line_is_open = not text.endswith("\n")
                after = "" if self._line_is_open else self._drawn
                write(f"{before}{text}{after}")
            return len(text)

        stream.write = followed_write  # type: ignore[method-assign]
        self._followed.append((stream, write, followed_write))

    def _end(self) -> None:
        _tell_workers(False)
        self.let_go()
        self._stream = None

    def let_go(self) -> None:
        """Let the program's streams be as they were."""
        followed, self._followed = self._followed, []
        for stream, _, follower in followed:
            if vars(stream).get("write") is follower:
                del stream.write

    def in_child(self) -> None:
        """After a fork: the terminal's lines are the parent's."""
        self._lock = threading.RLock()
        self._rows.clear()
        self.let_go()


def _is_plain(stream: Any) -> bool:
    """Tell whether a stream is Python's own, and nobody else follows what is written to it."""
    return (
        isinstance(stream, io.TextIOWrapper)
        and type(stream).write is io.TextIOWrapper.write
        and "write" not in vars(stream)
    )


def _terminal_of(stream: Any) -> int | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if stream.isatty():
            return os.fstat(stream.fileno()).st_rdev
    return None


def _height(stream: TextIO) -> int:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.get_terminal_size(stream.fileno()).lines or 24
    return 24


def _tell_workers(is_drawn: bool) -> None:
    """Let the workers of all pools know whether lines are drawn on the terminal."""
    for engine in registry.live_engines():
        with contextlib.suppress(ValueError):  # it has ended meanwhile
            engine.board.bar_is_drawn = is_drawn


screen: Screen = Screen()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=screen.in_child)


# Lines -------------------------------------------------------------------------------------------


def rows(told: list[State], columns: int, height: int) -> list[Text]:
    """Lay out the lines of all jobs, and for a few of them the slowest task, as far as they fit."""
    from rich.text import Text

    room = max(1, height - 2)
    lines: list[Text] = []
    for one in told[:room]:
        lines.append(row(one, columns))
        slowest = harmless(words.slowest(one))
        if slowest and len(told) + len(lines) <= room and len(told) <= 3:
            lines.append(Text(_cut(f"{_GAP}{slowest}", columns), style="dim"))
    if len(told) > room:
        lines[-1] = Text(_cut(f"and {len(told) - room + 1} more", columns), style="dim")
    for line in lines:
        line.truncate(columns, overflow="ellipsis")
    return lines


def row(told: State, columns: int) -> Text:
    """Lay out one job that goes on: label, bar, figures; what is least needed goes first."""
    troubles = words.troubles(told)
    total = told.total
    share = words.percent(told).rjust(5) if total is not None else ""
    count = words.counts(told)
    count = count.rjust(2 * len(f"{total:,}") + 1) if total is not None else f"{count} done"
    running = f"{told.running:,} running" if told.running else ""
    rate = words.rate(told.rate)
    left = f"{words.clock(told.left_s)} left" if told.left_s is not None else ""
    if total is None:
        left = words.clock(told.elapsed_s)
    parts = [share, count, *(word for _, word in troubles), running, rate, left]
    for least in (None, running, rate, count if share else None):
        parts = [part for part in parts if part and part is not least]
        figures = _GAP.join(parts)
        if len(figures) + _LABEL_LEAST + BAR_LEAST + 2 * len(_GAP) <= columns:
            break
    return _joined(told, figures, troubles, columns)


def last_row(told: State, columns: int) -> Text:
    """Lay out the last line of a job: how it ended, how long it took."""
    took = words.clock(told.elapsed_s) if told.elapsed_s >= 10 else f"{told.elapsed_s:.1f} s"
    troubles = words.troubles(told)
    parts = [
        words.percent(told).rjust(5),
        words.counts(told),
        *(word for _, word in troubles),
        words.rate(told.rate),
        f"in {took}",
        told.note,
    ]
    figures = _GAP.join(part for part in parts if part)
    marked = (*troubles, ("note", told.note)) if told.note else troubles
    return _joined(told, figures, marked, columns)


def _joined(told: State, figures: str, troubles: tuple[tuple[str, str], ...], columns: int) -> Text:
    from rich.cells import cell_len
    from rich.text import Text

    room = columns - len(figures) - len(_GAP)
    has_bar = told.share is not None and room >= _LABEL_LEAST + len(_GAP) + BAR_LEAST
    label = _cut(told.label, max(4, room - (len(_GAP) + BAR_LEAST if has_bar else 0)))
    line = Text(label, style="bold", no_wrap=True)
    if has_bar:
        line.append(_GAP)
        width = min(BAR_MOST, room - cell_len(label) - len(_GAP))
        line.append_text(bar(told.share or 0.0, width, bool(troubles), told.is_over))
    said = Text(f"{_GAP}{figures}", style="not bold")
    for _, word in troubles:
        said.highlight_words([word], style=_TROUBLE)
    line.append_text(said)
    return line


def bar(share: float, width: int, is_troubled: bool, is_over: bool) -> Text:
    """Draw a bar of so many columns, filled in steps of half a column."""
    from rich.text import Text

    halves = int(share * width * 2 + 1e-9)
    full, half = divmod(halves, 2)
    color = "yellow" if is_troubled else ("green" if is_over else "cyan")
    drawn = Text("━" * full + "╸" * half, style=f"not bold {color}")
    drawn.append("━" * (width - full - half), style="not bold bright_black")
    return drawn


def rendered(stream: TextIO, lines: list[Text]) -> str:
    """Render lines with the colours that a stream takes, and the signs that its encoding has."""
    out = io.StringIO()
    color = takes_color(stream)
    console = console_on(out, 10_000, color)  # the lines are laid out already
    for number, line in enumerate(lines):
        console.print(line, end="" if number == len(lines) - 1 else "\n", soft_wrap=True)
    text = out.getvalue()
    if not color:
        # A bar without colours: what is not done yet must look different.
        text = "\n".join(_uncoloured(line) for line in lines)
    return fitted(text, stream)


def _uncoloured(line: Text) -> str:
    plain = list(line.plain)
    for span in line.spans:
        if "bright_black" in str(span.style):
            plain[span.start : span.end] = "·" * (span.end - span.start)
    return "".join(plain)


def _cut(text: str, columns: int) -> str:
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= columns:
        return text
    return set_cell_size(text, columns - 1).rstrip() + "…"
