"""What workers run in the tests of back-pressure and memory."""

from __future__ import annotations

import mmap
import os
import time
from typing import Any

import numpy as np

_hoard: list[Any] = []


def nap(value: int) -> int:
    """Take two milliseconds."""
    time.sleep(0.002)
    return value


def nap_unless_zero(value: int) -> int:
    """Take two milliseconds, and fail at zero."""
    time.sleep(0.002)
    if not value:
        raise LookupError("zero")
    return value


def note(path: str) -> None:
    """Add a byte to a file."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, b".")
    os.close(fd)


def first(array: Any) -> int:
    """Return the first number."""
    return int(array[0])


def full(value: int) -> Any:
    """Return 100 KB of numbers."""
    return np.full(12_500, value)


def doubled(array: Any) -> Any:
    """Return twice the numbers."""
    return array * 2


def hoard(size: int) -> int:
    """Keep so many bytes for good; return the pid."""
    if size:
        memory = mmap.mmap(-1, size)
        memory.write(b"x" * size)
        _hoard.append(memory)
    return os.getpid()


def hoard_and_stay(size: int) -> None:
    """Keep so many bytes, and stay for a minute."""
    hoard(size)
    time.sleep(60)


def resident(_: int) -> int:
    """Return how many bytes of this process are resident."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
