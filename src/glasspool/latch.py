"""A one-way switch that threads wait for, without a lock that a signal handler could meet."""

from __future__ import annotations

import os
import threading
from _thread import allocate_lock
from typing import TYPE_CHECKING, Protocol


class Waiter(Protocol):
    """Who waits for a switch: a lock that a thread wants, or a task of an event loop."""

    def release(self) -> None:
        """Have him go on (any thread). Neither waits nor raises."""


class Switch:
    """What a ``Latch`` can do, for classes that have its attributes among their own.

    Like ``threading.Event``, but lighter, never reset, and safe to wait for in a signal handler.

    ``Event.wait`` and ``Event.set`` hold one lock for a moment; a signal handler that waits for the
    same event while the main thread is inside would wait for ever. Here each waiter brings a lock of
    its own. Order settles the race: a waiter enters the list and then looks at the switch, ``set``
    turns the switch and then looks at the list.
    """

    if not TYPE_CHECKING:  # a type checker would refuse what is not among them
        __slots__ = ()

    _is_set: bool
    _waiters: list[Waiter] | None

    def is_set(self) -> bool:
        """Tell whether the switch has been turned."""
        return self._is_set

    def set(self) -> None:
        """Turn the switch and wake all who wait. Never blocks."""
        self._is_set = True
        waiters = self._waiters
        while waiters:
            try:
                waiters.pop().release()
            except IndexError:  # that waiter left at this moment
                return

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the switch is turned, at most ``timeout`` seconds; tell whether it is."""
        if self._is_set:
            return True
        if timeout is not None and timeout <= 0:
            return False
        mine = allocate_lock()
        mine.acquire()
        waiters = self._list()
        waiters.append(mine)
        if self.is_set():
            return True
        try:
            # Woken by set(), or by a signal handler that raises.
            mine.acquire(True, -1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        finally:
            try:
                waiters.remove(mine)
            except ValueError:  # set() took it
                pass
        return self._is_set

    def enter(self, waiter: Waiter) -> bool:
        """List somebody to be released once, when the switch is turned; tell whether it is already.

        In that case he may or may not be released.
        """
        self._list().append(waiter)
        return self.is_set()

    def leave(self, waiter: Waiter) -> bool:
        """Take somebody off the list; tell whether anybody is left on it, or the switch was turned."""
        waiters = self._list()
        try:
            waiters.remove(waiter)
        except ValueError:  # set() took it
            pass
        return bool(waiters) or self._is_set

    def _list(self) -> list[Waiter]:
        # Reentrant, for the signal handler that waits here too.
        with _making:
            if self._waiters is None:
                self._waiters = []
            return self._waiters


class Latch(Switch):
    """A switch that nobody has turned yet."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        self._waiters = None


_making = threading.RLock()


def _in_child() -> None:
    """After a fork: a thread that is not here may have held the lock."""
    global _making
    _making = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
