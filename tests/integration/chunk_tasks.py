"""What the workers of ``test_default_chunks`` run."""

from __future__ import annotations

import os
import signal
from typing import Any

import gates
import glasspool


def wait_at(value: int, place: int) -> int:
    """Wait for the gate at one place; return the value."""
    if value == place:
        gates.shared["started"].release()
        if not gates.shared["gate"].wait(60):
            raise RuntimeError("the gate was never opened")
    return value


def wait_at_three(value: int) -> int:
    """Wait for the gate if the value is 3."""
    return wait_at(value, 3)


def wait_always(value: int) -> int:
    """Wait for the gate."""
    return wait_at(value, value)


def negative(value: Any) -> Any:
    """Return less of it."""
    return -value


def as_is(value: Any) -> Any:
    """Return the value."""
    return value


def add(left: int, right: int) -> int:
    """Return the sum."""
    return left + right


def fail_at_seven(value: int) -> int:
    """Raise at 7."""
    if value == 7:
        raise LookupError("seven")
    return value


def die_once(value: int) -> int:
    """End this process at 17, at the first attempt."""
    here = glasspool.worker()
    if value == 17 and here is not None and here.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


class Unbuildable:
    """A value that cannot be rebuilt."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def unbuildable(value: int) -> Any:
    """Return something that the caller cannot rebuild, at 900."""
    return Unbuildable() if value == 900 else value


class Stateful:
    """A callable that is rebuilt for each task."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, value: int) -> int:
        self.calls += 1
        return self.calls
