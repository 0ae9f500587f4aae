"""What the tasks of the measurements on clusters do; nodes import it."""

from __future__ import annotations

import time
from typing import Any


def nothing(x: object) -> None:
    """Do nothing."""


def same(x: Any) -> Any:
    """Return the argument."""
    return x


def total(array: Any, number: int = 0) -> float:
    """Add an array up."""
    return float(array[:: 1 << 12].sum()) + number


def zeros(count: int) -> Any:
    """Return an array of so many numbers."""
    import numpy as np

    return np.zeros(count)


def lasting(duration_s: float) -> float:
    """Last so long, without work for the processor."""
    time.sleep(duration_s)
    return duration_s
