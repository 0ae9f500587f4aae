"""What the workers of the tests on recordings run; importable by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def increment(number: int) -> int:
    """Do next to nothing."""
    return number + 1


def sleep(seconds: float) -> None:
    """Take a while."""
    time.sleep(seconds)


def fail(number: int) -> None:
    """Raise."""
    raise LookupError(number)


def die() -> None:
    """End this worker without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(folder: str) -> int:
    """End this worker the first time, return the second time."""
    try:
        Path(folder, "died").touch(exist_ok=False)
    except FileExistsError:
        return 5
    die()
    return 0


def fail_once(folder: str) -> int:
    """Raise the first time, return the second time."""
    try:
        Path(folder, "failed").touch(exist_ok=False)
    except FileExistsError:
        return 6
    raise LookupError("the first time")


def echo(value: Any) -> Any:
    """Return the argument."""
    return value


def draw_slowly(count: int, pause_s: float) -> Iterator[int]:
    """Yield numbers that take a while to come."""
    for number in range(count):
        time.sleep(pause_s)
        yield number


class Unpicklable:
    """What cannot be an argument."""

    def __reduce__(self) -> Any:
        raise TypeError("on purpose")
