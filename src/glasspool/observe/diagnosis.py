"""The words of the judgement: why a pool, or a program, does not get on.

Pure: from a picture with stacks to findings. Nothing in here touches a process or opens a file; the
lines of source that make a finding worth reading come through ``line_of``, and what each process used
of a processor meanwhile through ``shares``. Without them a finding says less, and nothing wrong.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from glasspool.snapshot import Frame, PoolInfo, ProcessInfo, Snapshot, TaskInfo, ThreadInfo

LineOf = Callable[[str, int], str]
"""Gives a line of a source file, or an empty text (``linecache.getline`` is one)."""

AT_REST = 0.01
"""A process that uses less than this share of one processor does nothing that is worth the name."""

_LIBRARY = os.path.dirname(os.__file__) + os.sep
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_TAKES_LOCK = (
    re.compile(r"^\s*(?:async\s+)?with\s+([\w.]+(?:\[[^\]]*\])?)\s*(?:as\s+\w+\s*)?:"),
    re.compile(r"([\w.]+(?:\[[^\]]*\])?)\.acquire\("),
)
_SHARED_LOCK_FILE = os.path.join("multiprocessing", "synchronize.py")
_MANAGER_FILE = os.path.join("multiprocessing", "managers.py")


@dataclass(frozen=True, slots=True)
class Clue:
    """One thing that was seen, in which process or thread, and ``by`` whom, as in ``Evidence.source``."""

    text: str
    by: str = "py-spy"
    pid: int | None = None
    tid: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why a pool or a program does not get on.

    ``kind`` is one of ``no-worker``, ``starting``, ``initializer``, ``task``, ``nested``, ``callback``,
    ``iterable``, ``reader``, ``stopped``, ``idle`` and ``main``; of pools that are not ours it is one of the
    names of ``cli.codes.VERDICTS``. ``text`` is the finding in words. ``stack`` is that of the thread
    concerned, where it is known, ``tid`` its number. ``evidence`` is on what this rests; ``remedy`` is what
    to do about it.
    """

    kind: str
    text: str
    pool: str | None = None
    pid: int | None = None
    slot: int | None = None
    task: int | None = None
    stack: tuple[Frame, ...] = ()
    tid: int | None = None
    evidence: tuple[Clue, ...] = ()
    remedy: str | None = None


def no_source(file: str, line: int) -> str:
    """Give no line of source."""
    return ""


def diagnose(
    picture: Snapshot,
    *,
    quiet_s: float | None = None,
    shares: Mapping[int, float] | None = None,
    line_of: LineOf = no_source,
) -> tuple[Finding, ...]:
    """Say what holds up the pools of a picture; of a program without any, where its main thread is.

    Args:
        picture: The pools, with stacks.
        quiet_s: For how many seconds nothing has moved, if that is known.
        shares: What part of one processor each process has used meanwhile, by pid.
        line_of: Gives lines of source.
    """
    judge = _Judge(quiet_s, shares or {}, line_of, picture.taken_at)
    found = [finding for pool in picture.pools for finding in judge.pool(pool)]
    if not any(finding.kind != "reader" for finding in found):
        found += judge.main_threads(picture)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Judge:
    quiet_s: float | None
    shares: Mapping[int, float]
    line_of: LineOf
    taken_at: float

    def pool(self, pool: PoolInfo) -> Iterator[Finding]:
        """Say what holds up one pool."""
        stuck = [
            finding
            for worker in pool.workers
            for thread in _at_work(worker)
            for finding in self._worker(pool, worker, thread)
        ]
        yield from self._without_workers(pool)
        yield from stuck
        nested = [finding for finding in stuck if finding.kind == "nested"]
        if nested and len(nested) == _places(pool):
            places = "workers" if len(nested) == len(pool.workers) else "lanes of the workers"
            text = (
                f"all {len(nested)} {places} of {pool.name} wait for other tasks: if these are tasks of "
                f"{pool.name} itself, no {'worker' if places == 'workers' else 'lane'} is left to run "
                "them (nested calls)"
            )
            yield Finding("nested", text, pool=pool.name)
        for thread in pool.threads:
            if "callback" in thread.roles:
                yield from self._callback(pool, thread)
            elif "iterable" in thread.roles:
                yield from self._iterable(pool, thread)
        if not stuck:
            yield from self._idle(pool)

    def main_threads(self, picture: Snapshot) -> Iterator[Finding]:
        """Say where the main threads of the programs are."""
        for process in picture.processes:
            for thread in process.threads:
                if process.role != "parent" or not thread.is_main:
                    continue
                where = self._where(thread)
                used = self._used(process.pid, " uses no processor time")
                text = f"the main thread of process {process.pid}{used}: {where}"
                yield Finding("main", text, pid=process.pid, stack=thread.stack or ())

    # Workers --------------------------------------------------------------------------------------

    def _without_workers(self, pool: PoolInfo) -> Iterator[Finding]:
        if pool.workers or not pool.size:
            return
        why = f": {'; '.join(pool.notes)}" if pool.notes else ""
        yield Finding("no-worker", f"{pool.name} has no worker, and none can be started{why}")

    def _worker(self, pool: PoolInfo, worker: ProcessInfo, main: ThreadInfo) -> Iterator[Finding]:
        lane = "" if main.is_main else f", {main.name.rpartition(' ')[2]}"
        on = "" if worker.node is None else f" on {worker.node}"
        who = f"worker {worker.slot} (pid {worker.pid}{on}{lane})"
        kind, what = self._occupation(worker, main)
        is_stopped = main.state.startswith("stopped")
        if is_stopped and not kind:
            what = "does not begin what it was sent"
        elif not kind:
            return
        if is_stopped:
            kind = "stopped"
            where = f"somebody has stopped the process; kill -CONT {worker.pid}{on} lets it go on"
        else:
            if kind == "task" and _waits_for_tasks(main.stack or ()):
                kind = "nested"
            where = self._where(main, pool)
        # What this machine says of a process of that number is no word on one of another machine.
        pid = worker.pid if worker.node is None else None
        used = "" if pid is None else self._used(pid, " and uses no processor time")
        yield Finding(
            kind,
            f"{who} {what}{used}: {where}",
            pool=pool.name,
            pid=pid,
            slot=worker.slot,
            task=main.task.id if main.task is not None else None,
            stack=main.stack or (),
        )

    def _occupation(self, worker: ProcessInfo, main: ThreadInfo) -> tuple[str, str]:
        """Return the kind of what a worker is at, and the words for it; empty if it is at rest."""
        initializer = worker.initializer
        if initializer is not None and initializer.state == "running":
            lasts = self._since(initializer.begun_at)
            return "initializer", f"has run the initializer {initializer.function}{lasts}"
        if worker.state in ("starting", "initializing"):
            return "starting", f"has been starting{self._since(worker.started_at)}"
        if main.task is not None:
            lasts = f" for {_seconds(main.task.run_s)}" if main.task.run_s is not None else ""
            return "task", f"has run {_task_words(main.task)}{lasts}"
        return "", ""

    def _idle(self, pool: PoolInfo) -> Iterator[Finding]:
        waiting = pool.stats.get("waiting", 0)
        idle = sum(worker.state == "idle" for worker in pool.workers)
        if waiting and idle:
            text = (
                f"{waiting} tasks of {pool.name} wait although {idle} of its workers are idle: "
                "that is a fault of glasspool; please report it with the roster"
            )
            yield Finding("idle", text, pool=pool.name)

    # Threads of the parent --------------------------------------------------------------------------

    def _callback(self, pool: PoolInfo, thread: ThreadInfo) -> Iterator[Finding]:
        if not thread.state.startswith("running the "):
            return
        lasts = f" for {_seconds(thread.since_s)}" if thread.since_s is not None else ""
        what = thread.state.removeprefix("running ")
        text = f"{what} has run{lasts}: {self._where(thread)}; results with callbacks wait for it"
        yield Finding("callback", text, pool=pool.name, pid=thread.pid, stack=thread.stack or ())

    def _iterable(self, pool: PoolInfo, thread: ThreadInfo) -> Iterator[Finding]:
        lasts = "" if self.quiet_s is None else f" for {_seconds(self.quiet_s)}"
        stack = thread.stack or ()
        if _is_ours(_without_waiting(stack)):
            text = f"{pool.name} waits{lasts} for somebody to take results from its iterator"
            yield Finding("reader", text, pool=pool.name, pid=thread.pid, stack=stack)
            return
        text = f"your iterable has blocked{lasts}: the workers wait for it; {self._where(thread)}"
        yield Finding("iterable", text, pool=pool.name, pid=thread.pid, stack=stack)

    # Words ----------------------------------------------------------------------------------------

    def _since(self, began_at: float | None) -> str:
        if began_at is None:
            return ""
        return f" for {_seconds(max(0.0, self.taken_at - began_at))}"

    def _used(self, pid: int, rest: str) -> str:
        share = self.shares.get(pid)
        if share is None:
            return ""
        return rest if share < AT_REST else f", using {share:.0%} of a processor"

    def _where(self, thread: ThreadInfo, pool: PoolInfo | None = None) -> str:
        """Say where a thread is, and in what it waits."""
        stack = thread.stack
        if not stack:
            note = thread.evidence.note
            return f"where it is, is not known{f' ({note})' if note else ''}"
        lock = _lock_of(stack, self.line_of)
        site = _site(stack)
        place = self._place(stack[site])
        if site == len(stack) - 1:
            if lock is None:
                return f"it is {place}"
            return f"it waits for the lock {lock} {place}{_blame(pool)}"
        inner = stack[-1]
        called = f"called {place}"
        if lock is None:
            # The call that the program made, and not what the library does about it.
            return f"it waits in {stack[site + 1].function}, {called}"
        if inner.file.endswith(_SHARED_LOCK_FILE):
            return (
                f"it waits for the lock {lock} of multiprocessing, {called}; a process that died "
                "while it held such a lock never gives it back"
            )
        held = f"it waits for the lock {lock} in {inner.function} ({inner.file}:{inner.line})"
        return f"{held}, {called}{_blame(pool)}"

    def _place(self, frame: Frame) -> str:
        source = self.line_of(frame.file, frame.line).strip()
        text = f"at {frame.file}:{frame.line}, in {frame.function}"
        return f"{text}: `{source}`" if source else text


def _blame(pool: PoolInfo | None) -> str:
    """Say who may have held a lock when the pool forked."""
    if pool is None or not pool.forked_beside:
        return ""
    threads = ", ".join(pool.forked_beside)
    return (
        f"; it may be inherited locked at the fork, where a thread of the program ({threads}) was "
        "alive that may have held it: no worker ever gets it then. Make the pool before the threads, or "
        "pass context=multiprocessing.get_context('forkserver')"
    )


def _lock_of(stack: tuple[Frame, ...], line_of: LineOf) -> str | None:
    """Return which lock the innermost call is about to take, as the program calls it, or None."""
    frame = stack[-1]
    if frame.file.endswith(_SHARED_LOCK_FILE) or frame.function == "Condition.__enter__":
        if frame.function.rpartition(".")[2] not in ("__enter__", "acquire") or len(stack) < 2:
            return None
        frame = stack[-2]
    elif frame.file == threading.__file__:
        return None  # how its events, joins and conditions wait is no lock of the program's
    elif frame.function == "_ModuleLock.acquire":
        return "of an import"
    source = line_of(frame.file, frame.line)
    for pattern in _TAKES_LOCK:
        match = pattern.search(source)
        if match is not None:
            return f"`{match.group(1)}`"
    return None


def _site(stack: tuple[Frame, ...]) -> int:
    """Return the index of the innermost call of the program itself: not the standard library's, nor ours."""
    for index in range(len(stack) - 1, -1, -1):
        if not _is_library(stack[index].file) and not stack[index].file.startswith(_PACKAGE):
            return index
    return len(stack) - 1


def _is_library(file: str) -> bool:
    if file.startswith("<frozen"):
        return True
    return file.startswith(_LIBRARY) and f"{os.sep}site-packages{os.sep}" not in file


def _without_waiting(stack: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Leave out the innermost calls that only wait: those of the standard library and of latches."""
    end = len(stack)
    latch = f"{_PACKAGE}latch.py"
    while end and (_is_library(stack[end - 1].file) or stack[end - 1].file == latch):
        end -= 1
    return stack[:end]


def _is_ours(stack: tuple[Frame, ...]) -> bool:
    return bool(stack) and stack[-1].file.startswith(_PACKAGE)


def _waits_for_tasks(stack: tuple[Frame, ...]) -> bool:
    """Tell whether a task waits in a call of a pool, or of a manager that may have one."""
    from glasspool.observe.threads import waits_in_pool

    if waits_in_pool(stack) is not None:
        return True
    return any(frame.file.endswith(_MANAGER_FILE) for frame in stack[-6:])


def _task_words(task: TaskInfo) -> str:
    what = f"task {task.id} ({task.function})" if task.id is not None else task.function
    if task.items > 1 and task.item is not None:
        return f"{what}, item {task.item + 1} of {task.items},"
    return what


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "some time"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def _at_work(worker: ProcessInfo) -> list[ThreadInfo]:
    """Return the threads of a worker that tell what it is at: lanes with a task, else the main thread."""
    lanes = [
        t for t in worker.threads if "task" in t.roles and not t.is_main and t.task is not None
    ]
    return lanes or [thread for thread in worker.threads if thread.is_main]


def _places(pool: PoolInfo) -> int:
    """Return how many tasks of a pool can run at once."""
    threads = [thread for worker in pool.workers for thread in worker.threads]
    return max(len(pool.workers), sum("task" in thread.roles for thread in threads))
