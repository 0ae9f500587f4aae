"""The nanny: ends the workers of a forkserver pool when the pool's process is gone.

Those workers are children of the fork server, which may outlive the program: any process that inherited
its pipe keeps it alive. So the death signal that each worker asked for is tied to the wrong process, and
a worker that is busy in C would never notice. The nanny is a small process beside them. It waits for the
end of the pool's process (a pidfd, which nothing can hold open), then kills what the scoreboard lists.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from glasspool.engines.local import kernel
from glasspool.engines.local import scoreboard as sb

SEARCH_S = 2.0
"""So long it looks for workers that were just starting when the pool's process ended."""


def main(board_path: str, parent: int, title: str) -> None:
    """Wait for the end of the pool's process, then end its workers. The target of a ``Process``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kernel.name_this_thread(title)
    board = sb.Board.attach(board_path)
    pidfd = kernel.open_pidfd(parent)
    if pidfd is not None:
        select.select([pidfd], [], [])  # woken by the end of the pool's process, or killed by it
    board.unlink()
    deadline = time.monotonic() + SEARCH_S
    while _kill_workers(board) and time.monotonic() < deadline:
        # Nothing tells of a worker that has still to write itself into the scoreboard.
        select.select([], [], [], 0.05)


def _kill_workers(board: sb.Board) -> bool:
    """Kill the workers that the scoreboard lists; True if there may be more."""
    left = False
    for record in range(board.header.records):
        if board.word(record, sb.W_STATE) == sb.FREE:
            continue
        pid = board.word(record, sb.W_PID)
        if not pid:
            left = True  # it is starting
        elif sb.process_start_ticks(pid) == board.word(record, sb.W_STARTTIME):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return left
