"""The nanny: ends the workers of a spawn or forkserver pool when the pool's process is gone.

Workers that are busy in C would never notice. A death signal of the kernel's is no cure here: it is tied
to the thread that started the worker (which stands aside when another pool forks), or to the fork server,
which outlives the program when any other process holds its pipe. So a small process waits for the end of
the pool's process, by a pidfd, which nothing can hold open, and then kills what the scoreboard lists.

This file is run as a script, by an interpreter without site-packages: it starts in some milliseconds, and
must not import anything of the package. The layout of the scoreboard comes in the arguments.
"""

from __future__ import annotations

import os
import select
import sys
import time

# Not ``signal``: with the ``enum`` that it needs, it is a third of the start.
from _signal import SIG_IGN, SIGINT, SIGKILL, signal  # type: ignore[import-not-found]

SEARCH_S = 2.0
"""So long it looks for workers that were just starting when the pool's process ended."""


def main(board: str, parent: int, started: int, title: str, layout: list[int]) -> None:
    """Wait for the end of the pool's process, which started at ``started``, then end its workers.

    ``layout``: number of records, offset of the first, their size, and the offsets of the words state,
    pid and start time within one.
    """
    signal(SIGINT, SIG_IGN)
    with open(board, "rb", buffering=0) as file:
        with open(f"/proc/self/task/{os.getpid()}/comm", "wb", buffering=0) as comm:
            comm.write(title.encode()[:15])
        _wait_for_end(parent, started)
        for path in (board, board.removesuffix(".board") + ".sock"):
            if os.path.exists(path):
                os.unlink(path)
        deadline = time.monotonic() + SEARCH_S
        while _kill_workers(file.fileno(), layout) and time.monotonic() < deadline:
            # Nothing tells of a worker that has still to write itself into the scoreboard.
            select.select([], [], [], 0.05)


def _wait_for_end(parent: int, started: int) -> None:
    try:
        pidfd = os.pidfd_open(parent)
    except ProcessLookupError:
        return  # before we were there
    if _start_ticks(parent) == started:
        select.select([pidfd], [], [])  # woken by the end of the pool's process, or killed by it


def _kill_workers(board: int, layout: list[int]) -> bool:
    """Kill the workers that the scoreboard lists; True if there may be more."""
    records, first, size, state_at, pid_at, start_at = layout
    left = False
    for record in range(records):
        base = first + record * size
        state, pid, started = (
            int.from_bytes(os.pread(board, 8, base + at), "little")
            for at in (state_at, pid_at, start_at)
        )
        if not state:
            continue
        if not pid:
            left = True  # it is starting
        elif _start_ticks(pid) == started:
            os.kill(pid, SIGKILL)
    return left


def _start_ticks(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return -1


if __name__ == "__main__":
    main(
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        sys.argv[4],
        [int(value) for value in sys.argv[5:]],
    )
