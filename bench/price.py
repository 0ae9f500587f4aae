"""The price of seeing: what the writes of one task to slot, ring and outbox take.

``LINES`` are those of ``Worker._run`` that write to shared memory, or make what is written; they are
compiled and timed as they stand here, on a real scoreboard and a real outbox. What travels to the
caller is put into the outbox, and so is part of it; the message that wakes the caller is not. A test
looks for each line in the source of the worker, so that the two stay in step.
"""

from __future__ import annotations

import os
import pickle
import socket
import time
from types import SimpleNamespace
from typing import Any

LINES = (
    # before the call
    "entry = self._ring + seq % sb.RING * sb.ENTRY.size",
    "begun = time.monotonic_ns()",
    "sb.BEGIN.pack_into(self._view, entry, task, call, begun, 0, seq + 1)",
    "self._fence.acquire(False)",
    "self._fence.release()",
    "words, base = self._words, self._base",
    # after it
    "ended = time.monotonic_ns()",
    "self._outbox.put(kind, 0, reply, task, begun, ended)",
    "status = sb.DONE if kind <= wire.OK_SEGMENT else sb.FAILED",
    "words[entry // 8 + sb.E_RESULT] = len(reply) | status << 56",
    "words[entry // 8 + sb.E_ENDED] = ended",
)

BETWEEN = 500
"""So many tasks are timed at a time; then the outbox is emptied, outside of the clock."""
REPEATS = 5


def time_of_writes(tasks: int) -> float:
    """Return the seconds that the lines take for one task, the least of several loops."""
    from glasspool.engines.local import scoreboard as sb
    from glasspool.engines.local.outbox import Outboxes

    board = sb.Board.create(f"bench-{os.getpid()}", 1, 1, start_method="fork")
    ours, theirs = socket.socketpair()
    boxes = Outboxes.create(1)
    try:
        return min(_time_of(LINES, board, boxes, ours, tasks) for _ in range(REPEATS)) - min(
            _time_of((), board, boxes, ours, tasks) for _ in range(REPEATS)
        )
    finally:
        ours.close()
        theirs.close()
        boxes.close()
        board.close()
        board.unlink()


def _time_of(lines: tuple[str, ...], board: Any, boxes: Any, end: Any, tasks: int) -> float:
    """Return how long a function of these lines takes, with its call."""
    import threading

    from glasspool.engines.local import scoreboard as sb
    from glasspool.engines.local import wire
    from glasspool.engines.local.outbox import Outbox

    worker = SimpleNamespace(
        _ring=board.ring(0),
        _view=board.view,
        _words=board.words,
        _base=board.base(0),
        _fence=threading.Lock(),
        _outbox=Outbox(boxes, 0, end),
    )
    names: dict[str, Any] = {"sb": sb, "wire": wire, "time": time}
    head = "def write(self, seq, task, call, kind, reply):"
    exec("\n    ".join([head, "pass", *lines]), names)
    write = names["write"]
    reply = pickle.dumps(1)
    took = 0.0
    for first in range(0, tasks, BETWEEN):
        begun = time.perf_counter()
        for seq in range(first, first + BETWEEN):
            write(worker, seq, seq, 1, wire.OK, reply)
        took += time.perf_counter() - begun
        worker._outbox.used = 0
        boxes.clear(0)
    return took / (-(-tasks // BETWEEN) * BETWEEN)
