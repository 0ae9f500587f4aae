"""The roster of a stock ``multiprocessing.pool.Pool`` (or ``ThreadPool``) of this process.

The pool is only looked at: its private attributes are read, each with a fallback, its workers are
never asked, waited for or reaped, and nothing in here keeps the pool alive. What its workers do is
told by the operating system, and by py-spy where stacks are wanted.
"""

from __future__ import annotations

import itertools
import multiprocessing.pool
import os
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import current_process
from typing import Any

from glasspool.observe import procfs, pyspy, stock_states, threads
from glasspool.observe.threads import Classify, Stack, Verdict
from glasspool.snapshot import (
    Evidence,
    InitializerInfo,
    PoolInfo,
    ProcessInfo,
    TaskInfo,
    ThreadInfo,
    ThreadRef,
)

_HELPERS = (
    ("_worker_handler", "worker-handler", "workers"),
    ("_task_handler", "task-handler", "tasks"),
    ("_result_handler", "result-handler", "results"),
)
_STATES = {"INIT": "starting", "RUN": "running", "CLOSE": "closed", "TERMINATE": "terminated"}

_numbers: weakref.WeakKeyDictionary[multiprocessing.pool.Pool, int] = weakref.WeakKeyDictionary()
_numbers_lock = threading.Lock()  # guards _numbers and _next_number
_next_number = itertools.count(1)


def describe(
    pool: multiprocessing.pool.Pool, *, stacks: bool = False, others: Classify | None = None
) -> PoolInfo:
    """Tell of a stock pool of this process: its processes, threads, roles and what they do.

    Args:
        pool: A ``multiprocessing.pool.Pool`` or ``ThreadPool``, in any state.
        stacks: Whether to read stacks too; those of the workers need py-spy.
        others: Tells of the threads of this process that are not the pool's.
    """
    name = f"pool-{_number(pool)}"
    taken = threads.python_stacks()
    classify = _classifier(pool, name, taken, others)
    told = threads.parent_threads(classify, stacks=stacks, taken=taken)
    method = _start_method(pool)
    dumps = pyspy.dump(_living_pids(pool)) if stacks else {}
    workers = tuple(_worker(worker, pool, name, method, dumps) for worker in _workers(pool))
    return PoolInfo(
        name=name,
        kind="multiprocessing.Pool" if method else "multiprocessing.pool.ThreadPool",
        pid=os.getpid(),
        processes=(parent_process(told), *server_processes(method), *workers),
        tasks=tuple(t.task for w in workers for t in w.threads if t.task is not None),
        stats=_stats(pool),
        state=_STATES.get(str(getattr(pool, "_state", "")), "unknown"),
        start_method=method,
        size=getattr(pool, "_processes", 0),
        initializer=_function_name(getattr(pool, "_initializer", None)),
        notes=_notes(pool, dumps),
    )


def name_threads(pool: multiprocessing.pool.Pool) -> None:
    """Name the three helper threads of a stock pool by role, in Python and for the system."""
    number = _number(pool)
    for attribute, role, short in _HELPERS:
        thread = getattr(pool, attribute, None)
        if not isinstance(thread, threading.Thread):
            continue
        thread.name = f"pool-{number} {role}"
        if thread.native_id is not None and thread.is_alive():
            procfs.name_thread(thread.native_id, f"p{number} {short}")


@dataclass(frozen=True, slots=True)
class _Worker:
    """A worker of the pool.

    ``exitcode`` is what the pool itself has learnt so far. ``main_name`` is Python's name of the
    main thread: one that was forked keeps the name of the thread that forked it.
    """

    pid: int
    name: str
    exitcode: int | None
    main_name: str = "MainThread"


def _number(pool: multiprocessing.pool.Pool) -> int:
    with _numbers_lock:
        number = _numbers.get(pool)
        if number is None:
            number = _numbers[pool] = next(_next_number)
        return number


def _classifier(
    pool: multiprocessing.pool.Pool,
    name: str,
    taken: Mapping[int, Stack],
    others: Classify | None,
) -> Classify:
    helpers = _helpers_of_known_pools()
    lanes = {id(w) for w in getattr(pool, "_pool", ()) if isinstance(w, threading.Thread)}

    def classify(thread: threading.Thread) -> Verdict | None:
        stack = taken.get(thread.ident or 0, ())
        if id(thread) in helpers:
            role, owner = helpers[id(thread)]
            return (role,), stock_states.helper_state(role, stack), owner
        if id(thread) in lanes:
            return ("task",), stock_states.worker_state(stack).words, name
        known = others(thread) if others is not None else None
        return known or _helper_of_unknown_pool(stack)

    return classify


def _helpers_of_known_pools() -> dict[int, tuple[str, str]]:
    """Tell role and pool for each helper thread, by ``id`` so that nothing is kept alive."""
    with _numbers_lock:
        pools = list(_numbers.items())
    return {
        id(getattr(pool, attribute)): (role, f"pool-{number}")
        for pool, number in pools
        for attribute, role, _ in _HELPERS
        if hasattr(pool, attribute)
    }


def _helper_of_unknown_pool(stack: Stack) -> Verdict | None:
    role = stock_states.role_of(stack)
    if role is None:
        return None
    state = stock_states.helper_state(role, stack)
    return (role,), state or stock_states.worker_state(stack).words, None


def parent_process(told: tuple[ThreadInfo, ...]) -> ProcessInfo:
    pid = os.getpid()
    seen = procfs.process(pid)
    return ProcessInfo(
        pid=pid,
        name=current_process().name,
        role="parent",
        threads=told,
        state="running",
        started_at=seen.started_at if seen else None,
        cpu_s=_cpu_s(seen, told) if seen else None,
        rss_bytes=seen.rss_bytes if seen else None,
        evidence=Evidence("self"),
    )


def _cpu_s(seen: procfs.OsProcess, told: Sequence[ThreadInfo]) -> float:
    # The process's count includes ended threads, but in ticks; the threads' are precise.
    return max(seen.cpu_s, sum(thread.cpu_s or 0.0 for thread in told))


def _start_method(pool: multiprocessing.pool.Pool) -> str | None:
    if isinstance(pool, multiprocessing.pool.ThreadPool):
        return None
    context = getattr(pool, "_ctx", None)
    method = context.get_start_method(allow_none=True) if context is not None else None
    return str(method or "unknown")


def _workers(pool: multiprocessing.pool.Pool) -> list[_Worker]:
    """List the worker processes that the pool knows, without asking them or the system.

    ``Process.exitcode`` and ``is_alive`` would reap a dead worker here, in a race with the pool's
    own thread: only what the pool has learnt is read.
    """
    forkers = _names_of_forkers() if _start_method(pool) == "fork" else {}
    found = []
    for worker in list(getattr(pool, "_pool", ()) or ()):
        popen = getattr(worker, "_popen", None)
        if popen is None or isinstance(worker, threading.Thread):
            continue
        name = forkers.get(popen.pid, "MainThread")
        found.append(_Worker(popen.pid, worker.name, getattr(popen, "returncode", None), name))
    return found


def _names_of_forkers() -> dict[int, str]:
    """Name for each child the thread that started it: the pool's own thread for replacements."""
    return {
        child: thread.name
        for thread in threading.enumerate()
        for child in procfs.children_of_thread(os.getpid(), thread.native_id or 0)
    }


def _living_pids(pool: multiprocessing.pool.Pool) -> list[int]:
    return [worker.pid for worker in _workers(pool) if _look(worker) is not None]


def _look(worker: _Worker) -> procfs.OsProcess | None:
    if worker.exitcode is not None:
        return None
    seen = procfs.process(worker.pid)
    return None if seen is None or seen.state in "ZX" else seen


def _worker(
    worker: _Worker,
    pool: multiprocessing.pool.Pool,
    pool_name: str,
    method: str | None,
    dumps: Mapping[int, pyspy.Dump],
) -> ProcessInfo:
    seen = _look(worker)
    if seen is None:
        return ProcessInfo(
            worker.pid, worker.name, "worker", state="dead", exitcode=_exitcode(worker)
        )
    dump = dumps.get(worker.pid, pyspy.Dump())
    loop = _loop_state(worker.pid, pool, method, dump)
    told = _worker_threads(worker, pool, pool_name, dump, loop)
    return ProcessInfo(
        pid=worker.pid,
        name=worker.name,
        role="worker",
        threads=told,
        state=loop.state,
        started_at=seen.started_at,
        cpu_s=_cpu_s(seen, told),
        rss_bytes=seen.rss_bytes,
        initializer=_initializer(pool, worker, loop),
        evidence=Evidence(loop.source, note=dump.note),
    )


def _loop_state(
    pid: int, pool: multiprocessing.pool.Pool, method: str | None, dump: pyspy.Dump
) -> stock_states.LoopState:
    for thread in dump.threads:
        if thread.native_id == pid:
            return stock_states.worker_state(thread.stack, thread.variables, source="py-spy")
    seen = procfs.thread(pid, pid)
    if seen is None:
        return stock_states.LoopState("dead", "ended")
    # Descriptors and addresses are those of this process only in a worker that was forked from it.
    queue = stock_states.queue_of(pool) if method == "fork" else None
    return stock_states.state_from_system(seen, queue)


def _worker_threads(
    worker: _Worker,
    pool: multiprocessing.pool.Pool,
    pool_name: str,
    dump: pyspy.Dump,
    loop: stock_states.LoopState,
) -> tuple[ThreadInfo, ...]:
    outside = {thread.native_id: thread for thread in dump.threads}
    age_s = max(0.0, time.time() - dump.taken_at) if outside else 0.0
    told = []
    for tid in procfs.thread_ids(worker.pid):
        seen = procfs.thread(worker.pid, tid)
        if seen is None:
            continue
        if tid == worker.pid:
            thread = _main_thread(worker, seen, pool, loop, outside.get(tid))
        elif tid in outside:
            thread = _python_thread(worker, seen, outside[tid])
        else:
            thread = threads.native_thread(seen, worker.name, note=_native_note(dump))
        # What py-spy did not see is as old as this call; what it saw is as old as its reading.
        evidence = replace(thread.evidence, age_s=age_s if tid in outside else 0.0)
        if not outside and dump.note is not None:
            evidence = replace(evidence, note=dump.note)
        told.append(replace(thread, pool=pool_name, evidence=evidence))
    return tuple(told)


def _main_thread(
    worker: _Worker,
    seen: procfs.OsThread,
    pool: multiprocessing.pool.Pool,
    loop: stock_states.LoopState,
    outside: pyspy.OutsideThread | None,
) -> ThreadInfo:
    # The stock worker runs its initializer and all its tasks in its main thread.
    has_initializer = getattr(pool, "_initializer", None) is not None
    name = outside.name if outside and outside.name else worker.main_name
    return ThreadInfo(
        pid=worker.pid,
        process=worker.name,
        name=name,
        native_id=seen.tid,
        roles=("initializer", "task") if has_initializer else ("task",),
        state=loop.words,
        ident=outside.ident if outside else None,
        daemon=worker.main_name != "MainThread",
        is_main=True,
        os_name=seen.name,
        task=_task(pool, loop, ThreadRef(name, outside.ident, seen.tid, True)) if outside else None,
        cpu_s=seen.cpu_s,
        stack=loop.stack if outside else None,
        evidence=Evidence(loop.source),
    )


def _python_thread(
    worker: _Worker, seen: procfs.OsThread, outside: pyspy.OutsideThread
) -> ThreadInfo:
    return ThreadInfo(
        pid=worker.pid,
        process=worker.name,
        name=outside.name or seen.name,
        native_id=seen.tid,
        roles=("user",),
        state=threads.state_from(outside.stack, seen),
        ident=outside.ident,
        os_name=seen.name,
        cpu_s=seen.cpu_s,
        stack=outside.stack,
        evidence=Evidence("py-spy"),
    )


def _native_note(dump: pyspy.Dump) -> str | None:
    if dump.threads:
        return None
    return "may be a thread of Python's: a stock worker does not tell"


def _task(
    pool: multiprocessing.pool.Pool,
    loop: stock_states.LoopState,
    thread: ThreadRef,
) -> TaskInfo | None:
    if loop.job is None:
        return None
    index = loop.index or 0
    return TaskInfo(
        id=None,
        job=loop.job,
        function=loop.function or "a function in C",
        state="running",
        index=index,
        items=_items(getattr(pool, "_cache", {}).get(loop.job), index) if loop.chunk else 1,
        arguments=loop.arguments,
        pid=thread.native_id,
        thread=thread,
    )


def _items(result: Any, index: int) -> int:
    # A map's result knows its length and chunks; of a chunked imap only the pool's thread knows.
    size, values = getattr(result, "_chunksize", None), getattr(result, "_value", None)
    if not isinstance(size, int) or not isinstance(values, list):
        return 1
    return max(1, min(size, len(values) - index * size))


def _initializer(
    pool: multiprocessing.pool.Pool, worker: _Worker, loop: stock_states.LoopState
) -> InitializerInfo:
    function = _function_name(getattr(pool, "_initializer", None))
    if function is None:
        return InitializerInfo(None, "none")
    state = {"initializing": "running", "starting": "unknown"}.get(loop.state, "done")
    if loop.source != "py-spy" and loop.state != "idle":
        state = "unknown"
    return InitializerInfo(function, state, ThreadRef(worker.main_name, None, worker.pid, True))


def _exitcode(worker: _Worker) -> int | None:
    if worker.exitcode is not None or not hasattr(os, "waitid"):
        return worker.exitcode
    try:
        # WNOWAIT leaves the dead child for the pool's own thread to reap.
        told = os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return None  # reaped meanwhile, or a child of the fork server
    if told is None:
        return None
    return told.si_status if told.si_code == os.CLD_EXITED else -told.si_status


def server_processes(method: str | None) -> list[ProcessInfo]:
    """Describe the processes that multiprocessing itself keeps for this start method."""
    wanted = []
    if method == "forkserver":
        wanted.append(("fork-server", _pid_of("forkserver", "_forkserver", "_forkserver_pid")))
    if method in ("forkserver", "spawn"):
        wanted.append(
            ("resource-tracker", _pid_of("resource_tracker", "_resource_tracker", "_pid"))
        )
    return [told for role, pid in wanted if pid and (told := server_process(role, pid)) is not None]


def _pid_of(module: str, instance: str, attribute: str) -> int | None:
    found = getattr(sys.modules.get(f"multiprocessing.{module}"), instance, None)
    pid = getattr(found, attribute, None)
    return pid if isinstance(pid, int) else None


def server_process(role: str, pid: int) -> ProcessInfo | None:
    seen = procfs.process(pid)
    if seen is None:
        return None
    told = []
    for tid in procfs.thread_ids(pid):
        thread = procfs.thread(pid, tid)
        if thread is None:
            continue
        info = threads.native_thread(thread, role)
        if tid == pid:
            info = replace(info, name="MainThread", roles=(role,), python=True)
        told.append(info)
    return ProcessInfo(
        pid=pid,
        name=role,
        role=role,
        threads=tuple(told),
        state="running",
        started_at=seen.started_at,
        cpu_s=_cpu_s(seen, told),
        rss_bytes=seen.rss_bytes,
    )


def _stats(pool: multiprocessing.pool.Pool) -> dict[str, Any]:
    """Count what has not ended; a stock pool counts nothing that has."""
    results = list((getattr(pool, "_cache", None) or {}).values())
    queue = getattr(pool, "_taskqueue", None)
    tasks = [getattr(result, "_number_left", 1) for result in results if not _is_iterator(result)]
    return {
        "jobs": len(results),
        "jobs_not_begun": queue.qsize() if queue is not None else 0,
        "tasks": sum(tasks) if len(tasks) == len(results) else None,
    }


def _is_iterator(result: Any) -> bool:
    return isinstance(result, multiprocessing.pool.IMapIterator)


def _function_name(function: Any) -> str | None:
    if function is None:
        return None
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        return f"an instance of {type(function).__qualname__}"
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if isinstance(module, str) else name


def _notes(pool: multiprocessing.pool.Pool, dumps: Mapping[int, pyspy.Dump]) -> tuple[str, ...]:
    notes = []
    helpers = [getattr(pool, attribute, None) for attribute, _, _ in _HELPERS]
    ended = [
        role
        for thread, (_, role, _) in zip(helpers, _HELPERS, strict=True)
        if thread is None or not thread.is_alive()
    ]
    if ended:
        notes.append(f"No such thread any more: {', '.join(ended)}.")
    missing = {dump.note for dump in dumps.values() if dump.note is not None}
    notes.extend(f"No stacks of workers: {note}." for note in sorted(missing))
    return tuple(notes)
