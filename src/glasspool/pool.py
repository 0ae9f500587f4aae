"""``Pool``: the arguments and the behaviour of ``multiprocessing.Pool``.

No thread and no process is started here; that is the engine's. What this module owns is the translation
of the user's calls into tasks, and the life cycle as the user sees it: running, closed, terminated.
"""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.pool
import operator
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, TypeVarTuple, overload

from glasspool import batching, options, registry, seeding
from glasspool.chunking import GuidedFeed, GuidedMapResult, feed_guided
from glasspool.engines import base
from glasspool.engines.local import main_guard, payload, plain, scarcity, wire
from glasspool.engines.local.engine import LocalEngine, Plan, Setting
from glasspool.errors import GlasspoolError
from glasspool.feeding import CONTAINERS, BufferSize, Feed, feed_here, feed_imap
from glasspool.ledger import Task
from glasspool.options import Env, NativeThreads, Policy, Progress, RetryOn
from glasspool.processors import usable_processors
from glasspool.results import (
    AsyncResult,
    IMapIterator,
    IMapJob,
    MapResult,
    foreign,
    wait_as_caller,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Unpack

    from glasspool.engines.local.callables import Carry, Known
    from glasspool.engines.local.showing import Shown
    from glasspool.engines.local.stall import Stall
    from glasspool.observe.recording import Recorder
    from glasspool.options import Limits
    from glasspool.reporting import Report
    from glasspool.snapshot import Snapshot, ThreadInfo
    from glasspool.tracing import Trace
    from glasspool.undone import Undone

T = TypeVar("T")
Item = TypeVar("Item")
Args = TypeVarTuple("Args")
P = TypeVar("P", bound="Pool")

# A tuple of arguments is checked against the function, as a ParamSpec would (which cannot describe
# arguments that stand in a tuple). For other iterables, and with keywords, a checker cannot know.
Unchecked: TypeAlias = list[Any] | range | Iterator[Any]

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"

_PLAIN_APPLY = wire.APPLY | wire.PLAIN

_LOCAL = base.CAPABILITIES[base.LOCAL]


class Pool(multiprocessing.pool.Pool):
    """A process pool with the interface of ``multiprocessing.Pool``, that you can see into.

    Args:
        processes: How many workers. By default the processors that this process may really use, by
            affinity and by the quota of its cgroup.
        initializer: Called once in each worker, in its main thread, before its first task.
        initargs: The initializer's arguments.
        maxtasksperchild: A worker is replaced after so many tasks (an apply, or a chunk of a map).
        context: A multiprocessing context; it decides on the start method.
        name: The pool's name, ``glasspool-1`` and so on by default. Two pools never share one.
        engine: Where workers live: ``"local"``, ``"ray"`` or ``"dask"``, or a ``dask.distributed.Client``.
        address: Which cluster of Ray or Dask: ``"auto"``, ``"host:port"``, ``"tcp://host:port"``, or a
            ``dask.distributed.Client``. None: the one to which this process is connected, else one that is
            started on this machine for the pool, and ended with it.
        processes_per_node: How many workers each node of a cluster has, in place of ``processes``, which
            is the number in all.
        timeout: How long a task may run, in seconds from its begin; each item of a map counts for
            itself. It ends with ``TaskTimeout`` then, and its worker is freed or replaced.
        timeout_grace: How long, in seconds, a task that was timed out or cancelled may resist each
            step that ends its worker: the exception raised in it, then SIGTERM, then SIGKILL.
        retries: How many more times a task may begin after its worker died.
        retry_on: Exceptions of the task's own (a class or a tuple of them) that are retried, too.
        start_timeout: How long a worker may take to start and to run the initializer, in seconds.
        finalizer: Called without arguments in each worker, once, when it leaves in an orderly way.
        max_memory: A worker whose resident memory is above so many bytes is replaced after its task.
            What it shares with its parent counts: under fork, much of what the parent has.
        max_memory_hard: A worker above so many bytes while it runs a task is stopped, and the task
            ends with ``WorkerDied``. It is looked at every 50 ms. Between two tasks it is replaced.
        stall_after: The pool warns, once per stall, when it has work and nothing has moved for so
            many seconds. None: never.
        threads: How many threads of each worker run tasks (its lanes). More than one is for work that
            waits: a kill of the worker loses the tasks of all of them.
        seed: ``random`` and NumPy are seeded from it for each item, by the number of the call in the
            pool and the place of the item in the call: results do not depend on the number of workers.
            None: each worker has a seed of its own. Not with more than one of ``threads``.
        env: Variables of the workers' environment, set before anything is imported there: a mapping,
            or a function of the slot that returns one.
        native_threads: How many threads BLAS and OpenMP may use in each worker. ``"auto"``: so many
            that all workers together have no more than there are processors. None: not limited.
        capture_output: Whether what tasks write to standard output and standard error, C code too, is
            kept for ``result.info`` instead of shown.
        forward_logs: Whether records that are logged in workers are handled by this process's handlers.
        contextvars: Context variables whose values travel with each call: what they hold where it is
            made, they hold in its tasks. Each is an attribute of a module that workers can import.
        record: Whether to keep a record of each task from the first one on, for ``report()``: some
            microseconds a task, and memory for the newest million.

    Raises:
        ValueError: ``processes`` below 1, ``maxtasksperchild`` no positive integer, or another
            argument out of range.
        TypeError: The initializer cannot be called, or an argument has the wrong type.
        EngineUnavailable: There is no such engine.
        OSError: The workers cannot be started.

    The constructor returns when all workers have a process; their initializers run meanwhile. All
    methods may be called from any thread.
    """

    _kind = "glasspool.Pool"
    _setting = Setting()
    _place: tuple[str, int] | None = (
        None  # file and line where it was made; None: those of the caller
    )

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
        *,
        name: str | None = None,
        engine: str | Any = "local",
        address: Any = None,
        processes_per_node: int | None = None,
        timeout: float | None = None,
        timeout_grace: float = options.TIMEOUT_GRACE_S,
        retries: int = 0,
        retry_on: RetryOn = (),
        start_timeout: float | None = None,
        finalizer: Callable[[], object] | None = None,
        max_memory: int | None = None,
        max_memory_hard: int | None = None,
        stall_after: float | None = options.STALL_AFTER_S,
        threads: int = 1,
        seed: int | None = None,
        env: Env = None,
        native_threads: NativeThreads = "auto",
        capture_output: bool = False,
        forward_logs: bool = True,
        contextvars: Iterable[ContextVar[Any]] = (),
        record: bool = False,
    ) -> None:
        self._state = "INIT"
        self._traces: list[Trace] = []
        self._pid = os.getpid()
        engine, address = base.named(engine, address)
        per_node = options.per_node(engine, processes, processes_per_node)
        size = self._size(processes)
        told = options.pool_options(
            timeout=timeout,
            timeout_grace=timeout_grace,
            retries=retries,
            retry_on=retry_on,
            start_timeout=start_timeout,
            finalizer=finalizer,
            max_memory=max_memory,
            max_memory_hard=max_memory_hard,
            stall_after=stall_after,
            threads=threads,
            seed=seed,
            env=env,
            native_threads=native_threads,
            capture_output=capture_output,
            forward_logs=forward_logs,
            contextvars=contextvars,
        )
        _check_arguments(initializer, maxtasksperchild)
        can = base.CAPABILITIES[engine]
        self._ctx = _context(can, context)
        if can is not _LOCAL:
            _check_engine(can, type(self), self._ctx, told, record)
        start_method = str(self._ctx.get_start_method())
        main_guard.check(start_method)
        initargs = tuple(initargs)
        carry = _carrier(told.contextvars, start_method)
        where = self._place or registry.caller_place()
        self._name, number = registry.new_name(name)
        self._policy = told.policy
        self._own_policy = None if told.policy.is_default else told.policy
        self._initializer = initializer
        self._initargs = initargs
        self._maxtasksperchild = maxtasksperchild
        try:
            if engine == base.LOCAL:
                plan = Plan(
                    name=self._name,
                    number=number,
                    size=size,
                    maxtasksperchild=maxtasksperchild,
                    context=self._ctx,
                    make_process=self.Process,
                    initializer=initializer,
                    initargs=initargs,
                    made_at=f"{where[0]}:{where[1]}",
                    options=told,
                    kind=self._kind,
                    setting=self._setting,
                )
                self._engine = _start_engine(plan, where)
            else:
                from glasspool.engines.cluster import making  # not before somebody wants it

                self._engine = making.start(  # type: ignore[assignment]  # under the same names
                    making.ClusterPlan(
                        name=self._name,
                        number=number,
                        engine=engine,
                        total=None if processes is None else size,
                        per_node=per_node,
                        start_method=start_method,
                        maxtasksperchild=maxtasksperchild,
                        initializer=initializer,
                        initargs=initargs,
                        made_at=f"{where[0]}:{where[1]}",
                        options=told,
                        kind=self._kind,
                    ),
                    address,
                )
            if carry is not None:
                self._engine.callables.surround("contextvars", carry)
            self._seed = told.seed
            if told.seed is not None:
                seeding.begin(self._engine, told.seed)
            if engine == base.LOCAL:
                registry.add(self, self._engine)
            self._recorder = _recorder(self._engine) if record else None
            self._state = RUN
        except BaseException:  # a signal handler may raise anywhere
            if self._state != RUN and hasattr(self, "_engine"):
                self._engine.give_up()
            registry.free_name(self._name)
            raise

    @property
    def _processes(self) -> int:
        return self._engine.size

    @staticmethod
    def _size(processes: int | None) -> int:
        if processes is None:
            return usable_processors()
        try:
            size = operator.index(processes)  # NumPy's integers, too
        except TypeError:
            raise TypeError(f"processes must be an integer or None, not {processes!r}") from None
        if size < 1:
            raise ValueError(f"Number of processes must be at least 1, not {size}")
        return size

    # Calls ----------------------------------------------------------------------------------------

    @overload  # type: ignore[override]  # narrower: a tuple must fit the function
    def apply(
        self, func: Callable[[*Args], T], args: tuple[*Args], **limits: Unpack[Limits]
    ) -> T: ...
    @overload
    def apply(
        self,
        func: Callable[..., T],
        args: Unchecked = ...,
        *,
        kwds: Mapping[str, Any] = ...,
        **limits: Unpack[Limits],
    ) -> T: ...
    @overload
    def apply(
        self,
        func: Callable[..., T],
        args: Iterable[Any],
        kwds: Mapping[str, Any],
        **limits: Unpack[Limits],
    ) -> T: ...
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
        """Call ``func(*args, **kwds)`` in a worker, wait for it, and return its value.

        ``timeout``, ``retries`` and ``retry_on`` are as for the pool, for this call alone.

        Raises:
            Exception: What ``func`` raised; also as ``AsyncResult.get`` does.
        """
        if not kwds and timeout is None and retries is None and retry_on is None:
            short = self._prepare_plain(func, args)
            if short is not None:
                if not self._engine.collector.lender.call(short):
                    self._engine.submit(short)
                return short.get()
        policy = self._policy_for(timeout, retries, retry_on)
        result, error = self._prepare(func, args, kwds, None, None, policy)
        if error is not None:
            self._engine.submit_failed(result, error)
        elif not self._engine.collector.lender.call(result):
            self._engine.submit(result)
        return result.get()

    @overload  # type: ignore[override]  # as for apply; and the result is ours
    def apply_async(
        self,
        func: Callable[[*Args], T],
        args: tuple[*Args],
        *,
        callback: Callable[[T], object] | None = ...,
        error_callback: Callable[[BaseException], object] | None = ...,
        **limits: Unpack[Limits],
    ) -> AsyncResult[T]: ...
    @overload
    def apply_async(
        self,
        func: Callable[..., T],
        args: Unchecked = ...,
        *,
        kwds: Mapping[str, Any] = ...,
        callback: Callable[[T], object] | None = ...,
        error_callback: Callable[[BaseException], object] | None = ...,
        **limits: Unpack[Limits],
    ) -> AsyncResult[T]: ...
    @overload
    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any],
        kwds: Mapping[str, Any],
        callback: Callable[[T], object] | None = ...,
        error_callback: Callable[[BaseException], object] | None = ...,
        **limits: Unpack[Limits],
    ) -> AsyncResult[T]: ...
    def apply_async(
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
    ) -> AsyncResult[T]:
        """Have ``func(*args, **kwds)`` called in a worker; return at once.

        The arguments are pickled before this returns; if they cannot be, ``get`` raises the error.
        The callbacks run on the pool's callback thread, in the order in which tasks end.
        ``timeout``, ``retries`` and ``retry_on`` are as for the pool, for this call alone.

        Raises:
            ValueError: The pool is not running, or a keyword is out of range.
        """
        if not kwds and timeout is None and retries is None and retry_on is None:
            short = self._prepare_plain(func, args, callback, error_callback)
            if short is not None:
                collector = self._engine.collector  # as engine.submit does it, without the call
                if collector.journal is not None:
                    collector.journal.submitted((short,))
                collector.mailbox.put(short)
                return short
        policy = self._policy_for(timeout, retries, retry_on)
        result, error = self._prepare(func, args, kwds, callback, error_callback, policy)
        if error is None:
            self._engine.submit(result)
        else:
            self._engine.submit_failed(result, error)
        return result

    def _prepare_plain(
        self,
        func: Callable[..., T],
        args: Iterable[Any],
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[T] | None:
        """Make the task of an apply with plain arguments; None if it is not such a one.

        What ``_prepare`` would make, the short way: a row of calls that the pool knows is the case in
        which each microsecond of the caller's counts.
        """
        if type(args) is not tuple or self._state != RUN:
            return None
        engine = self._engine
        if not engine.is_usable:
            return None
        number = engine.callables.number(func)
        if not number or not plain.are_plain(args):
            return None
        return AsyncResult(
            self,
            engine,
            callback,
            error_callback,
            number,
            _PLAIN_APPLY,
            args,
            plain.WEIGHT,
            self._own_policy,
        )

    def _prepare(
        self,
        func: Callable[..., T],
        args: Iterable[Any],
        kwds: Mapping[str, Any],
        callback: Callable[[T], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        policy: Policy | None,
        mode: int = wire.APPLY,
        result_class: type[AsyncResult[T]] = AsyncResult,
    ) -> tuple[AsyncResult[T], Exception | None]:
        """Make the task of an apply; with the error if it has failed already."""
        self._check_running()
        engine = self._engine
        if engine.callables.carry is not None:
            func = engine.callables.carry(func)
        number, kind = 0, mode
        body: Any = b""
        weight = 0
        failure: Exception | None = None
        value: Any = args
        journal = engine.collector.journal
        begun_ns = 0 if journal is None else time.monotonic_ns()
        try:
            known = engine.callables.by_reference(func)
            if known is not None:
                number = known.number
            if kwds:
                value, kind = (args, kwds), mode | wire.KEYWORDS
            if known is None:
                value, kind = (func, value), kind | wire.INLINE
            body, by_value = payload.dump_any(value)
            weight = len(body)
            if by_value:
                kind |= wire.BY_VALUE
            if type(body) is not bytes:
                kind |= wire.SEGMENT
        except Exception as error:
            if payload.was_interrupted((func, args, kwds)):
                raise
            from glasspool import unpicklable  # not before something cannot be pickled

            failure = unpicklable.explained(error, _named(func, args, kwds))
        result = result_class(
            self, engine, callback, error_callback, number, kind, body, weight, policy
        )
        if not number:
            result._function = payload.callable_name(func)
        if journal is not None:
            name = result.function_name(result)
            journal.span("pickling", begun_ns, name, result.id, result.id)
        return result, failure

    def map(
        self,
        func: Callable[[Item], T],
        iterable: Iterable[Item],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        retry_on: RetryOn | None = None,
        progress: Progress = None,
    ) -> list[T]:
        """Call ``func`` for each item in the workers, wait, and return the values in order.

        ``timeout`` (of each item), ``retries`` and ``retry_on`` are as for the pool. With a timeout
        each item travels as a task of its own, whatever the chunk size.

        ``progress`` shows how many items are done, failed and running, the rate and the time to go:
        True, a description, or a bar like tqdm's or the class of one. Where there is no terminal and
        no notebook, a line every ten seconds on standard error.

        Raises:
            Exception: What ``func`` raised for the first item that failed.
        """
        policy = self._policy_for(timeout, retries, retry_on)
        with self._shown(progress, func) as shown:
            job = self._map(func, iterable, False, chunksize, policy, sync=True, shown=shown)
            return job.get()

    def map_async(  # type: ignore[override]
        self,
        func: Callable[[Item], T],
        iterable: Iterable[Item],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        retry_on: RetryOn | None = None,
        progress: Progress = None,
    ) -> MapResult[T]:
        """Have ``func`` called for each item; return at once. Keywords as for ``map``."""
        policy = self._policy_for(timeout, retries, retry_on)
        with self._shown(progress, func) as shown:
            return self._map(
                func, iterable, False, chunksize, policy, callback, error_callback, shown=shown
            )

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        retry_on: RetryOn | None = None,
        progress: Progress = None,
    ) -> list[T]:
        """Like ``map``, for items that are each unpacked into arguments."""
        policy = self._policy_for(timeout, retries, retry_on)
        with self._shown(progress, func) as shown:
            job = self._map(func, iterable, True, chunksize, policy, sync=True, shown=shown)
            return job.get()

    def starmap_async(  # type: ignore[override]
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        retry_on: RetryOn | None = None,
        progress: Progress = None,
    ) -> MapResult[T]:
        """Like ``map_async``, for items that are each unpacked into arguments."""
        policy = self._policy_for(timeout, retries, retry_on)
        with self._shown(progress, func) as shown:
            return self._map(
                func, iterable, True, chunksize, policy, callback, error_callback, shown=shown
            )

    def imap(  # type: ignore[override]
        self,
        func: Callable[[Item], T],
        iterable: Iterable[Item],
        chunksize: int = 1,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        retry_on: RetryOn | None = None,
        buffersize: BufferSize = "auto",
        progress: Progress = None,
    ) -> IMapIterator[T]:
        """Return an iterator over the values, in the order of the items.

        The iterable runs on a thread of the pool (role ``iterable``), ahead of the reader.
        ``timeout`` (of each item), ``retries``, ``retry_on`` and ``progress`` are as for ``map``.

        Args:
            func: What to call.
            iterable: Its items, one for each call. It may be endless.
            chunksize: How many items make a task.
            timeout: In seconds, of each item.
            retries: How many more times a task may begin.
            retry_on: Which exceptions of the task's own are retried, too.
            buffersize: At most so many tasks (chunks) are drawn ahead of those whose results have
                been read. ``"auto"``: four for each worker; of tasks shorter than a millisecond
                more, as the reader goes on reading, up to 4 ms of work or 2,048 tasks. None: as
                many as there are, as the standard library's pool does. The bound holds while the
                iterator is referenced and the pool open: after ``close()``, or when the iterator is
                dropped, the rest runs (an endless iterable: until the pool is terminated).
            progress: How many items have ended in the workers, whatever has been read.

        Raises:
            ValueError: The pool is not running, or an argument is out of range.
            TypeError: An argument has the wrong type.
        """
        policy = self._policy_for(timeout, retries, retry_on)
        with self._shown(progress, func) as shown:
            return self._imap(func, iterable, chunksize, policy, buffersize, True, shown)

    def imap_unordered(  # type: ignore[override]
        self,
        func: Callable[[Item], T],
        iterable: Iterable[Item],
        chunksize: int = 1,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        retry_on: RetryOn | None = None,
        buffersize: BufferSize = "auto",
        progress: Progress = None,
    ) -> IMapIterator[T]:
        """Return an iterator over the values, in the order in which they arrive. Else as ``imap``."""
        policy = self._policy_for(timeout, retries, retry_on)
        with self._shown(progress, func) as shown:
            return self._imap(func, iterable, chunksize, policy, buffersize, False, shown)

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
    ) -> MapResult[T]:
        self._check_running()
        items: Any = iterable if hasattr(iterable, "__len__") else self._drawn(iterable)
        length = len(items)
        if self._seed is not None:
            items = seeding.numbered_all(items, star, type(items) in CONTAINERS)
        engine = self._engine
        timed = policy is not None and policy.timeout_s is not None
        if chunksize is None:
            chunksize = batching.stock_chunk(length, self._engine.places)
            if chunksize > 1 and not timed and self._may_guide(func):
                guided: GuidedMapResult[T] = GuidedMapResult(
                    self, engine, callback, error_callback, length, chunksize
                )
                if shown is not None:
                    shown.begin(engine, guided, length)
                known = self._know(func, guided)
                if known is not None:
                    feed_guided(GuidedFeed(engine, guided, known, star, items, policy, sync), sync)
                return guided
        chunksize = _checked_chunksize(chunksize)
        if timed:
            chunksize = 1  # each item for itself: the others keep their results
        single = chunksize == 1 and not star
        values = iter(items)
        job: MapResult[T] = MapResult(
            self, engine, callback, error_callback, length, chunksize, single
        )
        if shown is not None:
            shown.begin(engine, job, length)
        if not length:
            return job
        mode = wire.SINGLE if single else (wire.STARCHUNK if star else wire.CHUNK)
        known = self._know(func, job)
        if known is None:
            return job
        in_groups = type(items) in CONTAINERS
        feed_here(Feed(engine, job, known, mode, values, chunksize, in_groups, policy), sync)
        return job

    def _may_guide(self, func: Callable[..., object]) -> bool:
        """Tell whether a map may have more chunks than the standard library's has.

        Not if each chunk costs something that nobody knows: a callable with state is rebuilt for each,
        and with ``maxtasksperchild`` workers are replaced after so many.
        """
        engine = self._engine
        if not engine.can.guided_maps:
            return False  # its pieces would travel
        return engine.maxtasksperchild is None and engine.callables.is_kept(func)

    def _drawn(self, iterable: Iterable[Any]) -> list[Any]:
        """Draw all items of an iterable that has no length."""
        journal = self._engine.collector.journal
        begun_ns = 0 if journal is None else time.monotonic_ns()
        items = list(iterable)
        if journal is not None:
            journal.span("iterable", begun_ns)
        return items

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
        engine = self._engine
        values = iter(iterable)
        job = IMapJob(self, engine, ordered)
        iterator: IMapIterator[T] = IMapIterator(job, engine, chunked=chunksize > 1)
        if shown is not None:
            values = shown.begin_drawing(engine, job, iterable, values)
        if self._seed is not None:
            values = seeding.numbered(values)
        known = self._know(func, job)
        if known is None:
            return iterator
        mode = wire.SINGLE if chunksize == 1 else wire.CHUNK
        in_groups = type(iterable) in CONTAINERS
        feed_imap(Feed(engine, job, known, mode, values, chunksize, in_groups, policy, buffersize))
        return iterator

    def _policy_for(
        self, timeout: float | None, retries: int | None, retry_on: RetryOn | None
    ) -> Policy | None:
        """Return what a call allows its tasks; None if that is nothing special."""
        if timeout is None and retries is None and retry_on is None:
            return self._own_policy
        policy = options.policy(self._policy, timeout, retries, retry_on)
        return None if policy.is_default else policy

    def _know(self, func: Callable[..., Any], job: MapResult[Any] | IMapJob) -> Known | None:
        """Give the callable of a job its number; None if it cannot travel, and the job has failed."""
        engine = self._engine
        if engine.callables.carry is not None:
            func = engine.callables.carry(func)
        try:
            known = engine.callables.for_job(func)
        except Exception as error:
            from glasspool import unpicklable  # not before something cannot be pickled

            told = unpicklable.explained(error, [("the function", func)])
            engine.collector.mailbox.put(functools.partial(job.abort, told))
            return None
        if known.for_one_job:
            job._release, job._function = known.number, known.name
            if engine.collector.journal is not None:
                engine.collector.journal.called_for(known.number)
        return known

    def _shown(self, progress: Progress, func: Callable[..., object]) -> Shown | _NotShown:
        """Return what shows the progress of a call, to be begun with its job and left with the call."""
        if progress is None:
            progress = options.shows_progress
        if progress is False:
            return _NOT_SHOWN
        from glasspool.views import progress_displays  # not before somebody wants to see it

        return progress_displays.shown(progress, func, registry.caller_place())

    def run_on_all(self, func: Callable[..., T], *args: Any, **kwds: Any) -> list[T]:
        """Have ``func(*args, **kwds)`` called once in every worker, present and future.

        A busy worker calls it after the tasks that it has been given (with lanes: in its main thread,
        beside tasks that run); the others go on meanwhile. A worker that comes later (a replacement, or
        one that ``resize`` adds) calls it after the initializer and before its first task; if it raises
        or dies there, it has failed to start, as if its initializer had failed. Several calls are made
        in their order.

        Returns:
            The values of the workers that were there, in the order of their slots.

        Raises:
            Exception: What it raised in a worker that was there (the one of the lowest slot). Workers
                that come later do not call it then.
            ValueError: The pool is not running, or was closed by ``terminate`` meanwhile.
            TypeError: ``func`` cannot be called.

        Blocks until each worker that was there, or the replacement of one that has died, has called it.
        Any thread may call this.
        """
        if not callable(func):
            raise TypeError(f"run_on_all takes a callable, not {type(func).__name__}")
        self._check_running()
        engine = self._engine
        base.require(engine.can, "run_on_all", "run_on_all()")
        call: Callable[[], T] = functools.partial(func, *args, **kwds)
        if engine.callables.carry is not None:
            call = engine.callables.carry(call)
        made = engine.run_on_all(call)
        wait_as_caller(engine, made, None, "waiting in run_on_all()")
        return made.values()

    # Life -----------------------------------------------------------------------------------------

    def resize(self, processes: int) -> None:
        """Change the number of workers, while the pool works.

        More: returns when the new workers have a process; their initializers run meanwhile. One that
        cannot be started now is tried again, as the replacement of a dead one is. Fewer: returns at
        once; the workers of the highest slots leave, each after the task that it runs, and what they
        have not begun goes to others. No task is interrupted. Any thread may call this, also while
        another does: the last call holds.

        Blocks for the time that processes take to start, at most a minute.

        Raises:
            ValueError: ``processes`` is below 1, or above what the pool has room for (256, or four
                times the number that it was made with); or the pool is not running.
            TypeError: ``processes`` is no integer.
            GlasspoolError: The processes take longer than a minute to start.
        """
        if processes is None:
            raise TypeError("processes must be an integer, not None")
        size = self._size(processes)
        self._check_running()
        self._engine.resize(size)

    def close(self) -> None:
        """Take no more calls; the workers leave when all work is done. Does not wait."""
        self._check_owner()
        if self._state == RUN:
            self._state = CLOSE
            self._engine.close()

    def terminate(self) -> None:
        """End the workers now; calls that have not ended end with ``TaskCancelled``.

        Returns when the workers are gone, within some seconds even if they resist.
        """
        self._begin_to_terminate()
        self._engine.before_waiting()
        if self._engine.done.wait(registry.EXIT_LIMIT_S):
            self._engine.join_threads()
        self._end_traces()

    def _begin_to_terminate(self) -> None:
        self._check_owner()
        self._state = TERMINATE
        self._engine.terminate()

    def drain(self, timeout: float | None = None) -> list[Undone]:
        """End the pool gently: let what runs end, begin nothing more, and return what was not begun.

        Args:
            timeout: How long, in seconds, running tasks may take to end; they end with
                ``TaskCancelled`` then, as by ``terminate``. None: as long as it takes.

        Returns:
            The tasks that no worker had begun, in the order of submission. Their results end with
            ``TaskCancelled``; ``Undone.calls()`` gives function and arguments back. Items that an
            iterable has not yielded yet stay in the iterable. A second call returns the same.

        Raises:
            ValueError: The timeout is negative or no number.
            GlasspoolError: As ``join``.

        Blocks until the workers have left and the last callback has run.
        """
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must be 0 or more (seconds), not {timeout!r}")
        import glasspool.undone  # noqa: F401  # here: the collector's thread is not to load it

        self._check_owner()
        self._check_may_wait("drain()")
        engine = self._engine
        if self._state == RUN:
            self._state = CLOSE
        engine.drain()
        if not wait_as_caller(engine, engine.done, timeout, "waiting in drain()"):
            self.terminate()
        self.join()
        return sorted(engine.collector.undone, key=lambda undone: undone.info.id or 0)

    def join(self) -> None:
        """Wait until the workers have left and the last callback has run.

        Raises:
            ValueError: The pool has not been closed or terminated.
        """
        self._check_may_join("join()")
        wait_as_caller(self._engine, self._engine.done, None, "waiting in join()")
        self._engine.join_threads()
        self._engine.join_callbacks()
        self._end_traces()

    async def ajoin(self) -> None:
        """Wait as ``join`` does, in a task of an event loop, which goes on meanwhile.

        A task that is cancelled stops waiting, the pool goes on.

        Raises:
            ValueError: The pool has not been closed or terminated.
        """
        from glasspool import awaiting  # not before there is an event loop

        self._check_may_join("ajoin()")
        await awaiting.join(self)

    def _check_may_join(self, call: str) -> None:
        self._check_owner()
        if self._state == RUN:
            raise ValueError("Pool is still running")
        self._check_may_wait(call)

    async def __aenter__(self: P) -> P:
        self._check_running()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Terminate the pool; the event loop goes on meanwhile."""
        from glasspool import awaiting  # not before there is an event loop

        if self._pid == os.getpid():  # as for __exit__
            await awaiting.terminate(self)

    def __enter__(self: P) -> P:
        self._check_running()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        # A fork of the user's that leaves the block leaves the pool alone.
        if self._pid == os.getpid():
            self.terminate()

    def __del__(self) -> None:
        # Any thread, any moment: no lock, no wait. Where something keeps the program's module alive (dill
        # does) also when this one has been cleared.
        if os is None:
            return  # type: ignore[unreachable]
        if getattr(self, "_state", "INIT") == "INIT" or self._pid != os.getpid():
            return
        if self._state == RUN and not sys.is_finalizing():
            warnings.warn(
                f"unclosed running multiprocessing pool {self!r}",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
        if self._state != CLOSE and not self._engine.done.is_set():
            self._engine.terminate("the pool was dropped")

    def __reduce__(self) -> Any:
        raise NotImplementedError(
            "pool objects cannot be passed between processes or pickled. The function or an argument "
            f"refers to {self._name}, perhaps as an attribute of self: leave it out (__getstate__), and "
            "make a pool inside the task if it needs one."
        )

    def __repr__(self) -> str:
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={self._shown_size()}>"

    def _shown_size(self) -> int:
        """Return how many workers there are at the moment, as the standard library's pool says it."""
        if self._state == "INIT" or self._engine.can.handles:
            return len(self._pool)
        return 0 if self._engine.done.is_set() else self._engine.size

    def _repr_html_(self) -> str:
        from glasspool.views import html  # not before a notebook asks

        name = getattr(self, "_name", type(self).__name__)
        if not hasattr(self, "_engine"):
            return html.no_pool(name, "was not made")
        if self._pid != os.getpid():
            return html.no_pool(name, f"belongs to process {self._pid}; this is a fork of it")
        if self._engine.done.is_set():
            ended = {CLOSE: "closed", TERMINATE: "terminated"}.get(self._state, "has ended")
            return html.no_pool(name, ended)
        return html.snapshot(self.inspect())

    def _check_owner(self) -> None:
        if self._pid != os.getpid():
            raise foreign(self._name, self._pid)

    def _check_may_wait(self, call: str) -> None:
        """Refuse a wait for the pool's end by a thread that has to do something for it first."""
        if self._engine.is_callback_thread():
            raise GlasspoolError(
                f"a callback of {self._name} called {call}, which waits for all callbacks to end; "
                "call it in another thread."
            )
        collector = self._engine.collector
        if not (self._engine.done.is_set() or collector.end_feeds_of(threading.get_ident())):
            raise GlasspoolError(
                f"{call} of {self._name} was called by an iterable, or in a signal handler while an "
                "iterable was drawn: it waits for the end of that iterable; call it in another "
                "thread, or terminate() first."
            )

    def _check_running(self) -> None:
        if self._state == RUN and self._engine.is_usable:
            return
        if self._pid != os.getpid():
            self._check_owner()
        if self._state != RUN:
            raise ValueError("Pool not running")
        if self._engine.done.is_set():
            raise GlasspoolError(f"the pool {self._name} has ended") from (
                self._engine.collector.failure
            )

    # Seeing ---------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The pool's name, which its threads and files carry."""
        return self._name

    def inspect(self, stacks: bool = False) -> Snapshot:
        """Return a picture of every process and thread of the pool, and of its open tasks.

        Args:
            stacks: Also the stack of every Python thread. Each worker is asked by a signal, and
                answers between two bytecodes of its main thread; one that does not answer in time
                (it is inside a C call) is shown without a stack, and with the reason.

        Does not stop the pool; blocks for some milliseconds, at most about a quarter of a second. Of a pool
        on a cluster all nodes are asked at the same time; one that does not answer within 1 s (1.5 s with
        stacks) is shown as such, with what was seen of it last.
        """
        self._check_owner()
        if self._engine.is_cluster:
            from glasspool.observe import cluster

            return cluster.snapshot(self._engine, stacks=stacks)  # type: ignore[arg-type]
        from glasspool.observe import roster

        return roster.snapshot((self._engine,), stacks=stacks)

    def threads(self) -> tuple[ThreadInfo, ...]:
        """Return every thread of every process of the pool, with its roles, state and task."""
        return self.inspect().threads

    def stats(self) -> dict[str, int]:
        """Return counters of tasks and workers, without asking anybody.

        A task is an apply, or a chunk of a map. ``waiting`` and ``sent`` have not ended, ``running``
        of these have begun; ``done``, ``failed``, ``lost``, ``cancelled`` and ``timeout`` have.
        ``waiting_bytes`` are the pickled arguments of those that wait (``apply_async`` never blocks,
        so nothing else bounds them). ``over_memory`` counts workers that were replaced or stopped
        because of ``max_memory`` or ``max_memory_hard``.
        """
        self._check_owner()
        if self._engine.is_cluster:
            from glasspool.observe import cluster

            return cluster.stats(self._engine)  # type: ignore[arg-type]
        from glasspool.observe import roster

        return roster.stats(self._engine)

    def trace(self, path: str | os.PathLike[str]) -> Trace:
        """Record what the pool does from now on, as a timeline for Perfetto's viewer.

        Use it as a context manager, or call the handle's ``stop()``; else the file is written when the
        pool has ended: by ``join``, ``terminate``, the pool's ``with`` block or the program's exit. What the
        file shows, and where to open it: ``docs/timeline.md``. Recording costs each task some
        microseconds, and the memory of its record; the newest million tasks are kept.

        Args:
            path: The file to write; what is in it is lost.

        Raises:
            OSError: The file cannot be written.
            ValueError: The pool is not running.
        """
        from glasspool.tracing import Trace

        self._check_running()
        base.require(self._engine.can, "records", "trace()")
        trace = Trace(self._engine, path)
        self._traces.append(trace)
        return trace

    @overload
    def report(self) -> Report: ...
    @overload
    def report(self, path: str | os.PathLike[str]) -> str: ...
    def report(self, path: str | os.PathLike[str] | None = None) -> Report | str:
        """Report on the pool so far: where its time went, what was slow, what died, what would help.

        With ``record=True`` it has every task from the first one on, or the newest million. Without, it
        has what the pool knows anyway: counters, the workers' times, and the last tasks of each living
        worker, up to 1,024 each; the report says how many are missing. A pool that has ended may be asked,
        too. What the page shows: ``docs/report.md``.

        Args:
            path: The file to write, as one HTML page that needs nothing besides.

        Returns:
            The path; without one an object that shows itself in a notebook, with ``.html`` and
            ``.save(path)``.

        Raises:
            OSError: The file cannot be written.
        """
        from glasspool import reporting

        self._check_owner()
        base.require(self._engine.can, "records", "report()")
        report = reporting.of_pool(self._engine, self._recorder)
        return report if path is None else report.save(path)

    def _end_traces(self) -> None:
        """Write the timelines that nobody has stopped."""
        while self._traces:
            self._traces.pop().stop_quietly()

    # What programs look at ------------------------------------------------------------------------

    @property
    def _pool(self) -> list[BaseProcess]:
        # Its workers are forked inside the constructor, and know a pool without an engine.
        if self._state == "INIT":
            return []
        base.require(self._engine.can, "handles", "the processes of a pool (_pool)")
        return self._engine.processes()

    @property
    def _cache(self) -> dict[int, Any]:
        """The jobs that have not ended, by number."""
        collector = self._engine.collector
        jobs = {task.job.job_id: task.job for task in collector.ledger.unended()}
        jobs.update((job.job_id, job) for job in list(collector.feeds.values()))
        for item in list(collector.mailbox.items):
            for task in item if isinstance(item, list) else [item]:
                if isinstance(task, Task):
                    jobs[task.job.job_id] = task.job
        return jobs


class _NotShown:
    """In place of what shows a call's progress: nothing does."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


_NOT_SHOWN = _NotShown()


def _start_engine(plan: Plan, where: tuple[str, int]) -> LocalEngine:
    try:
        return _started_engine(plan, where)
    except (OSError, RuntimeError) as error:
        method = str(plan.context.get_start_method())
        clear = scarcity.explain(error, plan.name, plan.size, method)
        if clear is None:
            raise
        raise clear from error


def _started_engine(plan: Plan, where: tuple[str, int]) -> LocalEngine:
    engine = LocalEngine(plan)
    engine.answerer = _answer
    engine.stall.tell = _tell_of_stall
    engine.stall.processor_time = _processor_time
    engine.environment.begun_in = _begun_in
    engine.rescue.bring_back = registry.bring_back
    engine.rescue.forking = functools.partial(registry.forking, where, again=True)
    try:
        if engine.start_method == "fork":
            with registry.forking(where) as beside:
                engine.forked_beside = beside
                engine.prepare()
        else:
            engine.prepare()
    except BaseException:
        engine.discard()
        registry.bring_back()
        raise
    try:
        engine.start()
    except BaseException:
        engine.give_up()
        raise
    return engine


def _carrier(chosen: tuple[ContextVar[Any], ...], start_method: str) -> Carry | None:
    if not chosen:
        return None
    from glasspool.engines.local.contexts import Carrier  # not before somebody wants it

    return Carrier(chosen, start_method)


def _recorder(engine: LocalEngine) -> Recorder:
    from glasspool.observe.recording import Recorder  # not before somebody wants it

    return Recorder(engine)


def _answer(engine: LocalEngine, question: Mapping[str, Any]) -> dict[str, Any]:
    from glasspool.observe import entry  # not before somebody asks

    return entry.answer(engine, question)


def _tell_of_stall(engine: LocalEngine, stall: Stall) -> None:
    from glasspool.observe import stall as words  # not before there is one

    words.warn(engine, stall)


def _processor_time(engine: LocalEngine) -> dict[int, float]:
    from glasspool.observe import stall  # not before nothing has moved for a while

    return stall.processor_time(engine)


def _begun_in() -> set[str]:
    from glasspool.observe import native_counts  # where GNU's OpenMP is loaded, under fork

    return native_counts.begun_in()


def _check_arguments(initializer: object, maxtasksperchild: object) -> None:
    if initializer is not None and not callable(initializer):
        raise TypeError(f"initializer must be a callable, not {type(initializer).__name__}")
    if maxtasksperchild is not None and (
        not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0
    ):
        raise ValueError(
            f"maxtasksperchild must be a positive int or None, not {maxtasksperchild!r}"
        )


def _context(can: base.Capabilities, context: BaseContext | None) -> BaseContext:
    """Return how workers are to be started.

    Raises:
        EngineCannot: The engine cannot start them so.
    """
    if context is None:
        return multiprocessing.get_context(None if can is _LOCAL else can.start_methods[0])
    base.require_start(can, str(context.get_start_method()))
    return context


def _check_engine(
    can: base.Capabilities,
    pool_class: type[Pool],
    context: BaseContext,
    told: options.PoolOptions,
    record: bool,
) -> None:
    """Refuse what the engine of a pool cannot do, before anything is started.

    Raises:
        EngineCannot: Something was asked for that it cannot do.
    """
    if pool_class.Process is not Pool.Process or has_own_processes(context):
        base.require(can, "own_processes", "a class of processes of its own (Process)")
    if record:
        base.require(can, "records", "record=True")
    if told.stall_after_s not in (None, options.STALL_AFTER_S):
        base.require(can, "stall_watch", f"stall_after={told.stall_after_s:g}")
    if told.capture_output:
        base.require(can, "captures_output", "capture_output=True")


def has_own_processes(context: BaseContext) -> bool:
    """Tell whether a context has a class of processes that is not the standard library's."""
    plain_context = multiprocessing.get_context(str(context.get_start_method()))
    return _process_class(context) is not _process_class(plain_context)


def _process_class(context: BaseContext) -> Any:
    """Return of which class a context's processes are."""
    return getattr(context, "Process", None)


def _named(
    func: Callable[..., object], args: Iterable[Any], kwds: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Yield what a call is made of, with words for it."""
    yield "the function", func
    yield from ((f"argument {number}", value) for number, value in enumerate(args, 1))
    yield from ((f"argument {name}=", value) for name, value in kwds.items())


def _checked_chunksize(chunksize: Any) -> int:
    try:
        size = operator.index(chunksize)
    except TypeError:
        raise TypeError(f"chunksize must be an integer, not {chunksize!r}") from None
    if size < 1:
        raise ValueError(f"Chunksize must be 1+, not {size}")
    return size


def _checked_buffersize(buffersize: Any) -> BufferSize:
    if buffersize is None or buffersize == "auto":
        return buffersize  # type: ignore[no-any-return]  # it is one of the two
    try:
        size = operator.index(buffersize)
    except TypeError:
        raise TypeError(
            f"buffersize must be an integer, None or 'auto', not {buffersize!r}"
        ) from None
    if size < 1:
        raise ValueError(f"buffersize must be 1 or more, not {size}")
    return size
