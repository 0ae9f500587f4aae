"""How long a list of tasks must take at least, whatever the pool. Pure."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence


def shuffled(seed: int, *groups: tuple[int, float]) -> list[float]:
    """Return durations in an order that is the same each time: so many of so long each."""
    durations = [duration for count, duration in groups for _ in range(count)]
    random.Random(seed).shuffle(durations)
    return durations


def bound(durations: Sequence[float], workers: int) -> float:
    """Return the time that no schedule can beat: all hands busy, or the longest task alone."""
    return max(sum(durations) / workers, max(durations))


def in_order(durations: Sequence[float], workers: int) -> float:
    """Return the time if each free worker takes the next task of the list, which costs nothing.

    A long task near the end of the list cannot begin before those in front of it have.
    """
    free_at = [0.0] * workers
    for duration in durations:
        heapq.heapreplace(free_at, free_at[0] + duration)
    return max(free_at)
