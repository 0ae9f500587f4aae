"""Rounds: calls that every worker makes once (``Pool.run_on_all``), those that come later, too.

Owns: the pool's rounds in their order, and for each worker those that it has still to make (``Chores``).
Threads: none; the collector's thread alone calls ``Rounds``, by itself or through an item in its mailbox. A
``Round`` is waited for by the thread that asked for it.

A round is no task: the ledger may give a task to any worker, and anew to another. It travels as a message of
its own, behind what the worker has been sent before, and the worker gets nothing more until it has made its
rounds: so nobody takes tasks back from it for being slow, and no caller is lent it. A worker that joins
makes all rounds so far after the initializer, before it is ready: one that dies in them, or fails in one that
is over, has failed to start. While a round is not over, what it raises is for whoever waits for it.

Invariants:

* a worker has each round once: when it joins, or when the round begins, whichever is later;
* a round is over when each slot has had a worker that made it, or has been taken away, and no worker is
  at it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import wire
from glasspool.engines.local.outcome import RAISED, VALUE, Outcome, rebuild
from glasspool.latch import Latch

if TYPE_CHECKING:
    from glasspool.engines.local.callables import Known
    from glasspool.engines.local.collector import Collector
    from glasspool.engines.local.workers import Worker


class Round(Latch):
    """A call that every worker makes once. Turned when all workers have that were there."""

    __slots__ = ("_asked", "_missing", "_outcomes", "known", "number")

    def __init__(self, number: int, known: Known) -> None:
        super().__init__()
        self.number: int = number
        self.known: Known = known
        self._missing: set[int] = set()  # slots of which no worker has made it yet
        self._asked: set[Worker] = set()  # those that are at it
        self._outcomes: dict[int, Outcome] = {}

    @property
    def outcomes(self) -> dict[int, Outcome]:
        """What became of it, by slot (once it is turned); -1: no worker will make it."""
        return self._outcomes

    def begin(self, slots: int) -> None:
        """Wait for so many slots (collector)."""
        self._missing = set(range(slots))

    def ask(self, worker: Worker) -> None:
        """Wait for a worker that is at it, too (collector)."""
        if not self.is_set():
            self._asked.add(worker)

    def made(self, worker: Worker, outcome: Outcome) -> None:
        """Take what became of it in a worker. Of several in a slot, the first one counts, or an error."""
        slot = worker.slot
        if not self.is_set() and (slot in self._missing or outcome[0] != wire.OK):
            self._outcomes[slot] = outcome
            self._missing.discard(slot)
        self.lost(worker)

    def lost(self, worker: Worker) -> None:
        """Take note that a worker is at it no more (collector)."""
        self._asked.discard(worker)
        self._look()

    def _look(self) -> None:
        if not self._missing and not self._asked:
            self.set()

    def limit(self, slots: int) -> None:
        """Wait for no slot from this one on: the pool has become smaller (collector)."""
        self._missing = {slot for slot in self._missing if slot < slots}
        self._look()

    def give_up(self, error: BaseException) -> None:
        """End the wait: no more workers will make it (collector)."""
        if not self.is_set():
            self._outcomes = {-1: (RAISED, error)}
            self.set()

    def values(self) -> list[Any]:
        """Return what the workers returned, in the order of their slots (once it is turned).

        Raises:
            BaseException: What one of them raised: the one of the lowest slot.
        """
        rebuilt = [rebuild(self._outcomes[slot]) for slot in sorted(self._outcomes)]
        for kind, value in rebuilt:
            if kind != VALUE:
                raise value
        return [value for _, value in rebuilt]

    @property
    def has_failed(self) -> bool:
        """Whether it is over and raised: workers to come are spared it."""
        return self.is_set() and any(kind != wire.OK for kind, _ in self._outcomes.values())


class Chores:
    """What one worker has still to do for rounds.

    ``hello`` is there for a worker that is not ready before it has made them: what it said of its
    initializer.
    """

    __slots__ = ("defined", "hello", "parts", "rounds", "sent")

    def __init__(self, rounds: list[Round], hello: tuple[int, int] | None) -> None:
        self.rounds: deque[Round] = deque(rounds)
        self.hello: tuple[int, int] | None = hello
        self.defined: bool = False  # the worker has been sent the callable of the first one
        self.sent: bool = False  # and to call it
        self.parts: list[bytes] = []  # what has come of its outcome


class Rounds:
    """The rounds of one pool."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._rounds: list[Round] = []

    def begin(self, round_: Round, slots: int) -> None:
        """Have every worker make a round: now, or when it joins (an item)."""
        collector = self._collector
        if collector.stopped or collector.failure is not None:
            round_.give_up(collector.failure or ValueError("Pool not running"))
            return
        round_.begin(slots)
        self._rounds.append(round_)
        for worker in list(collector.workers.values()):
            if worker.stopping or worker.dead or worker.dismissed or worker.init_failed:
                continue
            if worker.chores is not None:
                worker.chores.rounds.append(round_)
            elif worker.ready:
                worker.chores = Chores([round_], None)
                collector.pass_over(worker)
                # A caller who has it gives it back with a word: he looks at its chores after that.
                if worker.mine or collector.lender.take(worker):
                    self.send(worker)

    def welcome(self, worker: Worker, hello: tuple[int, int]) -> bool:
        """Have a worker that has run the initializer make the rounds so far; False if there are none."""
        self._rounds = [round_ for round_ in self._rounds if not round_.has_failed]
        if not self._rounds:
            return False
        worker.chores = Chores(self._rounds, hello)
        self.send(worker)
        return True

    def send(self, worker: Worker) -> None:
        """Send a worker that is ours the next of its rounds, if it is at none and there is room for it.

        After the last one it is free, or ready at last.
        """
        chores = worker.chores
        if chores is None or chores.sent or worker.dead or worker.stopping:
            return
        while chores.rounds and chores.rounds[0].has_failed:
            chores.rounds.popleft()
        if not chores.rounds:
            worker.chores = None
            if chores.hello is not None:
                self._collector.welcome(worker, chores.hello)
            return
        collector, round_ = self._collector, chores.rounds[0]
        call = round_.known.number
        if not chores.defined:
            definition, segments = collector.define(call)
            if not collector.post(worker, definition, segments):
                return  # told when there is room
            chores.defined = True
        flags = round_.known.flags & wire.BY_VALUE
        if chores.hello is not None and round_.is_set():
            flags |= wire.FIRST
        request = wire.REQUEST.pack(wire.ROUND, flags, call, round_.number, 0, 0)
        if collector.post(worker, request):
            chores.sent = True
            round_.ask(worker)

    def told(self, worker: Worker, body: bytes, kind: int, more: bool) -> None:
        """Take what became of a round in a worker, or a part of that."""
        chores = worker.chores
        if chores is None or not chores.rounds:
            return
        chores.parts.append(body)
        if more:
            return
        round_ = chores.rounds[0]
        body, chores.parts = b"".join(chores.parts), []
        if chores.hello is not None and round_.is_set() and kind in (wire.ERROR, wire.EXIT):
            return  # it has failed to start, and is about to say so
        round_.made(worker, (kind, body))
        chores.rounds.popleft()
        chores.sent = chores.defined = False
        self.send(worker)

    def lost(self, worker: Worker) -> None:
        """Take note that a worker has died."""
        if worker.chores is not None:
            for round_ in worker.chores.rounds:
                round_.lost(worker)

    def failed(self, worker: Worker) -> str | None:
        """Return what a starting worker was at that failed: a round; None if it was not."""
        chores = worker.chores
        if chores is None or chores.hello is None or not chores.rounds:
            return None
        return f"{chores.rounds[0].known.name} (of run_on_all)"

    def spare(self, number: int) -> None:
        """Spare workers to come a round: it has failed in another machine's (an item)."""
        self._rounds = [round_ for round_ in self._rounds if round_.number != number]

    def limit(self, slots: int) -> None:
        """Take note that there are fewer slots."""
        for round_ in self._rounds:
            if not round_.is_set():
                round_.limit(slots)

    @property
    def is_under_way(self) -> bool:
        """Whether somebody waits for a round."""
        return any(not round_.is_set() for round_ in self._rounds)

    def give_up(self, error: BaseException) -> None:
        """Tell whoever waits for a round that no more workers will make it."""
        for round_ in self._rounds:
            round_.give_up(error)
