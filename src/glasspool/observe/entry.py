"""``glasspool.inspect`` and ``glasspool.name_threads``: one door to every kind of pool."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glasspool.snapshot import PoolInfo, ProcessInfo, Snapshot, ThreadInfo

if TYPE_CHECKING:
    from glasspool.engines.cluster.engine import ClusterEngine
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.observe.inside import Inside
    from glasspool.observe.threads import Classify

_KINDS = (
    "a glasspool.Pool, a Pool or ThreadPool of multiprocessing, multiprocess or billiard, an executor "
    "of concurrent.futures or loky, a joblib.Parallel"
)


def inspect(target: Any = None, *, stacks: bool = False) -> Snapshot:
    """Take a picture of a pool: every process and thread, its role, its state, its task.

    Pools of other libraries are looked at as they are: their objects are read, nobody is asked and nothing
    is kept alive. Of a worker in another process the picture tells what the operating system says (busy or
    idle where the worker was forked), and with ``stacks`` its task, which py-spy reads from outside.

    Without stacks it blocks for some milliseconds at most. With stacks it may take 0.1 s more for our own
    pools and about 2 s for others, if a worker does not answer or cannot be read. Any thread may call it,
    also while others make and end pools.

    Args:
        target: One of these, or None for all pools of this process that have a thread or a process,
            ours and others, found without being told:

            - a ``glasspool.Pool`` or ``glasspool.Executor``;
            - a ``multiprocessing.pool.Pool`` or ``ThreadPool``, and those of ``multiprocess`` and
              ``billiard``;
            - a ``concurrent.futures.ProcessPoolExecutor`` or ``ThreadPoolExecutor``;
            - an executor of loky, also a reusable one;
            - a ``joblib.Parallel``, or its backend: the pool on which it runs now (loky, multiprocessing
              or threading);
            - the pid of a process that runs pools.
        stacks: Also the stacks.

    Raises:
        TypeError: The target is none of these.
        LookupError: There is no such process, or it runs no pool; joblib has no pool at the moment.
        PermissionError: The process may not be read.
    """
    if target is None:
        return _all(stacks)
    if _is_ours(target):
        picture: Snapshot = target.inspect(stacks=stacks)
        return picture
    if isinstance(target, int) and not isinstance(target, bool):
        return _process(target, stacks)
    begun, taken_at = time.monotonic(), time.time()
    kinds = f"{_KINDS}, or the number of a process"
    described = _describe((_read(target, "inspect takes a pool, a pid or None", kinds),), stacks)
    return Snapshot(described, taken_at, time.monotonic() - begun)


def name_threads(pool: Any) -> None:
    """Give the helper threads of a pool the names that they lack.

    In Python ``pool-1 worker-handler`` and so on, for the operating system ``p1 workers``; an
    executor's are ``executor-1 manager`` and ``executor-1 queue-feeder``. The threads in which a pool of
    threads runs tasks keep their names in Python and get one for the system. Does nothing to a pool of
    ours, whose threads have names, and never to the main thread or to a thread of the program. Threads
    that a pool starts later, such as an executor with its first task, need a further call.

    Args:
        pool: Any pool that ``inspect`` takes.

    Raises:
        TypeError: It is no such pool.
        LookupError: It is joblib's, and has no pool at the moment.
    """
    from glasspool.observe import inside

    if not _is_ours(pool):
        inside.name_threads(_read(pool, "name_threads takes a pool", _KINDS))


def answer(engine: LocalEngine, question: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a question that came through the socket of a pool.

    ``tasks`` says how many open tasks to list at most. With ``others``, the pools of other libraries in this
    process are told, too: without the stacks of their workers, which only a reader from outside could get.
    """
    from glasspool.observe import control, roster

    if question.get("ask") in control.ASKED:
        return control.answer(engine, question)
    if question.get("ask") != "inspect":
        there = ", ".join(("inspect", *control.ASKED))
        return {"error": f"unknown question {question.get('ask')!r}; there is: {there}"}
    most = question.get("tasks", roster.OPEN_TASKS)
    if not isinstance(most, int) or not 0 <= most <= roster.OPEN_TASKS:
        return {"error": f"tasks must be a number up to {roster.OPEN_TASKS}"}
    picture = roster.snapshot((engine,), stacks=bool(question.get("stacks")), tasks=most)
    return {"snapshot": with_others(picture, bool(question.get("others"))).to_dict()}


def with_others(picture: Snapshot, wanted: bool) -> Snapshot:
    """Add the pools of other libraries in this process to a picture, if they are wanted."""
    foreign = _found() if wanted else []
    if not foreign:
        return picture
    from glasspool.observe import inside

    told = inside.describe(foreign, stacks=False, others=_of_ours())
    return replace(picture, pools=_with_one_parent((*picture.pools, *told)))


def _is_ours(target: Any) -> bool:
    for home, name in (("glasspool.pool", "Pool"), ("glasspool.executor", "Executor")):
        module = sys.modules.get(home)
        if module is not None and isinstance(target, getattr(module, name)):
            return True
    return False


def _read(target: Any, takes: str, kinds: str) -> Inside:
    """Read a pool of this process that is not ours, by its class, without importing its library."""
    from glasspool.observe import executors, stock

    is_joblib, pool = executors.pool_of_joblib(target)
    if is_joblib and pool is None:
        raise LookupError(f"this {type(target).__name__} of joblib has no pool at the moment")
    one = pool if is_joblib else target
    if stock.home_of(type(one)) is not None:
        return stock.read(one)
    if executors.home_of(type(one)) is not None:
        return executors.read(one)
    raise TypeError(f"{takes}, not {type(target).__name__}: pass {kinds}")


def _found() -> list[Inside]:
    """Read all pools of this process that are not ours, those with the lower numbers first."""
    from glasspool.observe import executors, stock

    told = [*map(stock.read, stock.found()), *executors.found()]
    told.sort(key=lambda pool: (pool.kind, len(pool.name), pool.name))
    return [pool for pool in told if pool.is_alive]


def _describe(pools: Sequence[Inside], stacks: bool) -> tuple[PoolInfo, ...]:
    from glasspool.observe import inside

    names = {pool.name for pool in pools}
    beside = [pool for pool in _found() if pool.name not in names]
    return inside.describe(pools, stacks=stacks, beside=beside, others=_of_ours())


def _of_ours() -> Classify | None:
    if "glasspool.pool" not in sys.modules:
        return None  # there can be none of ours, and its modules are many
    from glasspool.observe import roster

    return roster.classifier()


def _all(stacks: bool) -> Snapshot:
    from glasspool import registry
    from glasspool.observe import inside

    begun, taken_at = time.monotonic(), time.time()
    engines, foreign = registry.live_engines(), _found()
    ours: tuple[PoolInfo, ...] = ()
    if engines:
        from glasspool.observe import roster

        ours = roster.snapshot(engines, stacks=stacks).pools
    if threads := registry.live_thread_engines():
        from glasspool.observe import thread_pools

        alone = len(threads) == 1 and not engines
        more = (thread_pools.describe(one, stacks=stacks, alone=alone) for one in threads)
        ours = _with_one_parent((*ours, *more))
    if clusters := registry.live_cluster_engines():
        ours = _with_one_parent((*ours, *_on_clusters(clusters, stacks, alone=not ours)))
    told = inside.describe(foreign, stacks=stacks, others=_of_ours()) if foreign else ()
    pools = _with_one_parent((*ours, *told)) if ours and told else (*ours, *told)
    return Snapshot(pools, taken_at, time.monotonic() - begun)


def _on_clusters(engines: Sequence[ClusterEngine], stacks: bool, alone: bool) -> Sequence[PoolInfo]:
    from glasspool.observe import cluster

    alone = alone and len(engines) == 1
    return [cluster.describe(one, stacks=stacks, alone=alone) for one in engines]


def _with_one_parent(pools: Sequence[PoolInfo]) -> tuple[PoolInfo, ...]:
    """Tell the threads of this process the same in each pool: as the one says whose thread it is."""
    threads: dict[int, ThreadInfo] = {}
    for pool in pools:
        for thread in _parent(pool).threads:
            known = threads.get(thread.native_id)
            if known is None:
                threads[thread.native_id] = thread
            elif _knows_more(thread, known):
                threads[thread.native_id] = replace(thread, stack=thread.stack or known.stack)
    told = tuple(thread for _, thread in sorted(threads.items()))
    return tuple(_with_threads(pool, told) for pool in pools)


def _knows_more(thread: ThreadInfo, known: ThreadInfo) -> bool:
    if (thread.pool is None) != (known.pool is None):
        return known.pool is None
    return known.roles == ("user",) and thread.roles != ("user",)


def _parent(pool: PoolInfo) -> ProcessInfo:
    return next(process for process in pool.processes if _is_this(process))


def _is_this(process: ProcessInfo) -> bool:
    return process.pid == os.getpid() and process.node is None


def _with_threads(pool: PoolInfo, threads: tuple[ThreadInfo, ...]) -> PoolInfo:
    processes = tuple(
        replace(process, threads=threads) if _is_this(process) else process
        for process in pool.processes
    )
    return replace(pool, processes=processes)


def _process(pid: int, stacks: bool) -> Snapshot:
    from glasspool.observe import running

    try:
        return running.picture(pid, stacks=stacks)
    except (running.NoSuchProcess, running.NoPool) as error:
        raise LookupError(str(error)) from None
    except running.NotPermitted as error:
        raise PermissionError(str(error)) from None
