"""The picture of pools of this process that are not ours, from what the process itself knows of them.

``stock`` and ``executors`` read the pools' objects and say what they found there as frozen values
(``Inside``); here these are joined with the stacks of this process and with what the operating system, and
py-spy where stacks are wanted, tell of the workers. Pools are only looked at: nobody is asked, waited for
or reaped, and nothing in here outlives the call. The threads of this process are told once, each with
its own pool, and all pools of one picture share that account.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import current_process
from typing import Any

from glasspool.observe import loops, procfs, pyspy, stock_states, threads
from glasspool.observe.loops import Place
from glasspool.observe.stock_states import LoopState, QueueIdentity
from glasspool.observe.threads import Classify, Verdict
from glasspool.snapshot import (
    Evidence,
    InitializerInfo,
    PoolInfo,
    ProcessInfo,
    TaskInfo,
    ThreadInfo,
    ThreadRef,
)

_IN_C = "a function in C"
_SUFFIX = tuple("0123456789-_")

_numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_next_number = {"pool": itertools.count(1), "executor": itertools.count(1)}


@dataclass(frozen=True, slots=True)
class Helper:
    """A thread of this process that serves a pool.

    ``proof`` is the attribute that led to it. ``name`` is what ``name_threads`` calls it in Python (None:
    it keeps the name that it has), ``os_name`` what it calls it for the system.
    """

    thread: threading.Thread
    roles: tuple[str, ...]
    proof: str
    name: str | None
    os_name: str


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process of a pool.

    ``exitcode`` is what the pool itself has learnt so far. ``main_name`` is Python's name of the
    main thread: one that was forked keeps the name of the thread that forked it.
    """

    pid: int
    name: str
    exitcode: int | None
    main_name: str = "MainThread"


@dataclass(frozen=True, slots=True)
class Inside:
    """What this process knows of one of its pools.

    ``lost`` are roles whose threads have ended. ``servers`` are processes that the library keeps for the
    start method: role and pid. ``chunks`` tells of each open map how many items a chunk and the whole
    have. ``sent`` are tasks that were handed out and may run, by number; ``waiting`` those that were not.
    ``begun`` is, by worker, the task that it said it had begun last.
    """

    name: str
    kind: str
    state: str
    start_method: str | None
    size: int
    initializer: str | None
    helpers: tuple[Helper, ...] = ()
    lost: tuple[str, ...] = ()
    workers: tuple[Worker, ...] = ()
    servers: tuple[tuple[str, int], ...] = ()
    stats: Mapping[str, Any] = field(default_factory=dict)
    queue: QueueIdentity | None = None
    chunks: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    sent: tuple[TaskInfo, ...] = ()
    waiting: tuple[TaskInfo, ...] = ()
    begun: Mapping[int, TaskInfo] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_alive(self) -> bool:
        """Whether a thread or a process of the pool is left."""
        return bool(self.helpers) or any(look(worker) is not None for worker in self.workers)


def describe(
    pools: Sequence[Inside],
    *,
    stacks: bool = False,
    beside: Iterable[Inside] = (),
    others: Classify | None = None,
) -> tuple[PoolInfo, ...]:
    """Tell of pools of this process: processes, threads, roles and what they do.

    Args:
        pools: What is known of each.
        stacks: Whether to read stacks too; those of the workers need py-spy.
        beside: Further pools of this process, of which only the threads here are told.
        others: Tells of threads of this process that belong to none of them.
    """
    claims = _claims([*pools, *beside])
    taken = threads.python_stacks()
    places = {ident: loops.place(stack) for ident, stack in taken.items()}
    told = threads.parent_threads(_classifier(claims, places, others), stacks=stacks, taken=taken)
    del taken
    parent = parent_process(tuple(_with_proof(thread, claims, places) for thread in told))
    living = [worker.pid for pool in pools for worker in pool.workers if look(worker) is not None]
    dumps = pyspy.dump(living) if stacks else {}
    return tuple(_pool(pool, parent, dumps) for pool in pools)


def name_threads(pool: Inside) -> None:
    """Name the threads that serve a pool by role, in Python and for the system."""
    for helper in pool.helpers:
        if helper.thread is threading.main_thread():
            continue
        if helper.name is not None:
            helper.thread.name = helper.name
        if helper.thread.native_id is not None and helper.thread.is_alive():
            procfs.name_thread(helper.thread.native_id, helper.os_name)


def name_of(word: str, *keys: Any) -> str:
    """Return the name of a pool, such as ``executor-2``, which it keeps for its life.

    Args:
        word: What the name begins with.
        keys: Objects that stand for the pool and live no longer than it; whoever comes with one of them
            gets the same name.
    """
    # No lock: this may be called by a signal handler that interrupted this very function.
    known = next((number for key in keys if (number := _numbers.get(key)) is not None), None)
    if known is None:
        known = _numbers.setdefault(keys[0], next(_next_number[word]))
    for key in keys:
        _numbers.setdefault(key, known)
    return f"{word}-{known}"


def named_pools() -> list[Any]:
    """List what has been given a name and still exists."""
    found = (reference() for reference in _numbers.keyrefs())
    return [one for one in found if one is not None]


def fitted(name: str) -> str:
    """Cut a thread's name for the system so that the number at its end stays."""
    if len(name.encode()) <= procfs.COMM_BYTES:
        return name
    end = len(name)
    while end and name[end - 1] in _SUFFIX:
        end -= 1
    number = name[end:].encode()[-8:]
    head = name[:end].encode()[: procfs.COMM_BYTES - len(number)]
    return head.decode(errors="ignore") + number.decode(errors="ignore")


def function_name(function: Any) -> str | None:
    """Return the name of a callable; of an instance, its class; None for None."""
    if function is None:
        return None
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        return f"an instance of {type(function).__qualname__}"
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if isinstance(module, str) else name


def length_of(queue: Any) -> int:
    """Return how much waits in a queue of this process, without taking its lock."""
    held = getattr(queue, "queue", None)  # of queue.Queue; a SimpleQueue takes no lock
    if held is not None:
        return len(held)
    return int(queue.qsize()) if hasattr(queue, "qsize") else 0


# The threads of this process ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Claim:
    helper: Helper
    pool: str


def _claims(pools: Iterable[Inside]) -> dict[int, _Claim]:
    """Tell whom each helper thread serves, by its ident."""
    return {
        helper.thread.ident: _Claim(helper, pool.name)
        for pool in pools
        for helper in pool.helpers
        if helper.thread.ident is not None
    }


def _classifier(
    claims: Mapping[int, _Claim], places: Mapping[int, Place | None], others: Classify | None
) -> Classify:
    def classify(thread: threading.Thread) -> Verdict | None:
        ident = thread.ident or 0
        place, claim = places.get(ident), claims.get(ident)
        words = None if place is None else place.words
        if claim is not None:
            return claim.helper.roles, words, claim.pool
        known = others(thread) if others is not None else None
        if known is not None or place is None:
            return known
        return place.roles, words, None

    return classify


def _with_proof(
    thread: ThreadInfo, claims: Mapping[int, _Claim], places: Mapping[int, Place | None]
) -> ThreadInfo:
    """Add to a helper thread what proved it to be one, and to a lane its task."""
    claim = claims.get(thread.ident or 0)
    if claim is None or not thread.python:
        return thread
    proof = f"{thread.name}: {claim.helper.proof}"
    note = f"{proof}; {thread.evidence.note}" if thread.evidence.note else proof
    place = places.get(thread.ident or 0)
    return replace(
        thread,
        evidence=replace(thread.evidence, note=note),
        task=_task_of_lane(thread, place) if "task" in thread.roles else None,
    )


def _task_of_lane(thread: ThreadInfo, place: Place | None) -> TaskInfo | None:
    if place is None or place.step != "task":
        return None
    return TaskInfo(
        id=None,
        job=None,
        function=place.function or _IN_C,
        state="running",
        pid=thread.pid,
        thread=ThreadRef(thread.name, thread.ident, thread.native_id, thread.is_main),
    )


def parent_process(told: tuple[ThreadInfo, ...]) -> ProcessInfo:
    """Describe this process, with the threads given."""
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


# Pools and their workers ------------------------------------------------------------------------------


def _pool(pool: Inside, parent: ProcessInfo, dumps: Mapping[int, pyspy.Dump]) -> PoolInfo:
    workers = tuple(_worker(worker, pool, dumps) for worker in pool.workers)
    servers = (server_process(role, pid) for role, pid in pool.servers)
    running = [t.task for w in workers for t in w.threads if t.task is not None]
    lanes = [t.task for t in parent.threads if t.pool == pool.name and t.task is not None]
    told = {task.id for task in running if task.id is not None}
    return PoolInfo(
        name=pool.name,
        kind=pool.kind,
        pid=os.getpid(),
        processes=(parent, *(server for server in servers if server is not None), *workers),
        tasks=(*running, *lanes, *(t for t in pool.sent if t.id not in told), *pool.waiting),
        stats=pool.stats,
        state=pool.state,
        start_method=pool.start_method,
        size=pool.size,
        initializer=pool.initializer,
        notes=(*pool.notes, *_notes(pool, dumps)),
    )


def _notes(pool: Inside, dumps: Mapping[int, pyspy.Dump]) -> list[str]:
    notes = []
    if pool.lost:
        notes.append(f"No such thread any more: {', '.join(pool.lost)}.")
    mine = (dumps[worker.pid] for worker in pool.workers if worker.pid in dumps)
    missing = {dump.note for dump in mine if dump.note is not None}
    return notes + [f"No stacks of workers: {note}." for note in sorted(missing)]


def processes_of(workers: Iterable[Any], start_method: str | None) -> tuple[Worker, ...]:
    """List worker processes, from the objects that stand for them, without asking these.

    ``Process.exitcode`` and ``is_alive`` would reap a dead worker here, in a race with the pool's
    own thread: only what the pool has learnt is read.
    """
    forkers = _names_of_forkers() if start_method == "fork" else {}
    found = []
    for worker in workers:
        popen = getattr(worker, "_popen", None)
        pid = getattr(popen, "pid", None)
        if isinstance(worker, threading.Thread) or not isinstance(pid, int):
            continue
        name = str(getattr(worker, "name", f"process {pid}"))
        exitcode = getattr(popen, "returncode", None)
        found.append(Worker(pid, name, exitcode, forkers.get(pid, "MainThread")))
    return tuple(found)


def _names_of_forkers() -> dict[int, str]:
    """Name for each child the thread that started it: the pool's own thread for replacements."""
    return {
        child: thread.name
        for thread in threading.enumerate()
        for child in procfs.children_of_thread(os.getpid(), thread.native_id or 0)
    }


def look(worker: Worker) -> procfs.OsProcess | None:
    """Return what the system says of a worker, None if it has ended."""
    if worker.exitcode is not None:
        return None
    seen = procfs.process(worker.pid)
    return None if seen is None or seen.state in "ZX" else seen


def _worker(worker: Worker, pool: Inside, dumps: Mapping[int, pyspy.Dump]) -> ProcessInfo:
    seen = look(worker)
    if seen is None:
        return ProcessInfo(
            worker.pid, worker.name, "worker", state="dead", exitcode=exitcode(worker)
        )
    dump = dumps.get(worker.pid, pyspy.Dump())
    loop = _loop_state(worker.pid, pool, dump)
    told = _worker_threads(worker, pool, dump, loop)
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


def _loop_state(pid: int, pool: Inside, dump: pyspy.Dump) -> LoopState:
    for thread in dump.threads:
        if thread.native_id == pid:
            return stock_states.worker_state(thread.stack, thread.variables, source="py-spy")
    seen = procfs.thread(pid, pid)
    if seen is None:
        return LoopState("dead", "ended")
    return stock_states.state_from_system(seen, pool.queue)


def _worker_threads(
    worker: Worker, pool: Inside, dump: pyspy.Dump, loop: LoopState
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
        if tid in outside:
            evidence = replace(evidence, paused_s=dump.paused_s)
        elif not outside and dump.note is not None:
            evidence = replace(evidence, note=dump.note)
        told.append(replace(thread, pool=pool.name, evidence=evidence))
    return tuple(told)


def _main_thread(
    worker: Worker,
    seen: procfs.OsThread,
    pool: Inside,
    loop: LoopState,
    outside: pyspy.OutsideThread | None,
) -> ThreadInfo:
    # All of these libraries run the initializer and the tasks in the worker's main thread.
    name = outside.name if outside and outside.name else worker.main_name
    reference = ThreadRef(name, outside.ident if outside else None, seen.tid, True)
    return ThreadInfo(
        pid=worker.pid,
        process=worker.name,
        name=name,
        native_id=seen.tid,
        roles=("task",) if pool.initializer is None else ("initializer", "task"),
        state=loop.words,
        ident=reference.ident,
        daemon=worker.main_name != "MainThread",
        is_main=True,
        os_name=seen.name,
        task=_task(pool, loop, reference),
        cpu_s=seen.cpu_s,
        stack=loop.stack if outside else None,
        evidence=Evidence(loop.source),
    )


def _python_thread(
    worker: Worker, seen: procfs.OsThread, outside: pyspy.OutsideThread
) -> ThreadInfo:
    place = loops.place(outside.stack, outside.variables)
    return ThreadInfo(
        pid=worker.pid,
        process=worker.name,
        name=outside.name or seen.name,
        native_id=seen.tid,
        roles=("user",) if place is None else place.roles,
        state=threads.state_from(outside.stack, seen) if place is None else place.words,
        ident=outside.ident,
        os_name=seen.name,
        cpu_s=seen.cpu_s,
        stack=outside.stack,
        evidence=Evidence("py-spy"),
    )


def _native_note(dump: pyspy.Dump) -> str | None:
    if dump.threads:
        return None
    return "may be a thread of Python's: the worker does not tell"


# Tasks ------------------------------------------------------------------------------------------------


def _task(pool: Inside, loop: LoopState, thread: ThreadRef) -> TaskInfo | None:
    """Say as much of a worker's task as its stack and the pool's own books give away together."""
    if loop.state != "busy":
        return None
    begun = pool.begun.get(thread.native_id)
    if begun is not None:
        in_c = _IN_C if loop.step == "task" else begun.function
        return replace(begun, function=loop.function or in_c, thread=thread)
    if loop.job is not None:
        return _task_of_job(pool, loop, loop.job, thread)
    if loop.step != "task":
        return None
    last = (loop.function or "").rpartition(".")[2]
    same = [t for t in pool.sent if not last or t.function.rpartition(".")[2] == last]
    if len(same) == 1:
        # No other of that function was handed out, so it is this one.
        return replace(same[0], state="running", pid=thread.native_id, thread=thread)
    names = {task.function for task in same}
    return TaskInfo(
        id=None,
        job=None,
        function=names.pop() if len(names) == 1 else loop.function or _IN_C,
        state="running",
        pid=thread.native_id,
        thread=thread,
    )


def _task_of_job(pool: Inside, loop: LoopState, job: int, thread: ThreadRef) -> TaskInfo:
    index = loop.index or 0
    chunk, items = pool.chunks.get(job, (1, index + 1))
    return TaskInfo(
        id=None,
        job=job,
        function=loop.function or _IN_C,
        state="running",
        index=index,
        items=max(1, min(chunk, items - index * chunk)) if loop.chunk else 1,
        arguments=loop.arguments,
        pid=thread.native_id,
        thread=thread,
    )


def _initializer(pool: Inside, worker: Worker, loop: LoopState) -> InitializerInfo:
    if pool.initializer is None:
        return InitializerInfo(None, "none")
    state = {"initializing": "running", "starting": "unknown"}.get(loop.state, "done")
    if loop.source != "py-spy" and loop.state != "idle":
        state = "unknown"
    thread = ThreadRef(worker.main_name, None, worker.pid, True)
    return InitializerInfo(pool.initializer, state, thread)


def exitcode(worker: Worker) -> int | None:
    """Return how a dead worker ended, without reaping it; None if that is not known."""
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


# The libraries' own processes -------------------------------------------------------------------------


def servers(method: str | None, package: str = "multiprocessing") -> tuple[tuple[str, int], ...]:
    """List role and pid of the processes that a library itself keeps for a start method."""
    wanted = []
    if method == "forkserver":
        wanted.append(("fork-server", "forkserver", "_forkserver", "_forkserver_pid"))
    if method not in (None, "fork", "unknown"):
        wanted.append(("resource-tracker", "resource_tracker", "_resource_tracker", "_pid"))
        wanted.append(("resource-tracker", "semaphore_tracker", "_semaphore_tracker", "_pid"))
    found = ((role, _pid_of(f"{package}.{module}", *names)) for role, module, *names in wanted)
    return tuple((role, pid) for role, pid in found if pid is not None)


def _pid_of(module: str, instance: str, attribute: str) -> int | None:
    found = getattr(sys.modules.get(module), instance, None)
    pid = getattr(found, attribute, None)
    return pid if isinstance(pid, int) else None


def server_processes(method: str | None) -> list[ProcessInfo]:
    """Describe the processes that multiprocessing itself keeps for this start method."""
    described = (server_process(role, pid) for role, pid in servers(method))
    return [process for process in described if process is not None]


def server_process(role: str, pid: int) -> ProcessInfo | None:
    """Describe a process by what the system says of it; None if it has ended."""
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
