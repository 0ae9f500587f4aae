"""The screens on top of the tables: details with a live stack, help, a question before an act."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from glasspool.views.top.headline import Line
from glasspool.views.top.looks import STYLES

HELP = """\
glasspool top: what each process and thread of a pool does, at this moment

  1 to 5          workers, threads, tasks, deaths, log
  Tab, Shift-Tab  the next pool, the one before
  arrows, PgUp, PgDn, Home, End, j, k    move the cursor
  Enter           more of a row: the live stack of a thread, the certificate
                  of a death, all of a task; Esc leads back
  /               show only rows that hold a text; Esc shows all again
  < and >         sort by the column before or after; i: the other way round;
                  a click on a heading does it, too
  - and +         fold and unfold a process (threads); * folds all or none
  space           pause: what is seen stays, and the pool is not looked at
  ?, F1           this help            q, F10   leave
{control}
STATE     the bar is the part of the last seconds spent in tasks
SINCE     for how long the task runs, or the thread is in its state
CPU%      of one processor, over the last seconds; 250 is two and a half
RST       how many workers this one's place has had before it
done, waiting, handed out, running, failed: the pool's own counters, as in
"glasspool ps PID --json"; "handed out" are with a worker, begun or not.
A question mark behind a role: inferred, not read.
"""

CONTROL = """
  c               cancel the task of a row (its caller gets TaskCancelled)
  r               restart the worker of a row: shows its stack, then asks
"""

NO_CONTROL = """
  To cancel tasks and restart workers, start it with --control.
"""


def text_of(lines: Sequence[Line]) -> Text:
    """Return lines for the screen. Their words are plain text: nothing in them is markup."""
    text = Text(no_wrap=False, overflow="fold")
    for number, line in enumerate(lines):
        if number:
            text.append("\n")
        for words in line:
            text.append(words.text, STYLES.get(words.style))
    return text


class Details(Screen[None]):
    """More of one row, again with each new view."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,left", "leave", show=False),
        Binding("up,k", "scroll(-1)", show=False),
        Binding("down,j", "scroll(1)", show=False),
        Binding("pageup", "scroll(-15)", show=False),
        Binding("pagedown", "scroll(15)", show=False),
    ]

    def __init__(
        self, title: str, lines: Callable[[int], list[Line]], keys: str, subject: Any, live: bool
    ) -> None:
        super().__init__()
        self._title, self._lines, self._keys = title, lines, keys
        self.subject = subject
        self.wants_stacks: bool = live

    def compose(self) -> ComposeResult:
        """Lay out a title, the text, the keys."""
        yield Static(Text(f" {self._title}", no_wrap=True, overflow="ellipsis"), id="title")
        with VerticalScroll(id="scroll"):
            yield Static(id="text")
        yield Static(Text(self._keys, no_wrap=True, overflow="ellipsis"), id="keys")

    def on_mount(self) -> None:
        """Show what is known already."""
        self.renew()

    def on_resize(self) -> None:
        """Fit the text to the new width."""
        self.renew()

    def renew(self) -> None:
        """Show what is known now."""
        width = max(20, self.size.width - 2)
        self.query_one("#text", Static).update(text_of(self._lines(width)))

    def action_leave(self) -> None:
        """Go back to the tables."""
        self.dismiss()

    def action_scroll(self, by: int) -> None:
        """Move the text."""
        self.query_one("#scroll", VerticalScroll).scroll_relative(y=by, animate=False)


class Help(Details):
    """What the keys do."""

    def __init__(self, control: bool) -> None:
        text = HELP.format(control=CONTROL if control else NO_CONTROL)
        from glasspool.views.top.headline import Words

        lines: list[Line] = [(Words(line),) for line in text.splitlines()]
        super().__init__("help", lambda _width: lines, " Esc back", None, live=False)


class Question(ModalScreen[str | None]):
    """Asks before something is done that cannot be undone; gives the key that was pressed, or None."""

    def __init__(self, lines: Callable[[int], list[Line]], answers: str) -> None:
        super().__init__()
        self._lines, self._answers = lines, answers
        self.wants_stacks: bool = True

    def compose(self) -> ComposeResult:
        """Lay out the text, which tells the answers, too."""
        with VerticalScroll(id="question"):
            yield Static(id="text")

    def on_mount(self) -> None:
        """Show what is known already."""
        self.renew()

    def renew(self) -> None:
        """Show what is known now."""
        width = max(20, self.size.width - 8)
        self.query_one("#text", Static).update(text_of(self._lines(width)))

    def on_key(self, event: Any) -> None:
        """Take the answer; any key that is none means no."""
        if event.key in ("up", "down", "pageup", "pagedown"):
            by = -1 if "up" in event.key else 1
            self.query_one("#question", VerticalScroll).scroll_relative(y=by, animate=False)
            return
        event.stop()
        self.dismiss(event.key if event.key in self._answers else None)
