"""How many tasks travel together. Pure: numbers in, numbers out.

Tasks that are short share a message, a wake-up and a place in line at a worker; long ones travel
singly. What counts is measured: the *pace* of a callable is how long its tasks last, on average and
with more weight on the latest.
"""

from __future__ import annotations

WINDOW_NS = 1_000_000
"""A worker is given about this much work ahead of the task that it runs."""

PREFETCH_NS = 10_000_000
"""Tasks shorter than this always have one more behind them, so the worker need not wait for it."""

MAX_HELD = 900
"""At most so many tasks are with one worker: its ring of records must not run over."""

STEAL_NS = 200_000
"""Less work than this is not worth taking back for a worker that is idle."""


def room(pace_ns: float | None, held: int) -> int:
    """Return how many more tasks a worker may be given that holds ``held`` of this pace."""
    if pace_ns is None:
        return 1 if held == 0 else 0
    ahead = MAX_HELD if pace_ns * MAX_HELD <= WINDOW_NS else int(WINDOW_NS / pace_ns)
    if ahead == 0 and pace_ns < PREFETCH_NS:
        ahead = 1
    return min(MAX_HELD, ahead + 1) - held


def share(waiting: int, workers: int) -> int:
    """Return how many of the waiting tasks one of so many workers may take now.

    Half of its even part, so that towards the end of a job the portions get small and no worker is
    left with much when the others are done (guided self-scheduling: Polychronopoulos and Kuck,
    1987).
    """
    return max(1, -(-waiting // (2 * max(1, workers))))


def new_pace(pace_ns: float | None, measured_ns: float) -> float:
    """Return the pace after one more measurement."""
    if pace_ns is None:
        return measured_ns
    return 0.7 * pace_ns + 0.3 * measured_ns


def worth_taking_back(pace_ns: float | None, unbegun: int) -> bool:
    """Tell whether so many tasks that a worker has not begun are worth moving to an idle one."""
    return unbegun > 0 and (pace_ns is None or unbegun * pace_ns >= STEAL_NS)
