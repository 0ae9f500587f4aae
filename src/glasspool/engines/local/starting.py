"""Starts of workers: how long one may take, how often it may fail, and what is said of a failure.

Owns: the failed starts in a row of each slot. The collector counts them; the worker-handler watches how
long a start takes. A start that failed is tried again after a pause that doubles. The pool gives up when
enough starts have failed in a row while no worker is ready: so an initializer that fails now and then, or
in some workers only, costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import kernel, main_guard, outcome
from glasspool.engines.local import scoreboard as sb
from glasspool.errors import InitializerFailed, WorkerDied

if TYPE_CHECKING:
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.workers import Worker

FAILURES = 3
"""So many starts in a row must fail at least, with no worker ready, before the pool gives up; of a larger
pool all first ones, and some second ones."""

SECOND_TRIES = 8

DEATHS_LATER = 20
"""So many at least where a worker has been ready before, and starting ones die: somebody kills them."""

PAUSE_S = 0.05
LONGEST_PAUSE_S = 10.0
LONGEST_LATER_S = 1.0

ANSWER_S = 0.25
"""So long a worker that is to be killed may take to say where it hangs."""


class Starts:
    """The starts of one pool's workers."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._failures: Counter[int] = Counter()
        self._has_succeeded = False

    # Counting (collector) -------------------------------------------------------------------------

    def succeeded(self) -> None:
        """A worker has run the initializer: it can."""
        self._failures.clear()
        self._has_succeeded = True

    def raised(self, worker: Worker, body: bytes) -> None:
        """A worker's initializer raised; the worker leaves."""
        if worker.init_failed:
            return  # told by message and found in the outbox
        worker.init_failed = True
        engine = self._engine
        what = engine.collector.rounds.failed(worker) or f"the initializer {engine.initializer}"
        error = InitializerFailed(
            f"{what} of {engine.name} raised in its workers.\n"
            f"The worker's traceback:\n{outcome.text_of(body)}"
        )
        try:
            error.__cause__ = outcome.error_of(body)
        except BaseException as failure:  # rebuilding may raise anything, and this thread goes on
            error.__cause__ = outcome.unbuildable("exception", failure)
        engine.stop_worker(worker, hard=False)  # it may hang in its exit functions
        self._failed(worker, error)

    def died(self, worker: Worker, death: WorkerDied) -> None:
        """A worker's process ended before it had run the initializer."""
        from glasspool.snapshot import describe_exit

        if worker.overdue is not None:
            self._failed(worker, worker.overdue)
            return
        if worker.exitcode == main_guard.EXIT_CODE and self._engine.start_method != "fork":
            self._lacks_guard()
            return
        error = InitializerFailed(
            f"worker {worker.slot} (pid {worker.pid}) {describe_exit(worker.exitcode)} "
            f"while it {self._what(worker)}."
        )
        error.__cause__ = death
        self._failed(worker, error, killed=self._has_succeeded)

    def _lacks_guard(self) -> None:
        """Fail at once: every worker would end so."""
        engine = self._engine
        if engine.collector.failure is None:
            text = main_guard.story(engine.name, engine.start_method, engine.made_at)
            engine.collector.fail(InitializerFailed(text))

    def _failed(self, worker: Worker, error: InitializerFailed, killed: bool = False) -> None:
        engine, slot = self._engine, worker.slot
        self._failures[slot] += 1
        count = self._failures[slot]
        collector = engine.collector
        collector.staff.vacate(worker)
        bound = max(self._bound(), DEATHS_LATER if killed else 0)
        if self._failures.total() >= bound and not any(w.ready for w in collector.workers.values()):
            collector.fail(error)
        elif collector.failure is None:
            longest_s = LONGEST_LATER_S if killed else LONGEST_PAUSE_S
            engine.replace(slot, min(PAUSE_S * 2**count, longest_s))

    def _bound(self) -> int:
        size = self._engine.size
        return max(FAILURES, size + min(size, SECOND_TRIES))

    def _what(self, worker: Worker) -> str:
        round_ = self._engine.collector.rounds.failed(worker)
        if round_ is not None:
            return f"ran {round_}"
        if self._engine.initializer and self._state(worker) != sb.STARTING:
            return f"ran the initializer {self._engine.initializer}"
        return "started"

    def _state(self, worker: Worker) -> int:
        return self._engine.board.word(worker.record, sb.W_STATE)

    # Watching (worker-handler) --------------------------------------------------------------------

    def watch(self, worker: Worker) -> None:
        """Kill a worker that is not ready in time, once it has a process."""
        limit_s = self._engine.options.start_timeout_s
        if limit_s is not None:
            self._engine.handler.later(limit_s, lambda: self._look(worker, limit_s))

    def _look(self, worker: Worker, limit_s: float) -> None:
        # The scoreboard, not the collector's knowledge: this process may have stood still.
        if not self._is_starting(worker):
            return
        number = kernel.stacks_signal()
        if number is None or not kernel.takes_signal(worker.pid, number):
            self._kill(worker, limit_s, "It did not come as far as to be asked where it is.")
            return

        def take(answers: list[Any]) -> None:
            told = _stack_text(answers)
            self._engine.handler.mailbox.put(lambda: self._kill(worker, limit_s, told))

        worker.stack_takers.append(take)
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, number)
        silent = "It did not say where it is: it is inside a C call."
        self._engine.handler.later(ANSWER_S, lambda: self._kill(worker, limit_s, silent))

    def _is_starting(self, worker: Worker) -> bool:
        return (
            not worker.ending
            and worker.token in self._engine.handler.workers
            and self._state(worker) in (sb.STARTING, sb.INITIALIZING)
            and worker.initialized_ns is None  # else it makes a round, between two tasks
        )

    def _kill(self, worker: Worker, limit_s: float, where: str) -> None:
        if worker.overdue is not None or not self._is_starting(worker):
            return
        what = self._what(worker)
        error = InitializerFailed(
            f"worker {worker.slot} (pid {worker.pid}) of {self._engine.name} was killed: it {what} "
            f"for more than {limit_s:g} s (start_timeout). {where}"
        )
        error.__cause__ = TimeoutError(f"{what} for more than {limit_s:g} s. {where}")
        worker.overdue = error
        self._engine.handler.kill(worker, signal.SIGKILL)


def _stack_text(answers: list[Any]) -> str:
    """Say where the main thread is, as a traceback does, without our own frames."""
    own = os.path.dirname(os.path.abspath(__file__))
    for *_, is_main, stack in answers:
        if is_main:
            lines = [
                f'  File "{file}", line {line}, in {function}'
                for file, line, function in stack
                if os.path.dirname(file) != own
            ]
            return "\n".join(["It hung here:", *lines])
    return "It did not say where it is."
