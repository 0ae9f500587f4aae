"""How busy workers and threads were in the last seconds, from counters in successive pictures.

Pure: the time is that of the pictures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from glasspool.snapshot import PoolInfo, ProcessInfo, ThreadInfo

WINDOW_S = 2.5
"""Shares are of the last seconds: over a shorter time the kernel's clock ticks of 10 ms would show."""

_LEAST_S = 0.2

Key = tuple[str | None, int, float | None]
_Sample = tuple[float, float | None, float | None]
"""When, processor seconds, busy seconds."""


class Meters:
    """Keeps the counters of the last seconds, and turns them into shares."""

    def __init__(self) -> None:
        self._samples: dict[Key, deque[_Sample]] = {}
        self._doing: dict[
            Key, tuple[Any, float]
        ] = {}  # what a worker was seen to do, and since when
        self._now = 0.0

    def take(self, pools: Iterable[PoolInfo], taken_at: float) -> None:
        """Note the counters of a picture; what is in it no more is forgotten."""
        seen: dict[Key, deque[_Sample]] = {}
        doing: dict[Key, tuple[Any, float]] = {}
        for pool in pools:
            ours = pool.kind.startswith("glasspool")
            for process in pool.processes:
                key = key_of(process)
                if process.role == "worker":
                    what = _what(process)
                    before = self._doing.get(key)
                    doing[key] = before if before and before[0] == what else (what, taken_at)
                    busy_s = _busy(process) if ours else self._seen_busy(process, taken_at)
                else:
                    busy_s = None
                self._note(seen, key, taken_at, process.cpu_s, busy_s)
                for thread in process.threads:
                    self._note(seen, _key_of_thread(thread), taken_at, thread.cpu_s, None)
        self._samples, self._doing, self._now = seen, doing, taken_at

    def _seen_busy(self, process: ProcessInfo, taken_at: float) -> float:
        """Add up for how long a worker was seen busy that keeps no account of it."""
        samples = self._samples.get(key_of(process))
        if not samples:
            return 0.0
        passed = max(0.0, taken_at - samples[-1][0]) if process.state == "busy" else 0.0
        return (samples[-1][2] or 0.0) + passed

    def _note(
        self,
        seen: dict[Key, deque[_Sample]],
        key: Key,
        taken_at: float,
        cpu_s: float | None,
        busy_s: float | None,
    ) -> None:
        if key in seen:
            return  # a process that serves several pools
        samples = self._samples.get(key) or deque()
        if samples and taken_at <= samples[-1][0]:
            seen[key] = samples  # the clock was set back, or it is the same picture
            return
        samples.append((taken_at, cpu_s, busy_s))
        while len(samples) > 2 and samples[1][0] <= taken_at - WINDOW_S:
            samples.popleft()
        seen[key] = samples

    def cpu(self, process: ProcessInfo) -> float | None:
        """Return the part of one processor that a process used; above 1 if it used several."""
        return self._share(key_of(process), 1)

    def cpu_of_thread(self, thread: ThreadInfo) -> float | None:
        """Return the part of one processor that a thread used."""
        if thread.cpu_share is not None:
            return thread.cpu_share  # measured while the picture was taken
        return self._share(_key_of_thread(thread), 1)

    def busy(self, process: ProcessInfo) -> float | None:
        """Return the part of a worker's time that it spent in tasks, 0 to 1."""
        share = self._share(key_of(process), 2)
        return None if share is None else min(1.0, share)

    def seen_for(self, process: ProcessInfo) -> float | None:
        """Return for how long a worker has been seen to do what it does; perhaps it does so for longer."""
        what = self._doing.get(key_of(process))
        return None if what is None else max(0.0, self._now - what[1])

    def _share(self, key: Key, at: int) -> float | None:
        samples = self._samples.get(key)
        if not samples or len(samples) < 2:
            return None
        first, last = samples[0], samples[-1]
        before, now = first[at], last[at]
        passed = last[0] - first[0]
        if before is None or now is None or passed < _LEAST_S:
            return None
        return max(0.0, (now - before) / passed)


def key_of(process: ProcessInfo) -> Key:
    """Tell a process from a later one of the same number, where its start is known."""
    started = process.started_at
    return process.node, process.pid, None if started is None else round(started)


def _key_of_thread(thread: ThreadInfo) -> Key:
    return thread.node, thread.native_id, -1.0


def _busy(process: ProcessInfo) -> float:
    """Return the seconds spent in tasks so far, with those in what runs: a mean of a worker's lanes."""
    lanes = [t for t in process.threads if "task" in t.roles]
    running = sum(t.task.run_s or 0.0 for t in lanes if t.task)
    return (process.busy_s + running) / max(1, len(lanes))


def _what(process: ProcessInfo) -> Any:
    task = next((thread.task for thread in process.threads if thread.task is not None), None)
    if task is None:
        return process.state
    return process.state, task.id, task.job, task.index, task.function, task.arguments
