"""How a worker has spent its life so far, read from its record: each instant counts in exactly one part.

The worker writes down how long what took up to an instant (``scoreboard.ACCOUNT``), each time it has been
through with a message or has sent results. What has passed since then is told by what it does now: whether
it waits, or how far the task is that it runs. So whoever looks sees a task that has run for an hour as an
hour of running, and the worker writes no more for it than for a short one.
"""

from __future__ import annotations

from typing import NamedTuple

from glasspool.engines.local import scoreboard as sb
from glasspool.engines.local.scoreboard import Board


class Account(NamedTuple):
    """The parts of a worker's life, in nanoseconds: those of ``snapshot.WorkerTime``."""

    start: int = 0
    initializer: int = 0
    waiting: int = 0
    receiving: int = 0
    running: int = 0
    sending: int = 0
    exit: int = 0


def of_record(board: Board, record: int, now_ns: int) -> Account | None:
    """Account for the life of the worker that has a record, up to a moment; None if it has not begun.

    Args:
        board: The pool's scoreboard.
        record: The worker's record.
        now_ns: On the clock of ``time.monotonic_ns()``: now, or when the worker ended.
    """
    begun = board.word(record, sb.W_STARTED_NS)
    if not begun:
        return None
    start, initializer = _before_work(board, record, begun, now_ns)
    ready = board.word(record, sb.W_READY_NS)
    left = board.word(record, sb.W_EXIT_NS)
    out = max(0, now_ns - left) if left else 0
    if not ready:
        return Account(start, initializer, exit=out)
    if board.lanes:
        at_work = _in_lanes(board, record, left or now_ns)
    else:
        at_work = _at_work(board, board.base(record), board.current(record), left or now_ns)
    return at_work._replace(start=start, initializer=initializer, exit=out)


def _before_work(board: Board, record: int, begun: int, now_ns: int) -> tuple[int, int]:
    """Return how long the start and the initializer have taken."""
    init_begun = board.word(record, sb.W_INIT_BEGUN_NS)
    init_ended = board.word(record, sb.W_INIT_ENDED_NS)
    end = board.word(record, sb.W_READY_NS) or board.word(record, sb.W_EXIT_NS) or now_ns
    initializer = max(0, (init_ended or end) - init_begun) if init_begun else 0
    return max(0, end - begun - initializer), initializer


def _in_lanes(board: Board, record: int, end: int) -> Account:
    """Return the parts of a worker with lanes: what each of them did, on average."""
    running = {entry.lane: entry for entry in board.running(record)}
    parts = [
        _at_work(board, board.lane(record, lane), running.get(lane), end)
        for lane in range(board.lanes)
    ]
    return Account(*(sum(part) // board.lanes for part in zip(*parts, strict=True)))


def _at_work(board: Board, base: int, entry: sb.Entry | None, end: int) -> Account:
    """Return the parts between the start and the exit: what is written, and what has passed since.

    ``base`` is where it is written: the worker's record or a lane of it.
    """
    until, waiting, receiving, running, sending = _written(board, base)
    waits, until = until & sb.WAITS, until & ~sb.WAITS
    if entry is None or not until <= entry.begun_ns <= end:
        passed = max(0, end - until)
        if waits:
            waiting += passed
        else:
            sending += passed  # between two tasks of a message
        return Account(0, 0, waiting, receiving, running, sending)
    if waits:
        waiting += entry.begun_ns - until
    else:
        receiving += entry.begun_ns - until
    called = _called(entry)
    if called is None:
        return Account(0, 0, waiting, receiving + end - entry.begun_ns, running, sending)
    called = min(called, end)
    returned = board.words[base + sb.W_RETURNED_NS]
    returned = min(returned, end) if returned >= called else end
    return Account(
        waiting=waiting,
        receiving=receiving + called - entry.begun_ns,
        running=running + returned - called,
        sending=sending + end - returned,
    )


def _called(entry: sb.Entry) -> int | None:
    """Return when the running task was called; None if its arguments are still being rebuilt."""
    return None if entry.is_rebuilding else entry.called_ns or entry.begun_ns


def _written(board: Board, base: int) -> tuple[int, ...]:
    at = (base + sb.W_UNTIL_NS) * 8
    words = sb.ACCOUNT.unpack_from(board.view, at)
    for _ in range(3):  # until it was not being written while we read
        again = sb.ACCOUNT.unpack_from(board.view, at)
        if again == words:
            break
        words = again
    return words
