"""The staff: workers come, follow each other, are replaced or dismissed, and leave.

Owns: the slots of the pool (``slots`` says who stands where; here it is acted upon), and how long the
latest start took. Threads: none; the collector's thread alone calls it, by itself or through an item in
its mailbox. It starts and ends no process: it asks the engine, which tells the worker-handler.

Invariants:

* a worker that is told to stop leaves its slot in the same step, so who follows it may be given tasks
  at once, and nobody is asked for twice;
* each worker is told to stop once, and its end is seen to once: by ``watch_stop``, or by the ladder of
  whoever condemned it;
* whoever is not to get more tasks is out of the hungry ones before it is decided whether it leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from glasspool.engines.local import wire
from glasspool.engines.local.memory import excess
from glasspool.engines.local.slots import Slots
from glasspool.processors import usable_processors

if TYPE_CHECKING:
    from glasspool.engines.local.collector import Collector
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.slots import Change
    from glasspool.engines.local.workers import Worker
    from glasspool.ledger import Held

LINE = 3
"""So many workers of a slot may there be: one in charge, the next, and the one after that."""


class Staff:
    """Who works where, who comes, and who goes."""

    def __init__(self, collector: Collector, engine: LocalEngine) -> None:
        self._collector = collector
        self._engine = engine
        self._processors: int | None = None  # how many there are, once somebody has to know
        self.slots: Slots = Slots(engine.size)
        self.start_ns: float = 0.0  # how long the latest worker took from its start to its hello

    # Coming ---------------------------------------------------------------------------------------

    def settle(self, worker: Worker) -> None:
        """Give a worker that has a process its place, or let it go if nobody needs it any more."""
        if self._collector.stopped:
            self.stop(worker, hard=True)
        elif not self.slots.settle(worker):
            self._dismiss(worker)
        else:
            self._look_ahead(worker.slot)

    def start_failed(self, slot: int) -> None:
        """Take note that a worker could not be started, and is going to be tried again (an item)."""
        waiting = self.slots.start_failed(slot)
        if waiting is not None:
            self.move_on(waiting)

    # Following each other -------------------------------------------------------------------------

    def count_down(self, worker: Worker, pace: float | None) -> None:
        """Ask for an heir if a worker that was given tasks may not have many more (or none)."""
        if worker.quota is not None and self._is_near_its_end(worker.quota, pace):
            self._retire(worker)

    def _is_near_its_end(self, quota: int, pace: float | None) -> bool:
        """Tell whether a worker that may get so many more tasks has done them before another starts."""
        if quota == 0:
            return True
        has_work = len(self._collector.ledger.waiting) >= quota
        return has_work and pace is not None and quota * pace < self.start_ns

    def _retire(self, worker: Worker) -> None:
        """Ask for the next worker of a slot: this one will soon have had its number of tasks."""
        if not worker.retiring:
            worker.retiring, worker.alone = True, False
            self._engine.retired(worker)

    def _look_ahead(self, slot: int) -> None:
        """Ask for one more heir, if tasks take less time than starts, and processors are free."""
        ledger = self._collector.ledger
        first = ledger.next_waiting()
        pace = self._collector.pace.get(first.call) if first is not None else None
        line = self.slots.lines[slot]
        last = line[-1]
        if pace is None or last.quota is None or len(line) >= LINE:
            return
        if last.retiring or last.dismissed or len(ledger.waiting) < self._all_quotas():
            return
        if self._is_near_its_end(last.quota, pace):
            starting = sum(not worker.ready for worker in self._collector.workers.values())
            if self._processors is None:
                self._processors = usable_processors()
            if starting <= self._processors:
                self._retire(last)

    def _all_quotas(self) -> int:
        """Return how many more tasks the workers that are there may be given, at most."""
        return len(self._collector.workers) * (self._engine.maxtasksperchild or 0)

    def move_on(self, worker: Worker) -> None:
        """Let a worker go whose time has come; it is ours. Then it is its heir's turn."""
        if worker.stopping:
            return
        if worker.dismissed:
            if self._collector.is_done(worker) or not worker.ready:
                self.stop(worker, hard=False)
            return
        old = self.slots.in_charge(worker.slot)
        if old is None or not old.mine or (old.quota != 0 and old.recycled_for is None):
            return  # what a worker that is replaced skips counts for its number, and is not given to it
        if self._collector.is_done(old) and self.slots.has_successor(old):
            self.stop(old, hard=False)

    def vacate(self, worker: Worker) -> None:
        """Take a worker off its slot: it leaves, or is gone, or failed to start."""
        following = self.slots.vacate(worker)
        if following is None or self._collector.stopped:
            return
        if following.serves and following.mine:
            self._collector.make_hungry(following)
        self.move_on(following)
        if following.quota is not None and not following.stopping:
            self._look_ahead(worker.slot)

    # Being changed from outside -------------------------------------------------------------------

    def resize(self, size: int, change: Change) -> None:
        """Change the number of workers (an item)."""
        if self._collector.stopped or self._collector.failure is not None:
            change.give_up(self._collector.failure or ValueError("Pool not running"))
            return
        self._engine.size = size
        self._engine.places = size * self._engine.options.threads
        self._engine.board.set_size(size)
        if size < self.slots.size:
            for worker in self.slots.shrink(size):
                self._dismiss(worker)
            self._collector.rounds.limit(size)
            change.arranged.set()
            return
        needed, staying = self.slots.grow(size, change)
        for worker in staying:
            self._keep(worker)
        for slot in needed:
            self._engine.replace(slot)

    def _dismiss(self, worker: Worker) -> None:
        """Let a worker go after the task that it runs; what it has not begun goes to others."""
        worker.dismissed = True
        worker.serves = worker.retiring = worker.wanted = False
        self._collector.pass_over(worker)
        if worker.held:
            self._collector.take_back(worker, worker.held)
        # A caller who has it gives it back with a word.
        if worker.mine or self._collector.lender.take(worker):
            self.move_on(worker)

    def _keep(self, worker: Worker) -> None:
        """Let a dismissed worker stay that has not left yet: the pool has become larger again."""
        worker.dismissed = False
        worker.serves = worker.wanted = True
        if worker.quota == 0:
            self._retire(worker)
        if worker.mine:
            self._collector.make_hungry(worker)

    def recycle(self, worker: Worker, used: int) -> None:
        """Replace a worker that is above ``max_memory``; others run what it has not begun (an item)."""
        limit = self._engine.options.soft_memory
        held = worker.held
        if worker.stopping or worker.dead or worker.recycled_for or held is None or limit is None:
            return
        option = "max_memory_hard" if self._engine.options.max_memory is None else "max_memory"
        self._engine.over_memory += 1
        self._replace(worker, held, excess(used, option, limit))

    def restart(self, worker: Worker, why: str) -> bool:
        """Replace a worker after the task that it runs (an item); False if it is leaving already."""
        held = worker.held
        is_leaving = worker.stopping or worker.dead or worker.retiring or worker.dismissed
        if is_leaving or held is None or not worker.serves or not worker.ready:
            return False
        self._replace(worker, held, why)
        return True

    def _replace(self, worker: Worker, held: Held, why: str) -> None:
        worker.recycled_for = why
        self._collector.pass_over(worker)
        self._collector.take_back(worker, held)
        # It gets nothing more, and leaves when it is done and its heir is warm.
        worker.quota = 0
        worker.serves = False  # a caller who has it gives it back with a word
        self._retire(worker)
        if worker.mine or self._collector.lender.take(worker):
            self.move_on(worker)

    # Going ----------------------------------------------------------------------------------------

    def stop(self, worker: Worker, hard: bool) -> None:
        """Let a worker leave when it is done; ``hard``: now."""
        worker.stopping = True
        self.vacate(worker)
        self.post_stop(worker)
        if hard:
            self._engine.stop_worker(worker, hard=True)
        else:
            self.watch_stop(worker)

    def post_stop(self, worker: Worker) -> None:
        """Tell a worker to leave, if that is due and there was no room in its channel until now."""
        if worker.stopping and not worker.stop_is_sent:
            worker.stop_is_sent = self._collector.post(
                worker, wire.REQUEST.pack(wire.STOP, 0, 0, 0, 0, 0)
            )

    def watch_stop(self, worker: Worker) -> None:
        """See to it that a worker leaves, once it has nothing more to do: its last task takes its time."""
        if worker.stopping and not worker.held and not worker.stop_is_watched:
            worker.stop_is_watched = True
            self._engine.stop_worker(worker, hard=False)

    def condemn(
        self,
        worker: Worker,
        why: str = "was stopped by the pool, because its task resisted",
        stops: bool = True,
    ) -> None:
        """Give a worker up that does not let go of its task: its other tasks and its slot go on.

        ``stops``: it is told to leave as soon as it can; else whoever calls this tells it later.
        """
        self._collector.pass_over(worker)
        if worker.held is not None:
            self._collector.take_back(worker, worker.held)
        if not worker.stopping:
            worker.stopping = True
            self.vacate(worker)
            if worker.wanted:  # else its successor has been asked for, or the pool is smaller now
                self._engine.retired(worker)
        worker.end_reason = why
        worker.stop_is_watched = True  # it has a ladder of its own
        if stops:
            self.post_stop(worker)
