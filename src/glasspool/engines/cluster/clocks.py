"""Clocks: what the time of another machine is on this one's.

Each machine's ``time.monotonic_ns()`` begins somewhere else. The driver asks an agent what its clock shows
and takes it to have been read in the middle of the way there and back (Cristian, "Probabilistic clock
synchronization", Distributed Computing 3, 1989). The error is at most half of that time, so the quickest
answer of the last ones counts.

Pure: numbers in, numbers out.
"""

from __future__ import annotations

from collections import deque

KEPT = 16
"""So many answers are remembered: clocks drift apart by some microseconds a second."""


class Clock:
    """The clock of one node, as the driver knows it."""

    def __init__(self) -> None:
        self._answers: deque[tuple[int, int]] = deque(maxlen=KEPT)  # way there and back, difference
        self.offset_ns: int = 0
        """What to add to a time of the node's."""
        self.round_trip_ns: int | None = None
        """Of the quickest answer; the offset is wrong by half of it at most. None: not asked yet."""

    def answered(self, asked_ns: int, theirs_ns: int, now_ns: int) -> None:
        """Take in an answer: when it was asked for and has come (here), and what the clock showed (there)."""
        way = max(0, now_ns - asked_ns)
        self._answers.append((way, asked_ns + way // 2 - theirs_ns))
        self.round_trip_ns, self.offset_ns = min(self._answers)

    def here(self, theirs_ns: int) -> int:
        """Return what a time of the node's is here; 0, which stands for none, stays 0."""
        return theirs_ns + self.offset_ns if theirs_ns else 0
