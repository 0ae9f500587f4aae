"""The engine of a thread pool: its line of tasks, its threads, its life.

Owns: the line, the bell that is rung when something is put into it, and what the pool was told. The parts:

* *runners* (``runner``) take tasks out of the line and end them;
* the *supervisor* starts and replaces them, and ends what does not end itself;
* the *callback* thread runs the user's callbacks, one after the other;
* an ``imap`` has its iterable drawn on a thread of its own (``feeding``).

A task is handed in by two single steps: into the line, then the bell. A runner takes tasks until it finds
the line empty, and only then waits for the bell; so there need not be more rings than runners. A signal
handler that raises between the two leaves a task without a ring; whoever waits for the pool looks for that
first (``before_waiting``).

It has the attributes that results, feeds and views need of an engine, under the names of ``LocalEngine``;
``collector`` is itself, as nobody collects here.
"""

from __future__ import annotations

import itertools
import os
import queue
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from glasspool.engines.base import ON_THREADS, Capabilities
from glasspool.engines.local import scoreboard as sb
from glasspool.engines.local.payload import callable_name
from glasspool.engines.threads.callbacks import Callbacks
from glasspool.engines.threads.supervisor import LEAVE_S, Supervisor
from glasspool.errors import TaskCancelled
from glasspool.latch import Latch
from glasspool.options import PoolOptions

if TYPE_CHECKING:
    from glasspool.engines.local.mailbox import Mailbox
    from glasspool.engines.local.showing import Showing
    from glasspool.feeding import Feed
    from glasspool.undone import Undone


RESIZE_S = 60.0

THREADS = "threads"
"""What stands for the start method in the file by which a pool is found."""


class ThreadPlan(NamedTuple):
    """What a thread pool is to be, as its constructor was told."""

    name: str
    number: int
    size: int
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    made_at: str
    options: PoolOptions


class _NoStall:
    """Nobody looks whether a thread pool stalls."""

    watching = True


class ThreadEngine:
    """A thread pool without its user interface."""

    can: Capabilities = ON_THREADS
    is_threads = True
    journal = None
    ledger = None

    def __init__(self, plan: ThreadPlan) -> None:
        self.name: str = plan.name
        self.number: int = plan.number
        self.size: int = plan.size
        self.pid: int = os.getpid()
        self.made_at: str = plan.made_at
        self.options: PoolOptions = plan.options
        self.initializer_call: Callable[..., object] | None = plan.initializer
        self.initializer: str | None = (
            None if plan.initializer is None else callable_name(plan.initializer)
        )
        self.initargs: tuple[Any, ...] = plan.initargs
        self.next_id: Callable[[], int] = itertools.count(1).__next__
        self.line: deque[Any] = deque()
        self.bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.surplus: list[None] = []  # for each, one runner is to leave
        self.done: Latch = Latch()
        self.is_usable: bool = True
        self.is_deaf: bool = False  # nobody takes what is handed in: it has ended or failed
        self.failure: BaseException | None = None
        self.closing: bool = False
        self.draining: bool = False
        self.stopped: bool = False
        self.leaving: bool = False
        self.cut_short: bool = False
        self.callers: dict[int, tuple[str, float]] = {}
        self.feeds: dict[weakref.ref[Any], Any] = {}
        self.feeders: dict[threading.Thread, Feed] = {}
        self.undone: list[Undone] = []
        self.pace: dict[int, float] = {}
        self.item_pace: dict[int, float] = {}
        self.stall: _NoStall = _NoStall()
        self.on_shutdown: Callable[[Any], None] | None = None
        self.on_disposed: Callable[[Any], None] | None = None
        self.notes: list[str] = []
        self._showing: dict[str, Showing] = {}
        self.callbacks: Callbacks = Callbacks(self.name, self.os_name("callback"))
        self.supervisor: Supervisor = Supervisor(self)
        self._board: sb.Board | None = self._make_board()

    def _make_board(self) -> sb.Board | None:
        """Make the file by which the pool is found from outside, and answer questions beside it."""
        try:
            board = sb.Board.create(
                self.name,
                self.size,
                1,
                capacity=self.size,
                made_at=self.made_at,
                command=" ".join(sys.argv),
                start_method=THREADS,
                initializer=self.initializer or "",
            )
        except OSError as error:
            self.notes.append(f"the pool cannot be found from outside: {error.strerror or error}")
            return None
        trouble = board.trouble or self.supervisor.serve_on(board.socket_file)
        if trouble:
            self.notes.append(trouble)
        return board

    def start(self) -> None:
        """Start the threads.

        Raises:
            RuntimeError: One cannot be started. The engine ends then.
        """
        try:
            self.supervisor.start_all()
        except RuntimeError:
            if self.supervisor.thread.ident is None:
                self.end()
                self.supervisor.mailbox.close()
                self.done.set()
            raise

    # As results and feeds know it --------------------------------------------------------------------

    @property
    def collector(self) -> ThreadEngine:
        """Where jobs say what is to be done with them."""
        return self

    @property
    def mailbox(self) -> Mailbox:
        """The supervisor's."""
        return self.supervisor.mailbox

    @property
    def calling_back(self) -> Any:
        """The job whose callback runs."""
        return self.callbacks.running

    def call_back(self, job: Any) -> None:
        """Run a job's callback on the callback thread."""
        self.callbacks.add(job)

    def is_callback_thread(self) -> bool:
        """Tell whether the calling thread is the one that runs callbacks."""
        return self.callbacks.is_here()

    def cancel(self, task: Any) -> None:
        """End a task (an item)."""
        self.supervisor.cancel(task)

    def cancel_job(self, job: Any) -> None:
        """End all tasks of a job (an item)."""
        self.supervisor.cancel_job(job)

    def forget_callable(self, number: int) -> None:
        """Nothing is kept of a callable."""

    def begin_feed(self, feed: Any, job: Any) -> None:
        """Say that more tasks of a job will come (any thread)."""
        self.feeds[weakref.ref(feed, self.mailbox.items.append)] = job
        if self.is_deaf:
            self.supervisor.take_late()

    def end_feed(self, feed: Any) -> None:
        """Say that no more tasks of a job will come (any thread)."""
        for reference in weakref.getweakrefs(feed):
            self.feeds.pop(reference, None)
        if self.closing:
            self.mailbox.put(self.look)  # it may have been the last thing to wait for

    def look(self) -> None:
        """Do nothing but wake the supervisor (an item)."""

    def end_feeds_of(self, ident: int) -> bool:
        """Have a thread's feeds end at once (that thread); False if one of them cannot."""
        feeds = [reference() for reference in list(self.feeds)]
        return not any(feed is not None and feed.ident == ident for feed in feeds)

    # Tasks ----------------------------------------------------------------------------------------

    def submit(self, task: Any) -> None:
        """Hand a task in, from any thread."""
        self.line.append(task)
        if self.bell.qsize() < self.size:
            self.bell.put(None)
        if self.is_deaf:
            self.supervisor.take_late()

    def submit_all(self, tasks: list[Any]) -> None:
        """Hand a row of tasks in."""
        self.line.extend(tasks)
        for _ in range(min(len(tasks), self.size)):
            self.bell.put(None)
        if self.is_deaf:
            self.supervisor.take_late()

    def nudge(self) -> None:
        """Make sure that nothing lies in the line without a ring."""
        if self.line and self.bell.empty():
            self.bell.put(None)

    def before_waiting(self) -> None:
        """See to it that the pool can go on while the calling thread waits for it."""
        self.nudge()
        self.mailbox.nudge()

    def unended(self) -> list[Any]:
        """Return the tasks that have not ended: those that run first."""
        running = [runner.task for runner in self.supervisor.runners.copy()]
        return [t for t in (*running, *self.line.copy()) if t is not None and t.token]

    # Life -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let the pool end when all its work is done. Never blocks."""
        self.mailbox.put(self.supervisor.close)

    def terminate(self, why: str = "the pool was terminated") -> None:
        """Let the pool end now; what has not ended is cancelled. Never blocks."""
        self.cut_short = True
        self.mailbox.put(lambda: self.supervisor.terminate(TaskCancelled(why)))

    def drain(self) -> None:
        """Let the pool end when what runs has ended; begin nothing more. Never blocks."""
        self.mailbox.put(self.supervisor.drain)

    def resize(self, size: int) -> None:
        """Change the number of threads; returns when the new ones have been started.

        Raises:
            ValueError: The pool has ended.
        """
        latch = Latch()
        self.mailbox.put(lambda: self.supervisor.resize(size, latch))
        # Woken by the supervisor, or, if that has ended meanwhile, by our own put.
        if not latch.wait(RESIZE_S) or self.done.is_set():
            raise ValueError("Pool not running")

    def end(self) -> None:
        """Close what is open (supervisor, as its last act but one)."""
        self.callbacks.end()
        board, self._board = self._board, None
        if board is not None:
            board.unlink()
            board.close()
        if self.on_disposed is not None:
            self.on_disposed(self)
        self.is_usable = False
        if self.cut_short:
            for job in list(self.callbacks.owed):
                job.set()  # whoever waits is told, also if a callback blocks

    def join_threads(self) -> None:
        """Wait for the last steps of the supervisor."""
        thread = self.supervisor.thread
        if thread.ident is not None and thread is not threading.current_thread():
            thread.join(LEAVE_S)
        for showing in self._showing.values():
            showing.join()

    def join_runners(self) -> None:
        """Wait for the tasks that still run: not for those that were timed out or cancelled."""
        for runner in self.supervisor.runners.copy():
            is_here = runner.thread is threading.current_thread()
            if not (is_here or runner.stuck or runner.interrupted is not None):
                runner.thread.join()  # woken by the end of the user's function

    def join_callbacks(self) -> None:
        """Wait until the last callback has run; returns at once on the callback thread itself."""
        self.callbacks.join(self.cut_short)

    def abandon_in_child(self) -> None:
        """Close the descriptors that a fork of the user's inherited."""
        self.is_usable = False
        self.supervisor.close_in_child()
        if self._board is not None:
            self._board.close_fd()

    # Being seen -------------------------------------------------------------------------------------

    @property
    def showing(self) -> Showing:
        """What shows how far jobs are; made when it is first asked for."""
        from glasspool.engines.local.showing import Showing

        return self._showing.setdefault("", Showing(self))  # type: ignore[arg-type]

    def join_words(self) -> None:
        """Wait until the last words of jobs with progress are shown."""
        for showing in self._showing.values():
            showing.join()

    def os_name(self, role: str) -> str:
        """Return the name of one of our threads for the operating system."""
        return f"gp{self.number} {role}"

    def own_threads(self) -> dict[threading.Thread, tuple[tuple[str, ...], str]]:
        """Return our threads with their roles and states."""
        from glasspool.engines.threads import telling

        return telling.own_threads(self)

    def processes(self) -> list[threading.Thread]:
        """Return the threads that run tasks, by place."""
        runners = sorted(self.supervisor.runners.copy(), key=lambda r: (r.slot, r.generation))
        return [runner.thread for runner in runners]
