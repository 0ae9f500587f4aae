"""Timers: what a loop is to do later. Used by the thread of that loop alone."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable


class Timers:
    """Calls that are due at a time, the earliest first."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Have a call made after a delay."""
        heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._order), action))

    def next_s(self) -> float | None:
        """Return how long the loop may wait, in seconds; None: for ever."""
        if not self._due:
            return None
        return max(0.0, self._due[0][0] - time.monotonic())

    def run_due(self) -> None:
        """Make the calls that are due now.

        What becomes due meanwhile has its turn after the loop's other work: calls that take longer than the
        delay after which they want to be made again would else be all that it ever does.
        """
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
