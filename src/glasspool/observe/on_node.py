"""What the agent of a pool on a cluster tells of its node when the driver asks.

It is the roster of the agent's local pool, told as what it is there: the pool's process is the ``agent``, and
the threads that the cluster's library runs in it have the role ``engine``. With it go two readings of the
node's clocks, from which the driver makes its own times.

Runs on the worker-handler's thread of the agent's local pool, which is where a local pool answers questions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glasspool.snapshot import Evidence, PoolInfo, ProcessInfo, ThreadInfo, as_plain

if TYPE_CHECKING:
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.ledger import Task

AGENT, ENGINE = "agent", "engine"

INSPECT, TASKS = "inspect", "tasks"

_NOT_OURS = "not the pool's: the cluster's library has this process"


def answer(engine: LocalEngine, held: Mapping[int, Task], question: Mapping[str, Any]) -> bytes:
    """Answer a question of the driver's, as JSON. Never raises for what was asked.

    Args:
        engine: The agent's local pool.
        held: The tasks that the agent has, by number.
        question: ``inspect`` (with ``stacks`` and ``tasks``), ``tasks`` (with ``ids``), or one of those
            that a local pool answers.
    """
    try:
        reply = _answer(engine, held, question)
    except Exception as error:  # the driver is told; the pool goes on
        reply = {"error": f"{type(error).__name__}: {error}"}
    clocks = {"clock_ns": time.monotonic_ns(), "wall_ns": time.time_ns()}
    return json.dumps({**reply, **clocks}).encode()


def _answer(
    engine: LocalEngine, held: Mapping[int, Task], question: Mapping[str, Any]
) -> dict[str, Any]:
    from glasspool.observe import entry, roster

    asked = question.get("ask")
    if asked == TASKS:
        return {"tasks": _tasks(engine, held, question.get("ids", ()))}
    if asked != INSPECT:
        return entry.answer(engine, question)
    most = int(question.get("tasks", roster.OPEN_TASKS))
    pool = roster.describe(engine, stacks=bool(question.get("stacks")), tasks=most)
    return {"pool": as_plain(as_of_agent(pool))}


def _tasks(engine: LocalEngine, held: Mapping[int, Task], ids: Iterable[int]) -> list[Any]:
    from glasspool.results import task_info

    found = (held.get(number) for number in ids)
    return [as_plain(task_info(engine, task)) for task in found if task is not None]


def as_of_agent(pool: PoolInfo) -> PoolInfo:
    """Tell of a pool as of one that an agent has."""
    return replace(pool, processes=tuple(map(_process, pool.processes)))


def _process(process: ProcessInfo) -> ProcessInfo:
    if process.role != "parent":
        return process
    told = with_native_threads(process)
    threads = tuple(_thread(replace(thread, process=AGENT)) for thread in told.threads)
    return replace(told, name=AGENT, role=AGENT, threads=threads)


def with_native_threads(process: ProcessInfo) -> ProcessInfo:
    """Give the threads that the cluster's library has started in C++ in a process of ours their role."""
    from glasspool.observe import native  # not before somebody looks so closely

    told = native.told_by_library(process)
    return replace(told, threads=tuple(map(_of_library, told.threads)))


_LIBRARIES = ("_raylet",)
"""Shared libraries of Ray; Dask has none."""


def _of_library(thread: ThreadInfo) -> ThreadInfo:
    is_ray = thread.library is not None and thread.library.startswith(_LIBRARIES)
    return replace(thread, roles=(ENGINE,)) if is_ray and not thread.python else thread


def _thread(thread: ThreadInfo) -> ThreadInfo:
    if thread.roles == ("main",):
        return replace(thread, roles=("main", ENGINE))
    if thread.roles != ("user",):
        return thread
    # Nobody's program runs in an agent's process: what is not ours is the library's.
    evidence = replace(thread.evidence, note=thread.evidence.note or _NOT_OURS)
    return replace(thread, roles=(ENGINE,), evidence=evidence)


def silent_agent(pid: int, node: str, why: str, age_s: float) -> ProcessInfo:
    """Describe the process of an agent that does not answer."""
    evidence = Evidence("self", age_s=age_s, note=why)
    return ProcessInfo(pid, AGENT, AGENT, state="silent", evidence=evidence, node=node)
