"""Who runs a loop: one thread at a time, though it may be asked to stand aside for a fork."""

from __future__ import annotations


class Duty:
    """A token that the thread which runs a loop holds. Taking and giving are one step each, without a
    lock, so that a signal handler may come between any two of them."""

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free: list[None] = [None]

    def take(self) -> bool:
        """Take it; False if another thread has it."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def give(self) -> None:
        """Give it back."""
        self._free.append(None)

    @property
    def is_free(self) -> bool:
        """Tell whether nobody has it."""
        return bool(self._free)
