"""What a node told of itself, in the driver's words: its times, its name, the pool's name. Pure but for
keeping, at the node, what it told last."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from glasspool.observe import on_node
from glasspool.snapshot import (
    SCHEMA,
    Evidence,
    PoolInfo,
    ProcessInfo,
    TaskInfo,
    ThreadInfo,
    from_dict,
)

if TYPE_CHECKING:
    from glasspool.engines.cluster.engine import ClusterEngine
    from glasspool.engines.cluster.nodes import RemoteNode


@dataclass(frozen=True, slots=True)
class Reply:
    """What a node answered: its text, or why there is none."""

    node: RemoteNode
    body: bytes | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one node. ``silent`` says why it is not of now; ``tasks`` are those that it has."""

    node: RemoteNode
    processes: tuple[ProcessInfo, ...] = ()
    ended: tuple[ProcessInfo, ...] = ()
    tasks: Mapping[int, TaskInfo] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    silent: str | None = None


def seen(node: RemoteNode, reply: Reply | None, pool: str) -> Seen:
    """Put together what is known of a node, from its reply or from what it told last."""
    why = "it has not been asked" if reply is None else reply.why
    if reply is not None and reply.body is not None:
        told = json.loads(reply.body)
        if "pool" in told:
            node.seen = time.monotonic(), _of_node(told, node, pool)
            return _whole(node, node.seen[1], None)
        why = str(told.get("error", "its answer could not be used"))
    heard_s = time.monotonic() - node.heard_at
    if not node.about:
        return Seen(node, silent=f"{node.state}: its agent has not answered yet")
    if node.seen is None:
        silent = f"{why}; it was heard {heard_s:.1f} s ago"
        agent = on_node.silent_agent(int(node.about["pid"]), node.name, silent, heard_s)
        return Seen(node, (agent,), silent=silent)
    at, picture = node.seen
    age_s = time.monotonic() - at
    silent = f"{why}; it was heard {heard_s:.1f} s ago, and what is shown is {age_s:.1f} s old"
    return _whole(node, _aged(picture, age_s, silent), silent)


def keep(node: RemoteNode, pool: str, body: Any) -> None:
    """Keep what a node told as its pool was about to end (dispatcher)."""
    if body is not None:
        seen(node, Reply(node, body), pool)


def last(node: RemoteNode) -> Seen:
    """Return what a node that has left told last."""
    return Seen(node) if node.seen is None else _whole(node, node.seen[1], None)


def _whole(node: RemoteNode, told: PoolInfo, silent: str | None) -> Seen:
    tasks = {task.id: task for task in told.tasks if task.id is not None}
    for process in told.processes:
        for thread in process.threads:
            if "task" in thread.roles and thread.task is not None and thread.task.id is not None:
                # Of one that runs the thread knows more: which item, since when.
                known = tasks.get(thread.task.id)
                tasks[thread.task.id] = joined(known or thread.task, thread.task)
    return Seen(node, told.processes, told.ended, tasks, told.stats, told.notes, silent)


def _of_node(told: Mapping[str, Any], node: RemoteNode, pool: str) -> PoolInfo:
    picture = from_dict({"schema": SCHEMA, "taken_at": 0.0, "pools": [told["pool"]]}).pools[0]
    later_s = shift_s(node, told)
    return replace(
        picture,
        processes=tuple(
            _process(p, node.name, later_s, picture.name, pool) for p in picture.processes
        ),
        ended=tuple(_process(p, node.name, later_s, picture.name, pool) for p in picture.ended),
        tasks=tuple(_task(task, node.name, later_s) for task in picture.tasks),
    )


def shift_s(node: RemoteNode, told: Mapping[str, Any]) -> float:
    """Return what to add to a time of day of the node's, by the clocks that do not jump."""
    read_ns = node.clock.here(int(told["clock_ns"]))
    here_ns = time.time_ns() - (time.monotonic_ns() - read_ns)
    return (here_ns - int(told["wall_ns"])) / 1e9


def tasks_of(engine: ClusterEngine, reply: Reply) -> dict[int, TaskInfo]:
    """Return the tasks that a reply tells of."""
    if reply.body is None:
        return {}
    told = json.loads(reply.body)
    plain = {"name": "", "kind": "", "pid": 0, "processes": [], "tasks": told.get("tasks", ())}
    picture = from_dict({"schema": SCHEMA, "taken_at": 0.0, "pools": [plain]}).pools[0]
    later_s = shift_s(reply.node, told)
    named = (_task(task, reply.node.name, later_s) for task in picture.tasks)
    return {task.id: task for task in named if task.id is not None}


def joined(known: TaskInfo, told: TaskInfo | None) -> TaskInfo:
    """Add to what the driver knows of a task what its node says of it."""
    if told is None or told.begun_at is None:
        return known
    # It cannot have begun before: where clocks are known to a millisecond, it may look so.
    begun_at = max(told.begun_at, known.submitted_at or 0.0)
    waited_s = None if known.submitted_at is None else begun_at - known.submitted_at
    has_begun = known.begun_at is not None
    return replace(
        known,
        state=told.state,
        item=told.item if told.item is not None else known.item,
        grain=told.grain,
        arguments=told.arguments or known.arguments,
        attempts=known.attempts if has_begun else known.attempts + 1,
        slot=told.slot if told.slot is not None else known.slot,
        pid=told.pid or known.pid,
        thread=told.thread or known.thread,
        begun_at=begun_at,
        queue_wait_s=waited_s,
        run_s=told.run_s if told.run_s is not None else known.run_s,
        progress=told.progress or known.progress,
        stdout=told.stdout if told.stdout is not None else known.stdout,
        stderr=told.stderr if told.stderr is not None else known.stderr,
        node=told.node or known.node,
    )


# A node's values ---------------------------------------------------------------------------------


def _later(at: float | None, by_s: float) -> float | None:
    return None if at is None else at + by_s


def _task(task: TaskInfo, node: str, later_s: float) -> TaskInfo:
    return replace(
        task,
        submitted_at=_later(task.submitted_at, later_s),
        begun_at=_later(task.begun_at, later_s),
        ended_at=_later(task.ended_at, later_s),
        node=node,
    )


def _process(process: ProcessInfo, node: str, later_s: float, there: str, here: str) -> ProcessInfo:
    ran = process.initializer
    if ran is not None:
        ran = replace(ran, begun_at=_later(ran.begun_at, later_s))
    return replace(
        process,
        node=node,
        started_at=_later(process.started_at, later_s),
        initializer=ran,
        threads=tuple(_thread(thread, node, later_s, there, here) for thread in process.threads),
    )


def _thread(thread: ThreadInfo, node: str, later_s: float, there: str, here: str) -> ThreadInfo:
    task = thread.task
    return replace(
        thread,
        node=node,
        # Where two agents live in one process, their pools have names of their own there.
        pool=here if thread.pool == there else thread.pool,
        task=None if task is None else _task(task, node, later_s),
    )


def _aged(pool: PoolInfo, age_s: float, note: str) -> PoolInfo:
    return replace(pool, processes=tuple(_aged_process(p, age_s, note) for p in pool.processes))


def _aged_process(process: ProcessInfo, age_s: float, note: str) -> ProcessInfo:
    def aged(evidence: Evidence) -> Evidence:
        return replace(evidence, age_s=evidence.age_s + age_s, note=evidence.note or note)

    threads = (replace(t, evidence=aged(t.evidence)) for t in process.threads)
    return replace(process, threads=tuple(threads), evidence=aged(process.evidence))
