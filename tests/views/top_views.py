"""Views made by hand, and a watch that tells them: what the tests of ``glasspool top`` look at."""

from __future__ import annotations

import threading

from glasspool.observe.records import TaskRecord
from glasspool.observe.watch import Pace, View
from glasspool.snapshot import (
    DeathCertificate,
    Evidence,
    Frame,
    InitializerInfo,
    PoolInfo,
    ProcessInfo,
    Snapshot,
    TaskInfo,
    ThreadInfo,
)

AT = 1_700_000_000.0
STACK = (
    Frame("/home/somebody/words.py", 12, "<module>"),
    Frame("/home/somebody/words.py", 40, "count_files"),
)


def task(number: int, slot: int, **more: object) -> TaskInfo:
    """Return a running task."""
    values = {
        "id": number,
        "job": 1,
        "function": "words.count_files",
        "state": "running",
        "arguments": f"(['chapter{number}.txt', 'notes.txt'])",
        "slot": slot,
        "pid": 2000 + slot,
        "run_s": 1.5 + slot,
        "queue_wait_s": 0.25,
        **more,
    }
    return TaskInfo(**values)


def worker(slot: int, running: TaskInfo | None = None, **more: object) -> ProcessInfo:
    """Return a worker with its one thread."""
    pid = int(more.get("pid", 2000 + slot))
    thread = ThreadInfo(
        pid,
        f"ForkPoolWorker-{slot + 1}",
        "MainThread",
        pid,
        ("initializer", "task"),
        "waiting for work" if running is None else f"in {running.function}",
        is_main=True,
        task=running,
        cpu_s=3.0,
        stack=STACK,
        since_s=0.4,
        evidence=Evidence("self"),
    )
    values = {
        "pid": pid,
        "name": f"ForkPoolWorker-{slot + 1}",
        "role": "worker",
        "threads": (thread,),
        "state": "idle" if running is None else "busy",
        "slot": slot,
        "tasks_done": 10 * slot,
        "busy_s": 2.0,
        "cpu_s": 3.0,
        "rss_bytes": 20_000_000 + slot * 1_000_000,
        "started_at": AT - 50,
        "initializer": InitializerInfo("words.prepare", "done"),
        **more,
    }
    return ProcessInfo(**values)


def parent() -> ProcessInfo:
    """Return the process that made the pool."""
    threads = tuple(
        ThreadInfo(1000, "MainProcess", name, tid, roles, state, is_main=tid == 1000, python=python)
        for name, tid, roles, state, python in (
            ("MainThread", 1000, ("main", "caller"), "waiting in Pool.map()", True),
            ("words worker-handler", 1001, ("worker-handler",), "watching workers", True),
            (
                "words task-handler+result-handler",
                1002,
                ("task-handler", "result-handler"),
                "waiting for tasks and results",
                True,
            ),
            ("blas", 1003, ("native",), "sleeping in futex", False),
        )
    )
    return ProcessInfo(
        1000,
        "MainProcess",
        "parent",
        threads,
        "running",
        started_at=AT - 60,
        cpu_s=1.0,
        command="/usr/bin/python3 words.py --folder books",
    )


def death() -> DeathCertificate:
    """Return the certificate of a worker that was killed."""
    return DeathCertificate(
        1999,
        2,
        "was killed by SIGKILL",
        task=task(7, 2, state="lost"),
        signal=9,
        exitcode=-9,
        died_at=AT - 3,
        pool="words",
        advice="Somebody sent SIGKILL: ask dmesg.",
        last_log=("[bold]reading[/bold] chapter7",),
    )


def pool(*workers: ProcessInfo, **more: object) -> PoolInfo:
    """Return a pool; three workers, two of them busy, unless others are given."""
    if not workers:
        workers = (
            worker(0, task(21, 0, progress=(35.0, 100.0))),
            worker(1, task(22, 1)),
            worker(2, generation=1),
        )
    waiting = tuple(TaskInfo(number, 1, "words.count_files", "waiting") for number in range(23, 27))
    values = {
        "name": "words",
        "kind": "glasspool.Pool",
        "pid": 1000,
        "processes": (parent(), *workers),
        "tasks": (task(21, 0), task(22, 1), *waiting),
        "stats": {"done": 12345, "waiting": 4, "sent": 2, "running": 2, "failed": 1, "lost": 1},
        "start_method": "fork",
        "size": 3,
        "deaths": (death(),),
        **more,
    }
    return PoolInfo(**values)


def view(*pools: PoolInfo, at: float = AT, **more: object) -> View:
    """Return what a watch would tell of pools."""
    values = {
        "snapshot": Snapshot(pools or (pool(),), at),
        "taken_at": at,
        "paces": {
            one.name: Pace(1234.0, 0.5, 42.0, 0.74) for one in pools or (pool(),) if one.stats
        },
        "records": (
            TaskRecord(
                *("words", 1, 2001, 0, 20, "words.count_files", "done"),
                begun_ns=1_000_000_000,
                ended_ns=1_350_000_000,
                result_bytes=4096,
            ),
        ),
        **more,
    }
    return View(**values)


class Told:
    """A watch that tells views made by hand, the last one again and again."""

    def __init__(self, *views: View) -> None:
        self.views = list(views) or [view()]
        self.looks = 0
        self.wanted_stacks: list[bool] = []
        self.threads: set[str] = set()

    def look(self, *, stacks: bool = False) -> View:
        """Tell the next view."""
        self.looks += 1
        self.wanted_stacks.append(stacks)
        self.threads.add(threading.current_thread().name)
        return self.views.pop(0) if len(self.views) > 1 else self.views[0]
