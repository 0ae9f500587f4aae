"""What the stock ``Pool`` and ``ThreadPool``, and their copies in other libraries, know of themselves.

The copies are those of ``multiprocess`` and ``billiard``; joblib's multiprocessing and threading backends
use the standard library's. No library is imported for it. The pool is only looked at: its private
attributes are read, each with a fallback, and nothing in here keeps the pool alive.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from glasspool.observe import inside, libraries, stock_states
from glasspool.observe.inside import Helper, Inside
from glasspool.snapshot import PoolInfo, TaskInfo

KINDS = {
    "multiprocessing.pool": libraries.STOCK,
    "multiprocess.pool": libraries.MULTIPROCESS,
    "billiard.pool": libraries.BILLIARD,
}
"""The kind of pool by the module that defines its class."""

_HELPERS = (
    ("_worker_handler", "worker-handler", "workers"),
    ("_task_handler", "task-handler", "tasks"),
    ("_result_handler", "result-handler", "results"),
)
_TIME_LIMITS = ("_timeout_handler", "worker-handler", "limits")  # billiard's: it kills workers
_STATES = {
    "INIT": "starting",
    "RUN": "running",
    "CLOSE": "closed",
    "TERMINATE": "terminated",
    "0": "running",  # billiard's are numbers
    "1": "closed",
    "2": "terminated",
}


def home_of(kind: type) -> str | None:
    """Return the module whose ``Pool`` a class is or descends from, None if it is no such pool."""
    for base in kind.__mro__:
        if base.__qualname__ == "Pool" and base.__module__ in KINDS:
            return base.__module__
    return None


def found() -> list[Any]:
    """Find the pools of this process that have not ended, by the finalizers that they registered."""
    pools: dict[int, Any] = {}
    for module in ("multiprocessing.util", "multiprocess.util"):  # billiard shares the first
        registry = getattr(sys.modules.get(module), "_finalizer_registry", None) or {}
        # Other threads make and end pools meanwhile; to copy a dict takes no Python code.
        for finalizer in list(registry.values()):
            pool = _pool_of(finalizer)
            if pool is not None:
                pools[id(pool)] = pool
    # A pool that is being terminated has no finalizer any more, only its threads.
    for pool in inside.named_pools():
        if home_of(type(pool)) is not None and any(_is_alive(pool, name) for name, *_ in _HELPERS):
            pools[id(pool)] = pool
    return list(pools.values())


def _pool_of(finalizer: Any) -> Any:
    reference = getattr(finalizer, "_weakref", None)
    if reference is None or getattr(finalizer, "_pid", None) != os.getpid():
        return None  # also a pool of the process that forked this one
    pool = reference()
    return pool if pool is not None and home_of(type(pool)) is not None else None


def read(pool: Any) -> Inside:
    """Read what a pool of this process, in any state, knows of itself."""
    home = home_of(type(pool)) or "multiprocessing.pool"
    name = inside.name_of("pool", pool)
    lanes = _is_of_threads(pool)
    method = None if lanes else _start_method(pool)
    results = dict(getattr(pool, "_cache", None) or {})
    return Inside(
        name=name,
        kind=f"{home}.ThreadPool" if lanes else KINDS[home],
        state=_STATES.get(str(getattr(pool, "_state", "")), "unknown"),
        start_method=method,
        size=getattr(pool, "_processes", 0),
        initializer=inside.function_name(getattr(pool, "_initializer", None)),
        helpers=tuple(_helpers(pool, name)),
        lost=tuple(role for attribute, role, _ in _HELPERS if not _is_alive(pool, attribute)),
        workers=inside.processes_of(_members(pool), method),
        servers=inside.servers(method, home.partition(".")[0]),
        stats=_stats(pool, results),
        # Descriptors and addresses are those of this process only in a worker that was forked from it.
        queue=_queue(pool) if method == "fork" else None,
        chunks=_chunks(results),
        begun=_begun(results),
        notes=_notes(pool),
    )


def describe(pool: Any, *, stacks: bool = False) -> PoolInfo:
    """Tell of one pool of this process: its processes, threads, roles and what they do.

    Args:
        pool: The pool, in any state.
        stacks: Whether to read stacks too; those of the workers need py-spy.
    """
    beside = [read(other) for other in found() if other is not pool]
    return inside.describe([read(pool)], stacks=stacks, beside=beside)[0]


def name_threads(pool: Any) -> None:
    """Name the helper threads of a pool by role, in Python and for the system."""
    inside.name_threads(read(pool))


def _helpers(pool: Any, name: str) -> Iterator[Helper]:
    number = name.rpartition("-")[2]
    kind = type(pool).__qualname__
    for attribute, role, short in (*_HELPERS, _TIME_LIMITS):
        if _is_alive(pool, attribute):
            thread = getattr(pool, attribute)
            words = role if attribute != _TIME_LIMITS[0] else "time-limits"
            yield Helper(
                thread, (role,), f"{kind}.{attribute}", f"{name} {words}", f"p{number} {short}"
            )
    for place, lane in enumerate(_members(pool)):
        if isinstance(lane, threading.Thread) and lane.is_alive():
            proof = f"in {kind}._pool"
            yield Helper(lane, ("task",), proof, None, f"p{number} task {place + 1}")


def _is_alive(pool: Any, attribute: str) -> bool:
    thread = getattr(pool, attribute, None)
    return isinstance(thread, threading.Thread) and thread.is_alive()


def _members(pool: Any) -> Sequence[Any]:
    return list(getattr(pool, "_pool", None) or ())


def _is_of_threads(pool: Any) -> bool:
    return any(base.__qualname__ == "ThreadPool" for base in type(pool).__mro__)


def _start_method(pool: Any) -> str:
    context = getattr(pool, "_ctx", None)
    method = context.get_start_method(allow_none=True) if context is not None else None
    return str(method or "unknown")


def _queue(pool: Any) -> stock_states.QueueIdentity | None:
    tasks, results = getattr(pool, "_inqueue", None), getattr(pool, "_outqueue", None)
    return stock_states.queue_of(tasks, results)


def _stats(pool: Any, results: Mapping[int, Any]) -> dict[str, Any]:
    """Count what has not ended; a stock pool counts nothing that has."""
    iterators = [result for result in results.values() if hasattr(result, "_index")]
    tasks = [getattr(result, "_number_left", 1) for result in results.values()]
    return {
        "jobs": len(results),
        "jobs_not_begun": inside.length_of(getattr(pool, "_taskqueue", None)),
        "tasks": None if iterators else sum(tasks),
    }


def _chunks(results: Mapping[int, Any]) -> dict[int, tuple[int, int]]:
    # A map's result knows its length and chunks; of a chunked imap only the pool's thread knows.
    told = {}
    for job, result in results.items():
        size, values = getattr(result, "_chunksize", None), getattr(result, "_value", None)
        if isinstance(size, int) and isinstance(values, list):
            told[job] = (size, len(values))
    return told


def _begun(results: Mapping[int, Any]) -> dict[int, TaskInfo]:
    """Tell what each worker said it had begun last: only billiard's workers say so."""
    last: dict[int, tuple[float, TaskInfo]] = {}
    for job, result in results.items():
        size = getattr(result, "_chunksize", None)
        pids = _listed(getattr(result, "_worker_pid", None))
        times = _listed(getattr(result, "_time_accepted", None))
        for item, (pid, begun) in enumerate(zip(pids, times, strict=False)):
            if not isinstance(pid, int) or not isinstance(begun, float):
                continue
            if pid not in last or last[pid][0] < begun:
                last[pid] = begun, _begun_task(job, item, size, pid, begun)
    return {pid: task for pid, (_, task) in last.items()}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _begun_task(job: int, item: int, size: Any, pid: int, begun: float) -> TaskInfo:
    run_s = max(0.0, time.monotonic() - begun)  # billiard's clock is this one
    return TaskInfo(
        id=None,
        job=job,
        function="?",
        state="running",
        index=item // size if isinstance(size, int) and size > 0 else item,
        items=size if isinstance(size, int) and size > 0 else 1,
        pid=pid,
        begun_at=time.time() - run_s,
        run_s=run_s,
    )


def _notes(pool: Any) -> tuple[str, ...]:
    kind = type(pool)
    if kind.__module__.partition(".")[0] != "joblib":
        return ()
    return (f"It is joblib's {kind.__qualname__}.",)
