"""What a caller holds: the results of ``apply_async``, ``map_async`` and ``imap``.

The collector calls ``settle`` (and nothing else); all other methods belong to the user's threads. A
result keeps what came as bytes until somebody asks for it, so the pool's threads never run code of the
user's. A job with a callback is ready when its callback has run, as in the standard library.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Sequence
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from glasspool.engines.local import plain, wire
from glasspool.engines.local.journal import unpickling
from glasspool.engines.local.outcome import RAISED, VALUE, Outcome, rebuild, unbuildable
from glasspool.engines.local.payload import callable_name
from glasspool.engines.local.worker import current
from glasspool.engines.local.workers import in_lane, report_thread_error, runner_of
from glasspool.errors import GlasspoolError, TaskCancelled, TaskTimeout, WorkerDied
from glasspool.latch import Latch, Switch
from glasspool.ledger import OPEN, WAITING, Held, Task

if TYPE_CHECKING:
    from glasspool.engines.base import Engine
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.showing import Shown
    from glasspool.engines.local.workers import Worker
    from glasspool.options import Policy
    from glasspool.pool import Pool
    from glasspool.snapshot import TaskInfo

T = TypeVar("T")

LOOK = float("-inf")
"""The deadline of a reader who does not wait, and is told on which latch he would have to."""

TASK_BYTES = 4096
"""What a task counts for besides its arguments, when it is looked how far a job is ahead."""

_NOT_PICKLED = (
    "results of a pool cannot be passed between processes or pickled: they are filled in the process "
    "that made the pool. Wait for the value there, and pass that."
)


class NotYet(Exception):
    """There is nothing to be read now; the latch is turned when there may be."""

    def __init__(self, latch: Latch) -> None:
        super().__init__()
        self.latch: Latch = latch


class Room(Latch):
    """What a feed waits for: so many bytes of arguments have ended, so many results been taken."""

    __slots__ = ("settled_bytes", "taken")

    def __init__(self, settled_bytes: int, taken: int) -> None:
        super().__init__()
        self.settled_bytes: int = settled_bytes
        self.taken: int = taken


_JOB = (
    "_callback",
    "_callback_error",
    "_engine",
    "_error_callback",
    "_is_set",
    "_pool",
    "_waiters",
)
"""The attributes of a job. Each class has them among its own, as Python lays out one base only."""


class _Job(Switch):
    """A call of the user's, as the ledger and the callback thread see it."""

    if not TYPE_CHECKING:  # a type checker would refuse what is not among them
        __slots__ = ()

    _pool: Pool | None  # keeps the pool alive while the job is open
    _engine: Engine
    _callback: Callable[[Any], object] | None
    _error_callback: Callable[[BaseException], object] | None
    _callback_error: BaseException | None
    _function: str | None  # its name, if the callable has no number, or one for this job alone

    @property
    def callback_error(self) -> BaseException | None:
        """What the callback, or the error callback, of the call raised; None if it did not."""
        return self._callback_error

    @property
    def job_id(self) -> int:
        raise NotImplementedError

    @property
    def task_id(self) -> int | None:
        """The number of its task, if it has but one."""
        return None

    def function_name(self, task: Task) -> str:
        """Return the name of what a task calls."""
        return self._function or self._engine.callables.name(task.call)

    def label(self) -> str:
        """Return a word for the job, for views."""
        return f"job {self.job_id}"

    def ready(self) -> bool:
        """Return whether the call has completed."""
        return self._is_set

    def _complete(self) -> None:
        if self._callback is not None or self._error_callback is not None:
            self._engine.call_back(self)
        else:
            self._pool = None
            self.set()

    @property
    def callback_names(self) -> tuple[str, str]:
        """The names of callback and error callback, empty where there is none; before they have run."""
        both = (self._callback, self._error_callback)
        name, error_name = ("" if call is None else callable_name(call) for call in both)
        return name, error_name

    def _has_value(self) -> bool:
        """Tell whether the call ended with a value; after its callback has run."""
        return self._outcome_now()[0] == VALUE

    def run_callback(self) -> None:
        """Run the callback that fits the outcome (callback thread)."""
        try:
            kind, value = self._outcome_now()
        except BaseException as error:  # rebuilding a value may raise anything
            kind, value = self._keep(unbuildable("result", error))
        callback = self._callback if kind == VALUE else self._error_callback
        self._callback = self._error_callback = None
        try:
            if callback is not None:
                callback(value)
        except BaseException as error:  # reported, as for any thread; it stops nothing
            self._callback_error = error
            report_thread_error()

    def callback_returned(self) -> None:
        """Be ready: the callback has returned or raised (callback thread)."""
        self._pool = None
        self.set()

    def cancel(self) -> bool:
        """End the call: what waits never begins, what runs is interrupted. Does not wait.

        A running task gets an exception raised in it; if that does not end it, its worker is replaced.
        Returns False if the call had ended before. After True, ``get`` raises ``TaskCancelled``, or
        has the value of a task that ended in the same moment.
        """
        if self._is_set:
            return False
        check_process(self._engine)
        self._ask_to_cancel()
        return True

    def _ask_to_cancel(self) -> None:
        collector = self._engine.collector
        collector.mailbox.put(lambda: collector.cancel_job(self))

    def __reduce__(self) -> Any:
        raise TypeError(_NOT_PICKLED)

    def callback_failed(self, error: GlasspoolError) -> None:
        """End the job with an error: its callback cannot be run (collector)."""
        self._keep(error)
        self._callback = self._error_callback = None
        self._pool = None
        self.set()

    def _outcome_now(self) -> Outcome:
        raise NotImplementedError

    def _keep(self, error: BaseException) -> Outcome:
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> None:  # type: ignore[override]  # as stock's
        """Wait until the call has ended, at most ``timeout`` seconds."""
        self._await(timeout, "waiting in wait()")

    def successful(self) -> bool:
        """Return whether the call ended without an exception.

        Raises:
            ValueError: It has not ended.
        """
        if not self._is_set:
            raise ValueError(f"{self!r} not ready")
        return self._outcome_now()[0] == VALUE

    def _value_or_raise(self, timeout: float | None) -> Any:
        if not self._is_set and not self._await(timeout, "waiting in get()"):
            raise multiprocessing.TimeoutError
        kind, value = self._outcome_now()
        if kind == VALUE:
            return value
        try:
            raise value
        finally:
            del value

    def _await(self, timeout: float | None, what: str) -> bool:
        """Wait until ready, and say in the roster that this thread does."""
        if self._is_set:
            return True
        self.refuse_in_callback()
        return wait_as_caller(self._engine, self, timeout, what)

    def refuse_in_callback(self) -> None:
        """Refuse to wait on the callback thread for a call that ends only after its callback."""
        if self._engine.is_callback_thread() and (
            self is self._engine.calling_back or self._callback or self._error_callback
        ):
            raise GlasspoolError(
                f"a callback waits for {self.label()}, which is ready only when its own callback has "
                "returned; wait for it in another thread."
            )


def wait_as_caller(engine: Engine, latch: Switch, timeout: float | None, what: str) -> bool:
    """Wait for a latch, and say in the roster that this thread waits in a call of the pool.

    Raises:
        GlasspoolError: This process is a fork of the pool's, where nobody would ever wake us.
    """
    check_process(engine)
    engine.before_waiting()
    ident = threading.get_ident()
    outer = engine.callers.get(ident)
    engine.callers[ident] = (what, time.monotonic())
    try:
        return Switch.wait(latch, timeout)  # woken by the end of the job, or of the pool
    finally:
        if outer is None:
            engine.callers.pop(ident, None)
        else:
            engine.callers[ident] = outer


def check_process(engine: Engine) -> None:
    """Refuse what only the process of the pool can do.

    Raises:
        GlasspoolError: This one is a fork of it.
    """
    if engine.pid != os.getpid():
        raise foreign(engine.name, engine.pid)


def foreign(name: str, pid: int) -> GlasspoolError:
    """Return the error for the use of a pool, or of its results, in another process than its own."""
    here = current()
    if here is None:
        return GlasspoolError(
            f"the pool {name} belongs to process {pid}, this is a fork of it ({os.getpid()}); "
            "make a pool of its own here."
        )
    if here.pool == name:
        return GlasspoolError(
            f"this is a worker of {name} (slot {here.slot}, pid {here.pid}): a task that waits for its "
            "own pool would wait for itself. Return what is still to be done and let the program hand it "
            "in, in a callback for example, or make another pool inside the task."
        )
    return GlasspoolError(
        f"the pool {name} belongs to process {pid}; this is a worker of {here.pool} (slot {here.slot}, "
        f"pid {here.pid}), which has only inherited a copy. Wait for its results in process {pid} and "
        "hand the values in, or make another pool inside the task."
    )


class AsyncResult(_Job, Task, Generic[T]):
    """The result of ``Pool.apply_async``: ready when the call has ended.

    It is also the task that the ledger owns: one object for each call, as there may be many.
    """

    __slots__ = ("_function", *_JOB)

    # In one row, and without the constructors of the bases: this runs for each call.
    def __init__(
        self,
        pool: Pool,
        engine: Engine,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        call: int,
        kind: int,
        payload: Any,
        weight: int,
        policy: Policy | None = None,
    ) -> None:
        self._is_set = False
        self._waiters = None
        self._pool = pool
        self._engine = engine
        self._callback = callback
        self._error_callback = error_callback
        self._callback_error = None
        self._function = None
        self.id: int = engine.next_id()
        self.call = call
        self.kind = kind
        self.payload = payload
        self.weight = weight
        self.submitted_ns: int = monotonic_ns()
        self.attempts = 0
        self.seq = -1
        self.holder: Held | None = None
        self.state = WAITING
        self.ended_as: int = OPEN
        self.outcome: Any = None
        self.worker: Any = None
        self.begun_ns = 0
        self.ended_ns = 0
        self.policy = policy
        self.retried_ns = 0
        self.output: Any = None

    @property
    def job_id(self) -> int:
        return self.id

    @property
    def task_id(self) -> int | None:
        """The number of its task."""
        return self.id

    def label(self) -> str:
        """Return a word for the job, for views."""
        return f"task {self.id} ({self.function_name(self)})"

    def notify(self) -> None:
        """Be ready, or have the callback run first (collector)."""
        if self._callback is not None or self._error_callback is not None:
            self._engine.call_back(self)
            return
        self._pool = None
        self._is_set = True
        if self._waiters:
            self.set()

    def _outcome_now(self) -> Outcome:
        # Rebuilt at most once in each thread that asks at the same moment; one assignment keeps it.
        if self.ended_as == OPEN:
            raise ValueError(f"{self!r} not ready")
        if self.ended_as == VALUE:
            return VALUE, self.outcome
        outcome = self.outcome
        if outcome[0] != VALUE and outcome[0] != RAISED:
            journal = self._engine.collector.journal
            rebuilt = unpickling(journal, self.id, self.id, rebuild, outcome)
            self.outcome = outcome = (*rebuilt, *_measure(*outcome))
        return outcome[0], outcome[1]

    def _keep(self, error: BaseException) -> Outcome:
        self.outcome = RAISED, error
        self.ended_as = RAISED
        return RAISED, error

    def _ask_to_cancel(self) -> None:
        collector = self._engine.collector
        collector.mailbox.put(lambda: collector.cancel(self))

    def get(self, timeout: float | None = None) -> T:
        """Return the value, or raise what the task raised; wait for it at most ``timeout`` seconds.

        Raises:
            multiprocessing.TimeoutError: The call has not ended in that time; it goes on.
            WorkerDied: The worker process died while it ran the task.
            TaskExit: The task raised ``SystemExit``, ``KeyboardInterrupt`` or the like.
            SerializationError: The result could not be pickled or rebuilt.
            InitializerFailed: The pool's initializer fails in its workers.
            TaskTimeout: The task ran longer than its ``timeout``.
            TaskCancelled: It was cancelled, or the pool was terminated before it ended.
        """
        if self._is_set and self.ended_as == VALUE:
            return cast(T, self.outcome)
        return cast(T, self._value_or_raise(timeout))

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in a task of an event loop as ``get`` does in a thread: see ``docs/asyncio.md``.

        If the waiting task is cancelled, and nobody else waits for the result, the call is cancelled.
        """
        from glasspool import awaiting  # not before there is an event loop

        return awaiting.value_of(self).__await__()

    @property
    def info(self) -> TaskInfo:
        """What is known of the task: function, state, times, bytes, process and thread.

        If a node of a cluster holds it, the node is asked, and waited for a quarter of a second at most.
        """
        if self._engine.is_cluster and self.ended_as == OPEN:
            return _with_word_of_nodes(self._engine, [self])[0]
        return task_info(self._engine, self)

    def _repr_html_(self) -> str:
        from glasspool.views import html  # not before a notebook asks

        return html.task(self.info, "apply_async")


class MapResult(_Job, Generic[T]):
    """The result of ``map_async`` and ``starmap_async``: ready when all items have ended."""

    __slots__ = (
        "_aborted",
        "_failure",
        "_function",
        "_id",
        "_length",
        "_number_left",
        "_release",
        "_room",
        "_settled_bytes",
        "_shown",
        "_single",
        "_tasks",
        "_value",
        *_JOB,
    )

    def __init__(
        self,
        pool: Pool,
        engine: Engine,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        length: int,
        chunk: int,
        single: bool,
    ) -> None:
        self._is_set = False
        self._waiters = None
        self._pool = pool
        self._engine = engine
        self._callback = callback
        self._error_callback = error_callback
        self._callback_error = None
        self._id = engine.next_id()
        self._length = length
        self._single = single  # each task is one item, and its result the value, not a list
        count = -(-length // chunk) if length else 0
        self._number_left = count
        self._tasks: list[Task | None] = [None] * count
        self._failure: Outcome | None = None
        self._value: Outcome | None = None
        self._release: int | None = None
        self._function = None
        self._room: Room | None = None
        self._settled_bytes = 0
        self._aborted = False
        self._shown: Shown | None = None
        if not count:
            self._complete()

    @property
    def job_id(self) -> int:
        return self._id

    def settle_row(self, tasks: Sequence[Task]) -> None:
        """Take the ends of some chunks (collector)."""
        if self._shown is not None:
            self._shown.take(tasks)
        for task in tasks:
            self._settled_bytes += task.weight + TASK_BYTES
            if task.ended_as > wire.OK_SEGMENT and self._failure is None:
                self._failure = task.outcome
        self._number_left -= len(tasks)
        room = self._room
        if room is not None and self.has_room(room):
            room.set()
        if self._number_left == 0:
            self._let_go()
            if not self._aborted:
                if self._shown is not None:
                    self._shown.end()
                self._complete()

    def has_room(self, room: Room) -> bool:
        """Tell whether the feed has what it waits for (collector, feed)."""
        return self._settled_bytes >= room.settled_bytes

    def wake_feed(self) -> None:
        """Have the feed look whether it still has to wait (collector)."""
        if self._room is not None:
            self._room.set()

    def abort(self, error: BaseException) -> None:
        """End the job: the rest of its tasks will not come (collector)."""
        if self._aborted or not self._number_left:
            return
        self._aborted = True
        if self._shown is not None:
            self._shown.end(error)
        if self._failure is None:
            self._failure = (RAISED, error)
        if not self._is_set:
            self._complete()
        self.wake_feed()

    @property
    def waits_for_reader(self) -> bool:
        """Never: a map is drawn whoever reads."""
        return False

    def cut_short(self, missing: int, raised: bool) -> None:
        """Take note that so many tasks will never come (collector).

        Args:
            missing: How many.
            raised: The call raised, so nobody has this result.
        """
        collector = self._engine.collector
        if not (raised or self._aborted):
            if collector.draining or collector.stopped:
                # It began to be fed when those that were being fed had been told.
                error: GlasspoolError = TaskCancelled("the pool ended before the task began")
            else:
                told = f"the iterable of {self.label()} gave fewer items than its len() told."
                error = GlasspoolError(told)
            self.abort(error)
        self._aborted = True
        self._number_left -= missing
        if self._number_left == 0:
            self._let_go()

    def _let_go(self) -> None:
        number, self._release = self._release, None
        if number is not None:
            self._engine.forget_callable(number)

    def _outcome_now(self) -> Outcome:
        # Several threads may ask at the same moment. Who is first sets the value, and only then are the
        # parts dropped: whoever finds one dropped finds the value.
        value = self._value
        if value is None:
            journal = self._engine.collector.journal
            joined = unpickling(journal, self._id, None, self._join_parts)
            value = self._value = self._value or joined
            if joined[0] == VALUE:
                self._drop_parts()
        return value

    def _keep(self, error: BaseException) -> Outcome:
        self._value = (RAISED, error)
        return self._value

    def _join_parts(self) -> Outcome:
        if self._failure is not None:
            return rebuild(self._failure)
        values: list[Any] = []
        add = values.append if self._single else values.extend
        for task in self._tasks:
            if task is None or task.ended_as == OPEN:
                raise ValueError(f"{self!r} not ready")
            value = task.outcome
            if task.ended_as != VALUE:
                if len(value) > 2 and self._value is not None:
                    return self._value
                kind, value = rebuild(value)
                if kind == RAISED:
                    return kind, value
            add(value)
        return VALUE, values

    def _drop_parts(self) -> None:
        """Drop the bytes that the value was made of; how many they were is kept."""
        for task in self._tasks:
            if task is None or task.ended_as == VALUE:
                continue
            outcome = task.outcome
            if len(outcome) == 2:
                task.outcome = (VALUE, None, *_measure(*outcome))

    def get(self, timeout: float | None = None) -> list[T]:
        """Return the values in the order of the items, or raise what the first failed item raised.

        Waits at most ``timeout`` seconds. Raises as ``AsyncResult.get`` does.
        """
        try:
            return cast("list[T]", self._value_or_raise(timeout))
        finally:
            if self._shown is not None:
                self._shown.wait()

    def __await__(self) -> Generator[Any, None, list[T]]:
        """Wait as for an ``AsyncResult``; whoever waits last and is cancelled cancels all items."""
        from glasspool import awaiting  # not before there is an event loop

        return awaiting.value_of(self).__await__()

    def wait(self, timeout: float | None = None) -> None:  # type: ignore[override]  # as stock's
        """Wait until the call has ended, at most ``timeout`` seconds."""
        super().wait(timeout)
        if self._shown is not None:
            self._shown.wait()

    @property
    def info(self) -> TaskInfo:
        """What is known of the job; ``.tasks`` has its chunks."""
        tasks = self._tasks
        if self._engine.is_cluster and not self._is_set:
            infos = _with_word_of_nodes(self._engine, tasks)
            return job_of(infos, self._id, self._is_set, self._failure)
        return job_info(self._engine, self._id, self._is_set, self._failure, tasks)

    def _repr_html_(self) -> str:
        from glasspool.views import html  # not before a notebook asks

        return html.task(self.info, "map_async")


class IMapJob:
    """What is behind an ``IMapIterator``: the job as the collector, its feed and its reader see it.

    The pool's own structures (the feed, the tasks) hold the job and never the iterator, so the
    iterator goes as soon as the user lets it go. Then nobody can read the rest: it runs all the
    same, as in the standard library, and what becomes of it is thrown away.

    The collector writes all counters; the reader only takes from ``_arrived``. What has been taken
    is what was pushed and is no longer there, so no counter has two writers.
    """

    __slots__ = (
        "_aborted",
        "_arrived",
        "_early",
        "_engine",
        "_function",
        "_id",
        "_is_dropped",
        "_latches",
        "_length",
        "_made",
        "_next_index",
        "_ordered",
        "_pool",
        "_pushed",
        "_release",
        "_result_bytes",
        "_room",
        "_settled",
        "_settled_bytes",
        "_shown",
    )

    def __init__(self, pool: Pool, engine: Engine, ordered: bool) -> None:
        self._pool: Pool | None = pool
        self._engine = engine
        self._id = engine.next_id()
        self._ordered = ordered
        self._arrived: deque[Outcome] = deque()
        self._early: dict[int, Outcome] = {}
        self._latches: list[Latch] = []
        self._next_index = 0
        self._pushed = 0
        self._settled = 0
        self._settled_bytes = 0
        self._result_bytes = 0
        self._aborted = False
        self._is_dropped = False
        self._length: int | None = None  # how many outcomes the reader is to have
        self._made: int | None = None  # how many tasks there are, when all have been made
        self._release: int | None = None
        self._function: str | None = None
        self._room: Room | None = None
        self._shown: Shown | None = None

    @property
    def job_id(self) -> int:
        """The number of the job in its pool."""
        return self._id

    def function_name(self, task: Task) -> str:
        """Return the name of what a task calls."""
        return self._function or self._engine.callables.name(task.call)

    def label(self) -> str:
        """Return a word for the job, for views."""
        return f"job {self._id}"

    @property
    def has_ended(self) -> bool:
        """Whether all tasks have ended, or the job was aborted."""
        return self._pool is None

    @property
    def taken(self) -> int:
        """How many tasks' results the reader has taken (or nobody wants any more)."""
        return self._pushed - len(self._arrived)

    @property
    def waits_for_reader(self) -> bool:
        """Whether the rest is drawn only when the reader has taken more: nobody works on it now."""
        room = self._room
        return room is not None and self.taken < room.taken

    @property
    def task_bytes(self) -> float:
        """How large the arguments and the result of a task are, on average."""
        return (self._settled_bytes + self._result_bytes) / (self._settled or 1)

    @property
    def is_dropped(self) -> bool:
        """Whether the iterator is gone, so that nobody can read."""
        return self._is_dropped

    @property
    def account(self) -> tuple[int, int | None, bool]:
        """How many tasks have ended, of how many (None: not known yet), and whether that is the end."""
        return self._settled, self._made, self.has_ended

    # The collector's ------------------------------------------------------------------------------

    def settle_row(self, tasks: Sequence[Task]) -> None:
        """Take the ends of some tasks (collector)."""
        if self._shown is not None:
            self._shown.take(tasks)
        for task in tasks:
            self._settled_bytes += task.weight + TASK_BYTES
            if task.ended_as == VALUE:
                self._place(task.index, (VALUE, task.outcome))
            else:
                if task.ended_as <= wire.OK_SEGMENT:
                    self._result_bytes += len(task.outcome[1])
                self._place(task.index, task.outcome)
        self._tell()

    def settle_index(self, index: int, outcome: Outcome) -> None:
        """Take what became of one place in the row (collector)."""
        self._place(index, outcome)
        self._tell()

    def _place(self, index: int, outcome: Outcome) -> None:
        self._settled += 1
        if self._aborted:
            pass  # the reader has had his last word
        elif self._is_dropped:
            self._pushed += 1
        elif not self._ordered:
            self._push(outcome)
        elif index == self._next_index:
            self._push(outcome)
            self._next_index += 1
            while self._early and self._next_index in self._early:
                self._push(self._early.pop(self._next_index))
                self._next_index += 1
        else:
            self._early[index] = outcome

    def _tell(self) -> None:
        if self._room is not None:
            self.make_room()
        self._end_if_complete()
        if self._latches:
            self._wake()

    def _push(self, outcome: Outcome) -> None:
        # In this order: a reader who finds the row empty and everything pushed has seen the end.
        self._arrived.append(outcome)
        self._pushed += 1

    def set_length(self, length: int) -> None:
        """Say how many tasks there are in all (collector)."""
        self._made = length
        if not self._aborted:
            self._length = length
        self._end_if_complete()
        self._wake()

    def abort(self, error: BaseException) -> None:
        """End the job: the rest of its tasks will not come to the reader (collector)."""
        if not self._aborted and (self._length is None or self._pushed < self._length):
            self._push((RAISED, error))
            self._length = self._pushed
            self._pool = None
            self._early.clear()
        if self._shown is not None:
            self._shown.end(error)
        self._aborted = True
        self.wake_feed()
        self._wake()

    def drop(self) -> None:
        """Forget what nobody will read, and let the rest run: the iterator is gone (an item)."""
        self._is_dropped = True
        self._pushed += len(self._early)
        self._arrived.clear()
        self._early.clear()
        self.wake_feed()

    def _end_if_complete(self) -> None:
        if self._made is not None and self._settled >= self._made:
            if self._shown is not None:
                self._shown.end()
            self._pool = None
            if self._release is not None:
                self._engine.forget_callable(self._release)
                self._release = None

    def _wake(self) -> None:
        latches, self._latches = self._latches, []
        for latch in latches:
            latch.set()

    # The feed's -----------------------------------------------------------------------------------

    def has_room(self, room: Room) -> bool:
        """Tell whether the feed has what it waits for."""
        return self._settled_bytes >= room.settled_bytes and self.taken >= room.taken

    def make_room(self) -> None:
        """Wake the feed if it has what it waits for (collector, reader).

        Each of them calls this after its own step, so the later of the two sees both.
        """
        room = self._room
        if room is not None and self.has_room(room):
            room.set()

    def wake_feed(self) -> None:
        """Have the feed look whether it still has to wait (collector)."""
        if self._room is not None:
            self._room.set()

    # The reader's ---------------------------------------------------------------------------------

    def take(self) -> Outcome:
        """Take the next outcome; IndexError if there is none now."""
        outcome = self._arrived.popleft()
        if self._room is not None:
            self.make_room()
        return outcome

    def wait_for_more(self, deadline: float | None) -> None:
        """Wait until there may be more to take.

        Raises:
            StopIteration: There will be no more.
            multiprocessing.TimeoutError: The deadline has passed.
            NotYet: The deadline is ``LOOK``.
        """
        latch = Latch()
        # First listed, then looked: whoever pushes after the look finds the latch.
        self._latches.append(latch)
        if self._arrived:
            return
        if self._length is not None and self._pushed >= self._length:
            if self._shown is not None and deadline != LOOK:
                self._shown.wait(ends_now=True)
            raise StopIteration
        self._check_not_fed_here()
        self.make_room()  # a signal handler may have raised between our last take and its word
        if deadline == LOOK:
            raise NotYet(latch)
        left = None if deadline is None else deadline - time.monotonic()
        if not wait_as_caller(self._engine, latch, left, "waiting in next()"):
            with contextlib.suppress(ValueError):  # it was woken at this moment
                self._latches.remove(latch)
            raise multiprocessing.TimeoutError

    def _check_not_fed_here(self) -> None:
        """Refuse to wait, in the iterable itself, for a value that it has yet to yield."""
        ident = threading.get_ident()
        for reference, job in list(self._engine.collector.feeds.items()):
            feed = reference()
            if job is self and feed is not None and feed.ident == ident:
                if feed.made <= self._settled:
                    raise GlasspoolError(
                        "the iterable of imap() waits for a value that it has yet to yield."
                    )
                return


class IMapIterator(Generic[T]):
    """The result of ``imap`` and ``imap_unordered``: an iterator over the values.

    Any thread may call ``next``. While the iterator is referenced and the pool is open, the pool
    draws no further ahead of the reader than its ``buffersize`` says.

    In a task of an event loop, ``async for`` reads it. Then what is left is cancelled when the iterator
    is dropped; with ``for`` it runs, as in the standard library.
    """

    __slots__ = ("__weakref__", "_awaited", "_buffer", "_chunked", "_engine", "_job")

    def __init__(self, job: IMapJob, engine: Engine, chunked: bool) -> None:
        self._job = job
        self._engine = engine
        self._chunked = chunked
        self._buffer: deque[Any] = deque()
        self._awaited = 0  # so often it was asked for a value, or for itself, by a task of a loop

    def cancel(self) -> bool:
        """End the call: what waits never begins, what runs is interrupted. Does not wait.

        Values that have arrived can still be read; then ``TaskCancelled`` is raised. Returns False if
        all tasks had ended before.
        """
        job = self._job
        if job.has_ended:
            return False
        check_process(self._engine)
        collector = self._engine.collector
        collector.mailbox.put(lambda: collector.cancel_job(job))
        return True

    def _repr_html_(self) -> str:
        from glasspool.views import html  # not before a notebook asks

        return html.iterator(self._job.label(), *self._job.account)

    def __reduce__(self) -> Any:
        raise TypeError(_NOT_PICKLED)

    def __iter__(self) -> Iterator[T]:
        return self

    def next(self, timeout: float | None = None) -> T:
        """Return the next value; wait for it at most ``timeout`` seconds.

        Raises:
            StopIteration: There are no more.
            multiprocessing.TimeoutError: It did not come in that time; the call may be repeated.
            Exception: What the item raised; the iteration may go on after it.
        """
        return self.__next__(None if timeout is None else time.monotonic() + timeout)

    def __next__(self, deadline: float | None = None) -> T:
        while True:
            if self._chunked:
                try:
                    return cast(T, self._buffer.popleft())
                except IndexError:
                    pass
            try:
                outcome = self._job.take()
            except IndexError:
                self._wait_for_more(deadline)
                continue
            kind, value = outcome
            if kind != VALUE:
                journal = self._engine.collector.journal
                kind, value = unpickling(journal, self._job.job_id, None, rebuild, outcome)
            if kind == RAISED:
                try:
                    raise value
                finally:
                    del value
            if not self._chunked:
                return cast(T, value)
            self._buffer.extend(value)

    def __aiter__(self) -> AsyncIterator[T]:
        self._awaited += 1
        return self

    def __anext__(self) -> Coroutine[Any, Any, T]:
        """Return the next value, once awaited; a task that is cancelled there may ask again."""
        from glasspool import awaiting  # not before there is an event loop

        return awaiting.next_of(self)

    async def aclose(self) -> None:
        """End the call as ``cancel`` does: for ``contextlib.aclosing``. Does not wait."""
        self.cancel()

    def _wait_for_more(self, deadline: float | None) -> None:
        try:
            self._job.wait_for_more(deadline)
        except StopIteration:
            if not self._buffer:  # else another reader has just unpacked a chunk
                raise

    def __del__(self) -> None:
        # Any thread, any moment: no lock, no wait. Without a job the constructor was cut short.
        job = getattr(self, "_job", None)
        if job is not None:
            collector = self._engine.collector
            if self._awaited and not job.has_ended:
                # First: nothing bounds how far a dropped one is drawn.
                collector.mailbox.put(lambda: collector.cancel_job(job))
            collector.mailbox.put(job.drop)


def _measure(kind: int, body: Any) -> tuple[int, str]:
    """Return how many bytes an outcome had on its way, and the word for the end."""
    if kind == RAISED:
        return 0, _word_for(body)
    return len(body), "done" if kind <= wire.OK_SEGMENT else "failed"


def _end_of(task: Task) -> tuple[int, str]:
    """Return how many bytes the result of a task had on its way, and the word for its end."""
    if task.ended_as == VALUE:
        return plain.size(task.outcome), "done"
    kind, body, *kept = task.outcome
    size, word = kept or _measure(kind, body)
    return size, word


def task_info(engine: Engine, task: Task) -> TaskInfo:
    """Put together what is known of one task."""
    from glasspool.snapshot import TaskInfo

    worker, begun, ended, size, state = None, 0, 0, 0, "waiting"
    progress = record = node = None
    has_ended = task.ended_as != OPEN
    if has_ended:
        worker, begun, ended = task.worker, task.begun_ns, task.ended_ns
        size, state = _end_of(task)
    elif engine.is_cluster:
        holder = engine.where(task)
        state, node = ("waiting", None) if holder is None else ("sent", holder.name)
    elif task.holder is not None:
        worker, begun, progress = where(engine, task)
        state = "running" if begun else "sent"
        record = worker.record if worker is not None and begun else None
    stdout = stderr = None
    if engine.outputs is not None and (begun or has_ended):
        stdout, stderr = engine.outputs.live(record, task)
    pid, slot, thread = None, None, None
    if worker is not None and (begun or has_ended):
        pid, slot = worker.pid, worker.slot
        thread = runner_of(worker)
        node = worker.node
    return TaskInfo(
        id=task.id,
        job=task.job.job_id,
        function=task.job.function_name(task),
        state=state,
        index=task.index,
        items=task.items,
        attempts=task.attempts + (1 if begun else 0),
        slot=slot,
        pid=pid,
        thread=thread,
        submitted_at=_wall(task.submitted_ns),
        begun_at=_wall(begun) if begun else None,
        ended_at=_wall(ended) if ended else None,
        queue_wait_s=(begun - task.submitted_ns) / 1e9 if begun else None,
        run_s=(ended - begun) / 1e9 if ended else None,
        argument_bytes=plain.argument_bytes(task),
        result_bytes=size if ended else None,
        progress=progress,
        stdout=stdout,
        stderr=stderr,
        node=node,
    )


def job_info(
    engine: Engine,
    job_id: int,
    ready: bool,
    failure: Outcome | None,
    tasks: list[Task | None],
) -> TaskInfo:
    """Put together what is known of a job of several tasks."""
    infos = tuple(task_info(engine, task) for task in tasks if task is not None)
    return job_of(infos, job_id, ready, failure)


def _with_word_of_nodes(engine: Any, tasks: Sequence[Task | None]) -> tuple[TaskInfo, ...]:
    """Put together what is known of tasks of a pool on a cluster, and what nodes say of those they hold."""
    from glasspool.observe import cluster, node_pictures

    told = cluster.on_nodes(engine, tasks)
    return tuple(
        node_pictures.joined(info, told.get(task.id)) if info.ended_at is None else info
        for task in tasks
        if task is not None and (info := task_info(engine, task)) is not None
    )


def job_of(
    infos: tuple[TaskInfo, ...], job_id: int, ready: bool, failure: Outcome | None
) -> TaskInfo:
    """Put together what is known of a job from what is known of its tasks."""
    from glasspool.snapshot import TaskInfo

    begun = [info.begun_at for info in infos if info.begun_at is not None]
    ended = [info.ended_at for info in infos if info.ended_at is not None]
    state = "running" if begun else "waiting"
    if ready:
        state = "done" if failure is None else _measure(*failure)[1]
    first = infos[0] if infos else None
    return TaskInfo(
        id=None,
        job=job_id,
        function=first.function if first else "?",
        state=state,
        items=sum(info.items for info in infos),
        submitted_at=first.submitted_at if first else None,
        begun_at=min(begun, default=None),
        ended_at=max(ended, default=None) if ready else None,
        queue_wait_s=first.queue_wait_s if first else None,
        run_s=sum(info.run_s or 0.0 for info in infos),
        argument_bytes=sum(info.argument_bytes or 0 for info in infos),
        result_bytes=sum(info.result_bytes or 0 for info in infos),
        tasks=infos,
    )


def where(
    engine: Engine, task: Task
) -> tuple[Worker | None, int, tuple[float, float | None] | None]:
    """Return the worker that holds a task, when it began it (0: not yet), and how far it says to be."""
    local = cast("LocalEngine", engine)
    for worker in list(local.collector.workers.values()):
        if worker.held is task.holder:
            try:
                entry = local.board.entry(worker.record, task.seq)
                if entry is None:
                    return worker, 0, None
                worker = in_lane(worker, entry.lane)
                return worker, entry.begun_ns, local.board.progress(worker.record, task.seq)
            except ValueError:  # the pool has ended meanwhile, and its scoreboard with it
                return worker, 0, None
    return None, 0, None


def _word_for(error: BaseException) -> str:
    if isinstance(error, WorkerDied):
        return "lost"
    if isinstance(error, TaskCancelled):
        return "cancelled"
    return "timeout" if isinstance(error, TaskTimeout) else "failed"


def _wall(monotonic_ns: int) -> float:
    return time.time() - (time.monotonic_ns() - monotonic_ns) / 1e9
