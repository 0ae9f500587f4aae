"""A mailbox: how other threads hand work to a loop that waits on descriptors.

``put`` takes no lock, so a signal handler or ``__del__`` may call it. Only the loop writes
``_asleep``: it says so before it looks a last time and waits, so whoever puts something in either is
seen by that look, or sees the loop asleep and wakes it.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable
from typing import Any


class Mailbox:
    """Items for one loop, and the descriptor that wakes it."""

    fd: int

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self._asleep = 0  # the number of this sleep; 0: awake
        self._sleeps = 0
        self._rung = 0  # the number of the last sleep for which somebody has rung
        # What to do after a put when the loop has ended: nobody else would look.
        self.late: Callable[[], None] | None = None
        if hasattr(os, "eventfd"):
            self.fd = self._write_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self.fd, self._write_fd = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write_fd, False)

    def put(self, item: Any) -> None:
        """Hand one item to the loop."""
        self.items.append(item)
        asleep = self._asleep
        if asleep and asleep != self._rung:
            self._wake()
            self._rung = asleep
        if self.late is not None:
            self.late()

    def nudge(self) -> None:
        """Wake the loop if something lies here unseen (its ``put`` was cut short by a signal)."""
        if self.items and self._asleep:
            self._wake()

    def _wake(self) -> None:
        # Full means that a wake-up is on its way; closed, that nobody reads any more.
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._write_fd, b"\1\0\0\0\0\0\0\0")

    # For the loop ---------------------------------------------------------------------------------

    def fall_asleep(self) -> bool:
        """Say that the loop is about to wait; True if there is something to do instead."""
        self._sleeps = self._asleep = self._sleeps + 1
        return bool(self.items)

    def wake_up(self, was_rung: bool) -> None:
        """Say that the loop is up; ``was_rung``: the descriptor was readable."""
        self._asleep = 0
        if was_rung:
            with contextlib.suppress(BlockingIOError):
                os.read(self.fd, 4096)

    def close(self) -> None:
        """Close the descriptors."""
        fds, self.fd, self._write_fd = {self.fd, self._write_fd}, -1, -1
        for fd in fds - {-1}:
            os.close(fd)
