"""The price of seeing: what the writes of one task to slot, ring and outbox take.

``LINES`` are those of ``Worker._run_row`` that write to shared memory, or make what is written; they are
compiled and timed as they stand here, on a real scoreboard and a real outbox. The result itself lies
in the outbox, and so is part of it; the message that wakes the caller is not. A test looks for each
line in the source of the worker, so that the two stay in step.
"""

from __future__ import annotations

import marshal
import os
import socket
import threading
import time
from typing import Any

LINES = (
    # before the call
    "entry = ring + seq % many * size",
    "begin(view, entry, task, call, begun, 0, seq + 1)",
    "fence.acquire(False)",
    "fence.release()",
    # after it
    "ended = now()",
    "put_plain(reply, task, begun, ended)",
    "at = entry >> 3",
    "words[at + sb.E_RESULT] = len(reply) | _DONE",
    "words[at + sb.E_ENDED] = ended",
    "begun = ended",
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
        with_lines = min(_time_of(LINES, board, boxes, ours, tasks) for _ in range(REPEATS))
        without = min(_time_of((), board, boxes, ours, tasks) for _ in range(REPEATS))
    finally:
        ours.close()
        theirs.close()
        boxes.close()
        board.close()
        board.unlink()
    return with_lines - without


def _time_of(
    lines: tuple[str, ...], board: Any, boxes: Any, end: socket.socket, tasks: int
) -> float:
    """Return how long a loop with these lines takes for one task."""
    from glasspool.engines.local import scoreboard as sb
    from glasspool.engines.local.outbox import Outbox

    outbox = Outbox(boxes, 0, end)
    local: dict[str, Any] = {
        "view": board.view,
        "words": board.words,
        "ring": board.ring(0),
        "begin": sb.BEGIN.pack_into,
        "size": sb.ENTRY.size,
        "many": sb.RING,
        "now": time.monotonic_ns,
        "fence": threading.Lock(),
        "put_plain": outbox.put_plain,
        "call": 1,
        "reply": marshal.dumps(1),
    }
    loop = _loop_of(lines, local)
    took = 0.0
    for first in range(0, tasks, BETWEEN):
        begun = time.perf_counter()
        loop(first, first + BETWEEN, **local)
        took += time.perf_counter() - begun
        outbox.used = 0
        boxes.clear(0)
    return took / (-(-tasks // BETWEEN) * BETWEEN)


def _loop_of(lines: tuple[str, ...], local: dict[str, Any]) -> Any:
    """Compile a function of the lines in which all names are as local as in the worker's."""
    from glasspool.engines.local import scoreboard as sb

    source = [
        f"def loop(first, stop, {', '.join(local)}):",
        "    begun = now()",
        "    for seq in range(first, stop):",
        "        task = seq",
        *(f"        {line}" for line in lines),
    ]
    names: dict[str, Any] = {"sb": sb, "_DONE": sb.DONE << 56}
    exec("\n".join(source), names)
    return names["loop"]
