"""``ThreadPool``: the interface of ``multiprocessing.pool.ThreadPool``, with threads that you can see."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from glasspool import batching, options, registry
from glasspool.engines.local import wire
from glasspool.engines.threads.engine import ThreadEngine, ThreadPlan
from glasspool.engines.threads.feeding import MOST_ITEMS, ThreadFeed, feed_map
from glasspool.engines.threads.work import ThreadIMapJob, ThreadMapResult, ThreadResult
from glasspool.feeding import BufferSize, feed_imap
from glasspool.pool import RUN, Pool, _checked_buffersize, _checked_chunksize
from glasspool.results import IMapIterator

if TYPE_CHECKING:
    from contextvars import ContextVar

    from glasspool.engines.local.showing import Shown
    from glasspool.options import Policy, RetryOn
    from glasspool.reporting import Report
    from glasspool.snapshot import Snapshot
    from glasspool.tracing import Trace

T = TypeVar("T")

_NOT_RECORDED = (
    "the tasks of a thread pool are not recorded: pool.inspect() and result.info tell of them"
)


class ThreadPool(Pool, multiprocessing.pool.ThreadPool):
    """A thread pool with the interface of ``multiprocessing.pool.ThreadPool``, that you can see into.

    Its workers are threads of this process, for work that waits: nothing is pickled, functions, arguments
    and results are the very objects. The methods, results and views are those of ``glasspool.Pool``.

    A thread cannot be killed. A task that runs out of time, or is cancelled, has its caller told at once,
    with the stack of the thread, and an exception is raised in the thread when it next runs Python code.
    One that has not given way after ``timeout_grace`` gets a successor in its place, and is shown as stuck
    until it returns.

    Args:
        processes: How many threads. By default the processors that this process may really use.
        initializer: Called once in each thread before its first task.
        initargs: The initializer's arguments.
        name: The pool's name, ``glasspool-1`` and so on by default. Two pools never share one.
        timeout: How long a task may run, in seconds from its begin; each item of a map counts for
            itself. It ends with ``TaskTimeout`` then.
        timeout_grace: How long, in seconds, a task that was timed out or cancelled may take to give way
            before another thread takes its place.
        retries: How many more times a task may begin after it raised one of ``retry_on``.
        retry_on: Exceptions (a class or a tuple of them) that are retried; also ``TaskTimeout``.

    Raises:
        ValueError: An argument is out of range.
        TypeError: The initializer cannot be called, or an argument has the wrong type.
        RuntimeError: The threads cannot be started.

    All methods may be called from any thread. ``terminate()``, and the end of a ``with`` block, end what
    has not ended for its callers, and let the threads finish what they run, as the standard library does;
    ``join()`` waits for that.
    """

    _engine: ThreadEngine  # type: ignore[assignment]  # under the names of the other engine

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        name: str | None = None,
        timeout: float | None = None,
        timeout_grace: float = options.TIMEOUT_GRACE_S,
        retries: int = 0,
        retry_on: RetryOn = (),
    ) -> None:
        self._state = "INIT"
        self._traces: list[Trace] = []
        self._pid = os.getpid()
        size = self._size(processes)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {type(initializer).__name__}")
        told = _checked(timeout, timeout_grace, retries, retry_on)
        self._ctx = multiprocessing.get_context()
        where = registry.caller_place()
        self._name, number = registry.new_name(name)
        self._policy = told.policy
        self._own_policy = None if told.policy.is_default else told.policy
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._maxtasksperchild = None
        try:
            self._engine = ThreadEngine(
                ThreadPlan(
                    name=self._name,
                    number=number,
                    size=size,
                    initializer=initializer,
                    initargs=self._initargs,
                    made_at=f"{where[0]}:{where[1]}",
                    options=told,
                )
            )
            registry.add_threads(self._engine)
            self._engine.start()
            self._state = RUN
        except BaseException:  # a signal handler may raise anywhere
            if self._state != RUN and hasattr(self, "_engine"):
                self._engine.terminate("the pool was not made")
            registry.free_name(self._name)
            raise

    # Calls ----------------------------------------------------------------------------------------

    def apply(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        *,
        timeout: float | None = None,
        retries: int | None = None,
        retry_on: RetryOn | None = None,
    ) -> T:
        """Call ``func(*args, **kwds)`` in a thread of the pool, wait for it, and return its value.

        ``timeout``, ``retries`` and ``retry_on`` are as for the pool, for this call alone.

        Raises:
            Exception: What ``func`` raised, the very object.
        """
        return self.apply_async(
            func, args, kwds, timeout=timeout, retries=retries, retry_on=retry_on
        ).get()

    def apply_async(  # type: ignore[override]  # the result is ours
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        retry_on: RetryOn | None = None,
    ) -> ThreadResult[T]:
        """Have ``func(*args, **kwds)`` called in a thread of the pool; return at once.

        The callbacks run on the pool's callback thread, in the order in which tasks end.
        ``timeout``, ``retries`` and ``retry_on`` are as for the pool, for this call alone.

        Raises:
            ValueError: The pool is not running, or a keyword is out of range.
        """
        engine = self._engine
        if self._state != RUN or not engine.is_usable:
            self._check_running()
        policy = self._policy_for(timeout, retries, retry_on)
        result: ThreadResult[T] = ThreadResult(
            self, engine, callback, error_callback, func, args, kwds, policy
        )
        engine.line.append(result)  # as engine.submit does it, without the call
        if engine.bell.qsize() < engine.size:
            engine.bell.put(None)
        if engine.is_deaf:
            engine.supervisor.take_late()
        return result

    def _map(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        star: bool,
        chunksize: int | None,
        policy: Policy | None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        sync: bool = False,
        shown: Shown | None = None,
    ) -> ThreadMapResult[T]:
        self._check_running()
        items: Any = iterable if hasattr(iterable, "__len__") else list(iterable)
        length = len(items)
        told = batching.stock_chunk(length, self._processes) if chunksize is None else chunksize
        told = _checked_chunksize(told)
        size = min(told, MOST_ITEMS) if chunksize is None else told
        if policy is not None and policy.timeout_s is not None:
            told = size = 1  # each item for itself: the others keep their results
        engine = self._engine
        job: ThreadMapResult[T] = ThreadMapResult(
            self, engine, callback, error_callback, length, told, func
        )
        if shown is not None:
            shown.begin(engine, job, length)  # type: ignore[arg-type]
        if length:
            feed_map(engine, job, func, star, items, size, policy)
        return job

    def _imap(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int,
        policy: Policy | None,
        buffersize: BufferSize,
        ordered: bool,
        shown: Shown | None,
    ) -> IMapIterator[T]:
        self._check_running()
        chunksize = _checked_chunksize(chunksize)
        buffersize = _checked_buffersize(buffersize)
        if policy is not None and policy.timeout_s is not None:
            chunksize = 1
        engine: Any = self._engine
        values = iter(iterable)
        job = ThreadIMapJob(self, engine, ordered, func)
        iterator: IMapIterator[T] = IMapIterator(job, engine, chunked=chunksize > 1)
        if shown is not None:
            values = shown.begin_drawing(engine, job, iterable, values)
        mode = wire.SINGLE if chunksize == 1 else wire.CHUNK
        feed_imap(ThreadFeed(engine, job, func, mode, values, chunksize, policy, buffersize))
        return iterator

    # Life -----------------------------------------------------------------------------------------

    def resize(self, processes: int) -> None:
        """Change the number of threads, while the pool works.

        More: returns when the new threads have been started; their initializers run meanwhile. Fewer: some
        leave, idle ones first, others after the task that they run.

        Raises:
            ValueError: ``processes`` is below 1, or the pool is not running.
            TypeError: ``processes`` is no integer.
        """
        if processes is None:
            raise TypeError("processes must be an integer, not None")
        size = self._size(processes)
        self._check_running()
        self._engine.resize(size)

    def join(self) -> None:
        """Wait until the threads have ended and the last callback has run.

        It does not wait for a task that was timed out or cancelled and has not given way yet.

        Raises:
            ValueError: The pool has not been closed or terminated.
        """
        super().join()
        self._engine.join_runners()

    # Seeing ---------------------------------------------------------------------------------------

    def inspect(self, stacks: bool = False) -> Snapshot:
        """Return a picture of the pool: every thread of this process, and the pool's open tasks.

        Args:
            stacks: Also the stack of every Python thread.

        Does not stop the pool; blocks for some milliseconds.
        """
        from glasspool.observe import thread_pools

        self._check_owner()
        return thread_pools.snapshot(self._engine, stacks=stacks)

    def stats(self) -> dict[str, int]:
        """Return counters of tasks and threads, as ``Pool.stats``; ``workers`` are threads.

        A thread that did not give way when its task was ended, and has a successor, is ``stuck``.
        """
        from glasspool.observe import thread_pools

        self._check_owner()
        return thread_pools.stats(self._engine)

    def trace(self, path: str | os.PathLike[str]) -> Trace:
        """Raise an error: the tasks of a thread pool are not recorded."""
        raise NotImplementedError(_NOT_RECORDED)

    def report(self, path: str | os.PathLike[str] | None = None) -> Report:  # type: ignore[override]
        """Raise an error: the tasks of a thread pool are not recorded."""
        raise NotImplementedError(_NOT_RECORDED)

    @property
    def _cache(self) -> dict[int, Any]:
        """The jobs that have not ended, by number."""
        jobs = {task.job.job_id: task.job for task in self._engine.unended()}
        jobs.update((job.job_id, job) for job in list(self._engine.feeds.values()))
        return jobs


def _checked(
    timeout: float | None, timeout_grace: float, retries: int, retry_on: RetryOn
) -> options.PoolOptions:
    none: tuple[ContextVar[Any], ...] = ()
    return options.pool_options(
        timeout=timeout,
        timeout_grace=timeout_grace,
        retries=retries,
        retry_on=retry_on,
        start_timeout=None,
        finalizer=None,
        max_memory=None,
        max_memory_hard=None,
        stall_after=None,
        threads=1,
        seed=None,
        env=None,
        native_threads=None,
        capture_output=False,
        forward_logs=False,
        contextvars=none,
    )
