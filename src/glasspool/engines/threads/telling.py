"""What a thread pool tells of its tasks and threads."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import arguments
from glasspool.engines.local.outcome import VALUE, Outcome
from glasspool.engines.local.running import WORTH_NAMING_NS
from glasspool.engines.threads.runner import BUSY, IDLE, INITIALIZING, STARTING, Runner
from glasspool.ledger import OPEN
from glasspool.progress import Running, Slow
from glasspool.results import _wall, _word_for
from glasspool.snapshot import HANDLER_ROLES, TaskInfo, ThreadRef

if TYPE_CHECKING:
    from glasspool.engines.threads.engine import ThreadEngine
    from glasspool.undone import Undone

_WORDS = 60


def task_info(task: Any, runner: Runner | None = None) -> TaskInfo:
    """Put together what is known of one task; ``runner`` runs it now."""
    has_ended = task.ended_as != OPEN
    begun = ended = 0
    if has_ended:
        runner, begun, ended = task.worker, task.begun_ns, task.ended_ns
        state = "done" if task.ended_as == VALUE else _word_for(task.outcome[1])
    else:
        runner = _runner_of(task) if runner is None else runner
        begun = 0 if runner is None else runner.begun_ns
        state = "running" if begun else "waiting"
    return TaskInfo(
        id=task.id,
        job=task.job.job_id,
        function=task.job.function_name(task),
        state=state,
        index=task.index,
        items=task.items,
        attempts=task.attempts + (1 if begun else 0),
        slot=None if runner is None else runner.slot,
        pid=None if runner is None else runner.pid,
        thread=None if runner is None else thread_ref(runner),
        submitted_at=_wall(task.submitted_ns),
        begun_at=_wall(begun) if begun else None,
        ended_at=_wall(ended) if ended else None,
        queue_wait_s=(begun - task.submitted_ns) / 1e9 if begun else None,
        run_s=(ended - begun) / 1e9 if ended else None,
    )


def thread_ref(runner: Runner) -> ThreadRef:
    """Name the thread of a runner."""
    return ThreadRef(runner.thread.name, runner.ident, runner.native_id or 0, False)


def _runner_of(task: Any) -> Runner | None:
    engine: ThreadEngine = task.job._engine
    return engine.supervisor._runner_of(task)


def job_info(job: Any, tasks: list[Any], ready: bool, failure: Outcome | None) -> TaskInfo:
    """Put together what is known of a job of several tasks."""
    infos = tuple(task_info(task) for task in list(tasks) if task is not None)
    begun = [info.begun_at for info in infos if info.begun_at is not None]
    ended = [info.ended_at for info in infos if info.ended_at is not None]
    state = "running" if begun else "waiting"
    if ready:
        state = "done" if failure is None else _word_for(failure[1])
    first = infos[0] if infos else None
    return TaskInfo(
        id=None,
        job=job.job_id,
        function=job._name,
        state=state,
        items=sum(info.items for info in infos),
        submitted_at=first.submitted_at if first else None,
        begun_at=min(begun, default=None),
        ended_at=max(ended, default=None) if ready else None,
        queue_wait_s=first.queue_wait_s if first else None,
        run_s=sum(info.run_s or 0.0 for info in infos),
        tasks=infos,
    )


def look(engine: ThreadEngine, job: Any) -> Running:
    """Return how many tasks of a job run, and which has run longest: for displays of progress."""
    running, oldest = 0, None
    for runner in engine.supervisor.runners.copy():
        task, begun_ns = runner.task, runner.begun_ns
        if task is None or task.owner is not job or runner.interrupted is not None:
            continue
        running += 1
        if oldest is None or begun_ns < oldest[0]:
            oldest = begun_ns, runner, task
    if oldest is None:
        return Running()
    begun_ns, runner, task = oldest
    age_ns = time.monotonic_ns() - begun_ns
    words = ""
    if age_ns >= WORTH_NAMING_NS:
        words = task.job.function_name(task) + (arguments.of_task(task) or "")
        words = words if len(words) <= _WORDS else f"{words[: _WORDS - 1]}…"
    return Running(running, 0.0, Slow(runner.slot, age_ns / 1e9, words))


def own_threads(engine: ThreadEngine) -> dict[threading.Thread, tuple[tuple[str, ...], str]]:
    """Return the pool's threads with their roles and states.

    Threads of tasks take these out of the line, and end them, by themselves. The duties of handing out and
    of taking in are the supervisor's for what they cannot do: what is begun anew, timed out or cancelled.
    """
    found: dict[threading.Thread, tuple[tuple[str, ...], str]] = {}
    supervisor = engine.supervisor
    found[supervisor.thread] = (HANDLER_ROLES, supervisor.state)
    for runner in supervisor.runners.copy():
        roles = ("task",) if engine.initializer_call is None else ("initializer", "task")
        found[runner.thread] = (roles, state_of(runner))
    callbacks = engine.callbacks
    if callbacks.thread is not None:
        job = callbacks.running
        words = "waiting for a callback to run"
        found[callbacks.thread] = (
            ("callback",),
            words if job is None else f"running the callback of {job.label()}",
        )
    for thread, feed in list(engine.feeders.items()):
        found[thread] = (("iterable",), feed.state)
    for showing in engine._showing.values():
        if showing.thread is not None:
            found[showing.thread] = (("progress",), showing.state)
    return found


def state_of(runner: Runner) -> str:
    """Say in words what a runner does."""
    task = runner.task
    if task is not None:
        name = task.job.function_name(task)
        if runner.stuck:
            return f"stuck in task {task.id} ({name}), which was ended; another has its place"
        if runner.interrupted is not None:
            return f"still in task {task.id} ({name}), which was ended"
        return f"running task {task.id} ({name})"
    return {
        STARTING: "starting",
        INITIALIZING: "running the initializer",
        IDLE: "waiting for a task",
        BUSY: "between two tasks",
    }.get(runner.state, "leaving")


def undone(task: Any) -> Undone:
    """Note a task that the pool gives back."""
    from glasspool.undone import Undone

    info = replace(task_info(task), state="cancelled")
    return Undone(info, task.job, task.kind, None, task.payload)
