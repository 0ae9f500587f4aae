"""Progress in a notebook: a bar below the cell that made the call, drawn anew in place.

A piece of HTML in an output with an id of its own, which any thread may replace; it needs no widgets, and
stays in the saved notebook as it was at the end.
"""

from __future__ import annotations

import importlib
from typing import Any

from glasspool import progress as words
from glasspool.progress import State
from glasspool.views import html


class NotebookDisplay:
    """One job's bar below its cell."""

    every_s: float = 0.5

    def __init__(self) -> None:
        self._handle: Any = None

    def open(self, total: int | None) -> None:
        """Take a place below the cell that runs now."""
        # It is there: only in its kernel this display is chosen.
        display: Any = importlib.import_module("IPython.display").display
        self._handle = display({"text/plain": "", "text/html": ""}, raw=True, display_id=True)

    def show(self, told: State) -> None:
        """Draw the bar anew."""
        if self._handle is not None:
            drawn = {"text/plain": words.line(told), "text/html": html.progress(told)}
            self._handle.update(drawn, raw=True)

    def end(self, told: State) -> None:
        """Draw how the job ended."""
        self.show(told)
