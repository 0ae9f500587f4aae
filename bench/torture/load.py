"""What the workers run under torture. Each call has a token, which it marks when it begins, and returns."""

from __future__ import annotations

import mmap
import time

MARKS = 1 << 20
"""So many tokens have a mark of their own at the same time."""

_marks: dict[str, mmap.mmap] = {}


class Deliberate(Exception):
    """What a task raises on purpose; its argument is the token."""


def open_marks(path: str) -> mmap.mmap:
    """Map the file with one byte for each token: how often it has begun (also an initializer)."""
    with open(path, "r+b") as file:
        _marks["marks"] = mmap.mmap(file.fileno(), MARKS)
    return _marks["marks"]


def _mark(token: int) -> None:
    marks = _marks["marks"]
    at = token % MARKS
    marks[at] = min(marks[at] + 1, 255)


def short(token: int) -> int:
    """Do next to nothing."""
    _mark(token)
    return token


def long(token: int, seconds: float) -> int:
    """Take a while."""
    _mark(token)
    time.sleep(seconds)
    return token


def fail(token: int) -> int:
    """Raise on purpose."""
    _mark(token)
    raise Deliberate(token)


def take(token: int, content: bytes) -> tuple[int, int]:
    """Take a large argument."""
    _mark(token)
    return token, len(content)


def give(token: int, size: int) -> tuple[int, bytes]:
    """Return a large result."""
    _mark(token)
    return token, bytes(size)


def nap(seconds: float) -> float:
    """Sleep; return when this began, by the clock that all processes share."""
    begun = time.monotonic()
    time.sleep(seconds)
    return begun
