"""The lookout: workers that are silent are looked at, and work is moved from stuck ones to idle ones.

Owns: which workers hold more than one task, and when the next look is due. Threads: none; the
collector's thread alone calls it, ``look`` when ``look_at`` has come, and ``_look_for_begins`` through the
collector's timers.

Invariants:

* every worker that holds more than one task is among those to look after (some others may be, too: they
  are found when looked at);
* a look is due only while one of these may be about to say something in silence, so a pool at rest, or
  one whose tasks are all long, makes no wake-ups.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from glasspool import batching
from glasspool.engines.local.workers import BEGIN_LIMIT_S

if TYPE_CHECKING:
    from glasspool.engines.local.collector import Collector
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.workers import Worker
    from glasspool.ledger import Held

LOOK_AFTER_NS = 1_000_000
LOOK_EVERY_S = 0.002


class Lookout:
    """The workers that have tasks ahead of them, and when they are looked at."""

    def __init__(self, collector: Collector, engine: LocalEngine) -> None:
        self._collector = collector
        self._engine = engine
        self._lanes = engine.options.threads  # so many tasks of a worker run at once
        self.look_at: float | None = None  # on the monotonic clock
        # All and perhaps more than the workers that hold more than one task: those to look after.
        self._ahead: dict[Worker, None] = {}
        self._expects_begins = False

    # What the collector tells -----------------------------------------------------------------------

    def sent(self, worker: Worker, held: Held) -> None:
        """Note that a worker was sent tasks."""
        if len(held) > self._lanes:
            self._ahead[worker] = None
        self.arm(held)

    def drop(self, worker: Worker) -> None:
        """Look no more after a worker: it is gone."""
        self._ahead.pop(worker, None)

    def arm(self, held: Held) -> None:
        """See to it that a worker is looked at soon which holds more than one task."""
        if self.look_at is None and len(held) > self._lanes:
            self.look_at = time.monotonic() + LOOK_EVERY_S

    def look_soon(self) -> None:
        """See to it that there is another turn soon."""
        if self.look_at is None:
            self.look_at = time.monotonic() + LOOK_EVERY_S

    # Silent workers ---------------------------------------------------------------------------------

    def look(self) -> None:
        """Read the outboxes of workers that have been silent, and relieve those that are stuck.

        A worker tells of short tasks in groups; if a long task follows some short ones, this is how
        the short ones' results get through, and how tasks behind the long one get to idle workers.
        """
        now = time.monotonic_ns()
        again = False
        for worker in list(self._ahead):
            held = worker.held
            if held is None or len(held) <= self._lanes:
                del self._ahead[worker]
                continue
            if worker.stuck:
                continue
            if now - worker.heard_ns < LOOK_AFTER_NS:
                again = True
                continue
            before = len(held)
            self._collector.take_boxed(worker)
            worker.stuck = len(held) == before and self._is_long(worker, held, now)
            again = again or not worker.stuck
        self.look_at = time.monotonic() + LOOK_EVERY_S if again else None
        if self._collector.has_free() and not self._collector.ledger.waiting:
            self.relieve()

    def _is_long(self, worker: Worker, held: Held, now: int) -> bool:
        """Tell whether the worker is inside a task for so long that it tells us of its end at once.

        Until then it has to be looked at: it may be about to box short results in silence.
        """
        if self._engine.lanes:
            running = self._engine.board.running(worker.record)
            long = sum(now - entry.begun_ns > LOOK_AFTER_NS for entry in running)
            return long == self._lanes
        first = next(iter(held.tasks.values()), None)
        if first is None:
            return False
        entry = self._engine.board.entry(worker.record, first.seq)
        return entry is not None and not entry.ended_ns and now - entry.begun_ns > LOOK_AFTER_NS

    def relieve(self) -> None:
        """Take unbegun tasks back from the worker that has most of them, for an idle one."""
        victim: Worker | None = None
        most = 0.0
        for worker in list(self._ahead):
            unbegun = len(worker.held) - self._lanes if worker.held is not None else 0
            if unbegun > 0:
                weight = unbegun * (1000.0 if worker.stuck else 1.0)
                if weight > most:
                    victim, most = worker, weight
            else:
                del self._ahead[worker]
        if victim is None or victim.held is None:
            return
        newest = next(reversed(victim.held.tasks.values()))
        pace = None if victim.stuck else self._collector.pace.get(newest.call)
        if batching.worth_taking_back(pace, len(victim.held) - self._lanes):
            self._collector.take_back(victim, victim.held)
            self._collector.hand_out()

    # Workers that do not begin ---------------------------------------------------------------------

    def expect_begins(self) -> None:
        """See to it that somebody looks whether workers begin what they were sent."""
        if not self._expects_begins:
            self._expects_begins = True
            self._collector.timers.later(BEGIN_LIMIT_S, self._look_for_begins)

    def _look_for_begins(self) -> None:
        """Take tasks back from workers that do not begin them: others may have time for them.

        Looks again only while there is something that has not begun, and so not while tasks are long.
        """
        self._expects_begins = is_waiting = False
        now = time.monotonic_ns()
        for worker in list(self._collector.workers.values()):
            held = worker.held
            if held is None or not held.tasks or worker.interrupt is not None:
                continue
            # Those that could have begun: one in each lane.
            first = list(itertools.islice(held.tasks.values(), self._lanes))
            if all(self._engine.board.has_begun(worker.record, task.seq) for task in first):
                continue
            is_late = worker.mine and now - worker.heard_ns > BEGIN_LIMIT_S * 1e9
            if is_late and self._collector.has_free(but=worker):
                self._collector.take_back(worker, held)
                if self._engine.lanes:  # it may have had room
                    self._collector.pass_over(worker)  # until something is heard of it
            else:
                is_waiting = True
        if is_waiting:
            self.expect_begins()
