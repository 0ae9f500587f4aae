"""The roster of our own pools: every process and thread, its role, its state, its task, its stack.

Read from where each fact is true: the scoreboard (what workers do), this process (its threads), the
operating system (which threads there are, their processor time), the ledger (which tasks are open). The
pool is not stopped and its state not touched. Workers are asked for stacks by a signal, which each
answers with a message of its own; one that is silent is read from outside where the system permits.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import arguments, kernel
from glasspool.engines.local import scoreboard as sb
from glasspool.engines.local.workers import in_lane, runner_of
from glasspool.latch import Latch
from glasspool.ledger import WAITING
from glasspool.observe import inside, native_counts, outside, pyspy, threads
from glasspool.observe.threads import Classify, Verdict
from glasspool.results import task_info
from glasspool.snapshot import (
    Evidence,
    Frame,
    PoolInfo,
    ProcessInfo,
    Snapshot,
    TaskInfo,
    ThreadInfo,
    WorkerTime,
)

if TYPE_CHECKING:
    from glasspool.engines.cluster.engine import ClusterEngine
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.workers import Worker
    from glasspool.engines.threads.engine import ThreadEngine
    from glasspool.ledger import Task

ASK_TIMES = 5
ANSWER_S = 0.1
"""A worker that has not told its stacks after this long is inside a C call."""

OPEN_TASKS = 1000
"""A picture lists at most so many open tasks; the counters count all."""

Told = Mapping[int, tuple[str, int, bool, bool, tuple[Frame, ...]]]
"""What a worker told of its threads, by native id: name, ident, daemon, is_main, stack."""


def snapshot(
    engines: Sequence[LocalEngine], *, stacks: bool = False, tasks: int = OPEN_TASKS
) -> Snapshot:
    """Take a picture of pools of this process, with at most so many open tasks of each."""
    begun = time.monotonic()
    taken_at = time.time()
    alone = len(engines) == 1
    pools = tuple(describe(one, stacks=stacks, alone=alone, tasks=tasks) for one in engines)
    return Snapshot(pools, taken_at, time.monotonic() - begun)


def describe(
    engine: LocalEngine, *, stacks: bool = False, alone: bool = True, tasks: int = OPEN_TASKS
) -> PoolInfo:
    """Tell of one pool.

    Args:
        engine: The pool's engine.
        stacks: Whether to ask for stacks too.
        alone: The picture is of this pool only, so the helper threads of other pools are just that.
        tasks: List at most so many open tasks, the oldest.
    """
    workers = sorted(engine.handler.workers.copy().values(), key=lambda w: (w.slot, w.generation))
    told = _ask_for_stacks(engine, workers) if stacks else {}
    taken = threads.python_stacks()
    classify = _Classifier(engine, alone)
    parent = inside.parent_process(threads.parent_threads(classify, stacks=stacks, taken=taken))
    counters = stats(engine)
    pool = PoolInfo(
        name=engine.name,
        kind=engine.kind,
        pid=os.getpid(),
        processes=(
            _with_callback_time(engine, parent),
            *_template(engine),
            *inside.server_processes(engine.start_method),
            *_with_places(
                [
                    (worker, described)
                    for worker in workers
                    if (described := _worker(engine, worker, told)) is not None
                ]
            ),
        ),
        tasks=tuple(_open_tasks(engine, tasks)),
        stats=counters,
        state=_state(engine),
        start_method=engine.start_method,
        size=engine.size,
        made_at=engine.made_at,
        initializer=engine.initializer,
        deaths=tuple(engine.deaths),
        ended=tuple(_grave(engine, grave) for grave in list(engine.graves)),
        notes=_notes(engine),
        forked_beside=engine.forked_beside,
    )
    if not stacks:
        return pool
    from glasspool.observe import native  # not before somebody looks so closely

    return native.with_libraries(pool)


def stats(engine: LocalEngine) -> dict[str, int]:
    """Count tasks and workers of a pool."""
    ledger = engine.collector.ledger
    workers = list(engine.handler.workers.copy().values())
    ready = [worker for worker in workers if worker.ready and not worker.stopping]
    # With lanes, also workers that only finish what they run: one of their lanes did not let go.
    at_work = [worker for worker in workers if worker.ready] if engine.lanes else ready
    busy = [worker for worker in at_work if worker.held or worker.direct]
    direct = [worker for worker in ready if worker.direct]
    lender = engine.collector.lender
    unseen = sum(
        len(item) if isinstance(item, list) else 1
        for item in list(engine.collector.mailbox.items)
        if isinstance(item, list) or not callable(item)
    )
    waiting_bytes = sum(task.weight for task in list(ledger.waiting) if task.state == WAITING)
    sent = ledger.sent
    return {
        "submitted": ledger.submitted
        + unseen
        + lender.done
        + lender.failed
        + lender.cancelled
        + len(direct),
        "waiting": max(0, ledger.open - sent) + unseen,
        "sent": sent + len(direct),
        "running": min(sent + len(direct), _running_at_most(engine, busy)),
        **ledger.ended,
        "done": ledger.ended["done"] + lender.done,
        "failed": ledger.ended["failed"] + lender.failed,
        "cancelled": ledger.ended["cancelled"] + lender.cancelled,
        "workers": len(workers),
        "idle": sum(worker.serves and not (worker.held or worker.direct) for worker in ready),
        "busy": len(busy),
        "deaths": engine.died_in_all,
        "replaced": engine.buried_in_all,
        "over_memory": engine.over_memory,
        "waiting_bytes": waiting_bytes,
    }


def _running_at_most(engine: LocalEngine, busy: list[Worker]) -> int:
    if not engine.lanes:
        return len(busy)
    return sum(min(len(worker.held or ()), engine.lanes) for worker in busy)


def slowest(engine: LocalEngine, count: int = 10) -> tuple[TaskInfo, ...]:
    """Return the longest finished tasks that the rings of the workers still know, longest first."""
    board = engine.board
    found = [
        (entry.ended_ns - entry.begun_ns, worker, entry)
        for worker in engine.handler.workers.copy().values()
        for entry in board.finished(worker.record)
    ]
    found.sort(key=lambda item: item[0], reverse=True)
    now, clock = time.time(), time.monotonic_ns()
    return tuple(
        TaskInfo(
            id=entry.task,
            job=None,
            function=engine.callables.name(entry.call) if entry.call else "(sent with its task)",
            state="done" if entry.status == sb.DONE else "failed",
            slot=worker.slot,
            pid=worker.pid,
            thread=runner_of(in_lane(worker, entry.lane)),
            begun_at=now - (clock - entry.begun_ns) / 1e9,
            ended_at=now - (clock - entry.ended_ns) / 1e9,
            run_s=lasted / 1e9,
            result_bytes=entry.bytes,
        )
        for lasted, worker, entry in found[:count]
    )


class _Classifier:
    """Tells what the threads of this process are for."""

    def __init__(self, engine: LocalEngine | ThreadEngine | ClusterEngine, alone: bool) -> None:
        from glasspool import registry

        self._known: dict[threading.Thread, Verdict] = {}
        self._callers: dict[int, str] = {}
        engines: set[LocalEngine | ThreadEngine | ClusterEngine] = {engine}
        engines.update(
            registry.live_engines(), registry.live_thread_engines(), registry.live_cluster_engines()
        )
        for other in engines:
            for thread, (roles, state) in other.own_threads().items():
                mine = other is engine or not alone
                self._known[thread] = (roles if mine else ("other-pool",), state, other.name)
            if other is engine or not alone:
                for ident, (what, _since) in other.callers.copy().items():
                    self._callers[ident] = what

    def __call__(self, thread: threading.Thread) -> Verdict | None:
        verdict = self._known.get(thread)
        if verdict is not None:
            return verdict
        what = self._callers.get(thread.ident or 0)
        return None if what is None else (("caller",), what, None)


def classifier() -> Classify | None:
    """Tell what the threads of our pools in this process are for; None if there is no pool."""
    from glasspool import registry

    engines: list[LocalEngine | ThreadEngine | ClusterEngine] = [*registry.live_engines()]
    engines += registry.live_thread_engines()
    engines += registry.live_cluster_engines()
    return _Classifier(engines[0], alone=False) if engines else None


def classifier_of(engine: LocalEngine | ThreadEngine | ClusterEngine, alone: bool) -> Classify:
    """Tell what the threads of this process are for, in a picture of one pool, or of all."""
    return _Classifier(engine, alone)


def _with_callback_time(engine: LocalEngine, parent: ProcessInfo) -> ProcessInfo:
    """Add for how long a callback has run."""
    if engine.calling_back is None:
        return parent
    since_s = time.monotonic() - engine.called_back_at
    return replace(
        parent,
        threads=tuple(
            replace(thread, since_s=since_s)
            if "callback" in thread.roles and thread.pool == engine.name
            else thread
            for thread in parent.threads
        ),
    )


def _state(engine: LocalEngine) -> str:
    if engine.done.is_set():
        return "ended"
    if engine.collector.failure is not None:
        return "failed"
    if engine.collector.stopped:
        return "stopping"
    return "closed" if engine.collector.closing else "running"


def _notes(engine: LocalEngine) -> tuple[str, ...]:
    failure = engine.collector.failure
    told = () if failure is None else (str(failure),)
    return told + tuple(engine.shortage.notes.copy().values()) + native_counts.notes(engine)


def _open_tasks(engine: LocalEngine, most: int) -> list[TaskInfo]:
    open_tasks: list[TaskInfo] = []
    for task in engine.collector.ledger.unended():
        if len(open_tasks) >= most:
            break
        open_tasks.append(task_info(engine, task))
    return open_tasks


def _grave(engine: LocalEngine, grave: Any) -> ProcessInfo:
    return ProcessInfo(
        pid=grave.pid,
        name=f"worker {grave.slot}",
        role="worker",
        state="recycled" if grave.on_purpose else "dead",
        slot=grave.slot,
        generation=grave.generation,
        exitcode=grave.exitcode,
        tasks_done=grave.tasks_done,
        busy_s=grave.busy_s,
        reason=grave.reason,
        evidence=Evidence("scoreboard"),
        time=outside.worker_time(grave.time),
    )


def _template(engine: LocalEngine) -> list[ProcessInfo]:
    starter = engine.handler.starter
    for role in ("template", "nanny"):
        helper = getattr(starter, role, None)
        if helper is not None:
            described = inside.server_process(role, helper.pid)
            return [] if described is None else [described]
    return []


# Workers ----------------------------------------------------------------------------------------


def _worker(engine: LocalEngine, worker: Worker, told: Mapping[int, _Answer]) -> ProcessInfo | None:
    try:
        return _living_worker(engine, worker, told)
    except ValueError:  # the pool has ended meanwhile, and its scoreboard with it
        return None


def _living_worker(
    engine: LocalEngine, worker: Worker, told: Mapping[int, _Answer]
) -> ProcessInfo | None:
    described = outside.worker_of_record(engine.board, worker.record)
    if described is None or described.pid != worker.pid:
        return _starting(engine, worker) if worker.pid else None
    process = worker.process
    answer_of = told.get(worker.pid)
    return replace(
        described,
        native_threads=native_counts.of_worker(worker, described.threads),
        name=process.name if process is not None else described.name,
        threads=tuple(
            _worker_thread(engine, worker, thread, answer_of) for thread in described.threads
        ),
    )


def _with_places(seen: list[tuple[Worker, ProcessInfo]]) -> list[ProcessInfo]:
    """Say of the workers at rest whether they are to get tasks.

    All at once and last: so no slot seems to have two workers because it changed hands meanwhile.
    """
    places = [_place(worker, described.state) for worker, described in seen]
    return [
        replace(described, state=place) for (_, described), place in zip(seen, places, strict=True)
    ]


def _place(worker: Worker, state: str) -> str:
    if state not in ("idle", "busy"):
        return state
    held = worker.held
    is_done = state == "idle" or (held is not None and worker.answered == held.next_seq)
    if is_done and (worker.stopping or worker.dismissed):
        return "leaving"
    return state if worker.serves or state == "busy" else "spare"


def _starting(engine: LocalEngine, worker: Worker) -> ProcessInfo | None:
    roles = outside.main_roles(engine.initializer is not None, engine.lanes)
    described = inside.server_process("worker", worker.pid)
    if described is None:
        return None
    return replace(
        described,
        name=worker.process.name if worker.process is not None else f"worker {worker.slot}",
        state="starting",
        slot=worker.slot,
        generation=worker.generation,
        time=WorkerTime(start_s=(time.monotonic_ns() - worker.started_ns) / 1e9),
        threads=tuple(
            replace(thread, roles=roles if thread.is_main else thread.roles)
            for thread in described.threads
        ),
    )


def _running(engine: LocalEngine, worker: Worker, seen: TaskInfo | None) -> TaskInfo | None:
    """Return the task that a thread runs, as the scoreboard and the ledger know it together."""
    if seen is None or seen.id is None:
        return seen
    task: Task | None = worker.held.tasks.get(seen.id) if worker.held is not None else None
    if task is None and worker.direct is not None and worker.direct.id == seen.id:
        task = worker.direct
    if task is None:
        return seen
    info = replace(
        task_info(engine, task),
        begun_at=seen.begun_at,
        run_s=seen.run_s,
        progress=seen.progress,
    )
    if task.items > 1:
        word = engine.board.words[engine.board.place(worker.record, task.seq) + sb.W_ITEM]
        grain = "item" if word & sb.GRAIN_ITEM else "task"
        info = replace(info, item=word & sb.ITEM_MASK, grain=grain)
    return replace(info, arguments=arguments.of_task(task, info.item))


def _worker_thread(
    engine: LocalEngine,
    worker: Worker,
    thread: ThreadInfo,
    answer_of: _Answer | None,
) -> ThreadInfo:
    if "task" in thread.roles:
        thread = replace(thread, task=_running(engine, worker, thread.task), pool=engine.name)
    else:
        thread = _with_maker(engine, worker, thread)
    if answer_of is None:
        return thread
    told = answer_of.threads.get(thread.native_id) if answer_of.threads is not None else None
    if told is None:
        if not thread.python:
            return thread
        return replace(thread, evidence=replace(thread.evidence, note=answer_of.note))
    name, ident, daemon, _, stack = told
    return replace(
        thread,
        name=name,
        ident=ident or thread.ident,
        daemon=daemon,
        stack=stack,
        python=True,
        roles=("task-child",) if thread.roles == ("native",) else thread.roles,
        evidence=Evidence(answer_of.source, note=answer_of.note),
    )


def _with_maker(engine: LocalEngine, worker: Worker, thread: ThreadInfo) -> ThreadInfo:
    """Add the task that started a thread, which may have ended since."""
    for entry in engine.board.threads(worker.record):
        if entry.native_id == thread.native_id and entry.task:
            if entry.task in {running.task for running in engine.board.running(worker.record)}:
                seen = outside.task_in(engine.board, worker.record, entry.task)
                return replace(thread, task=_running(engine, worker, seen))
            ended = next(
                (e for e in engine.board.finished(worker.record) if e.task == entry.task), None
            )
            name = engine.callables.name(ended.call) if ended is not None else "?"
            return replace(
                thread, task=TaskInfo(id=entry.task, job=None, function=name, state="done")
            )
    return thread


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was learnt of the threads of a worker, how, and what is to be said of it."""

    threads: Told | None
    source: str
    note: str | None


_NO_SIGNAL = "this platform has no signal to ask with"


def _ask_for_stacks(engine: LocalEngine, workers: Sequence[Worker]) -> dict[int, _Answer]:
    """Ask all workers at once, and wait for the answers; the silent ones are read from outside."""
    number = kernel.stacks_signal()
    found: dict[int, _Answer] = {}
    if number is None:
        return {worker.pid: _Answer(None, "self", _NO_SIGNAL) for worker in workers}
    asked: list[tuple[Worker, Callable[[list[Any]], None]]] = []
    complete = Latch()
    for worker in workers:
        if not worker.pid:
            continue
        if not kernel.takes_signal(worker.pid, number):
            found[worker.pid] = _Answer(None, "os", "it starts or leaves, and cannot be asked")
            continue
        asked.append((worker, _taker(worker, found, complete, len(workers))))
    for worker, take in asked:
        worker.stack_takers.append(take)
    engine.collector.mailbox.put(engine.collector.lender.listen)
    for _ in range(ASK_TIMES):
        # A signal that comes just before a system call does not cut it short, so that even an idle
        # worker may be silent; it is asked again.
        for worker, _take in asked:
            if worker.pid not in found and kernel.takes_signal(worker.pid, number):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, number)
        if not asked or len(found) >= len(workers) or complete.wait(ANSWER_S / ASK_TIMES):
            break  # woken by the last answer
    for worker, take in asked:
        worker.stack_takers.remove(take)
    silent = [worker.pid for worker, _ in asked if worker.pid not in found]
    if silent:
        found.update(_read_from_outside(silent))
    return found


def _taker(
    worker: Worker, found: dict[int, _Answer], complete: Latch, count: int
) -> Callable[[list[Any]], None]:
    def take(answers: list[Any]) -> None:
        found[worker.pid] = _Answer(_told(answers), "self", None)
        if len(found) >= count:
            complete.set()

    return take


def _told(answers: list[Any]) -> Told:
    return {
        native: (name, ident, daemon, is_main, tuple(Frame(*frame) for frame in stack))
        for ident, native, name, daemon, is_main, stack in answers
        if native
    }


def _read_from_outside(pids: list[int]) -> dict[int, _Answer]:
    """Read stacks with py-spy, where it is installed and permitted."""
    silence = f"no answer within {ANSWER_S * 1000:.0f} ms: its main thread is inside a C call"
    if pyspy.program() is None:
        note = f"{silence}; pip install glasspool[attach] reads it from outside"
        return dict.fromkeys(pids, _Answer(None, "self", note))
    found: dict[int, _Answer] = {}
    for pid, dump in pyspy.dump(pids, 1.0).items():
        threads_told = {
            thread.native_id: (
                thread.name or "?",
                0,
                True,
                thread.native_id == pid,
                _without_inherited(thread.stack),
            )
            for thread in dump.threads
            if thread.native_id is not None
        }
        note = silence if threads_told else f"{silence}, and reading it from outside failed"
        if dump.note:
            note = f"{note}: {dump.note}"
        found[pid] = _Answer(threads_told or None, "py-spy", note)
    return found


def _without_inherited(stack: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Cut the frames that a forked worker inherited from its parent."""
    for index in range(len(stack) - 1, -1, -1):
        frame = stack[index]
        if frame.function == "main" and frame.file.endswith("engines/local/worker.py"):
            return stack[index:]
    return stack
