"""The slots of a pool: which worker is in charge of each, and which one is to follow it.

The worker *in charge* of a slot is given tasks. Once it is *retiring* (its last task is near), its *heir*
is started, and is given nothing before the other has answered all that it was sent: so no more tasks
run at once than the pool has slots, and the next worker is warm before the old one leaves. Where a
worker's tasks take less time than the start of the next, an heir may be retiring too, and have an heir
of its own: the workers of a slot form a line. A worker that is *dismissed* (the pool was made smaller)
leaves after the task that it runs, without an heir.

Pure: no thread, no I/O. The collector calls it, and acts. Invariants:

* exactly the first in each line *serves* (may be given tasks), unless it is dismissed;
* all but the last in a line are retiring;
* for each retiring worker one start was asked for. It ends as the next in line, or as a failure that is
  told (then the worker goes *alone*).
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
        self.size: int = size
        self.lines: dict[int, list[Worker]] = {}
        self._changes: list[Change] = []

    def in_charge(self, slot: int) -> Worker | None:
        """Return the worker that is in charge of a slot, or None."""
        line = self.lines.get(slot)
        return line[0] if line else None

    def settle(self, worker: Worker) -> bool:
        """Give a started worker its place; False if nobody needs it."""
        slot = worker.slot
        if slot >= self.size:
            return False
        line = self.lines.setdefault(slot, [])
        # Some leave for other reasons than those told here, and are replaced before they are gone.
        line[:] = [other for other in line if not (other.stopping or other.dead)]
        if line and not line[-1].retiring:
            if line[-1].wanted:
                return False
            line.clear()
        if line:
            line[-1].alone = False
            worker.serves = False
        line.append(worker)
        self.progress(slot)
        return True

    def vacate(self, worker: Worker) -> Worker | None:
        """Take a worker out that is gone, or leaves.

        Returns the one that is in charge of its slot now, whose turn to come or to go this may be.
        """
        line = self.lines.get(worker.slot)
        if line is None or worker not in line:
            return None
        if line[-1] is worker and len(line) > 1:
            line[-2].alone = True  # it will get no other heir as soon as that
        line.remove(worker)
        if not line:
            del self.lines[worker.slot]
            return None
        line[0].serves = not line[0].dismissed
        return line[0]

    def has_successor(self, worker: Worker) -> bool:
        """Tell whether the worker in charge may leave: its heir is ready, or will not come soon."""
        line = self.lines[worker.slot]
        return line[1].ready if len(line) > 1 else worker.alone

    def start_failed(self, slot: int) -> Worker | None:
        """Note that no worker could be started for a slot; returns the one that is in charge of it."""
        self.progress(slot)
        line = self.lines.get(slot)
        if not line:
            return None
        line[-1].alone = line[-1].retiring
        return line[0]

    def shrink(self, size: int) -> list[Worker]:
        """Take away the slots from ``size`` on; returns the workers that are to be dismissed."""
        self.size = size
        lines = [line for slot, line in self.lines.items() if slot >= size]
        leaving = [worker for line in lines for worker in reversed(line)]
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
            worker = self.in_charge(slot)
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
