"""The calls of C code above the Python stacks of a picture, for threads that run something.

To read them a process must be stopped, for some 20 to 60 ms for each of its threads: only on request.
"""

from __future__ import annotations

import time
from dataclasses import replace

from glasspool.observe import pyspy
from glasspool.snapshot import Frame, ProcessInfo, Snapshot, ThreadInfo

LIMIT_S = 5.0
"""After so long the threads that are left keep their stacks as they are."""

_NOTE = "with calls of C code, for which the process was stopped"


def added(picture: Snapshot) -> Snapshot:
    """Return a picture in which stacks go on into C code, where that may be read.

    Such frames have the library in place of the file, and the line 0. Blocks for at most about
    ``LIMIT_S``.
    """
    deadline = time.monotonic() + LIMIT_S
    done: dict[int, ProcessInfo] = {}
    for process in picture.processes:
        if process.node is not None:
            continue  # a process of another machine: whoever is on that one may read it
        threads = tuple(_with_calls(thread, deadline) for thread in process.threads)
        done[process.pid] = replace(process, threads=threads)
    pools = (
        replace(
            pool,
            processes=tuple(done.get(p.pid, p) if p.node is None else p for p in pool.processes),
        )
        for pool in picture.pools
    )
    return replace(picture, pools=tuple(pools))


def _with_calls(thread: ThreadInfo, deadline: float) -> ThreadInfo:
    left_s = deadline - time.monotonic()
    if not thread.stack or left_s <= 0 or not _runs_something(thread):
        return thread
    begun = time.monotonic()
    calls = pyspy.native_calls(thread.pid, thread.native_id, left_s)
    if not calls:
        return thread
    took_s = time.monotonic() - begun
    # The two readings are not of one moment: what is joined may never have been so.
    evidence = replace(thread.evidence, note=_NOTE, paused_s=took_s, whole=False)
    frames = tuple(Frame(call.library, 0, call.function) for call in calls)
    return replace(thread, stack=(*thread.stack, *frames), evidence=evidence)


def _runs_something(thread: ThreadInfo) -> bool:
    if thread.roles in (("main",), ("user",)):
        return thread.kernel != "futex"
    return thread.task is not None or thread.state.startswith("running")
