"""Which display shows a call's progress: the user's own, a notebook's, a terminal's, or lines of text.

Here are the choice, the lines of text, and bars of the user's; ``progress_terminal`` and
``progress_notebook`` have the others, and are loaded only for them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from glasspool import progress as words
from glasspool.engines.local.payload import callable_name
from glasspool.engines.local.showing import Display, Shown
from glasspool.progress import State
from glasspool.views.table import harmless

LINE_EVERY_S = 10.0
"""At least so often there is a line, where there is nothing but lines; of long jobs less often."""

LINE_PART = 0.1
"""Also when so much more of the job is done."""

_GAP_S = 1.0
_LABEL_MOST = 60


def shown(progress: Any, func: Callable[..., object], where: tuple[str, int]) -> Shown:
    """Return what shows the progress of a call.

    Args:
        progress: What the user said: True, a description, a bar, or what makes one.
        func: What the call is of.
        where: File and line of the user's, for a warning.

    Raises:
        TypeError: ``progress`` is nothing of that kind.
    """
    described = isinstance(progress, str) and bool(progress)
    label = progress if described else callable_name(func)
    label = harmless(label)
    label = label if len(label) <= _LABEL_MOST else f"{label[: _LABEL_MOST - 1]}…"
    if progress is True or isinstance(progress, str):
        return Shown(label, chosen(), where)
    if callable(getattr(progress, "update", None)) and not isinstance(progress, type):
        return Shown(label, UsersBar(progress), where)
    if callable(progress):
        return Shown(label, UsersBar(None, progress), where)
    raise TypeError(
        "progress must be True, a description, or a bar with update(n) such as tqdm's, "
        f"not {type(progress).__name__}"
    )


def chosen() -> Display | None:
    """Return the display for where this program runs; None if it has no place to show anything."""
    if is_notebook():
        from glasspool.views.progress_notebook import NotebookDisplay

        return NotebookDisplay()
    stream = sys.stderr
    if stream is None:  # a program without a console
        return None
    if is_terminal(stream):
        from glasspool.views.progress_terminal import TerminalDisplay

        return TerminalDisplay(stream)
    return LinesDisplay()


def is_notebook() -> bool:
    """Tell whether this is the kernel of a notebook; loads nothing."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None and hasattr(module, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal on which lines can be drawn anew."""
    if os.environ.get("TERM") in ("dumb", "unknown"):
        return False
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # a stream of somebody's making, or a closed one
        return False


class LinesDisplay:
    """Lines of text on standard error: every ten seconds, or every tenth of the job, and at the end."""

    every_s: float = 0.5

    def __init__(self) -> None:
        self._said_s = 0.0
        self._said_share = 0.0

    def open(self, total: int | None) -> None:
        """Say nothing: a short job has one line, the last one."""

    def show(self, told: State) -> None:
        """Write a line if it is time for one."""
        passed_s = told.elapsed_s - self._said_s
        share = told.share or 0.0
        is_time = passed_s >= max(LINE_EVERY_S, told.elapsed_s / 30)
        is_far = passed_s >= _GAP_S and share - self._said_share >= LINE_PART
        if is_time or is_far:
            self._said_s, self._said_share = told.elapsed_s, share
            write_line(words.line(told))

    def end(self, told: State) -> None:
        """Write the last line."""
        write_line(words.line(told))


def write_line(text: str) -> None:
    """Write a line to standard error as one piece, so that others' lines do not mix with it."""
    stream = sys.stderr  # as it is now: a test or a program may have put another one there
    if stream is not None:
        stream.write(f"{_encodable(harmless(text), stream)}\n")
        stream.flush()


def _encodable(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        return text.encode(encoding, "replace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "replace").decode("ascii")


class UsersBar:
    """A bar of the user's: an object like tqdm's, or what makes one for this job.

    An object that the user made stays his to close; one that is made here is closed at the end.
    """

    every_s: float = 0.1

    def __init__(self, bar: Any, make: Callable[..., Any] | None = None) -> None:
        self._bar = bar
        self._make = make
        self._told = 0
        self._troubles: dict[str, int] = {}

    def open(self, total: int | None) -> None:
        """Make the bar if it is to be made, and tell it how many items there are."""
        if self._make is not None:
            self._bar = self._make(total=total)
            if not callable(getattr(self._bar, "update", None)):
                raise TypeError(
                    f"{self._make!r} made a {type(self._bar).__name__}, which has no update(n)"
                )
        elif total is not None and getattr(self._bar, "total", 0) is None:
            self._bar.total = total

    def show(self, told: State) -> None:
        """Tell how many more items have ended, and how many not well."""
        more = told.ended - self._told
        troubles = {word: getattr(told, end) for end, word in words.WORDS.items()}
        troubles = {word: count for word, count in troubles.items() if count}
        if troubles != self._troubles:
            self._troubles = troubles
            tell = getattr(self._bar, "set_postfix", None)
            if callable(tell):
                tell(troubles, refresh=False)
        if more:
            self._told = told.ended
            self._bar.update(more)

    def end(self, told: State) -> None:
        """Tell the last state, and have it displayed."""
        if self._make is not None and told.total is not None and not getattr(self._bar, "total", 0):
            self._bar.total = told.total
        self.show(told)
        last = "refresh" if self._make is None else "close"
        finish = getattr(self._bar, last, None)
        if callable(finish):
            finish()
