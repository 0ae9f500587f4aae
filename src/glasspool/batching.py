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


def room_in_lanes(pace_ns: float | None, held: int, lanes: int) -> int:
    """Return how many more tasks a worker may be given that holds ``held`` of this pace and has lanes.

    At least as many as it has lanes free, and ahead of those that run what ``room`` says, for each lane.
    """
    ahead = 0 if pace_ns is None else room(pace_ns, 0) - 1
    return min(MAX_HELD, lanes * (ahead + 1)) - held


def share_in_lanes(waiting: int, workers: int, free: int) -> int:
    """Return how many of the waiting tasks one of so many workers with lanes may take now.

    As ``share``; but so many as it has lanes free, if others get their even part.
    """
    even = -(-waiting // max(1, workers))
    return max(share(waiting, workers), min(free, even))


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


# Default chunks ---------------------------------------------------------------------------------

FINE_CHUNKS = 16
"""A chunk is at most this part of what a worker still has to do: so little may wait behind a long item."""

CHUNK_NS = 1_000_000
"""But it may last so long, as far as is known: then what it costs to send it does not count."""

MOST_CHUNK_NS = 8_000_000
"""And never longer than this, as far as is known."""

TAIL_NS = 100_000
"""Nor is it made smaller for the sake of an even end than what lasts so long."""

CHUNKS_AHEAD = 4
"""So many chunks for each worker are made ahead of those that workers have."""

FIRST_PART = 16
"""Before anything has come back a chunk is this part of what a worker has to do."""

FIRST_ITEMS = 4096
"""But not more items than this."""

FIRST_CHUNKS = 32
"""So many chunks are made at once if the callable has not been seen before."""

RECALLED_NS = 20_000
"""If it has, a chunk is not made smaller than what lasted so long then: it need not be so again."""


def stock_chunk(length: int, workers: int) -> int:
    """Return how many items the standard library's pool puts into a chunk by default."""
    return max(1, -(-length // (4 * workers)))


def first_chunk(left: int, workers: int, most: int, recalled_ns: float | None) -> int:
    """Return how many items the next chunk of a job should have before any of its chunks has ended.

    What follows a long item in its chunk has to wait for it, but while others have much more to do that
    costs nothing: so the first chunks may be large, and get smaller as the rest does.

    Args:
        left: How many items are in no chunk yet; at least one.
        workers: How many workers there are.
        most: Never more than this.
        recalled_ns: How long an item lasted in an earlier job with the same callable, if that is known.
    """
    size = left // (FIRST_PART * workers)
    if recalled_ns is not None:
        pace = max(recalled_ns, 1.0)
        size = min(max(size, int(RECALLED_NS / pace)), int(CHUNK_NS / pace))
    return max(1, min(size, most, left, FIRST_ITEMS))


def chunk(left: int, workers: int, most: int, pace_ns: float) -> int:
    """Return how many items the next chunk of a job should have, if their pace is known.

    Towards the end chunks get smaller, so that the workers end together (guided self-scheduling: see
    ``share``). Before it they are long enough not to count, and so short that what waits in one behind
    a long item is little beside what is left.

    Args:
        left: How many items are in no chunk yet; at least one.
        workers: How many workers there are.
        most: Never more than this.
        pace_ns: How long an item lasts.
    """
    pace = max(pace_ns, 1.0)
    size = max(left // (FINE_CHUNKS * workers), int(CHUNK_NS / pace))
    size = min(size, int(MOST_CHUNK_NS / pace), max(left // (2 * workers), int(TAIL_NS / pace)))
    return max(1, min(size, most, left))


def most_unsent(workers: int, is_known: bool) -> int:
    """Return how many chunks may be made that no worker has; a feed goes on when half of them have gone.

    What workers have does not count: behind a long item it would bar the way to all others.
    """
    most = CHUNKS_AHEAD * workers
    return most if is_known else max(most, FIRST_CHUNKS)


def new_item_pace(pace_ns: float | None, measured_ns: float) -> float:
    """Return the pace of a job's items after one more chunk.

    One long item among many short ones shall not count for much. The first chunk of a worker may be
    slow for another reason (it imports), so the way down is short.
    """
    if pace_ns is None:
        return measured_ns
    return 0.5 * pace_ns + 0.5 * min(measured_ns, 8.0 * pace_ns + 1.0)
