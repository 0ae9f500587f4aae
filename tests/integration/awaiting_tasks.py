"""What the workers of the tests on event loops run; importable by name."""

from __future__ import annotations

import signal
import time
from typing import Any

import gates


def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


def fail(number: int) -> None:
    """Raise."""
    raise LookupError(f"number {number}")


def fail_if_odd(number: int) -> int:
    """Raise for odd numbers."""
    if number % 2:
        fail(number)
    return number


def at_gate(number: Any) -> Any:
    """Say that it has begun, and wait for the gate."""
    gates.shared["started"].release()
    if not gates.shared["gate"].wait(gates.LIMIT_S):
        raise TimeoutError("nobody opened the gate")
    return number


def resist(seconds: float) -> None:
    """Take no SIGTERM, and say so by beginning."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gates.shared["started"].release()
    time.sleep(seconds)
