"""Runners: the threads of a pool that run its tasks.

*Owns*: one thread, and the task that it runs. Thread: ``NAME task-SLOT``, started by the supervisor. It
takes tasks out of the engine's line by itself and ends them itself, so a task costs one switch of threads.
Woken by the bell, which whoever puts a task into the line rings, and who tells it to leave; it leaves when
the pool ends, when it was told to, or when another has its place, because its task did not give way.

*Invariants*: only the supervisor raises an exception in this thread, after it has taken the token of the task
that runs here, and so has the right to end it. Who still finds the token when the function has returned is
safe from that. Who does not asks the supervisor to be excused, before it takes the next task: from then on
nothing is raised here, and what was raised and has not arrived is taken back.
"""

from __future__ import annotations

import os
import threading
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import kernel
from glasspool.engines.local.outcome import RAISED, VALUE
from glasspool.engines.local.workers import report_thread_error
from glasspool.engines.threads.work import perform, settle, take
from glasspool.errors import InitializerFailed, TaskExit
from glasspool.latch import Latch
from glasspool.ledger import SENT

if TYPE_CHECKING:
    from glasspool.engines.local.worker import WorkerInfo
    from glasspool.engines.threads.engine import ThreadEngine

STARTING, INITIALIZING, IDLE, BUSY, LEAVING = "starting", "initializing", "idle", "busy", "leaving"

EXCUSED_S = 1.0
"""So long a runner waits for the supervisor's word at most, if that has just ended."""

by_ident: dict[int, Runner] = {}
"""The runners of this process, by their threads."""


class RunnerThread(threading.Thread):
    """A thread of a pool that runs tasks, with what programs look at in ``pool._pool``."""

    runner: Runner

    @property
    def pid(self) -> int:
        """The process that it is a thread of."""
        return os.getpid()

    @property
    def exitcode(self) -> int | None:
        """0 when it has ended, None before: as of a process."""
        return 0 if self.ident is not None and not self.is_alive() else None


class Runner:
    """One thread that runs tasks, in one place of the pool."""

    def __init__(self, engine: ThreadEngine, slot: int, generation: int) -> None:
        self._engine = engine
        self.slot = slot
        self.generation = generation
        self.state: str = STARTING
        self.started_ns: int = monotonic_ns()
        self.initializer_ns: tuple[int, int] = (0, 0)
        self.leave: bool = False  # after the task that runs (supervisor)
        self.stuck: bool = (
            False  # another has its place, and this one still runs a task (supervisor)
        )
        self.interrupted: Any = None  # the task in which an exception was raised (supervisor)
        self.task: Any = None  # what runs, shown before it is looked whether it still may
        self.begun_ns: int = 0
        self.done: int = 0
        self.failed: int = 0
        self.busy_ns: int = 0
        self.pid: int = os.getpid()
        self.thread: RunnerThread = RunnerThread(
            target=self._main, name=f"{engine.name} task-{slot}", daemon=True
        )
        self.thread.runner = self

    @property
    def ident(self) -> int | None:
        """What ``threading.get_ident`` returns there."""
        return self.thread.ident

    @property
    def native_id(self) -> int | None:
        """The operating system's number of the thread."""
        return self.thread.native_id

    @property
    def thread_name(self) -> str:
        """Python's name of the thread."""
        return self.thread.name

    def describe(self) -> WorkerInfo:
        """Say where the calling task runs: ``glasspool.worker`` (this thread)."""
        from glasspool.engines.local.worker import WorkerInfo

        task = self.task
        return WorkerInfo(
            pool=self._engine.name,
            slot=self.slot,
            generation=self.generation,
            pid=self.pid,
            task=None if task is None else task.id,
            attempt=None if task is None else task.attempts + 1,
            function=None if task is None else task.job.function_name(task),
        )

    def raise_there(self, error: type[BaseException]) -> bool:
        """Have an exception raised in the thread, when it next runs Python code (supervisor)."""
        return _set_exception(self.thread.ident, error)

    # The thread's ---------------------------------------------------------------------------------

    def _main(self) -> None:
        ident = threading.get_ident()
        kernel.name_this_thread(self._engine.os_name(f"task-{self.slot}"))
        by_ident[ident] = self
        error: BaseException | None = None
        try:
            error = self._initialize()
            if error is None:
                self._serve()
        finally:
            self.state = LEAVING
            by_ident.pop(ident, None)
            self._engine.supervisor.gone(self, error)

    def _initialize(self) -> BaseException | None:
        """Run the pool's initializer; return its error."""
        initializer = self._engine.initializer_call
        if initializer is not None:
            self.state = INITIALIZING
            begun = monotonic_ns()
            self.initializer_ns = (begun, 0)
            try:
                initializer(*self._engine.initargs)
            except BaseException as error:  # it is told to whoever waits, not to nobody
                made = InitializerFailed(
                    f"the initializer {self._engine.initializer} of {self._engine.name} raised "
                    f"{type(error).__qualname__}: {error}"
                )
                made.__cause__ = error
                return made
            self.initializer_ns = (begun, monotonic_ns())
        self.state = IDLE
        self._engine.supervisor.ready(self)
        return None

    def _serve(self) -> None:
        """Run tasks until there are none and never will be, or until told to leave."""
        engine, run = self._engine, self._run
        listen, popleft, surplus = engine.bell.get, engine.line.popleft, engine.surplus
        while not (self.leave or (surplus and take(surplus))):
            try:
                task = popleft()
            except IndexError:
                if engine.leaving:
                    return
                # The line was empty: whoever puts something into it from now on rings, and so does who
                # wants us to leave.
                listen()
                continue
            if not task.token:
                continue  # it was cancelled where it stood
            try:
                run(task)
            except BaseException:
                # A fault of ours, or of a display of progress: this thread goes on.
                report_thread_error()

    def _run(self, task: Any) -> None:
        token, policy = task.token, task.policy
        kind, mine = RAISED, False
        value: Any = None
        self.begun_ns = begun = monotonic_ns()
        try:
            # First shown, then looked: the supervisor takes the token first, and then looks who runs it.
            self.task = task
            if token:
                task.state = SENT
                self.state = BUSY
                if policy is not None and policy.timeout_s is not None:
                    self._engine.supervisor.watch(begun + int(policy.timeout_s * 1e9))
                try:
                    value = perform(task)
                    kind = VALUE
                except BaseException as error:
                    value = error
                if kind == RAISED and policy is not None and self._try_again(task, value):
                    kind, value, begun = self._again(task)
                mine = take(token)
        except BaseException:
            # Raised by the supervisor, just before or after the function ran. Whose the token is, does
            # not change any more: it would not have raised without it.
            mine = False
        if not mine:
            value = None
            self._be_excused()
            return
        if kind == RAISED:
            _unchain(value)
            if not isinstance(value, Exception):
                value = _exit(value)
        self._end(task, kind, value, begun)
        del value

    def _end(self, task: Any, kind: int, value: Any, begun: int) -> None:
        """End the task that ran here; its token is ours, so nobody raises anything here now."""
        ended = monotonic_ns()
        self.busy_ns += ended - begun
        if kind == VALUE:
            self.done += 1
        else:
            self.failed += 1
        self.task = None
        self.state = IDLE
        settle(task, kind, value, self, begun, ended)

    def _try_again(self, task: Any, error: BaseException) -> bool:
        policy = task.policy
        if task.attempts >= policy.retries or not isinstance(error, policy.retry_on):
            return False
        return bool(task.token)

    def _again(self, task: Any) -> tuple[int, Any, int]:
        """Run a task anew, here and now, as often as it may."""
        while True:
            task.attempts += 1
            task.retried_ns = begun = self.begun_ns = monotonic_ns()
            if task.policy.timeout_s is not None:
                self._engine.supervisor.watch(begun + int(task.policy.timeout_s * 1e9))
            try:
                return VALUE, perform(task), begun
            except BaseException as error:
                if not self._try_again(task, error):
                    return RAISED, error, begun
                error.__traceback__ = None

    def _be_excused(self) -> None:
        """Part with a task that somebody else has ended."""
        supervisor, latch = self._engine.supervisor, Latch()
        while True:
            try:
                supervisor.mailbox.put(lambda: supervisor.excuse(self, latch))
                # Woken by the supervisor. If that has ended, nothing is raised any more.
                while not latch.wait(EXCUSED_S) and not supervisor.has_ended:
                    continue
                _set_exception(threading.get_ident(), None)
                self.task = None
                self.state = IDLE
                return
            except BaseException:  # what was raised for the task arrives only now
                continue


def _set_exception(ident: int | None, error: type[BaseException] | None) -> bool:
    """Have an exception raised in a thread; None: take back what has not been raised yet."""
    import ctypes  # not before a task is to be stopped

    if ident is None:
        return False
    what = None if error is None else ctypes.py_object(error)
    return bool(ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), what))


def here() -> Runner | None:
    """Return the runner whose thread this is."""
    return by_ident.get(threading.get_ident())


def _exit(error: BaseException) -> TaskExit:
    made = TaskExit(f"the task raised {type(error).__name__}({error})")
    made.__cause__ = error
    return made


def _unchain(error: BaseException) -> None:
    """Cut our own frames from the traceback, which would keep this thread's variables."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code in _OURS:
        trace = trace.tb_next
    error.__traceback__ = trace


_OURS = (Runner._run.__code__, Runner._again.__code__, perform.__code__)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=by_ident.clear)
