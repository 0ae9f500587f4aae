"""The roster of a pool on a cluster: pool -> node -> process -> thread.

The driver's process is read from where each fact is true, as for a local pool. Of its nodes the agents
tell: all are asked at the same moment, and those that have not answered after ``ANSWER_S`` are shown as
such, with what was seen of them last and how old that is. Times of a node are told in this machine's.

Threads: none. Any may call this; on the dispatcher's, through which answers come, nobody is asked.
"""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glasspool.engines.cluster.nodes import GONE, LOST, READY, RemoteNode
from glasspool.ledger import WAITING
from glasspool.observe import far_rings, inside, node_pictures, on_node, threads
from glasspool.observe.node_pictures import Seen
from glasspool.observe.on_node import ENGINE, INSPECT, TASKS
from glasspool.observe.records import TaskRecord
from glasspool.results import task_info
from glasspool.snapshot import NodeInfo, PoolInfo, ProcessInfo, Snapshot, TaskInfo, ThreadInfo

if TYPE_CHECKING:
    from glasspool.engines.cluster.engine import ClusterEngine
    from glasspool.ledger import Task

ANSWER_S = 1.0
"""So long nodes are waited for."""

STACKS_S = 1.5
"""So long if they are to bring stacks: one that a worker does not tell is read from outside."""

INFO_S = 0.25
"""So long for ``result.info``."""

OPEN_TASKS = 1000
LOST_TOLD = 20
"""A picture tells of so many nodes that were lost, the last ones."""


def snapshot(engine: ClusterEngine, *, stacks: bool = False, tasks: int = OPEN_TASKS) -> Snapshot:
    """Take a picture of a pool on a cluster, with at most so many open tasks."""
    begun, taken_at = time.monotonic(), time.time()
    pool = describe(engine, stacks=stacks, tasks=tasks)
    return Snapshot((pool,), taken_at, time.monotonic() - begun)


def describe(
    engine: ClusterEngine,
    *,
    stacks: bool = False,
    alone: bool = True,
    tasks: int = OPEN_TASKS,
    last: bool = False,
) -> PoolInfo:
    """Tell of one pool and all its nodes. Blocks for as long as a node takes, up to about a second.

    Args:
        engine: The pool's engine.
        stacks: Whether to ask for stacks too.
        alone: The picture is of this pool only.
        tasks: List at most so many open tasks, the oldest.
        last: Tell of the nodes that have left, too, what they told before.
    """
    question = {"ask": INSPECT, "stacks": stacks, "tasks": tasks}
    nodes = list(engine.collector.nodes.values())
    wait = engine.ask_all(nodes, question) if _may_ask(engine) else None
    parent = _parent(engine, alone, stacks)  # while they look
    replies = {} if wait is None else wait(STACKS_S if stacks else ANSWER_S)
    seen = [node_pictures.seen(node, replies.get(node.key), engine.name) for node in nodes]
    if last:
        left = [node for node in list(engine.collector.gone) if node.state == GONE]
        seen += [node_pictures.last(node) for node in left]
    open_tasks, running = _tasks(engine, seen, tasks)
    told = [_with_tasks(process, running) for one in seen for process in one.processes]
    gone = [node for node in list(engine.collector.gone) if node.state == LOST][-LOST_TOLD:]
    about = [_node(engine, one.node, one.silent) for one in seen]
    about += [_node(engine, node, None) for node in gone]
    return PoolInfo(
        name=engine.name,
        kind=engine.kind,
        pid=os.getpid(),
        processes=tuple(_with_driver(parent, told)),
        tasks=open_tasks,
        stats=_counted(engine, seen),
        state=_state(engine),
        start_method=engine.start_method,
        size=engine.size,
        made_at=engine.made_at,
        initializer=engine.initializer,
        deaths=tuple(engine.deaths),
        ended=tuple(process for one in seen for process in one.ended),
        notes=_notes(engine, seen),
        engine=engine.plan.engine,
        nodes=tuple(about),
    )


def stats(engine: ClusterEngine) -> dict[str, int]:
    """Count tasks, nodes and workers of a pool, without asking anybody."""
    collector = engine.collector
    ledger, nodes = collector.ledger, list(collector.nodes.values())
    unseen = sum(
        len(item) if isinstance(item, list) else 1
        for item in list(collector.mailbox.items)
        if isinstance(item, list) or not callable(item)
    )
    ready = [node for node in nodes if node.state == READY]
    workers = sum(node.processes for node in ready)
    running = sum(min(len(node.held or ()), node.places) for node in ready)
    busy = sum(min(len(node.held or ()), node.processes) for node in ready)
    return {
        "submitted": ledger.submitted + unseen,
        "waiting": max(0, ledger.open - ledger.sent) + unseen,
        "sent": ledger.sent,
        "running": min(ledger.sent, running),
        **ledger.ended,
        "nodes": len(ready),
        "workers": workers,
        "idle": max(0, workers - busy),
        "busy": busy,
        "deaths": engine.died_in_all,
        "waiting_bytes": sum(t.weight for t in list(ledger.waiting) if t.state == WAITING),
    }


def slowest(engine: ClusterEngine, count: int = 10) -> tuple[TaskInfo, ...]:
    """Return the longest of the finished tasks that the driver still knows, longest first."""
    found, _ = engine.collector.endings.since(0, far_rings.MOST)
    longest = heapq.nlargest(count, found, key=lambda one: one.ended_ns - one.begun_ns)
    to_wall_ns = time.time_ns() - time.monotonic_ns()
    return tuple(
        TaskInfo(
            id=one.task,
            job=None,
            function=one.function,
            state=one.status,
            slot=one.slot,
            pid=one.pid,
            submitted_at=(one.submitted_ns + to_wall_ns) / 1e9,
            begun_at=(one.begun_ns + to_wall_ns) / 1e9,
            ended_at=(one.ended_ns + to_wall_ns) / 1e9,
            queue_wait_s=max(0, one.begun_ns - one.submitted_ns) / 1e9,
            run_s=(one.ended_ns - one.begun_ns) / 1e9,
            node=one.node,
        )
        for one in longest
    )


def finished(engine: ClusterEngine) -> Iterator[TaskRecord]:
    """Return records of the finished tasks that the driver still knows."""
    found, _ = engine.collector.endings.since(0, far_rings.MOST)
    return (far_rings.record(engine.name, one) for one in found)


def on_nodes(engine: ClusterEngine, tasks: Sequence[Task | None]) -> dict[int, TaskInfo]:
    """Return what nodes say of the tasks that they hold, by number; blocks for ``INFO_S`` at most."""
    if not _may_ask(engine):
        return {}
    nodes = {id(node.held): node for node in list(engine.collector.nodes.values()) if node.held}
    wanted: dict[int, list[int]] = {}
    for task in tasks:
        if task is not None and (held := task.holder) is not None and id(held) in nodes:
            wanted.setdefault(id(held), []).append(task.id)
    if not wanted:
        return {}
    asked = {nodes[key].key: {"ask": TASKS, "ids": ids} for key, ids in wanted.items()}
    wait = engine.ask_all([nodes[key] for key in wanted], asked)
    found: dict[int, TaskInfo] = {}
    for reply in wait(INFO_S).values():
        found.update(node_pictures.tasks_of(engine, reply))
    return found


def _may_ask(engine: ClusterEngine) -> bool:
    """Tell whether answers could come: not while their thread is the one that asks, or has ended."""
    return not engine.done.is_set() and not engine.is_dispatching()


# The driver's process ----------------------------------------------------------------------------


def _parent(engine: ClusterEngine, alone: bool, stacks: bool) -> ProcessInfo:
    from glasspool.observe import roster

    taken = threads.python_stacks()
    classify = roster.classifier_of(engine, alone)
    told = threads.parent_threads(classify, stacks=stacks, taken=taken)
    parent = inside.parent_process(tuple(_of_library(thread, taken) for thread in told))
    return on_node.with_native_threads(parent)


_LIBRARY_FOLDERS = tuple(
    f"{os.sep}site-packages{os.sep}{name}{os.sep}" for name in ("ray", "distributed", "dask")
)
_LIBRARY_NAMES = ("IO loop", "Dask-", "AsyncIO Thread", "ray_", "glasspool ray-")


def _of_library(thread: ThreadInfo, taken: Mapping[int, threads.Stack]) -> ThreadInfo:
    """Give a thread that the cluster's library has started in this process its role."""
    if thread.roles != ("user",):
        return thread
    # The first frames are of whoever started it; the main thread's, or a user's, are the program's.
    frames = [f.file for f in taken.get(thread.ident or 0, ()) if f.file != threading.__file__]
    first = next((file for file in frames if "concurrent" not in file), "")
    is_named = thread.name.startswith(_LIBRARY_NAMES)
    if is_named or any(folder in first for folder in _LIBRARY_FOLDERS):
        return replace(thread, roles=(ENGINE,))
    return thread


def _with_driver(parent: ProcessInfo, told: list[ProcessInfo]) -> Iterator[ProcessInfo]:
    """List the driver's process first; an agent that lives in it adds what it knows of its threads."""
    here = [p for p in told if p.pid == parent.pid and p.role == "agent" and _is_here(p)]
    known = {t.native_id: t for p in here for t in p.threads if t.pool is not None}
    yield replace(parent, threads=tuple(_better(t, known) for t in parent.threads))
    yield from (process for process in told if process not in here)


def _is_here(process: ProcessInfo) -> bool:
    return os.getpid() == process.pid and any(
        thread.native_id == threading.main_thread().native_id for thread in process.threads
    )


def _better(thread: ThreadInfo, known: Mapping[int, ThreadInfo]) -> ThreadInfo:
    more = known.get(thread.native_id)
    if more is None or thread.pool is not None:
        return thread
    return replace(more, process=thread.process, node=None, stack=thread.stack or more.stack)


# Tasks -------------------------------------------------------------------------------------------


def _tasks(
    engine: ClusterEngine, seen: Sequence[Seen], most: int
) -> tuple[tuple[TaskInfo, ...], dict[int, TaskInfo]]:
    """Return the open tasks, as the ledger and the nodes know them together, and those that run."""
    there: dict[int, TaskInfo] = {}
    for one in seen:
        there.update(one.tasks)
    told: list[TaskInfo] = []
    running: dict[int, TaskInfo] = {}
    for task in engine.collector.ledger.unended():
        on_node = there.get(task.id)
        if len(told) >= most and on_node is None:
            continue
        info = node_pictures.joined(task_info(engine, task), on_node)  # type: ignore[arg-type]
        if on_node is not None:
            running[task.id] = info
        if len(told) < most:
            told.append(info)
    return tuple(told), running


def _with_tasks(process: ProcessInfo, known: Mapping[int, TaskInfo]) -> ProcessInfo:
    """Put what the driver knows of tasks where a node's threads run them."""
    if not any(thread.task is not None for thread in process.threads):
        return process
    return replace(process, threads=tuple(_with_task(t, known) for t in process.threads))


def _with_task(thread: ThreadInfo, known: Mapping[int, TaskInfo]) -> ThreadInfo:
    task = thread.task
    if task is None or task.id is None or task.id not in known:
        return thread
    return replace(thread, task=node_pictures.joined(known[task.id], task))


# What is told of all -----------------------------------------------------------------------------


def _node(engine: ClusterEngine, node: RemoteNode, silent: str | None) -> NodeInfo:
    clock = node.clock
    way_s = None if clock.round_trip_ns is None else clock.round_trip_ns / 1e9
    return NodeInfo(
        id=node.node.id,
        name=node.name,
        host=str(node.about.get("host", node.node.host)),
        library=engine.plan.engine,
        state=node.state,
        processors=node.node.processors,
        workers=node.processes,
        tasks=len(node.held or ()),
        tasks_done=node.tasks_done,
        pid=node.about.get("pid"),
        python_version=node.about.get("python"),
        heard_s=time.monotonic() - node.heard_at if node.about else None,
        clock_offset_s=None if way_s is None else clock.offset_ns / 1e9,
        clock_error_s=None if way_s is None else way_s / 2,
        round_trip_s=way_s,
        reason=node.why or None,
        silent=silent,
    )


def clock_notes(engine: ClusterEngine) -> list[str]:
    """Say of each node how its clock was set right, and how wrong that may be."""
    nodes = [*list(engine.collector.nodes.values()), *list(engine.collector.gone)]
    told: list[str] = []
    for node in nodes:
        way_ns, offset_ns = node.clock.round_trip_ns, node.clock.offset_ns
        if way_ns is None:
            told.append(f"The clock of {node.name} was not measured: its times may be wrong.")
            continue
        told.append(
            f"Times of {node.name} are told in this machine's: its clock was set right by "
            f"{offset_ns / 1e9:+.6f} s, which is wrong by {way_ns / 2e6:.3f} ms at most."
        )
    return told


def _counted(engine: ClusterEngine, seen: Sequence[Seen]) -> dict[str, int]:
    """Count, with what only nodes know."""
    counted = stats(engine)
    told = [one.stats for one in seen if one.silent is None]
    if told and len(told) == len(seen):
        counted["nodes"] = len(told)
        for name in ("workers", "idle", "busy", "running"):
            counted[name] = sum(one.get(name, 0) for one in told)
    for name in ("replaced", "over_memory"):
        counted[name] = sum(one.stats.get(name, 0) for one in seen)
    return counted


def _state(engine: ClusterEngine) -> str:
    collector = engine.collector
    if engine.done.is_set():
        return "ended"
    if collector.failure is not None:
        return "failed"
    if collector.stopped:
        return "stopping"
    return "closed" if collector.closing else "running"


def _notes(engine: ClusterEngine, seen: Sequence[Seen]) -> tuple[str, ...]:
    failure = engine.collector.failure
    told = [] if failure is None else [str(failure)]
    told += [f"{one.node.name}: {one.silent}" for one in seen if one.silent is not None]
    told += engine.notes
    told += [f"{one.node.name}: {note}" for one in seen for note in one.notes]
    return tuple(told)


# Questions through the socket --------------------------------------------------------------------


def answer(engine: ClusterEngine, question: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a question that came through the socket of a pool (worker-handler)."""
    from glasspool.observe import control, entry

    if question.get("ask") in control.ASKED:
        return control.answer(engine, question)
    if question.get("ask") == far_rings.ENDED:
        return _ended(engine, question)
    if question.get("ask") != INSPECT:
        there = ", ".join((INSPECT, far_rings.ENDED, *control.ASKED))
        return {"error": f"unknown question {question.get('ask')!r}; there is: {there}"}
    most = question.get("tasks", OPEN_TASKS)
    if not isinstance(most, int) or not 0 <= most <= OPEN_TASKS:
        return {"error": f"tasks must be a number up to {OPEN_TASKS}"}
    picture = snapshot(engine, stacks=bool(question.get("stacks")), tasks=most)
    return {"snapshot": entry.with_others(picture, bool(question.get("others"))).to_dict()}


def _ended(engine: ClusterEngine, question: Mapping[str, Any]) -> dict[str, Any]:
    since, most = question.get("since"), question.get("most")
    if not isinstance(since, int) or not isinstance(most, int) or min(since, most) < 0:
        return {"error": "since and most must be numbers from 0 on"}
    found, lost = engine.collector.endings.since(since, min(most, far_rings.MOST))
    workers = sum(len(node.workers) for node in list(engine.collector.nodes.values()))
    return {
        "tasks": found,
        "lost": lost,
        "next": since + len(found) + lost,
        "news": [workers, engine.died_in_all, len(engine.collector.nodes)],
    }
