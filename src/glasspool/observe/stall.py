"""Tell of a stall: what the stall watch noticed becomes a warning with the reason and the roster."""

from __future__ import annotations

import linecache
import os
import threading
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from glasspool.engines.local import events
from glasspool.engines.local.workers import report_thread_error
from glasspool.observe import procfs, roster
from glasspool.observe.diagnosis import Finding, diagnose
from glasspool.registry import StallWarning
from glasspool.snapshot import Snapshot

if TYPE_CHECKING:
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.stall import Stall


def warn(engine: LocalEngine, stall: Stall) -> None:
    """Warn of a stall, with the reason and the roster, where the pool was made.

    Blocks for as long as the workers take to tell their stacks, about a second at most, and for as
    long as the program takes to show a warning. Raises nothing: a warning that the program has turned
    into an error is reported as an error of this thread.
    """
    try:
        picture = _without_this_thread(roster.snapshot((engine,), stacks=True))
        if engine.done.is_set() or not stall.still_holds():
            return  # it moves again, or has ended meanwhile
        found = diagnose(
            picture, quiet_s=stall.quiet_s, shares=stall.shares, line_of=linecache.getline
        )
        if found and all(finding.kind == "reader" for finding in found):
            return  # it is the program's to take its results when it likes
        file, _, line = engine.made_at.rpartition(":")
        said = text(picture, stall.quiet_s, found)
        events.pool_stalled(engine, said, stall.quiet_s)
        warnings.warn_explicit(said, StallWarning, file, int(line))
    except Exception:  # also the warning itself, if the program wants errors
        if not engine.done.is_set():
            report_thread_error()


def processor_time(engine: LocalEngine) -> dict[int, float]:
    """Read the processor time of all that may be at work for a pool, in seconds.

    Of each worker with all that descends from it, by pid, and of a running callback's and the
    iterables' threads, by native id.
    """
    pids = [worker.pid for worker in engine.handler.workers.copy().values() if worker.pid]
    used = {pid: procfs.family_cpu_s(pid) for pid in pids}
    threads = list(engine.feeders)
    if engine.calling_back is not None:
        threads.append(engine.threads["callback"])
    for thread in threads:
        seen = procfs.thread(os.getpid(), thread.native_id or 0)
        if seen is not None:
            used[seen.tid] = seen.cpu_s
    return used


def text(picture: Snapshot, quiet_s: float, found: tuple[Finding, ...]) -> str:
    """Say for how long nothing has moved, why, and how all of it looks."""
    [pool] = picture.pools
    counts = ", ".join(
        f"{pool.stats[word]} {word}" for word in ("running", "waiting") if pool.stats.get(word)
    )
    head = f"nothing has moved in {pool.name} for {quiet_s:.1f} s"
    lines = [f"{head} (tasks: {counts})." if counts else f"{head}."]
    lines += [f"- {finding.text}" for finding in found]
    return "\n".join([*lines, str(picture)])


def _without_this_thread(picture: Snapshot) -> Snapshot:
    """Leave out the thread that is here only to look."""
    me = threading.get_native_id()
    pools = tuple(
        replace(
            pool,
            processes=tuple(
                replace(process, threads=tuple(t for t in process.threads if t.native_id != me))
                for process in pool.processes
            ),
        )
        for pool in picture.pools
    )
    return replace(picture, pools=pools)
