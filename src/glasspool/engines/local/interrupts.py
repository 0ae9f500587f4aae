"""Interrupts: how a task is ended that runs out of time, or is cancelled while it runs.

The collector's thread owns all of this. The ladder for one task, each step only if the one before did
not help:

1. An exception is raised in the task: the parent writes the task's number into the scoreboard and sends
   a signal; the worker's handler looks whether that very task still runs, tells where it was, and raises.
   The caller has his error as soon as that is told, and the worker goes on with the next task. Until it is
   told, the signal is sent again twice.
2. ``REACT_S`` later (a C loop does not run handlers; a task may catch everything): the caller has his
   error ``DUMP_S`` later at the latest, with the stack that ``faulthandler`` wrote; the worker's other
   tasks are taken back, and its slot gets a new worker.
3. ``timeout_grace`` later SIGTERM, and once more as long later SIGKILL. A worker that comes to its
   senses meanwhile leaves in an orderly way.

When a task has its time is known from the scoreboard, where its worker noted the begin. So a worker with
timed tasks is looked at when the first of them may have used its time up, not more often.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import signal
import time
from typing import TYPE_CHECKING

from glasspool.engines.local import events, kernel
from glasspool.engines.local import scoreboard as sb
from glasspool.errors import GlasspoolError, TaskCancelled, TaskTimeout
from glasspool.ledger import CANCELLED, TIMEOUT, Held, Task

if TYPE_CHECKING:
    from glasspool.engines.local.collector import Collector
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.workers import Worker
    from glasspool.snapshot import Frame

REACT_S = 0.1
"""So long a task may take to end by an exception, before its worker is replaced."""

KNOCK_AGAIN_S = (0.01, 0.04)
"""So long after the first signal it is sent again, if the task has not told that it had it: between Python's
last look at its signals and a system call that waits, one is taken and nobody is woken."""

DUMP_S = 0.05
"""So long a worker that does not react may take to write its stacks down (``blackbox``)."""

AGAIN_S = 0.01
"""So long after it a cancellation is tried again, while another task of that worker is being ended."""

LEAST_S = 0.001


class Interrupt:
    """One task that a worker is being stopped from running."""

    __slots__ = ("is_timeout", "seq", "settled", "stack", "task")

    def __init__(self, task: Task, is_timeout: bool) -> None:
        self.task: Task = task
        self.seq: int = task.seq
        self.is_timeout: bool = is_timeout
        self.settled: bool = False
        self.stack: tuple[Frame, ...] | None = None


class Interrupts:
    """The tasks that are to be ended before they end by themselves."""

    def __init__(self, collector: Collector, engine: LocalEngine) -> None:
        self._collector = collector
        self._engine = engine

    # Time -----------------------------------------------------------------------------------------

    def watch(self, worker: Worker, held: Held) -> None:
        """See to it that a worker is looked at when one of its tasks may have used its time up."""
        least = min(
            (
                task.policy.timeout_s
                for task in held.tasks.values()
                if task.policy is not None and task.policy.timeout_s is not None
            ),
            default=None,
        )
        if least is not None:
            self._look_in(worker, least)

    def _look_in(self, worker: Worker, delay_s: float) -> None:
        at = time.monotonic() + delay_s
        if worker.look_at is None or at < worker.look_at:
            worker.look_at = at
            self._collector.timers.later(max(delay_s, LEAST_S), lambda: self._look(worker, at))

    def _look(self, worker: Worker, at: float) -> None:
        if worker.look_at != at:
            return  # an earlier look was arranged meanwhile
        worker.look_at = None
        held = worker.held
        if held is None or worker.buried or worker.interrupt is not None:
            return
        now = time.monotonic_ns()
        for task in held.tasks.values():
            entry = self._engine.board.entry(worker.record, task.seq)
            if entry is None:
                break  # it has not begun, nor has any behind it
            limit = None if task.policy is None else task.policy.timeout_s
            if entry.ended_ns or limit is None:
                continue
            left = limit - (now - entry.begun_ns) / 1e9
            if left <= 0:
                self.begin(worker, task, is_timeout=True)
            else:
                self._look_in(worker, left)
            return
        self.watch(worker, held)

    # The ladder -----------------------------------------------------------------------------------

    def begin(self, worker: Worker, task: Task, is_timeout: bool) -> None:
        """Stop a worker from running a task that it has begun."""
        earlier = worker.interrupt
        if earlier is not None:
            # Its answer may still be on its way while the worker has begun this one; and a timeout of this
            # very task may be followed by another attempt. A timeout is looked for again, a cancellation
            # comes only once: it must not get lost.
            if not is_timeout and (earlier.task is not task or earlier.is_timeout):
                self._collector.timers.later(AGAIN_S, lambda: self._collector.cancel(task))
            return
        interrupt = worker.interrupt = Interrupt(task, is_timeout)
        self.interrupt(worker, task.seq)
        for delay_s in KNOCK_AGAIN_S:
            self._collector.timers.later(delay_s, lambda: self._knock_again(worker, interrupt))
        self._collector.timers.later(REACT_S, lambda: self._resisted(worker, interrupt))

    def _knock_again(self, worker: Worker, interrupt: Interrupt) -> None:
        if worker.interrupt is interrupt and not (interrupt.settled or worker.buried):
            _send_signal(worker, kernel.interrupt_signal())

    def interrupt(self, worker: Worker, seq: int) -> None:
        """Have an exception raised in a worker's task, if that very task runs when the signal arrives."""
        self._engine.board.set_word(worker.record, sb.W_INTERRUPT, seq + 1)
        _send_signal(worker, kernel.interrupt_signal())

    def told(self, worker: Worker, seq: int, body: bytes) -> None:
        """Take a worker's word that it has raised the exception in the task, and where."""
        interrupt = worker.interrupt
        if interrupt is not None and interrupt.seq == seq:
            self._was_told(worker, interrupt, body)

    def _was_told(self, worker: Worker, interrupt: Interrupt, body: bytes) -> None:
        from glasspool.snapshot import Frame

        if not interrupt.settled:
            interrupt.stack = tuple(Frame(*frame) for frame in marshal.loads(body))
            self._settle(worker, interrupt, "the exception was raised there")

    def answered(self, worker: Worker) -> None:
        """Note that the worker is through with the task, one way or the other."""
        interrupt, worker.interrupt = worker.interrupt, None
        if worker.held is not None:
            self.watch(worker, worker.held)
        if interrupt is not None and not (interrupt.settled or interrupt.is_timeout):
            # It may have been taken back in the very moment in which it seemed to begin; then it waits
            # again, or is with the next worker.
            self._collector.cancel(interrupt.task)

    def _resisted(self, worker: Worker, interrupt: Interrupt) -> None:
        if worker.interrupt is not interrupt or worker.buried or worker.held is None:
            return
        if not interrupt.settled:
            entry = self._engine.board.entry(worker.record, interrupt.seq)
            if entry is not None and entry.ended_ns:
                self.answered(worker)  # it had ended in time: its result is on the way
                return
            if self._engine.black.ask(worker.record, worker.pid):
                self._collector.timers.later(DUMP_S, lambda: self._give_up(worker, interrupt))
                return
        self._give_up(worker, interrupt)

    def _give_up(self, worker: Worker, interrupt: Interrupt) -> None:
        """End the task whatever its worker does, and part with the worker."""
        if worker.interrupt is not interrupt or worker.buried:
            return
        if not interrupt.settled:
            interrupt.stack, _, _ = self._engine.coroner.last_stack(worker)
            self._settle(worker, interrupt, "it did not react: inside C code, or it blocks signals")
        self._collector.staff.condemn(worker)
        grace = self._engine.options.timeout_grace_s
        self._engine.kill_later(worker, grace, signal.SIGTERM)
        self._engine.kill_later(worker, 2 * grace, signal.SIGKILL)

    def _settle(self, worker: Worker, interrupt: Interrupt, note: str) -> None:
        """End the task, or let it wait for its next attempt."""
        interrupt.settled = True
        task = interrupt.task
        if self._engine.outputs is not None:
            self._engine.outputs.rescue(worker, task)
        error = self._error(worker, interrupt, note)
        task.attempts += 1
        name = "timeout" if interrupt.is_timeout else "cancelled"
        said = "ran out of time" if interrupt.is_timeout else "was cancelled while it ran"
        level = events.WARNING if interrupt.is_timeout else events.INFO
        events.task_event(self._engine, level, f"task.{name}", said, task, worker)
        if interrupt.is_timeout and self._collector.may_retry(task, type(error)):
            self._collector.retry(worker, task)
            return
        how = TIMEOUT if interrupt.is_timeout else CANCELLED
        self._collector.settle_here(task, error, how, worker)

    def _error(self, worker: Worker, interrupt: Interrupt, note: str) -> GlasspoolError:
        task = interrupt.task
        what = f"task {task.id} ({task.job.function_name(task)})"
        where = f"in worker {worker.slot} (pid {worker.pid})"
        limit = task.policy.timeout_s if task.policy is not None else None
        error: TaskTimeout | TaskCancelled
        if interrupt.is_timeout:
            error = TaskTimeout(f"{what} ran longer than its timeout of {limit:g} s {where}.")
        else:
            error = TaskCancelled(f"{what} was cancelled while it ran {where}.")
        error.stack = interrupt.stack
        error.add_note(f"Where it was ({note}):\n{_stack_text(interrupt.stack)}")
        return error


def _stack_text(stack: tuple[Frame, ...] | None) -> str:
    if not stack:
        return "  unknown"
    return "\n".join(f'  File "{f.file}", line {f.line}, in {f.function}' for f in stack)


def _send_signal(worker: Worker, number: int | None) -> None:
    if number is None or not worker.pid:
        return  # a platform without it: the ladder goes on with the next step
    with contextlib.suppress(ProcessLookupError):
        if worker.pidfd is not None and hasattr(signal, "pidfd_send_signal"):
            signal.pidfd_send_signal(worker.pidfd, number)
        else:
            os.kill(worker.pid, number)
