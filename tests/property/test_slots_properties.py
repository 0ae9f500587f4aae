"""Properties of the slots: who is in charge, who follows, who is not needed."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from glasspool.engines.local.slots import Change, Slots


class Fake:
    """What the slots look at and write of a worker."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.serves = self.wanted = True
        self.ready = self.retiring = self.alone = self.dismissed = False
        self.stopping = self.dead = False


class SlotsMachine(RuleBasedStateMachine):
    """Starts, retirements, ends and changes of size in any order; starts take any time."""

    def __init__(self) -> None:
        super().__init__()
        self.slots: Any = Slots(2)
        self.starting = [0, 1]
        self.changes: list[Change] = []
        self.settled: list[Fake] = []

    def placed(self) -> list[Fake]:
        return [worker for line in self.slots.lines.values() for worker in line]

    def dismiss(self, worker: Fake) -> None:
        worker.dismissed = True
        worker.serves = worker.retiring = worker.wanted = False

    @precondition(lambda self: self.starting)
    @rule(data=st.data(), fails=st.booleans())
    def a_start_ends(self, data: st.DataObject, fails: bool) -> None:
        """A start that was asked for comes to a worker, or fails and is tried again."""
        at = data.draw(st.integers(0, len(self.starting) - 1))
        slot = self.starting[at]
        if fails:
            self.slots.start_failed(slot)
            return
        del self.starting[at]
        worker = Fake(slot)
        if not self.slots.settle(worker):
            self.dismiss(worker)
        else:
            self.settled.append(worker)

    @precondition(lambda self: self.placed())
    @rule(data=st.data())
    def a_worker_moves_on(self, data: st.DataObject) -> None:
        """It gets ready, then it is to leave soon (the last in line only), or stays."""
        worker = data.draw(st.sampled_from(self.placed()))
        worker.ready = True
        last = self.slots.lines[worker.slot][-1]
        if worker is last and not worker.dismissed and not worker.retiring:
            worker.retiring, worker.alone, worker.wanted = True, False, False
            self.starting.append(worker.slot)

    @precondition(lambda self: self.placed())
    @rule(data=st.data())
    def a_worker_ends(self, data: st.DataObject) -> None:
        """It dies, or leaves: who was wanted is replaced."""
        worker = data.draw(st.sampled_from(self.placed()))
        worker.dead = True
        self.slots.vacate(worker)
        assert self.slots.vacate(worker) is None
        if worker.wanted:
            self.starting.append(worker.slot)

    @rule(size=st.integers(1, 4))
    def the_size_changes(self, size: int) -> None:
        """The pool is made smaller or larger."""
        if size < self.slots.size:
            for worker in self.slots.shrink(size):
                self.dismiss(worker)
                if len(self.slots.lines[worker.slot]) > 1:  # who only waited leaves at once
                    worker.stopping = True
                    self.slots.vacate(worker)
            return
        change = Change()
        needed, staying = self.slots.grow(size, change)
        self.changes.append(change)
        self.starting += needed
        for worker in staying:
            worker.dismissed = False
            worker.serves = worker.wanted = True

    @invariant()
    def lines_are_in_order(self) -> None:
        """The first serves unless it is dismissed, nobody else does, and all but the last retire."""
        for slot, line in self.slots.lines.items():
            assert line
            assert [worker.serves for worker in line] == [
                not line[0].dismissed,
                *[False] * (len(line) - 1),
            ]
            assert all(worker.retiring for worker in line[:-1])
            assert slot < self.slots.size or line[0].dismissed

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """Whoever was given a place keeps it until his end."""
        placed = self.placed()
        for worker in self.settled:
            assert worker.dead or worker.stopping or worker in placed

    @invariant()
    def each_slot_has_or_gets_a_worker(self) -> None:
        """A slot has somebody in charge, or a start under way; a retiring one has a successor so."""
        for slot in range(self.slots.size):
            line = self.slots.lines.get(slot)
            assert line or slot in self.starting
            if line and line[-1].retiring:
                assert slot in self.starting

    @invariant()
    def changes_wait_for_starts_only(self) -> None:
        """A change is arranged exactly when none of its slots waits for its first worker."""
        for change in self.changes:
            assert change.arranged.is_set() == (not change.missing)
            assert all(slot in self.starting for slot in change.missing)
            assert all(slot < self.slots.size for slot in change.missing)


TestSlots = SlotsMachine.TestCase
TestSlots.settings = settings(max_examples=40, deadline=None)
