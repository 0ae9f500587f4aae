"""Recordings made by hand: what a pool would have told, without a pool."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from glasspool.observe.records import Recording, Span, TaskRecord, WorkerLife
from glasspool.observe.story import Machine, Story
from glasspool.snapshot import (
    DeathCertificate,
    Evidence,
    PoolInfo,
    ProcessInfo,
    TaskInfo,
    ThreadInfo,
    WorkerTime,
)

S = 1_000_000_000
MS = 1_000_000
US = 1_000
BEGUN = 500 * S
WALL = 1_700_000_000 * S - BEGUN

MACHINE = Machine(
    host="box",
    system="Linux 6.1 (x86_64)",
    processors=4,
    memory_bytes=16 * 10**9,
    python="CPython 3.12.1",
    executable="/usr/bin/python3",
    glasspool="0.1",
)


def task(number: int, slot: int, at_ns: int, run: int, **more: Any) -> TaskRecord:
    """Make a task that ran ``run`` nanoseconds from ``at_ns`` after the beginning of the recording."""
    begun = BEGUN + at_ns
    known: dict[str, Any] = {
        "pool": "p",
        "slot": slot,
        "pid": 1000 + slot,
        "generation": 0,
        "task": number,
        "function": "work",
        "status": "done",
        "begun_ns": begun,
        "called_ns": begun,
        "ended_ns": begun + run,
        "boxed_ns": begun + run,
        "received_ns": begun + run,
        "submitted_ns": begun,
        "result_bytes": 100,
        "job": number,
    }
    return TaskRecord(**{**known, **more})


def row_of_tasks(workers: int, count: int, run: int, gap: int = 0, **more: Any) -> list[TaskRecord]:
    """Make tasks that keep the workers busy evenly, with a gap after each."""
    return [
        task(at + 1, at % workers, at // workers * (run + gap), run, **more) for at in range(count)
    ]


def span(kind: str, at_ns: int, lasted: int, **more: Any) -> Span:
    """Make a span of a helper thread."""
    begun = BEGUN + at_ns
    return Span(kind, 77, f"p {kind}", begun, begun + lasted, **more)


def worker(slot: int, time: WorkerTime | None = None, **more: Any) -> ProcessInfo:
    """Make a worker with its main thread."""
    pid = 1000 + slot
    main = ThreadInfo(
        pid=pid,
        process=f"ForkPoolWorker-{slot + 1}",
        name="MainThread",
        native_id=pid,
        roles=("initializer", "task"),
        state="waiting for a task",
        ident=140_000 + slot,
        is_main=True,
        evidence=Evidence("scoreboard"),
    )
    known: dict[str, Any] = {
        "pid": pid,
        "name": f"ForkPoolWorker-{slot + 1}",
        "role": "worker",
        "threads": (main,),
        "state": "idle",
        "slot": slot,
        "rss_bytes": 30_000_000,
        "time": time,
        "evidence": Evidence("scoreboard"),
    }
    return ProcessInfo(**{**known, **more})


def parent(**more: Any) -> ProcessInfo:
    """Make the parent with its helper threads."""
    threads = tuple(
        ThreadInfo(
            pid=42,
            process="MainProcess",
            name=name,
            native_id=42 + at,
            roles=roles,
            state="waiting",
            ident=7000 + at,
            is_main=not at,
        )
        for at, (name, roles) in enumerate(
            [
                ("MainThread", ("main", "caller")),
                ("p worker-handler", ("worker-handler",)),
                ("p task-handler+result-handler", ("task-handler", "result-handler")),
            ]
        )
    )
    return ProcessInfo(pid=42, name="MainProcess", role="parent", threads=threads, **more)


def recording(
    tasks: Iterable[TaskRecord],
    workers: int = 4,
    *,
    lasted_ns: int | None = None,
    spans: Iterable[Span] = (),
    times: Iterable[WorkerTime] | None = None,
    picture: dict[str, Any] | None = None,
    **more: Any,
) -> Recording:
    """Make a recording of a pool with so many workers; its length is that of its tasks by default."""
    found = tuple(tasks)
    last = max((one.ended_ns or 0 for one in found), default=BEGUN + S)
    ended = BEGUN + lasted_ns if lasted_ns is not None else last
    accounts = list(times or (even_time((ended - BEGUN) / S) for _ in range(workers)))
    seen = PoolInfo(
        name="p",
        kind="glasspool.Pool",
        pid=42,
        processes=(parent(), *(worker(slot, accounts[slot]) for slot in range(workers))),
        stats={"submitted": len(found), "done": len(found), "failed": 0},
        start_method="fork",
        size=workers,
        made_at="/home/u/count.py:12",
    )
    lives = tuple(
        WorkerLife(1000 + slot, slot, 0, f"w{slot}", 1000 + slot, BEGUN, BEGUN, BEGUN + MS)
        for slot in range(workers)
    )
    known: dict[str, Any] = {
        "pool": "p",
        "pid": 42,
        "begun_ns": BEGUN,
        "ended_ns": ended,
        "wall_ns": WALL,
        "source": "journal",
        "tasks": found,
        "spans": tuple(spans),
        "workers": lives,
        "picture": replace(seen, **(picture or {})),
    }
    return Recording(**{**known, **more})


def even_time(wall_s: float) -> WorkerTime:
    """Return the account of a worker that ran tasks for most of its life."""
    return WorkerTime(
        start_s=0.01 * wall_s,
        initializer_s=0.01 * wall_s,
        waiting_s=0.05 * wall_s,
        receiving_s=0.01 * wall_s,
        running_s=0.9 * wall_s,
        sending_s=0.01 * wall_s,
        exit_s=0.01 * wall_s,
    )


def certificate(**more: Any) -> DeathCertificate:
    """Make the certificate of a worker that was killed in a task."""
    known: dict[str, Any] = {
        "pid": 1001,
        "slot": 1,
        "cause": "was killed by SIGKILL",
        "task": TaskInfo(id=7, job=7, function="work", state="lost", arguments="(7,)", run_s=1.5),
        "signal": 9,
        "exitcode": -9,
        "pool": "p",
        "advice": "Look for who sent it.",
    }
    return DeathCertificate(**{**known, **more})


def story(*recordings: Recording, **more: Any) -> Story:
    """Tell of recordings as of a program that has ended."""
    known: dict[str, Any] = {
        "recordings": recordings,
        "machine": MACHINE,
        "told_at": 1_700_000_100.0,
        "command": ("count.py", "data/"),
        "ended": "exited with code 0",
        "begun_at": 1_700_000_000.0,
        "run_s": 2.5,
    }
    return Story(**{**known, **more})
