"""Numbers over time, from the begins and ends of tasks: how many wait, how many ended in a second. Pure."""

from __future__ import annotations

from collections.abc import Iterator

EXACT_TASKS = 10_000
"""Up to so many tasks each change of a number is a point of its own; of more tasks, about so many points."""

_WINDOWS_NS = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
_FEW_WINDOWS = 20


def step_ns(tasks: int, duration_ns: int) -> int:
    """Return how finely numbers are told: a million tasks must not become millions of points."""
    return 1 if tasks <= EXACT_TASKS else max(1, duration_ns // EXACT_TASKS)


def window_ns(duration_ns: int) -> int:
    """Return over how long rates are taken: a second, or less where that would be too few points."""
    for window in reversed(_WINDOWS_NS):
        if duration_ns >= _FEW_WINDOWS * window:
            return window
    return _WINDOWS_NS[0]


class Level:
    """A number that rises and falls, such as how many tasks run."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._changes: dict[int, int] = {}

    def change(self, at_ns: int, by: int) -> None:
        """Note a change."""
        at = at_ns - at_ns % self._step
        self._changes[at] = self._changes.get(at, 0) + by

    def points(self) -> Iterator[tuple[int, int]]:
        """Return the moments at which the number became another one, and that number."""
        value = 0
        before: int | None = None
        for at, by in sorted(self._changes.items()):
            value += by
            if value != before:
                yield at, value
            before = value


class Rate:
    """How much of something there was in each second, taken over windows that follow each other."""

    def __init__(self, begun_ns: int, window: int) -> None:
        self._begun_ns = begun_ns
        self._window = window
        self._sums: dict[int, int] = {}

    def add(self, at_ns: int, amount: int = 1) -> None:
        """Note that something happened."""
        window = (at_ns - self._begun_ns) // self._window
        self._sums[window] = self._sums.get(window, 0) + amount

    def points(self) -> Iterator[tuple[int, float]]:
        """Return the begin of each window whose rate is another one than that before, and the rate."""
        zero = -1  # the last window that was told to have had nothing
        for window in sorted(self._sums):
            if window > zero + 1:
                yield self._begun_ns + (zero + 1) * self._window, 0.0
            yield self._begun_ns + window * self._window, self._sums[window] * 1e9 / self._window
            zero = window
        if self._sums:
            yield self._begun_ns + (zero + 1) * self._window, 0.0
