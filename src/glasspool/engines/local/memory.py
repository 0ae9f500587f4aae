"""How much memory workers use, and what follows from it: ``max_memory`` and ``max_memory_hard``.

Between tasks a worker looks at itself, and says so when it is above the limit (``LookAtSelf``); the
collector lets it finish and has it replaced. While tasks run, the worker-handler looks at the workers
that have some (``HardWatch``), and stops one above the hard limit. The timer of the latter exists only
while there are such workers, and neither exists in a pool without the options.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glasspool.engines.local.workers import Worker

LOOK_EVERY_NS = 10_000_000
"""A worker that runs many short tasks in a row looks at itself this often."""

WATCH_EVERY_S = 0.05
"""How often the worker-handler looks at those that run tasks."""


def resident_bytes(pid: int | None = None) -> int | None:
    """Return the resident memory of a process (this one by default); None if it is gone.

    Source: ``proc_pid_statm(5)``, the second number, in pages; where there is no ``/proc``, psutil.
    """
    try:
        with open(f"/proc/{'self' if pid is None else pid}/statm", "rb", buffering=0) as file:
            return int(file.read(256).split()[1]) * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError, IndexError):
        if os.path.exists("/proc/self/statm"):
            return None
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def excess(used: int, option: str, limit: int) -> str:
    """Say in words that a worker is above a limit."""
    return f"used {_megabytes(used)}, above {option}={_megabytes(limit)}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count >= 10_000_000 else f"{count / 1e6:.1f} MB"


class LookAtSelf:
    """A worker's look at its own memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._next_ns = 0
        self._has_told = False

    def is_due(self, now_ns: int) -> bool:
        """Tell whether the last look was so long ago that it is worth another one."""
        return now_ns >= self._next_ns

    def look(self) -> int:
        """Return how much is used if that is above the limit and has not been told yet, else 0."""
        if self._has_told:
            return 0
        self._next_ns = time.monotonic_ns() + LOOK_EVERY_NS
        used = resident_bytes() or 0
        self._has_told = used > self._limit
        return used if self._has_told else 0


class HardWatch:
    """The worker-handler's look at workers that run tasks.

    ``is_on`` is set by the collector, which then has ``begin`` called, and cleared here before the
    last look: so of a task that is sent at that moment one of the two takes notice.
    """

    def __init__(
        self,
        limit: int,
        workers: Callable[[], Iterable[Worker]],
        later: Callable[[float, Callable[[], None]], None],
        stop: Callable[[Worker, int], None],
    ) -> None:
        self.is_on: bool = False
        self._limit = limit
        self._workers = workers
        self._later = later
        self._stop = stop
        self._is_due = False

    def begin(self) -> None:
        """Look from now on, as long as tasks run."""
        if not self._is_due:
            self._is_due = True
            self._later(WATCH_EVERY_S, self._look)

    def _look(self) -> None:
        self._is_due = False
        self.is_on = False
        busy = [worker for worker in self._workers() if worker.held and not worker.ending]
        for worker in busy:
            used = resident_bytes(worker.pid) if worker.pid else None
            if used is not None and used > self._limit and worker.end_reason is None:
                why = excess(used, "max_memory_hard", self._limit)
                worker.end_reason = f"was stopped by the pool, because it {why}"
                self._stop(worker, signal.SIGKILL)
        if busy:
            self.is_on = True
            self.begin()
