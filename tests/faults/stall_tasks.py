"""Tasks, initializers and callbacks that stand still until they are let go."""

from __future__ import annotations

import threading
import time
from typing import Any

LOCK = threading.Lock()
"""A lock of the program, which one of its threads may hold while a pool forks."""

_kept: dict[str, Any] = {}


def keep(lock: Any) -> None:
    """Keep a lock that the parent holds (an initializer)."""
    _kept["lock"] = lock


def keep_and_take(lock: Any) -> None:
    """Wait for a lock that the parent holds (an initializer)."""
    lock.acquire()
    lock.release()


def take(value: int = 0) -> int:
    """Wait for the lock that the parent holds."""
    with _kept["lock"]:
        return value


def take_local(value: int = 0) -> int:
    """Wait for the program's own lock, as it was when the pool forked."""
    with LOCK:
        return value


def compute(seconds: float) -> int:
    """Use the processor for so long."""
    deadline = time.monotonic() + seconds
    count = 0
    while time.monotonic() < deadline:
        count += 1
    return count


def square(value: int) -> int:
    """Return the square."""
    return value * value
