"""The roster of our thread pools: every thread of the process, its role, its state, its task, its stack."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import arguments
from glasspool.engines.threads import telling
from glasspool.engines.threads.runner import IDLE, Runner
from glasspool.ledger import CANCELLED, FAILED, TIMEOUT
from glasspool.observe import inside, threads
from glasspool.snapshot import PoolInfo, Snapshot, TaskInfo, ThreadInfo

if TYPE_CHECKING:
    from glasspool.engines.threads.engine import ThreadEngine

KIND = "glasspool.ThreadPool"
OPEN_TASKS = 1000


def snapshot(engine: ThreadEngine, *, stacks: bool = False, tasks: int = OPEN_TASKS) -> Snapshot:
    """Take a picture of a thread pool, with at most so many open tasks."""
    begun, taken_at = time.monotonic(), time.time()
    pool = describe(engine, stacks=stacks, tasks=tasks)
    return Snapshot((pool,), taken_at, time.monotonic() - begun)


def describe(
    engine: ThreadEngine, *, stacks: bool = False, alone: bool = True, tasks: int = OPEN_TASKS
) -> PoolInfo:
    """Tell of one pool. ``alone``: threads of other pools are just that."""
    from glasspool.observe import roster

    runners = {runner.ident: runner for runner in engine.supervisor.runners.copy()}
    told = threads.parent_threads(roster.classifier_of(engine, alone), stacks=stacks)
    parent = inside.parent_process(
        tuple(_with_task(thread, runners.get(thread.ident)) for thread in told)
    )
    return PoolInfo(
        name=engine.name,
        kind=KIND,
        pid=os.getpid(),
        processes=(parent,),
        tasks=tuple(telling.task_info(task) for task in engine.unended()[:tasks]),
        stats=stats(engine),
        state=_state(engine),
        size=engine.size,
        made_at=engine.made_at,
        initializer=engine.initializer,
        notes=(*(() if engine.failure is None else (str(engine.failure),)), *engine.notes),
    )


def stats(engine: ThreadEngine) -> dict[str, int]:
    """Count tasks and threads of a pool."""
    supervisor = engine.supervisor
    runners = supervisor.runners.copy()
    waiting = sum(1 for task in engine.line.copy() if task.token)
    running = sum(1 for runner in runners if (task := runner.task) is not None and task.token)
    done = supervisor.gone_counts[0] + sum(runner.done for runner in runners)
    failed = supervisor.gone_counts[1] + sum(runner.failed for runner in runners)
    ended = supervisor.ended
    failed += ended[FAILED]
    placed = [runner for runner in runners if not runner.stuck]
    idle = sum(1 for runner in placed if runner.task is None and runner.state == IDLE)
    return {
        "submitted": waiting + running + done + failed + ended[CANCELLED] + ended[TIMEOUT],
        "waiting": waiting,
        "sent": running,
        "running": running,
        "done": done,
        "failed": failed,
        "lost": 0,
        "cancelled": ended[CANCELLED],
        "timeout": ended[TIMEOUT],
        "workers": len(placed),
        "idle": idle,
        "busy": sum(1 for runner in placed if runner.task is not None),
        "stuck": len(runners) - len(placed),
        "deaths": 0,
        "replaced": supervisor.replaced,
    }


def slowest(engine: ThreadEngine) -> tuple[TaskInfo, ...]:
    """Return no finished task: none is kept."""
    return ()


def answer(engine: ThreadEngine, question: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a question that came through the socket of a pool."""
    from glasspool.observe import entry

    if question.get("ask") != "inspect":
        return {"error": f"{engine.name} is a thread pool, which answers only to: inspect"}
    most = question.get("tasks", OPEN_TASKS)
    if not isinstance(most, int) or not 0 <= most <= OPEN_TASKS:
        return {"error": f"tasks must be a number up to {OPEN_TASKS}"}
    picture = snapshot(engine, stacks=bool(question.get("stacks")), tasks=most)
    return {"snapshot": entry.with_others(picture, bool(question.get("others"))).to_dict()}


def _with_task(thread: ThreadInfo, runner: Runner | None) -> ThreadInfo:
    if runner is None:
        return thread
    task = runner.task
    if task is None:
        return thread
    info = replace(telling.task_info(task, runner), arguments=arguments.of_task(task))
    since_s = (time.monotonic_ns() - runner.begun_ns) / 1e9
    return replace(thread, task=info, since_s=since_s)


def _state(engine: ThreadEngine) -> str:
    if engine.done.is_set():
        return "ended"
    if engine.failure is not None:
        return "failed"
    if engine.stopped:
        return "stopping"
    return "closed" if engine.closing else "running"
