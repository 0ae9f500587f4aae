"""Showing: the thread that looks how far jobs with ``progress`` are, and has that displayed.

Owns: the list of a pool's jobs that are displayed. Thread: ``NAME progress``, one for a pool; started by
the collector when there is a job to show, it ends by itself after the last one. It waits for an event with
a time: the next moment to look, or the end of a job, which wakes it. It stands aside for forks, as the
engine's other threads do.

Displays, and objects of the user's that are used as one, are called on this thread alone, and under no
lock. What they raise is told once, as a warning; the job goes on without a display.

Jobs count by themselves (``progress.Tally``), and have their last words shown before whoever waits for
them goes on: ``wait``, for ``SHOWN_LIMIT_S`` at most.
"""

from __future__ import annotations

import operator
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from glasspool.engines.local import kernel, running
from glasspool.engines.local.workers import new_thread, report_thread_error
from glasspool.latch import Latch
from glasspool.progress import Pace, Running, State, Tally, state
from glasspool.registry import ProgressWarning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

    from glasspool.engines.local.engine import LocalEngine
    from glasspool.ledger import Task

T = TypeVar("T")

SHOWN_LIMIT_S = 2.0
"""Whoever waits for a job waits so long for its display at most: it may be the user's, and block."""

JOIN_LIMIT_S = 1.0


class Display(Protocol):
    """What shows one job's progress, on the progress thread."""

    every_s: float
    """So often it wants to be called."""

    def open(self, total: int | None) -> None:
        """Get ready for so many items, before any other call; in the thread of the user's call."""

    def show(self, told: State) -> None:
        """Show how far the job is."""

    def end(self, told: State) -> None:
        """Show how the job has ended. The last call."""


class Shown:
    """One job's progress: counted by the collector, displayed by the progress thread."""

    def __init__(self, label: str, display: Display | None, where: tuple[str, int]) -> None:
        self.tally: Tally = Tally()
        self.job: Any = None
        self.display: Display | None = display
        self._label = label
        self._where = where
        self._showing: Showing | None = None
        self._begun_s = time.monotonic()
        self._ended_s = self._begun_s
        self._pace = Pace(self._begun_s)
        self._next_s = 0.0
        self._latch = Latch()

    # Any thread -----------------------------------------------------------------------------------

    def begin(self, engine: LocalEngine, job: Any, total: int | None) -> None:
        """Count for a job from now on, and have it displayed. Before its first task."""
        self.job = job
        self.tally.total = total
        if self.display is not None:
            try:
                self.display.open(total)
            except Exception as error:
                self.display = None
                self.complain(error)
        self._begun_s = time.monotonic()
        self._pace = Pace(self._begun_s)
        job._shown = self
        self._showing = engine.showing
        self._showing.add(self)

    def begin_drawing(
        self, engine: LocalEngine, job: Any, iterable: Iterable[T], values: Iterator[T]
    ) -> Iterator[T]:
        """Begin as ``begin``, where items are drawn as they are needed; return what is to be drawn."""
        total = operator.length_hint(iterable, -1) if hasattr(iterable, "__len__") else -1
        if total >= 0:
            self.begin(engine, job, total)
            return values
        self.begin(engine, job, None)
        return self.tally.count(values)

    def take(self, tasks: Sequence[Task]) -> None:
        """Count the items of tasks that have ended (collector)."""
        self.tally.take(tasks)

    def end(self, error: BaseException | None = None) -> None:
        """Take note that the job has ended, and have its last state shown. Never blocks."""
        if not self.tally.is_over:
            self._ended_s = time.monotonic()
            self.tally.end(error)
            if self._showing is not None:
                self._showing.wake()

    def wait(self, ends_now: bool = False) -> None:
        """Wait until the last state is shown, if the job has ended or is just about to.

        Not on the progress thread itself.
        """
        showing = self._showing
        if showing is None or self._latch.is_set() or not (ends_now or self.tally.is_over):
            return
        if threading.current_thread() is not showing.thread:
            self._latch.wait(SHOWN_LIMIT_S)  # woken by the progress thread

    def __enter__(self) -> Shown:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """See to the last state if the user's call is torn away from its job."""
        if error is not None:
            self.end(error)
            self.wait()

    # The progress thread's ------------------------------------------------------------------------

    def look(self, engine: LocalEngine, now_s: float) -> bool:
        """Show how far the job is, if it is time; return whether that was the last word."""
        display = self.display
        is_over = self.tally.is_over
        if display is not None and (is_over or now_s >= self._next_s):
            self._next_s = now_s + display.every_s
            told = self._state(engine, now_s)
            is_over = told.is_over
            try:
                if is_over:
                    display.end(told)
                else:
                    display.show(told)
            except Exception as error:
                self.display = None
                self.complain(error)
        if is_over:
            self.job = None  # which holds this, too: nobody is to wait for the garbage collector
            self._latch.set()
        return is_over

    def _state(self, engine: LocalEngine, now_s: float) -> State:
        work = Running() if self.tally.is_over else running.look(engine, self.job)
        told = state(self._label, self.tally, self._pace, work, self._begun_s, now_s)
        if told.is_over:  # perhaps since the line above
            return state(self._label, self.tally, self._pace, work, self._begun_s, self._ended_s)
        return told

    def complain(self, error: BaseException) -> None:
        """Warn, once, that there is no display (any more)."""
        text = (
            f"the progress of {self._label} is not shown any more, the job goes on: its display "
            f"raised {type(error).__qualname__}: {error}"
        )
        try:
            warnings.warn_explicit(text, ProgressWarning, *self._where)
        except Exception:  # the program wants errors; here nobody could take one
            report_thread_error()

    def next_look_s(self, now_s: float) -> float:
        """Return in how many seconds the job wants to be looked at."""
        return max(0.0, self._next_s - now_s) if self.display is not None else 60.0


class Showing:
    """The progress thread of a pool, and the jobs that it shows."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._shown: list[Shown] = []
        self._wake = threading.Event()
        # For the list and for whether there is a thread. Reentrant: a signal handler may map, too.
        self._lock = threading.RLock()
        self._parking = False
        self._is_running = False
        self.thread: threading.Thread | None = None
        self.state: str = "showing progress"

    def add(self, shown: Shown) -> None:
        """Show a job from now on (any thread)."""
        with self._lock:
            self._shown.append(shown)
            is_running = self._is_running
        if is_running:
            self._wake.set()
        else:
            # Not here: a signal handler that raises inside Thread.start would leave a broken thread.
            self._engine.collector.mailbox.put(self.resume)

    def wake(self) -> None:
        """Have the thread look now (collector; a thread that gives up)."""
        self._wake.set()

    def resume(self) -> None:
        """Start the thread if there is something to show and none runs (any thread)."""
        self._parking = False
        with self._lock:
            if self._is_running or not self._shown:
                return
            self._is_running = True
            former = self.thread
            thread = new_thread(lambda: self._run(former), f"{self._engine.name} progress")
            self.thread = thread
        try:
            thread.start()
        except RuntimeError as error:  # there is no thread to be had: the jobs go on
            self._is_running = False
            self._give_up(error)

    def _give_up(self, error: RuntimeError) -> None:
        with self._lock:
            shown, self._shown = self._shown, []
        for one in shown:
            one.display = None
            one.complain(error)
            one._latch.set()

    def _run(self, former: threading.Thread | None) -> None:
        kernel.name_this_thread(self._engine.os_name("progress"))
        if former is not None:
            former.join()  # it has left its loop: so there is never more than one to wait for
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Look at all jobs and wait for the next time; False if there is nothing left to do."""
        self._wake.clear()
        now_s = time.monotonic()
        for shown in list(self._shown):
            if shown.look(self._engine, now_s):
                with self._lock:
                    self._shown.remove(shown)
        with self._lock:
            if not self._shown or self._parking:
                self._is_running = False
                return False
            wait_s = min(shown.next_look_s(now_s) for shown in self._shown)
        # An observer: woken by the end of a job, by a new one, to stand aside, and by the next look.
        self._wake.wait(wait_s)
        return True

    def park(self) -> list[int]:
        """Stop the thread for a moment; return its native id if it has ended."""
        self._parking = True
        self._wake.set()
        return self._join(2.0)

    def join(self) -> None:
        """Wait for the last words of all jobs: the pool has ended."""
        self.resume()  # a job that ended while the thread stood aside
        self._wake.set()
        self._join(JOIN_LIMIT_S)

    def _join(self, limit_s: float) -> list[int]:
        thread = self.thread
        if thread is None or thread.ident is None or thread is threading.current_thread():
            return []
        thread.join(limit_s)
        if thread.is_alive() or thread.native_id is None:
            return []
        if self.thread is thread:
            self.thread = None
        return [thread.native_id]
