"""``Executor``: the interface of ``concurrent.futures.ProcessPoolExecutor``, on the engine of ``Pool``.

Owns: that its pool is made, once, by the first call; and that executors whose program ends finish their
work first, as the standard library's do. Threads: none of its own; the pool's. Invariant: ``_ready`` is the
pool as long as calls may be submitted, and None before and after.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import operator
import os
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from glasspool import options, registry
from glasspool.engines import base
from glasspool.engines.local import plain, wire
from glasspool.futures import Call, Future, run_left_callbacks, take_back
from glasspool.mapped import Results, check_buffersize
from glasspool.pool import Pool
from glasspool.processors import usable_processors
from glasspool.results import foreign

if TYPE_CHECKING:
    from typing import Unpack

    from glasspool.engines.cluster.engine import ClusterEngine
    from glasspool.engines.intake import Intake
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.options import PoolKeywords
    from glasspool.reporting import Report
    from glasspool.snapshot import Snapshot, ThreadInfo
    from glasspool.tracing import Trace

T = TypeVar("T")
P = ParamSpec("P")

_PLAIN_APPLY = wire.APPLY | wire.PLAIN
_KEYWORDS: dict[str, Any] = dict(Pool.__init__.__kwdefaults__ or {})

# Re-entrant: a signal handler may submit while the main thread makes the pool.
_making = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A thread that is not in the child may have held it.
    os.register_at_fork(after_in_child=_making._at_fork_reinit)  # type: ignore[attr-defined]

_program_ends = False


class _ExecutorPool(Pool):
    """The pool behind an executor: made with its first call, and told as made where that was made."""

    _kind = "glasspool.Executor"

    def __init__(self, place: tuple[str, int], *arguments: Any, **keywords: Any) -> None:
        self._place = place
        super().__init__(*arguments, **keywords)


class Executor(ProcessPoolExecutor):
    """A ``concurrent.futures.ProcessPoolExecutor`` that outlives deaths, and that you can see into.

    Args:
        max_workers: How many workers. By default the processors that this process may really use, by
            affinity and by the quota of its cgroup; on a cluster, those that the cluster has.
        mp_context: A multiprocessing context; it decides on the start method.
        initializer: Called once in each worker, in its main thread, before its first call.
        initargs: The initializer's arguments.
        max_tasks_per_child: A worker is replaced after so many calls, with every start method.
        **keywords: Those of ``Pool``: ``name``, ``timeout``, ``retries`` and so on.

    Raises:
        ValueError: A number is out of range.
        TypeError: An argument has the wrong type, or there is no such keyword.

    The workers are started by the first ``submit`` or ``map``, all at once. A future whose worker died ends
    with ``BrokenWorker``, which is also a ``BrokenProcessPool``; the others are unharmed, and the executor
    goes on. All methods may be called from any thread.
    """

    # Not the constructor of the base: that it is one is for ``isinstance`` alone.
    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        **keywords: Unpack[PoolKeywords],
    ) -> None:
        self._pool: Pool | None = None
        self._name = ""
        engine = base.named(keywords.get("engine", base.LOCAL), keywords.get("address"))[0]
        # On a cluster, none: as many as it has processors, or as it is to have on each node.
        self._max_workers: int | None = _checked_workers(max_workers, engine == base.LOCAL)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._initializer: Callable[..., Any] | None = initializer
        self._initargs = tuple(initargs)
        self._max_tasks_per_child = _checked_tasks(max_tasks_per_child)
        self._keywords: dict[str, Any] = _checked_keywords(dict(keywords))
        self._mp_context: BaseContext | None = (
            multiprocessing.get_context()
            if mp_context is None and engine == base.LOCAL
            else mp_context
        )
        self._ready: Pool | None = None
        self._shutdown_thread = False
        self._is_given_up = False
        self._place: tuple[str, int] = registry.caller_place()
        self._name = registry.new_name(keywords.get("name"))[0]

    # Calls ----------------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have ``fn(*args, **kwargs)`` called in a worker; return its future at once.

        The arguments are pickled before this returns; if they cannot be, the future has the error. The first
        call starts the workers, and takes as long as that.

        Raises:
            RuntimeError: The executor was shut down, or the program ends.
            BrokenProcessPool: The initializer fails in the workers, or the pool has ended otherwise.
            OSError: The workers cannot be started.
        """
        pool = self._ready
        if pool is None or _program_ends:
            pool = self._start()
        engine = pool._engine
        if not kwargs and engine.is_usable and engine.collector.failure is None:
            number = engine.callables.number(fn)
            if number and plain.are_plain(args):
                call: Call[T] = Call(
                    pool,
                    engine,
                    None,
                    None,
                    number,
                    _PLAIN_APPLY,
                    args,
                    plain.WEIGHT,
                    pool._own_policy,
                )
                future = call.future
                if engine.collector.journal is not None:
                    engine.collector.journal.submitted((call,))
                engine.collector.mailbox.put(call)
                return future
        return self._submit(pool, fn, args, kwargs, wire.APPLY, 1)

    def _submit(
        self,
        pool: Pool,
        function: Callable[..., Any],
        args: Any,
        kwds: dict[str, Any],
        mode: int,
        items: int,
    ) -> Future[Any]:
        engine = pool._engine
        if engine.pid != os.getpid():
            raise foreign(engine.name, engine.pid)
        if engine.collector.failure is not None or engine.done.is_set():
            from glasspool.broken import error_of_executor

            raise error_of_executor(engine.collector.failure, engine.name)
        call, error = pool._prepare(function, args, kwds, None, None, pool._own_policy, mode, Call)
        if not isinstance(call, Call):
            raise TypeError
        call.items = items
        future = call.future
        if error is None:
            engine.submit(call)
        else:
            engine.submit_failed(call, error)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator over ``fn`` of the items of all iterables, in their order.

        The iterables are drawn, and all calls submitted, before this returns. When the iterator is closed or
        raises, calls that no worker has begun are cancelled.

        Args:
            fn: What to call, with an item of each iterable.
            iterables: As many as ``fn`` has arguments; the shortest one ends it.
            timeout: The next value is waited for until so many seconds after this call.
            chunksize: So many items travel together, and end together. With a ``timeout`` of the executor's
                each item travels for itself.
            buffersize: At most so many items (chunks) are submitted ahead of those that have been read, and
                the iterables are drawn as that goes on. None: all at once.

        Raises:
            ValueError: ``chunksize`` or ``buffersize`` is below 1.
            RuntimeError: As ``submit``.

        The iterator raises what the first item that failed has raised, or ``TimeoutError``.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        check_buffersize(buffersize)
        end = None if timeout is None else time.monotonic() + timeout
        pool = self._start()
        if pool._policy.timeout_s is not None:
            chunksize = 1  # each item for itself: the others keep their results
        items: Iterator[Any] = zip(*iterables)  # noqa: B905  # the shortest one ends it
        if chunksize > 1:
            single = items
            items = iter(lambda: tuple(itertools.islice(single, chunksize)), ())
        first = items if buffersize is None else itertools.islice(items, buffersize)
        futures = deque(self.submit_item(fn, item, chunksize) for item in first)
        rest = None if buffersize is None else items
        results = Results(weakref.ref(self), fn, chunksize, futures, rest, end)
        return results.chained() if chunksize > 1 else results.each()

    def submit_item(self, function: Callable[..., Any], item: Any, chunksize: int) -> Future[Any]:
        """Submit an item, or a chunk of items, of a map."""
        if chunksize == 1:
            return self.submit(function, *item)
        return self._submit(self._start(), function, item, {}, wire.STARCHUNK, len(item))

    # Life -----------------------------------------------------------------------------------------

    def _start(self) -> Pool:
        """Return the pool, made now if it was not before.

        Raises:
            RuntimeError: The executor was shut down, or the program ends.
        """
        self._check_open()
        with _making:
            pool = self._pool
            if pool is None:
                pool = self._keep(self._new_pool())
        # Another thread may have shut the executor down: it sets this first, and then looks for the pool.
        if self._shutdown_thread:
            self._ready = None
            pool.close()
            self._check_open()
        return pool

    def _check_open(self) -> None:
        if self._shutdown_thread:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _program_ends:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def _keep(self, pool: Pool) -> Pool:
        made = self._pool
        if made is not None:
            pool.terminate()  # a signal handler has made one while this was being made
            return made
        self._pool = self._ready = pool
        return pool

    def _new_pool(self) -> Pool:
        registry.free_name(self._name)  # the pool takes it
        keywords = {**self._keywords, "name": self._name}
        pool = _ExecutorPool(
            self._place,
            self._max_workers,
            self._initializer,
            self._initargs,
            self._max_tasks_per_child,
            self._mp_context,
            **keywords,
        )
        self._name = pool.name
        return pool

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; the workers leave when all calls have ended. May be called again.

        Args:
            wait: Wait until the workers have left and the last callback has run. Else this returns at once,
                and the end of the program waits.
            cancel_futures: Cancel the calls that no worker has begun.

        Raises:
            GlasspoolError: A callback of the executor called this with ``wait``, and would wait for itself.
        """
        self._shutdown_thread = True
        self._ready = None
        pool = self._pool
        if pool is None:
            registry.free_name(self._name)
        elif pool._pid == os.getpid():  # a fork of the user's leaves it alone
            collector = pool._engine.collector
            if cancel_futures:
                collector.mailbox.put(functools.partial(_take_all_back, collector))
            pool.close()
            if wait:
                pool._check_may_wait("shutdown()")
                pool.join()
                run_left_callbacks()
        self._is_given_up = True

    def terminate_workers(self) -> None:
        """End the workers now. Calls that run end with ``BrokenPool``; those that wait are cancelled.

        Returns when the workers are gone, within some seconds even if they resist.
        """
        self.shutdown(wait=False, cancel_futures=True)
        if self._pool is not None and self._pool._pid == os.getpid():
            self._pool.terminate()

    def kill_workers(self) -> None:
        """End the workers now, by SIGKILL. Else as ``terminate_workers``."""
        self.shutdown(wait=False, cancel_futures=True)
        pool = self._pool
        if pool is not None and pool._pid == os.getpid():
            engine = pool._engine
            engine.terminate()
            for process in engine.processes():
                if process.pid is not None:
                    _kill(process)
            pool.terminate()

    def __del__(self) -> None:
        # Any thread, any moment: no lock, no wait. What was submitted still runs.
        pool = getattr(self, "_pool", None)
        if os is None:
            return  # type: ignore[unreachable]  # at the program's end this module may have been cleared
        if pool is not None:
            if pool._pid == os.getpid():
                pool.close()
        elif getattr(self, "_name", "") and not self._shutdown_thread:
            registry.free_name(self._name)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"executors cannot be passed between processes or pickled. The function or an argument refers to "
            f"{self._name}, perhaps as an attribute of self: leave it out (__getstate__), and make an "
            "executor inside the call if it needs one."
        )

    def __repr__(self) -> str:
        state = "shut down" if self._shutdown_thread else "running" if self._pool else "not started"
        if self._broken:
            state = "broken"
        cls = type(self)
        return (
            f"<{cls.__module__}.{cls.__qualname__} {self._name} {state}, "
            f"max_workers={self._max_workers}>"
        )

    # Seeing ---------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The executor's name, which its threads and files carry."""
        return self._name

    def inspect(self, stacks: bool = False) -> Snapshot:
        """Return a picture of every process and thread, and of the open calls; empty before the first call.

        As ``Pool.inspect``.
        """
        if self._pool is None:
            from glasspool.observe import roster

            return roster.snapshot(())
        return self._pool.inspect(stacks)

    def threads(self) -> tuple[ThreadInfo, ...]:
        """Return every thread of every process of the executor, with its roles, state and call."""
        return self.inspect().threads

    def stats(self) -> dict[str, int]:
        """Return counters of calls and workers, as ``Pool.stats``; none before the first call."""
        return {} if self._pool is None else self._pool.stats()

    def trace(self, path: str | os.PathLike[str]) -> Trace:
        """Record what the executor does from now on, as ``Pool.trace`` does; this starts the workers."""
        return self._start().trace(path)

    def report(self, path: str | os.PathLike[str] | None = None) -> Report | str:
        """Report on the executor so far, as ``Pool.report`` does.

        Raises:
            RuntimeError: It has not been started.
        """
        if self._pool is None:
            raise RuntimeError(f"the executor {self._name} has had no call yet")
        return self._pool.report() if path is None else self._pool.report(path)

    def _repr_html_(self) -> str:
        from glasspool.views import html  # not before a notebook asks

        return (
            html.no_pool(self._name, "has had no call yet")
            if self._pool is None
            else self._pool._repr_html_()
        )

    # What programs look at ------------------------------------------------------------------------

    @property
    def _processes(self) -> dict[int, BaseProcess] | None:  # type: ignore[override]
        if self._is_given_up:
            return None
        if self._pool is None:
            return {}
        base.require(self._pool._engine.can, "handles", "the processes of an executor (_processes)")
        processes = self._pool._engine.processes()
        return {process.pid: process for process in processes if process.pid is not None}

    @property
    def _broken(self) -> str | bool:  # type: ignore[override]
        failure = None if self._pool is None else self._pool._engine.collector.failure
        return False if failure is None else str(failure)

    @property
    def _pending_work_items(self) -> dict[int, Any]:  # type: ignore[override]
        return {} if self._pool is None else self._pool._cache

    @property
    def _executor_manager_thread(self) -> threading.Thread | None:  # type: ignore[override]
        if self._pool is None or self._is_given_up:
            return None
        return next(
            (
                thread
                for role, thread in self._pool._engine.threads.items()
                if "result-handler" in role
            ),
            None,
        )


def _take_all_back(collector: Intake) -> None:
    """Cancel all calls that no worker has begun (collector)."""
    take_back(collector, [call for call in collector.ledger.unended() if isinstance(call, Call)])


def _checked_workers(max_workers: int | None, are_local: bool) -> int | None:
    if max_workers is None:
        return usable_processors() if are_local else None
    if max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    try:
        return operator.index(max_workers)
    except TypeError:
        raise TypeError(f"max_workers must be an integer or None, not {max_workers!r}") from None


def _checked_tasks(max_tasks_per_child: int | None) -> int | None:
    if max_tasks_per_child is not None:
        if not isinstance(max_tasks_per_child, int):
            raise TypeError("max_tasks_per_child must be an integer")
        if max_tasks_per_child <= 0:
            raise ValueError("max_tasks_per_child must be >= 1")
    return max_tasks_per_child


def _checked_keywords(keywords: dict[str, Any]) -> dict[str, Any]:
    """Check the keywords for the pool now, as the pool is made later; return them without the name."""
    for keyword in keywords:
        if keyword not in _KEYWORDS:
            raise TypeError(f"Executor() got an unexpected keyword argument {keyword!r}")
    keywords.pop("name", None)
    values = {**_KEYWORDS, **keywords}
    for other in ("name", "engine", "address", "processes_per_node", "record"):
        values.pop(other)
    options.pool_options(**values)
    return keywords


def _kill(process: BaseProcess) -> None:
    try:
        os.kill(process.pid or 0, signal.SIGKILL)
    except ProcessLookupError:  # it is gone
        return


def _finish() -> None:
    """Let executors finish their work: the program ends (main thread, before its ``atexit`` functions)."""
    global _program_ends
    _program_ends = True
    live: list[LocalEngine | ClusterEngine] = [
        *registry.live_engines(),
        *registry.live_cluster_engines(),
    ]
    engines = [engine for engine in live if _is_executors(engine)]
    for engine in engines:  # all at once: each may take its time
        engine.close()
    for engine in engines:
        engine.before_waiting()
        engine.done.wait()  # woken by the end of the last call, as the standard library's executor is
        engine.join_threads()
        engine.join_callbacks()
    run_left_callbacks()


def _is_executors(engine: LocalEngine | ClusterEngine) -> bool:
    return engine.kind == _ExecutorPool._kind and engine.pid == os.getpid()


try:
    # As concurrent.futures does it: before the threads of the program are joined.
    threading._register_atexit(_finish)  # type: ignore[attr-defined]
except RuntimeError:  # the program is ending already
    _program_ends = True
