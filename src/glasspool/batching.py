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

AHEAD_TASKS = 4
"""So many tasks for each worker are always drawn ahead of the reader of an ``imap``."""

AHEAD_NS = 4_000_000
"""Of shorter tasks, as many as keep a worker busy for so long."""

MOST_AHEAD = 2048
"""But never more than this, nor more than ``AHEAD_BYTES`` of arguments and results."""

AHEAD_BYTES = 64 * 1024 * 1024
"""About so many bytes of one job are on their way at a time."""


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


def window(pace_ns: float | None, workers: int, taken: int, task_bytes: float) -> int:
    """Return how many tasks an ``imap`` may be ahead of its reader.

    A few for each worker, to begin with. For short tasks the window opens as the reader takes
    results, up to some milliseconds of work, so that one who reads on does not wait for the
    feed; one who takes a single result has caused little more than that one to be drawn.

    Args:
        pace_ns: How long a task lasts; None if that is not known.
        workers: How many workers there are.
        taken: How many results the reader has taken so far.
        task_bytes: How large the arguments and the result of a task are.
    """
    least = AHEAD_TASKS * workers
    if pace_ns is None:
        return least
    wanted = int(workers * AHEAD_NS / max(pace_ns, 1.0))
    most = min(MOST_AHEAD, int(AHEAD_BYTES / max(task_bytes, 1.0)))
    return max(least, min(wanted, most, least + taken))


def refill_at(window: int) -> int:
    """Return at how many tasks ahead a feed that had filled its window goes on drawing.

    Not at each result that is taken: the feed runs on a thread of its own, and to wake it costs
    more than a short task.
    """
    return window - max(1, window // 4)
