"""Awaiting: results and pools in programs on an event loop (asyncio, uvloop, anyio, trio).

A result that is awaited blocks no thread. Its waiter stands in the result's list among the locks of the
threads that wait in ``get``, and is released as they are; that puts it into the mailbox of its loop and
wakes the loop, once for all waiters that are there before the loop comes to them.

Owns: one mailbox for each loop on which something of a pool's was awaited (``Wakeups``), as long as the loop
lives. Threads: none of its own. ``release`` runs on whatever thread ends a job, mostly the collector's; all
that it does there is what asyncio (``call_soon_threadsafe``) and trio (``run_sync_soon``) make for other
threads: an entry in a queue and a byte to a socket, neither of which waits. A loop of another make may do
anything in its method, so that is called on the pool's callback thread.

Neither library is loaded here: who awaits has loaded his.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from glasspool.engines.local.outcome import VALUE
from glasspool.engines.local.workers import report_thread_error
from glasspool.latch import Latch, Switch
from glasspool.results import LOOK, NotYet, check_process

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from glasspool.engines.base import Engine
    from glasspool.pool import Pool
    from glasspool.results import AsyncResult, IMapIterator, IMapJob, MapResult

T = TypeVar("T")

YIELD_EVERY = 64
"""So many values that are there already are read without a turn of the loop for others."""

_TRUSTED = frozenset({"asyncio", "uvloop", "winloop"})
"""Whose ``call_soon_threadsafe`` is known to wait for nothing."""


async def value_of(job: AsyncResult[Any] | MapResult[Any]) -> Any:
    """Wait for a result, and return its value or raise its error; who gives up last cancels the work."""
    if not job.is_set():
        job.refuse_in_callback()
        await turned(job, job._engine, functools.partial(_give_up, job))
    kind, value = job._outcome_now()
    if kind == VALUE:
        return value
    try:
        raise value
    finally:
        del value, job  # the error has this frame in its traceback, and the job has the error


def _give_up(job: AsyncResult[Any] | MapResult[Any]) -> None:
    """Cancel a job for which nobody waits any more."""
    # Any moment, as a task that is dropped ends here, too. In a fork of the user's the job is not ours.
    if job._engine.pid == os.getpid():
        job.cancel()


async def next_of(iterator: IMapIterator[T]) -> T:
    """Return the next value of an ``imap``; wait for it.

    Raises:
        StopAsyncIteration: There are no more.
    """
    job, engine = iterator._job, iterator._engine
    iterator._awaited += 1
    try:
        if iterator._awaited % YIELD_EVERY == 0:
            await _here().rest()
        while True:
            try:
                return iterator.__next__(LOOK)
            except NotYet as word:
                latch = word.latch
            await _more(job, latch, engine)
    except StopIteration:
        raise StopAsyncIteration from None
    finally:
        del iterator  # which may be dropped now, with this frame in the traceback of an error


async def _more(job: IMapJob, latch: Latch, engine: Engine) -> None:
    try:
        await turned(latch, engine)
    finally:
        with contextlib.suppress(ValueError):  # it was woken
            job._latches.remove(latch)


async def terminate(pool: Pool) -> None:
    """End a pool as ``terminate`` does, also if the task is cancelled meanwhile."""
    engine = pool._engine
    pool._begin_to_terminate()
    if not engine.done.is_set():
        await _here().shielded(engine.done, engine)
    engine.join_threads()  # they are at their last steps
    pool._end_traces()


async def join(pool: Pool) -> None:
    """Wait as ``join`` does."""
    engine = pool._engine
    await turned(engine.done, engine)
    engine.join_threads()
    for job in list(engine.owed):
        if isinstance(job, Switch):
            await turned(job, engine)
    if not engine.owed:
        engine.join_callbacks()  # the thread has nothing more to run
    pool._end_traces()


async def turned(
    switch: Switch, engine: Engine, given_up: Callable[[], None] | None = None
) -> None:
    """Wait until a switch is turned.

    Args:
        switch: What somebody else turns.
        engine: The pool that it belongs to.
        given_up: Called if this wait ends before, and nobody else waits for the switch.
    """
    if switch.is_set():
        return
    check_process(engine)
    engine.before_waiting()
    wakeups = _here()
    waiter = _Waiter(wakeups, wakeups.new_event(), engine)
    if switch.enter(waiter):
        switch.leave(waiter)
        return
    try:
        await wakeups.wait(waiter.event)  # woken by the end of the job, or of the pool
    except BaseException:  # the task is cancelled, or dropped with its loop
        # Each takes his own waiter away and then looks for others: so the last one finds none.
        if not switch.leave(waiter) and given_up is not None:
            given_up()
        raise


class _Waiter:
    """A task that waits for a switch, in the place where a thread has its lock."""

    __slots__ = ("_engine", "_wakeups", "event")

    def __init__(self, wakeups: Wakeups, event: Any, engine: Engine) -> None:
        self._wakeups = wakeups
        self._engine = engine
        self.event: Any = event

    def release(self) -> None:
        """Have the task go on (any thread)."""
        self._wakeups.put(self.event, self._engine)


class Wakeups:
    """The mailbox of one loop: the events of tasks that are to go on there.

    Order settles the race of ``put`` and ``take_all``: the one puts and then looks whether the loop has been
    called, the other says that it has come and then looks what is there.
    """

    def __init__(self, loop: Any) -> None:
        self._loop = weakref.ref(loop)
        self._due: deque[Any] = deque()
        self._is_called = False

    # Any thread -----------------------------------------------------------------------------------

    def put(self, event: Any, engine: Engine) -> None:
        """Have the task that waits for an event go on."""
        self._due.append(event)
        if not self._is_called:
            self._is_called = True
            self.call(engine)

    def call(self, engine: Engine) -> None:
        """Wake the loop."""
        self.call_now()

    def call_now(self) -> None:
        """Have the loop take what is here; nothing if the loop has ended, with its tasks."""
        loop = self._loop()
        try:
            if loop is not None:
                self._tell(loop)
                return
        except RuntimeError:  # it is closed
            pass
        except Exception:  # a loop of the user's may do anything
            report_thread_error()
        self._due.clear()

    def _tell(self, loop: Any) -> None:
        raise NotImplementedError

    # The loop's -----------------------------------------------------------------------------------

    def take_all(self) -> None:
        """Let the tasks go on (the loop's thread)."""
        self._is_called = False
        due = self._due
        while due:
            self.turn(due.popleft())

    def new_event(self) -> Any:
        """Return what a task can wait for."""
        raise NotImplementedError

    async def wait(self, event: Any) -> None:
        """Wait for an event."""
        raise NotImplementedError

    def turn(self, event: Any) -> None:
        """Wake the task that waits for an event, if it still does."""
        raise NotImplementedError

    async def rest(self) -> None:
        """Let other tasks run."""
        raise NotImplementedError

    async def shielded(self, switch: Switch, engine: Engine) -> None:
        """Wait for a switch that is turned soon, and only then be cancelled."""
        raise NotImplementedError


class AsyncioWakeups(Wakeups):
    """The mailbox of a loop of asyncio's kind."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        super().__init__(loop)
        method = getattr(type(loop).call_soon_threadsafe, "__module__", None) or ""
        self._is_trusted = method.partition(".")[0] in _TRUSTED

    def call(self, engine: Engine) -> None:
        """Wake the loop, in a method that the user may have written on the callback thread."""
        if self._is_trusted:
            self.call_now()
        else:
            engine.call_back(_Call(self))

    def _tell(self, loop: AbstractEventLoop) -> None:
        loop.call_soon_threadsafe(self.take_all)

    def new_event(self) -> Any:
        loop: AbstractEventLoop | None = self._loop()
        if loop is None:
            raise RuntimeError("the event loop is gone while it runs")
        return loop.create_future()

    async def wait(self, event: Any) -> None:
        await event

    def turn(self, event: Any) -> None:
        if not event.done():  # else the task was cancelled
            event.set_result(None)

    async def rest(self) -> None:
        import asyncio

        await asyncio.sleep(0)

    async def shielded(self, switch: Switch, engine: Engine) -> None:
        import asyncio

        cancelled: asyncio.CancelledError | None = None
        while not switch.is_set():
            try:
                await turned(switch, engine)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            try:
                raise cancelled
            finally:
                del cancelled


class TrioWakeups(Wakeups):
    """The mailbox of a run of trio's; the loop is its token."""

    def _tell(self, loop: Any) -> None:
        loop.run_sync_soon(self.take_all)

    def new_event(self) -> Any:
        return sys.modules["trio"].Event()

    async def wait(self, event: Any) -> None:
        await event.wait()

    def turn(self, event: Any) -> None:
        event.set()

    async def rest(self) -> None:
        await sys.modules["trio"].lowlevel.checkpoint()

    async def shielded(self, switch: Switch, engine: Engine) -> None:
        with sys.modules["trio"].CancelScope(shield=True):
            await turned(switch, engine)


class _Call:
    """A loop that is to be woken on the callback thread: a job of that thread."""

    job_id = 0
    task_id = None
    callback_names = ("", "")

    def __init__(self, wakeups: Wakeups) -> None:
        self._wakeups = wakeups

    def _has_value(self) -> bool:
        return True

    def run_callback(self) -> None:
        """Wake the loop."""
        self._wakeups.call_now()

    def callback_returned(self) -> None:
        """Do nothing: nobody waits for it."""

    def callback_failed(self, error: Exception) -> None:
        """Wake the loop here and now: there is no thread for it, and a task waits."""
        self._wakeups.call_now()

    def set(self) -> None:
        """Do nothing: nobody waits for it."""

    def label(self) -> str:
        """Return a word for views: what the callback thread runs."""
        return "an event loop's call_soon_threadsafe"


_mailboxes: weakref.WeakKeyDictionary[Any, Wakeups] = weakref.WeakKeyDictionary()
"""By loop; of trio by the token of its run."""


def _here() -> Wakeups:
    """Return the mailbox of the loop that runs in this thread.

    Raises:
        RuntimeError: None does.
    """
    loop, kind = _running_loop()
    found = _mailboxes.get(loop)
    if found is None:
        found = _mailboxes[loop] = kind(loop)
    return found


def _running_loop() -> tuple[Any, type[Wakeups]]:
    trio, sniffio = sys.modules.get("trio"), sys.modules.get("sniffio")
    if trio is not None and sniffio is not None:
        with contextlib.suppress(sniffio.AsyncLibraryNotFoundError):
            if sniffio.current_async_library() == "trio":
                return trio.lowlevel.current_trio_token(), TrioWakeups
    import asyncio

    return asyncio.get_running_loop(), AsyncioWakeups
