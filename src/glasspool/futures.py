"""What an ``Executor`` hands out: real futures of ``concurrent.futures``, and the calls behind them.

Two objects for each call. The ``Call`` is a task of the pool, as the ledger owns it. Its ``Future`` is the
user's, and asks the call: that a worker has begun it, that it has ended, what came of it. Nothing is rebuilt
before somebody asks, and then by the thread that asks.

*Locks.* The pool's threads never wait for one of a future's. That matters, as a signal handler may come
while the main thread has it, and wait for a result. Each future has one lock, which
``concurrent.futures.wait`` and ``as_completed`` take while they put their waiters in; our own methods take
none. The collector tries it: if nobody has it, and no waiter is there, the future is set at once. Else the
callback thread sets it, and tells the waiters. Whoever waits in ``result()`` waits for the call, and needs
neither.

*Order.* As in the standard library a future is done before its callbacks run, so that they find it done.
``Executor.shutdown`` waits for them. They run on the pool's callback thread, in the order in which they
were added; one that is added later runs at once, in the thread that adds it.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, InvalidStateError
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, LOGGER, PENDING
from threading import RLock
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from glasspool.engines.local import wire
from glasspool.engines.local.outcome import RAISED, VALUE, unbuildable
from glasspool.engines.local.payload import callable_name
from glasspool.engines.local.workers import report_thread_error
from glasspool.latch import Latch, Switch
from glasspool.ledger import ENDED
from glasspool.results import AsyncResult, task_info, wait_as_caller, where

if TYPE_CHECKING:
    from glasspool.engines.base import Engine
    from glasspool.engines.intake import Intake
    from glasspool.errors import GlasspoolError
    from glasspool.options import Policy
    from glasspool.pool import Pool
    from glasspool.snapshot import TaskInfo

T = TypeVar("T")

LOCK_S = 1.0
"""So long the callback thread waits for the lock of a future."""


class _Added:
    """A callback of a future; two of the same function are two."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[Any], object]) -> None:
        self.call = call


class Future(concurrent.futures.Future[T]):
    """The future of a call that was submitted to an ``Executor``.

    All of it may be used from any thread, in callbacks, and in signal handlers.
    """

    _state: str
    _ended: tuple[Any, BaseException | None] | None = None

    # Without the constructor of the base, which makes a costly condition: this runs for each call.
    def __init__(self, call: Call[T]) -> None:
        self._condition: Any = RLock()  # all that wait() and as_completed() need of a condition
        self._state = PENDING
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        self._call = call

    # What is asked of it --------------------------------------------------------------------------

    def done(self) -> bool:
        """Return whether the call was cancelled or has ended."""
        return self._call._is_set

    def cancelled(self) -> bool:
        """Return whether the call was cancelled before it began."""
        return self._call.was_cancelled

    def running(self) -> bool:
        """Return whether a worker has begun the call, and it has not ended."""
        call = self._call
        if call._engine.is_cluster:  # what a node has may have begun
            return not call._is_set and call.holder is not None
        return not call._is_set and where(call._engine, call)[1] != 0

    def cancel(self) -> bool:
        """Cancel the call if no worker has begun it; it never runs then.

        Returns False if it runs or has ended. Waits for the pool's thread, some microseconds. Its
        callbacks run on the callback thread, as at any other end.
        """
        return self._call.withdraw()

    def result(self, timeout: float | None = None) -> T:
        """Return the value, or raise what the call raised; wait for it at most ``timeout`` seconds.

        Raises:
            TimeoutError: It has not ended in that time; it goes on.
            CancelledError: It was cancelled before it began.
            BrokenWorker: The worker process died while it ran the call.
            BrokenResult: The call, its result or its exception could not be rebuilt.
            BrokenInitializer: The initializer fails in the workers.
            UnpicklableResult: The result or the exception could not be pickled.
            TaskTimeout: The call ran longer than the executor's ``timeout``.
        """
        call = self._call
        if not call._is_set:
            self._await(timeout)
        if call.ended_as == VALUE:
            return cast(T, call.outcome)
        value, error = self._ended or self._read()
        if error is None:
            return cast(T, value)
        try:
            raise error
        finally:
            del self, call, error  # a traceback would keep them alive

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, None if it did not; wait for it at most ``timeout`` seconds.

        Raises:
            TimeoutError: It has not ended in that time; it goes on.
            CancelledError: It was cancelled before it began.
        """
        if not self._call._is_set:
            self._await(timeout)
        if self._call.ended_as == VALUE:
            return None
        return (self._ended or self._read())[1]

    @property
    def info(self) -> TaskInfo:
        """What is known of the call: function, state, times, bytes, process and thread."""
        return task_info(self._call._engine, self._call)

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        """Have ``fn(self)`` called when the call has ended or was cancelled.

        It runs on the executor's callback thread, one callback after the other; if the future is done, at
        once in this thread. What it raises is logged by the logger ``concurrent.futures``.
        """
        if not self._call._is_set:
            added = _Added(fn)
            self._done_callbacks.append(added)
            if not self.done():
                return  # whoever ends the call looks here after that
            try:
                self._done_callbacks.remove(added)
            except ValueError:  # the callback thread has it
                return
        _run(fn, self)

    def __repr__(self) -> str:
        told = f"<{type(self).__name__} at {id(self):#x} state="
        call = self._call
        if not call._is_set:
            return f"{told}{'running' if self.running() else 'pending'}>"
        if call.was_cancelled:
            return f"{told}cancelled>"
        if call.ended_as == VALUE:
            return f"{told}finished returned {type(call.outcome).__name__}>"
        if self._ended is None:  # nobody has asked for it, and nothing is rebuilt only to be shown
            raised = call.ended_as > wire.OK_SEGMENT
            return f"{told}finished {'raised' if raised else 'returned'}>"
        value, error = self._ended
        if error is not None:
            return f"{told}finished raised {type(error).__name__}>"
        return f"{told}finished returned {type(value).__name__}>"

    def _repr_html_(self) -> str:
        from glasspool.views import html  # not before a notebook asks

        return html.task(self.info, "submit")

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "futures cannot be passed between processes or pickled: they are filled in the process that "
            "submitted the call. Wait for the value there, and pass that."
        )

    # What only an executor may do -----------------------------------------------------------------

    def set_running_or_notify_cancel(self) -> NoReturn:
        """Refuse: the executor's pool alone runs its calls."""
        self._refuse()

    def set_result(self, result: T) -> NoReturn:
        """Refuse: the executor's pool alone ends its calls."""
        self._refuse()

    def set_exception(self, exception: BaseException | None) -> NoReturn:
        """Refuse: the executor's pool alone ends its calls."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InvalidStateError(f"{self!r} belongs to an executor, which alone ends it")

    def _await(self, timeout: float | None) -> None:
        call = self._call
        # Woken by the end of the call, or of the pool.
        if not wait_as_caller(call._engine, call, timeout, "waiting for a future"):
            raise TimeoutError

    def _read(self) -> tuple[Any, BaseException | None]:
        """Rebuild what came, and keep it.

        Several threads may do so at the same moment; all of them have what the first one kept.

        Raises:
            CancelledError: The call was cancelled.
        """
        if self._call.was_cancelled:
            raise CancelledError
        ended = self._call.read()
        kept: tuple[Any, BaseException | None] = self.__dict__.setdefault("_ended", ended)
        return kept

    def _try_to_end(self) -> bool:
        """Be done, if that can be had without waiting for anybody (collector)."""
        lock = self._condition
        if not lock.acquire(False):
            return False
        try:
            if self._waiters:
                return False
            self._state = CANCELLED_AND_NOTIFIED if self._call._withdrawn else FINISHED
            return True
        finally:
            lock.release()

    def _end(self, raised: bool) -> None:
        """Be done, and tell who waits in ``wait`` or ``as_completed``; nothing if it is done."""
        # Nobody holds it for longer than some milliseconds, except a thread that a signal handler
        # interrupted there: if that raised, in ``wait``, the lock stays locked for ever.
        is_mine = self._condition.acquire(timeout=LOCK_S)
        try:
            if self._state == PENDING:
                self._tell_waiters(raised)
        finally:
            if is_mine:
                self._condition.release()

    def _tell_waiters(self, raised: bool) -> None:
        if self._call.was_cancelled:
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            return
        self._state = FINISHED
        for waiter in self._waiters:
            if raised:
                waiter.add_exception(self)
            else:
                waiter.add_result(self)

    def _call_back(self) -> None:
        """Run the callbacks that were added before the end (callback thread)."""
        added = self._done_callbacks
        while added:
            try:
                call = added.pop(0).call
            except IndexError:  # who added it is running it
                return
            try:
                _run(call, self)
            except BaseException:  # reported, as for any thread; it stops nothing
                report_thread_error()


def _run(callback: Callable[[Any], object], future: Future[Any]) -> None:
    try:
        callback(future)
    except Exception:
        LOGGER.exception("exception calling callback for %r", future)


class Call(AsyncResult[T]):
    """A call of an executor's, as a task of its pool. The latch tells that it has ended."""

    __slots__ = ("_future", "_withdrawn", "items")

    def __init__(
        self,
        pool: Pool,
        engine: Engine,
        callback: None,
        error_callback: None,
        call: int,
        kind: int,
        payload: Any,
        weight: int,
        policy: Policy | None = None,
    ) -> None:
        AsyncResult.__init__(
            self, pool, engine, callback, error_callback, call, kind, payload, weight, policy
        )
        self.items: int = 1
        self._withdrawn = False
        self._future: Future[T] | None = Future(self)

    @property
    def future(self) -> Future[T]:
        """The user's end of it, until it has ended."""
        return cast("Future[T]", self._future)

    @property
    def was_cancelled(self) -> bool:
        """Whether it has ended, cancelled before it began."""
        return self._is_set and self._withdrawn

    def label(self) -> str:
        """Return a word for the call, for views."""
        return f"future {self.id} ({self.function_name(self)})"

    @property
    def callback_names(self) -> tuple[str, str]:
        """The name of its first callback, twice: it is called however the call ends."""
        future = self._future
        added = [] if future is None else future._done_callbacks[:1]
        name = callable_name(added[0].call) if added else ""
        return name, name

    # Cancelling -----------------------------------------------------------------------------------

    def withdraw(self) -> bool:
        """Take the call back if no worker has begun it; tell whether that is so (any thread)."""
        engine = self._engine
        if self.ready() or engine.pid != os.getpid():  # in a fork nobody runs it
            return self.was_cancelled
        collector, answered = engine.collector, Latch()

        def withdraw() -> None:
            try:
                take_back(collector, (self,))
            finally:
                answered.set()

        collector.mailbox.put(withdraw)
        # Woken by the collector, which never waits for anybody; after its end the item has run in put.
        wait_as_caller(engine, answered, None, "waiting in cancel()")
        return self.was_cancelled

    # The end --------------------------------------------------------------------------------------

    def notify(self) -> None:
        """Be done; let the callback thread do what may run code of others, or wait (collector)."""
        future = self.future
        self._pool = None
        is_done = future._try_to_end()
        self._is_set = True
        if self._waiters:
            Switch.set(self)
        # First set, then looked: who adds a callback does it the other way round.
        if is_done and not future._done_callbacks:
            self._future = None
        else:
            self._engine.call_back(self)

    def run_callback(self) -> None:
        """End the future and run its callbacks (callback thread)."""
        run_left_callbacks()
        future = self.future
        raised = not self._withdrawn and self.ended_as != VALUE and future._read()[1] is not None
        future._end(raised)
        future._call_back()

    def callback_returned(self) -> None:
        """Let the future go: its callbacks have run (callback thread)."""
        self._future = None

    def callback_failed(self, error: GlasspoolError) -> None:
        """End the future, and leave its callbacks to others: there is no thread for them (collector).

        So it is from Python 3.12 on while the program ends.
        """
        future = self.future
        self.set()
        self._future = None
        _left.append(future)

    def set(self) -> None:
        """See to it that whoever waits is told, whatever the callback thread does."""
        Switch.set(self)
        future = self._future
        if future is not None:
            future._end(self.ended_as > wire.OK_SEGMENT)

    def read(self) -> tuple[Any, BaseException | None]:
        """Rebuild value and error."""
        from glasspool.broken import error_of_future

        try:
            kind, value = self._outcome_now()
        except (
            BaseException
        ) as error:  # rebuilding runs code of the user's, which may raise anything
            kind, value = self._keep(unbuildable("result", error))
        if kind == RAISED:
            return None, error_of_future(value, was_run=self.ended_as != RAISED)
        return value, None


_left: deque[Future[Any]] = deque()
"""Those that have ended, and whose callbacks no thread could be had for."""


def run_left_callbacks() -> None:
    """Run the callbacks that no thread could be had for (callback thread, or who waits for the end)."""
    while _left:
        try:
            future = _left.popleft()
        except IndexError:  # another thread was faster
            return
        if (
            future._call._engine.pid == os.getpid()
        ):  # else this is a fork, and they are the parent's
            future._call_back()


def take_back(collector: Intake, calls: tuple[Call[Any], ...] | list[Call[Any]]) -> None:
    """Cancel those of some calls that no worker has begun (collector)."""
    for call in calls:
        if call.state != ENDED:
            call._withdrawn = True  # now: its end is told inside
            if not collector.withdraw(call):
                call._withdrawn = False
