"""The slots of a pool: which worker is in charge of each, and which one is to follow it.

The worker *in charge* of a slot is given tasks. Once it is *retiring* (its last task is near), its *heir*
is started, and is given nothing before the other has answered all that it was sent: so no more tasks
run at once than the pool has slots, and the next worker is warm before the old one leaves. A worker
that is *dismissed* (the pool was made smaller) leaves after the task that it runs, without an heir.

Pure: no thread, no I/O. The collector calls it, and acts. Invariants:

* a slot has at most one worker in charge and at most one heir, and no heir without one in charge;
* exactly the workers in charge that are not dismissed *serve*: may be given tasks;
* for each retiring worker one start was asked for; it ends as its heir, or as a failure that is told
  (then the worker goes *alone*).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from glasspool.latch import Latch

if TYPE_CHECKING:
    from glasspool.engines.local.workers import Worker


class Change:
    """A change of the number of workers that somebody waits for.

    ``missing`` are the new slots whose worker has no process yet; ``error`` says why there will be
    none.
    """

    def __init__(self) -> None:
        self.arranged: Latch = Latch()
        self.missing: set[int] = set()
        self.error: BaseException | None = None

    def give_up(self, error: BaseException) -> None:
        """End the wait with an error."""
        self.error = error
        self.arranged.set()


class Slots:
    """Who works where."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.charge: dict[int, Worker] = {}
        self.heirs: dict[int, Worker] = {}
        self._changes: list[Change] = []

    def settle(self, worker: Worker) -> bool:
        """Give a started worker its place; False if nobody needs it."""
        slot = worker.slot
        if slot >= self.size:
            return False
        other = self.charge.get(slot)
        if other is None or other.stopping or other.dead:
            self.charge[slot] = worker
        elif other.retiring and slot not in self.heirs:
            other.alone = False
            worker.serves = False
            self.heirs[slot] = worker
        elif not other.wanted and not other.retiring:
            self.charge[slot] = worker  # it has been replaced, for a reason of the collector's
        else:
            return False
        self.progress(slot)
        return True

    def vacate(self, worker: Worker) -> Worker | None:
        """Take a worker out that is gone, or leaves.

        Returns the worker whose turn may have come: its heir, which is in charge now; or the one
        whose heir it was, which will get no other as soon as that.
        """
        slot = worker.slot
        if self.heirs.get(slot) is worker:
            del self.heirs[slot]
            other = self.charge[slot]
            other.alone = True
            return other
        if self.charge.get(slot) is not worker:
            return None
        del self.charge[slot]
        heir = self.heirs.pop(slot, None)
        if heir is not None:
            heir.serves = True
            self.charge[slot] = heir
        return heir

    def has_successor(self, worker: Worker) -> bool:
        """Tell whether a worker that is done may leave: its heir is ready, or will not come soon."""
        heir = self.heirs.get(worker.slot)
        return worker.alone if heir is None else heir.ready

    def start_failed(self, slot: int) -> Worker | None:
        """Note that no worker could be started for a slot; returns the one that waits for its heir."""
        self.progress(slot)
        worker = self.charge.get(slot)
        if worker is None or not worker.retiring or slot in self.heirs:
            return None
        worker.alone = True
        return worker

    def shrink(self, size: int) -> list[Worker]:
        """Take away the slots from ``size`` on; returns the workers that are to be dismissed."""
        self.size = size
        leaving: list[Worker] = []
        for table in (self.heirs, self.charge):
            leaving += [worker for slot, worker in table.items() if slot >= size]
        for slot in [slot for change in self._changes for slot in change.missing if slot >= size]:
            self.progress(slot)
        return leaving

    def grow(self, size: int, change: Change) -> tuple[list[int], list[Worker]]:
        """Add slots.

        Returns those that need a worker, for which ``change`` waits, and the dismissed workers that
        have not left yet and may stay.
        """
        old, self.size = self.size, size
        needed: list[int] = []
        staying: list[Worker] = []
        for slot in range(old, size):
            worker = self.charge.get(slot)
            if worker is not None and not worker.stopping and not worker.dead:
                staying.append(worker)
            else:
                needed.append(slot)
        change.missing.update(needed)
        if needed:
            self._changes.append(change)
        else:
            change.arranged.set()
        return needed, staying

    def progress(self, slot: int) -> None:
        """Note that the start of a worker for a slot has come to something, or is not needed."""
        for change in self._changes.copy():
            change.missing.discard(slot)
            if not change.missing:
                self._changes.remove(change)
                change.arranged.set()
