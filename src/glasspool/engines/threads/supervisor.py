"""The supervisor of a thread pool: it starts and replaces threads, and ends tasks that do not end themselves.

*Owns*: the list of runners, who has which place, timers, and the socket on which the pool answers questions.
Thread: ``NAME worker-handler+task-handler+result-handler``, started by the engine, ended as the pool's last
act. Woken by its mailbox, the socket, or the next moment at which something is due.

*Times*: a runner that begins a timed task tells when its time is up. Only if that is before the next look at
the runners is the supervisor woken; a pool whose tasks all have the same limit has about one look for each
such span.

*Shutdown order*: the runners are told to leave; the last one that leaves (or, after ``terminate``, nobody)
lets the supervisor close what is open, say that the pool is done, and end what was handed in late.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import desk, kernel
from glasspool.engines.local.mailbox import Mailbox
from glasspool.engines.local.outcome import RAISED
from glasspool.engines.local.timers import Timers
from glasspool.engines.local.worker import Interrupted
from glasspool.engines.local.workers import new_thread, report_thread_error
from glasspool.engines.threads.runner import LEAVING, Runner
from glasspool.engines.threads.work import settle, take
from glasspool.errors import TaskCancelled, TaskTimeout
from glasspool.ledger import CANCELLED, FAILED, TIMEOUT, WAITING

if TYPE_CHECKING:
    from glasspool.engines.threads.engine import ThreadEngine
    from glasspool.latch import Latch
    from glasspool.snapshot import Frame

NEVER = sys.maxsize

ROLES = "worker-handler+task-handler+result-handler"

FAILURES = 3
"""So many initializers in a row must raise at least, and one in each place, before the pool gives up."""

PAUSE_S = 0.05
LONGEST_PAUSE_S = 10.0
LEAVE_S = 1.0
"""So long a thread may take to end once it has said that it leaves."""


class Supervisor:
    """The thread that looks after the others."""

    def __init__(self, engine: ThreadEngine) -> None:
        self._engine = engine
        self.mailbox: Mailbox = Mailbox()
        self.timers: Timers = Timers()
        self.runners: list[Runner] = []  # those that have a place, and those that are stuck
        self.state: str = "watching the pool's threads"
        self.has_ended: bool = False
        self.looks_at: int = NEVER  # the next look at timed tasks; on the clock of monotonic_ns()
        self.ended: dict[str, int] = {TIMEOUT: 0, CANCELLED: 0, FAILED: 0}
        self.replaced: int = 0
        self.gone_counts: list[int] = [0, 0]  # done and failed, of runners that have ended
        self._failures = 0
        self._has_begun = False  # an initializer has returned once
        self._is_over = False
        self._generations = [0] * engine.size
        self._server: socket.socket | None = None
        self._poll = select.poll()
        self._poll.register(self.mailbox.fd, select.POLLIN)
        self.thread: threading.Thread = new_thread(self._main, f"{engine.name} {ROLES}")

    # Any thread -----------------------------------------------------------------------------------

    def watch(self, at_ns: int) -> None:
        """See to it that the runners are looked at by then: a timed task has begun (a runner)."""
        # First the begin is shown, then this is read; the supervisor does it the other way round.
        if at_ns < self.looks_at:
            self.mailbox.put(self._look)

    def ready(self, runner: Runner) -> None:
        """A runner's initializer has returned (that runner)."""
        self._failures = 0
        self._has_begun = True

    def gone(self, runner: Runner, error: BaseException | None) -> None:
        """A runner's thread ends (that runner)."""
        self.mailbox.put(lambda: self._gone(runner, error))

    # Starting (the constructor's thread, before this one runs) -----------------------------------------

    def close_in_child(self) -> None:
        """Close what a fork of the user's inherited."""
        self.mailbox.close()
        if self._server is not None:
            self._server.close()

    def serve_on(self, path: str) -> str | None:
        """Answer questions on a Unix socket. Returns why not, if that is impossible."""
        server: socket.socket | None = None
        try:
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            server.bind(path)
            os.chmod(path, 0o600)
            server.listen(16)
        except (OSError, AttributeError) as error:
            if server is not None:
                server.close()
            return f"the pool answers no questions from outside: no socket at {path}: {error}"
        self._server = server
        self._poll.register(server.fileno(), select.POLLIN)
        return None

    def start_all(self) -> None:
        """Start this thread and the runners.

        Raises:
            RuntimeError: A thread cannot be started; those that were are told to leave.
        """
        self.thread.start()
        try:
            for slot in range(self._engine.size):
                self._start(slot)
        except RuntimeError:
            self.mailbox.put(lambda: self.terminate(TaskCancelled("the pool was not made")))
            raise

    def _start(self, slot: int) -> None:
        while slot >= len(self._generations):
            self._generations.append(0)
        runner = Runner(self._engine, slot, self._generations[slot])
        self._generations[slot] += 1
        self.runners.append(runner)
        try:
            runner.thread.start()
        except RuntimeError:
            self.runners.remove(runner)
            raise

    # The loop -------------------------------------------------------------------------------------

    def _main(self) -> None:
        kernel.name_this_thread(self._engine.os_name("handlers"))
        while not self._is_over:
            try:
                self._turn()
            except Exception:  # a fault of ours: nobody may wait for ever because of it
                report_thread_error()
        self._dispose()

    def _turn(self) -> None:
        items = self.mailbox.items
        while items:
            item = items.popleft()
            if callable(item):
                item()  # else a reference to a feed that was dropped
        self._engine.nudge()
        self._finish_if_closed()
        if self._is_over:
            return
        rung = False
        limit_s = 0.0 if self.mailbox.fall_asleep() else self.timers.next_s()
        try:
            for fd, _ in self._poll.poll(None if limit_s is None else int(limit_s * 1000) + 1):
                if fd == self.mailbox.fd:
                    rung = True
                elif self._server is not None:
                    self._answer(self._server)
        finally:
            self.mailbox.wake_up(rung)
        self.timers.run_due()

    def _answer(self, server: socket.socket) -> None:
        from glasspool.observe import thread_pools

        self.state = "answering a question"
        try:
            desk.answer(server, lambda question: thread_pools.answer(self._engine, question))
        finally:
            self.state = "watching the pool's threads"

    # Time and cancellation ------------------------------------------------------------------------

    def _look(self) -> None:
        """End the tasks whose time is up, and arrange the next look."""
        while True:
            now = time.monotonic_ns()
            due = NEVER
            for runner in self.runners:
                task, at = _due(runner)
                if at <= now:
                    self._time_out(runner, task)
                else:
                    due = min(due, at)
            if due >= self.looks_at > now:
                return  # that look will come
            self.looks_at = due
            # First said, then looked: whoever has begun meanwhile saw the old moment, or is seen now.
            if all(_due(runner)[1] >= due for runner in self.runners):
                break
        if due != NEVER:
            at_ns = due
            self.timers.later((due - now) / 1e9, lambda: self._look_at(at_ns))

    def _look_at(self, at_ns: int) -> None:
        if self.looks_at == at_ns:  # else an earlier look was arranged meanwhile, and has come
            self.looks_at = 0
            self._look()

    def _time_out(self, runner: Runner, task: Any) -> None:
        if not take(task.token):
            return
        limit = task.policy.timeout_s
        what = f"task {task.id} ({task.job.function_name(task)})"
        error = TaskTimeout(
            f"{what} ran longer than its timeout of {limit:g} s in thread {runner.thread.name}."
        )
        begun = runner.begun_ns
        self._interrupt(runner, task, error)
        if task.attempts < task.policy.retries and issubclass(TaskTimeout, task.policy.retry_on):
            self._try_again(task)
            return
        self._end(task, error, TIMEOUT, runner, begun)

    def _try_again(self, task: Any) -> None:
        """Let a task whose time was up begin anew, first in line."""
        task.attempts += 1
        task.retried_ns = time.monotonic_ns()
        task.state = WAITING
        task.token = [None]
        self._engine.line.appendleft(task)
        self._engine.bell.put(None)
        self._start_if_all_left()

    def cancel(self, task: Any) -> None:
        """End a task that waits, and interrupt one that runs; nothing if it has ended (an item)."""
        if not take(task.token):
            return
        what = f"task {task.id} ({task.job.function_name(task)})"
        runner = self._runner_of(task)
        if runner is None:
            error = TaskCancelled(f"{what} was cancelled before it began.")
            self._end(task, error, CANCELLED, None, 0)
            return
        error = TaskCancelled(f"{what} was cancelled while it ran in thread {runner.thread.name}.")
        begun = runner.begun_ns
        self._interrupt(runner, task, error)
        self._end(task, error, CANCELLED, runner, begun)

    def cancel_job(self, job: Any) -> None:
        """End all tasks of a job, those that run too, and make no more of them (an item)."""
        job.abort(TaskCancelled(f"{job.label()} was cancelled."))
        for task in self._engine.unended():
            if task.job is job:
                self.cancel(task)

    def _interrupt(self, runner: Runner, task: Any, error: TaskTimeout | TaskCancelled) -> None:
        """Raise an exception in the thread that runs a task, and note where it was."""
        error.stack = stack = _stack_of(runner.ident)
        may_raise = not _imports(stack)
        note = "the exception was raised there" if may_raise else "it imports: nothing was raised"
        lines = [f'  File "{f.file}", line {f.line}, in {f.function}' for f in stack or ()]
        error.add_note("\n".join([f"Where it was ({note}):", *(lines or ["  unknown"])]))
        runner.interrupted = task
        if may_raise:
            runner.raise_there(Interrupted)
        grace = self._engine.options.timeout_grace_s
        self.timers.later(grace, lambda: self._replace_if_stuck(runner, task))

    def _runner_of(self, task: Any) -> Runner | None:
        # One that was interrupted in an earlier attempt of the same task is none of it.
        for runner in self.runners:
            if runner.task is task and runner.interrupted is None:
                return runner
        return None

    def excuse(self, runner: Runner, latch: Latch) -> None:
        """Let a runner go on whose task somebody else has ended (an item)."""
        runner.task = runner.interrupted = None
        latch.set()

    def _replace_if_stuck(self, runner: Runner, task: Any) -> None:
        """Give the place of a thread that does not give way to another one."""
        if runner.interrupted is not task or runner.stuck:
            return
        runner.stuck = runner.leave = True
        self.replaced += 1
        self._start_now(runner.slot)
        self._start_if_all_left()

    def _end(self, task: Any, error: BaseException, how: str, runner: Any, begun: int) -> None:
        """End a task whose token is ours."""
        self.ended[how] += 1
        ended = time.monotonic_ns() if runner is not None else 0
        settle(task, RAISED, error, runner, begun, ended)

    # Places ---------------------------------------------------------------------------------------

    def _start_later(self, slot: int, delay_s: float) -> None:
        if delay_s:
            self.timers.later(delay_s, lambda: self._start_now(slot))
        else:
            self._start_now(slot)

    def _start_now(self, slot: int) -> None:
        if self._engine.leaving or slot >= self._engine.size or self._holder(slot) is not None:
            return
        try:
            self._start(slot)
        except RuntimeError:  # there is no thread to be had now
            self._start_later(slot, LONGEST_PAUSE_S / 10)

    def _holder(self, slot: int) -> Runner | None:
        return next((r for r in self.runners if r.slot == slot and not r.stuck), None)

    def _serving(self) -> bool:
        return any(not runner.leave and runner.state != LEAVING for runner in self.runners)

    def _start_if_all_left(self) -> None:
        """Start a thread for what came late, when the pool is closed and all have left."""
        if self._engine.line and self._engine.leaving and not self._serving():
            self._start(0)

    def _gone(self, runner: Runner, error: BaseException | None) -> None:
        if runner.thread is not threading.current_thread():
            runner.thread.join(LEAVE_S)  # it has said its last word
        self.gone_counts[0] += runner.done
        self.gone_counts[1] += runner.failed
        if runner in self.runners:
            self.runners.remove(runner)
        if error is not None:
            self._initializer_failed(runner, error)
        self._start_if_all_left()

    def _initializer_failed(self, runner: Runner, error: BaseException) -> None:
        self._failures += 1
        engine = self._engine
        if self._failures >= max(FAILURES, engine.size) and not self._serving():
            engine.failure = error
            engine.is_deaf = True
            self._end_all(error, FAILED)
        elif engine.failure is None:
            pause = min(PAUSE_S * 2.0 ** min(self._failures, 8), LONGEST_PAUSE_S)
            self._start_later(runner.slot, pause)

    def resize(self, size: int, latch: Latch) -> None:
        """Change the number of places (an item); whoever finds a surplus first leaves."""
        engine = self._engine
        engine.size = size
        engine.surplus.clear()
        have = sum(1 for one in self.runners if not one.leave and one.state != LEAVING)
        engine.surplus.extend([None] * (have - size))
        for slot in range(size):
            if have < size and self._holder(slot) is None:
                self._start_now(slot)
                have += 1
        self.ring_all()
        latch.set()

    def ring_all(self) -> None:
        """Have every runner look whether it shall leave."""
        for _ in self.runners:
            self._engine.bell.put(None)

    # The end --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let the threads leave when all is done (an item)."""
        self._engine.closing = True
        for job in list(self._engine.feeds.values()):
            job.wake_feed()  # no reader bounds it any more

    def _finish_if_closed(self) -> None:
        engine = self._engine
        if engine.stopped:
            self._is_over = True
            return
        if engine.closing and not engine.feeds and not engine.leaving:
            self._run_shutdown_hook()
            engine.leaving = True
            self.ring_all()
        if engine.leaving and not any(not runner.stuck for runner in self.runners):
            if engine.line and engine.failure is None:
                self._start_if_all_left()
            else:
                self._is_over = True

    def terminate(self, error: BaseException) -> None:
        """End everything that has not ended, and tell the threads to leave (an item)."""
        engine = self._engine
        if engine.stopped:
            return
        self._run_shutdown_hook()
        engine.stopped = engine.leaving = True
        self._end_all(error, CANCELLED)
        for runner in self.runners:
            runner.leave = True
        self.ring_all()

    def drain(self) -> None:
        """Begin no more tasks (an item)."""
        engine = self._engine
        if engine.stopped:
            return
        from glasspool.engines.threads.telling import undone

        drained = TaskCancelled("the pool was drained before the task began.")
        engine.draining = True
        for job in list(engine.feeds.values()):
            job.abort(drained)
        for task in engine.line.copy():
            if take(task.token):
                engine.undone.append(undone(task))
                self._end(task, drained, CANCELLED, None, 0)
        self.close()

    def _end_all(self, error: BaseException, how: str) -> None:
        for job in list(self._engine.feeds.values()):
            job.abort(error)
        for task in self._engine.unended():
            if take(task.token):
                runner = self._runner_of(task)
                self._end(task, error, how, runner, 0 if runner is None else runner.begun_ns)

    def _run_shutdown_hook(self) -> None:
        hook, self._engine.on_shutdown = self._engine.on_shutdown, None
        if hook is not None:
            try:
                hook(self._engine)
            except Exception:  # a picture that fails must not keep the pool
                report_thread_error()

    def _dispose(self) -> None:
        """Close everything. The last act of this thread."""
        engine = self._engine
        if self._server is not None:
            self._server.close()
        for runner in self.runners:
            runner.leave = True
        idle = [r for r in self.runners if r.task is None and not r.stuck]
        deadline = time.monotonic() + LEAVE_S
        for runner in idle:
            if runner.thread is not threading.current_thread():
                runner.thread.join(max(0.0, deadline - time.monotonic()))
        engine.is_deaf = self.has_ended = True
        self.mailbox.late = self.take_late
        self.take_late()
        engine.end()
        self.mailbox.close()
        engine.done.set()

    def take_late(self) -> None:
        """End what was handed in when the pool had ended already (any thread)."""
        engine = self._engine
        error = engine.failure or TaskCancelled("the pool has ended")
        for job in list(engine.feeds.values()):
            job.abort(error)
        while True:
            try:
                task = engine.line.popleft()
            except IndexError:
                break
            if take(task.token):
                self._end(task, error, CANCELLED, None, 0)
        while self.has_ended:  # else the loop takes them
            try:
                item = self.mailbox.items.popleft()
            except IndexError:
                return
            if callable(item):
                item()


def _due(runner: Runner) -> tuple[Any, int]:
    """Return a runner's task and when its time is up: never, if it has no limit or has been ended."""
    task = runner.task
    if task is None or runner.interrupted is not None or not task.token:
        return None, NEVER
    if task.policy is None or task.policy.timeout_s is None:
        return None, NEVER
    return task, runner.begun_ns + int(task.policy.timeout_s * 1e9)


def _stack_of(ident: int | None) -> tuple[Frame, ...] | None:
    """Return where a thread of this process is, outermost call first, without our own frames."""
    from glasspool.snapshot import Frame  # not before it matters

    frames = sys._current_frames()
    try:
        frame = frames.get(ident or 0)
        found: list[Frame] = []
        while frame is not None:
            code = frame.f_code
            if os.path.dirname(code.co_filename) == _HERE:
                break
            found.append(Frame(code.co_filename, frame.f_lineno or 0, code.co_qualname))
            frame = frame.f_back
    finally:
        frames.clear()  # it holds this very frame, which holds it: cut the cycle
    found.reverse()
    return tuple(found) or None


def _imports(stack: tuple[Frame, ...] | None) -> bool:
    """Tell whether a thread is importing: an exception would leave half a module behind."""
    return any(frame.file.startswith("<frozen importlib") for frame in stack or ())


_HERE = os.path.dirname(os.path.abspath(__file__))
