"""What the API answers: plain values from views and records, and their JSON text. Pure."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from typing import Any

from glasspool.observe.history import plain_record
from glasspool.observe.records import TaskRecord
from glasspool.observe.watch import View
from glasspool.snapshot import SCHEMA, PoolInfo, ThreadInfo, as_plain

ENDED_IN_EVENTS = 100
"""An event lists at most so many replaced workers of a pool, the last; the counters count all."""

OPEN_IN_EVENTS = 200
"""An event lists at most so many open tasks of a pool that do not run."""


def state(view: View, *, sampling: bool = False, brief: bool = False) -> dict[str, Any]:
    """Return a view as plain values: the snapshot, and what the watch says beside it.

    Args:
        view: What the watch saw.
        sampling: Whether stacks are being sampled.
        brief: Leave out what makes an event long: long gone workers, most of the waiting tasks.
    """
    picture = view.snapshot
    if picture is None:
        told: dict[str, Any] = {"schema": SCHEMA, "taken_at": view.taken_at, "took_s": 0.0}
        told["pools"] = []
    else:
        if brief:
            picture = dataclasses.replace(picture, pools=tuple(map(_brief, picture.pools)))
        told = picture.to_dict()
    told["past"] = view.past
    told["problem"] = view.problem
    told["text"] = view.text
    told["paces"] = {name: as_plain(pace) for name, pace in view.paces.items()}
    told["now_ns"] = view.now_ns
    told["sampling"] = sampling
    return told


def _brief(pool: PoolInfo) -> PoolInfo:
    tasks, ended = pool.tasks, pool.ended
    if len(tasks) > OPEN_IN_EVENTS:
        running = [task for task in tasks if task.state == "running"]
        others = [task for task in tasks if task.state != "running"]
        tasks = (*running, *others[:OPEN_IN_EVENTS])
    return dataclasses.replace(pool, tasks=tasks, ended=ended[-ENDED_IN_EVENTS:])


def rows(records: Iterable[TaskRecord]) -> str:
    """Return records as the JSON text of a list of rows."""
    return text([plain_record(record) for record in records])


def stack(view: View, pid: int, tid: int | None, node: str | None = None) -> dict[str, Any] | None:
    """Return what is told of the stack of one thread; None if the view has no such thread.

    Args:
        view: A view that was taken with stacks.
        pid: The process.
        tid: The thread as the system numbers it; None: the main thread.
        node: The node of a cluster on which the process is.
    """
    thread = thread_of(view, pid, tid, node)
    if thread is None:
        return None
    note = thread.evidence.note
    if view.past:
        note = "; ".join(filter(None, (note, "of the past: the program has ended")))
    return {
        "pid": thread.pid,
        "tid": thread.native_id,
        "name": thread.name,
        "stack": None if thread.stack is None else as_plain(thread.stack),
        "note": note,
    }


def thread_of(view: View, pid: int, tid: int | None, node: str | None = None) -> ThreadInfo | None:
    """Return the thread of a view that has these numbers."""
    threads = () if view.snapshot is None else view.snapshot.threads
    wanted = pid if tid is None else tid
    there = (t for t in threads if t.pid == pid and t.native_id == wanted)
    return next((t for t in there if t.node == node), None)


def text(value: Any) -> str:
    """Return plain values as JSON text; what JSON has no number for (not finite) becomes null."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
