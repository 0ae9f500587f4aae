"""One look from outside at a program and all that descends from it: what was read, nothing judged.

The kernel's word of every process and thread, and the Python stacks as far as they may be read. What is
concluded from it (roles, states, reasons) is the business of ``foreign`` and ``verdicts``, which are pure
and take these values. Nothing is written into the program, no signal is sent to it, and a process or
thread that ends meanwhile is left out or told by halves: nothing in here raises for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from glasspool.observe import procfs, pyspy


@dataclass(frozen=True, slots=True)
class SeenThread:
    """One thread: the kernel's word, and Python's where it is a thread of Python's that could be read.

    ``whole`` tells whether the thread stood still while its stack was read; None without a stack.
    ``cpu_share`` is the part of one processor that it used while the sight was taken.
    """

    os: procfs.OsThread
    python: pyspy.OutsideThread | None = None
    whole: bool | None = None
    cpu_share: float | None = None


@dataclass(frozen=True, slots=True)
class SeenProcess:
    """One process. ``dump`` is without threads where stacks were not asked for, or not to be had.

    ``files`` tells where descriptors lead (``pipe:[INODE]``); empty where that may not be read.
    ``tracer`` is the pid of a debugger that is attached. ``version`` is the interpreter's, such as ``3.12``;
    None for what is no Python program, and where that may not be read. ``status`` tells of rights
    and signals.
    """

    os: procfs.OsProcess
    threads: tuple[SeenThread, ...]
    dump: pyspy.Dump = field(default_factory=pyspy.Dump)
    files: Mapping[int, str] = field(default_factory=dict)
    tracer: int | None = None
    version: str | None = None
    status: procfs.Status | None = None

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self.os.pid

    @property
    def main(self) -> SeenThread | None:
        """The main thread, None if it was not seen."""
        return next((t for t in self.threads if t.os.tid == self.os.pid), None)


@dataclass(frozen=True, slots=True)
class Sight:
    """A process and its descendants at one moment, each after its parent."""

    pid: int
    processes: tuple[SeenProcess, ...]
    taken_at: float
    took_s: float
    with_stacks: bool

    def process(self, pid: int) -> SeenProcess | None:
        """Return one of the processes, None if it was not seen."""
        return next((p for p in self.processes if p.pid == pid), None)

    def children(self, pid: int) -> tuple[SeenProcess, ...]:
        """Return the children of one of the processes."""
        return tuple(p for p in self.processes if p.os.ppid == pid and p.pid != pid)


def take(
    pid: int,
    *,
    stacks: bool = True,
    timeout_s: float = 4.0,
    pause: pyspy.Pause = "if-needed",
    last: Sight | None = None,
) -> Sight:
    """Look at a process and its descendants. The calling process tells its own stacks itself.

    Blocks for as long as the stacks take to read, at most about ``timeout_s``.

    Args:
        pid: The process; of one that has ended nothing is seen.
        stacks: Whether to read the Python stacks too.
        timeout_s: The time for all stacks together.
        pause: Whether a process may be stopped for some milliseconds to read its stacks: ``never``,
            ``if-needed`` (where they could not be read otherwise), or ``always``.
        last: An earlier sight. Processes of which no thread has moved since then are not read
            again: their stacks are still the same. That spares most of the cost of a second look
            at what hangs.
    """
    begun, taken_at = time.monotonic(), time.time()
    pids = procfs.family(pid)
    before = {one: _threads(one) for one in pids} if stacks else {}
    kept = _unmoved(pids, last) if stacks and last is not None else {}
    dumps = (
        kept | _dumps([one for one in pids if one not in kept], timeout_s, pause) if stacks else {}
    )
    processes = [
        seen
        for one in pids
        if (seen := _process(one, before.get(one, {}), dumps.get(one, pyspy.Dump()), begun))
        is not None
    ]
    return Sight(pid, tuple(processes), taken_at, time.monotonic() - begun, stacks)


def _unmoved(pids: Sequence[int], last: Sight) -> dict[int, pyspy.Dump]:
    """Return what was read earlier of processes in which nothing has happened since."""
    earlier = {process.pid: process.dump for process in last.processes}
    return {
        pid: replace(dump, taken_at=time.time())
        for pid in pids
        if (dump := earlier.get(pid)) is not None
        # Read while all of its threads rested, and all rest there still.
        and dump.threads
        and dump.still == dump.rest.keys()
        and dump.rest == procfs.resting(pid)
        and dump.rest.keys() == set(procfs.thread_ids(pid))
    }


def _dumps(pids: Sequence[int], timeout_s: float, pause: pyspy.Pause) -> dict[int, pyspy.Dump]:
    own = os.getpid()
    dumps = pyspy.dump([pid for pid in pids if pid != own], timeout_s, pause=pause)
    for pid, dump in dumps.items():
        if dump.refusal == "unreadable":
            from glasspool.observe import sampling  # for few

            dumps[pid] = sampling.dump(pid, timeout_s) or dump
    if own in pids:
        from glasspool.observe import own_stacks  # with it comes what only this process needs

        dumps[own] = own_stacks.dump()
    return dumps


def _threads(pid: int) -> dict[int, procfs.OsThread]:
    seen = (procfs.thread(pid, tid) for tid in procfs.thread_ids(pid))
    return {thread.tid: thread for thread in seen if thread is not None}


def _process(
    pid: int, before: Mapping[int, procfs.OsThread], dump: pyspy.Dump, begun: float
) -> SeenProcess | None:
    told = procfs.process(pid)
    if told is None or told.state in "ZX":
        return None
    python = {thread.native_id: thread for thread in dump.threads}
    lasted_s = time.monotonic() - begun
    status = procfs.status(pid)
    return SeenProcess(
        os=told,
        threads=tuple(
            _thread(thread, before.get(tid), python.get(tid), _is_whole(tid, dump), lasted_s)
            for tid, thread in _threads(pid).items()
        ),
        dump=dump,
        files=procfs.descriptors(pid),
        tracer=None if status is None else status.tracer,
        version=procfs.python_version(pid),
        status=status,
    )


def _is_whole(tid: int, dump: pyspy.Dump) -> bool:
    # All threads of this very process stood still while one of them looked: it held the GIL.
    return dump.paused_s > 0 or dump.source == "self" or tid in dump.still


def _thread(
    now: procfs.OsThread,
    before: procfs.OsThread | None,
    python: pyspy.OutsideThread | None,
    whole: bool,
    lasted_s: float,
) -> SeenThread:
    share = None
    if before is not None and before.start_ticks == now.start_ticks and lasted_s > 0.005:
        share = max(0.0, now.cpu_s - before.cpu_s) / lasted_s
    return SeenThread(now, python, None if python is None else whole, share)
