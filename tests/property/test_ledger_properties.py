"""The ledger under any row of events: every task is in one place, and ends once."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from glasspool.ledger import (
    CANCELLED,
    DONE,
    ENDED,
    ENDS,
    FAILED,
    LOST,
    SENT,
    TIMEOUT,
    WAITING,
    Held,
    Ledger,
    Part,
    Task,
)

told_ends = st.sampled_from([DONE, FAILED])
decided_ends = st.sampled_from([FAILED, LOST, CANCELLED, TIMEOUT])


class LedgerMachine(RuleBasedStateMachine):
    """Does with a ledger what a collector may do, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.tasks: list[Task] = []
        self.workers: list[Held] = []
        self.buried: list[Held] = []
        self.ends: Counter[int] = Counter()
        self.how: Counter[str] = Counter()

    def _pick(self, data: st.DataObject, row: list[Any]) -> Any:
        return row[data.draw(st.integers(0, len(row) - 1))]

    def _ended(self, task: Task, how: str) -> None:
        self.ends[task.id] += 1
        self.how[how] += 1

    @initialize(count=st.integers(1, 3))
    def start(self, count: int) -> None:
        """Begin with some workers."""
        self.workers = [self.ledger.join() for _ in range(count)]

    @rule(count=st.integers(1, 5), call=st.integers(0, 1), as_row=st.booleans())
    def submit(self, count: int, call: int, as_row: bool) -> None:
        """New tasks wait."""
        first = len(self.tasks) + 1
        row = [Part(first + i, None, 0, 1, call, 0, b"x", 1, 0) for i in range(count)]
        self.tasks += row
        if as_row:
            self.ledger.submit_row(row)
        else:
            for task in row:
                self.ledger.submit(task)
        assert all(task.state == WAITING for task in row)

    @precondition(lambda self: len(self.workers) < 4)
    @rule()
    def join(self) -> None:
        """A worker joins, and holds nothing."""
        self.workers.append(self.ledger.join())
        assert len(self.workers[-1]) == 0

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), count=st.integers(1, 6), room=st.booleans())
    def send(self, data: st.DataObject, count: int, room: bool) -> None:
        """Tasks go out in the order in which they wait; a full channel changes nothing."""
        held = self._pick(data, self.workers)
        before = [task for task in self.ledger.waiting if task.state == WAITING]
        seq, sent = held.next_seq, []
        while len(sent) < count and (task := self.ledger.next_waiting()) is not None:
            assert self.ledger.send(held) is task
            sent.append(task)
        assert sent == before[:count]
        assert [task.seq for task in sent] == list(range(seq, seq + len(sent)))
        if not room:
            self.ledger.unsend(held, sent)
            assert held.next_seq == seq
            assert [t for t in self.ledger.waiting if t.state == WAITING] == before

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), most=st.integers(0, 6), room=st.integers(-1, 6), fit=st.booleans())
    def send_row(self, data: st.DataObject, most: int, room: int, fit: bool) -> None:
        """A row is the next tasks, as long as they are alike and there is room for them."""
        held = self._pick(data, self.workers)
        before = [task for task in self.ledger.waiting if task.state == WAITING]
        if self.ledger.next_waiting() is None:
            return
        seq = held.next_seq
        row = self.ledger.send_row(held, most, room, fit)
        assert row == before[: len(row)]
        assert len({task.call for task in row}) <= 1
        assert [task.seq for task in row] == list(range(seq, held.next_seq))
        least = 0 if fit else 1  # each task weighs 1
        assert len(row) <= min(most, max(room, least))
        if len(row) < min(most, room, len(before)):
            assert before[len(row)].call != before[0].call

    @precondition(lambda self: any(self.workers))
    @rule(data=st.data(), how=told_ends)
    def end_row(self, data: st.DataObject, how: str) -> None:
        """Of a row of ends those count that are the worker's, each once."""
        held = self._pick(data, [held for held in self.workers if held])
        told = data.draw(st.lists(st.sampled_from(self.tasks), max_size=6, unique=True))
        is_its = [task.holder is held for task in told]
        row = self.ledger.end_row(held, [task.id for task in told], how)
        expected = zip(told, is_its, strict=True)
        assert row == [task if its else None for task, its in expected]
        for task in filter(None, row):
            self._ended(task, how)

    @precondition(lambda self: any(self.workers))
    @rule(data=st.data(), how=told_ends)
    def end(self, data: st.DataObject, how: str) -> None:
        """A worker tells the end of a task that it holds; a second word is ignored."""
        held = self._pick(data, [held for held in self.workers if held])
        task = self._pick(data, list(held.tasks.values()))
        assert self.ledger.end(held, task.id, how) is task
        self._ended(task, how)
        assert self.ledger.end(held, task.id, how) is None

    @precondition(lambda self: self.workers and self.tasks)
    @rule(data=st.data(), how=told_ends)
    def end_of_any(self, data: st.DataObject, how: str) -> None:
        """What a worker tells of a task that is not its own, or not any more, does not count."""
        held = self._pick(data, self.workers + self.buried)
        task = self._pick(data, self.tasks)
        is_its = task.holder is held
        told = self.ledger.end(held, task.id, how)
        assert told is (task if is_its else None)
        if is_its:
            self._ended(task, how)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), how=decided_ends)
    def end_here(self, data: st.DataObject, how: str) -> None:
        """The parent may end any task that has not ended, wherever it is; once."""
        task = self._pick(data, self.tasks)
        is_open = task.state != ENDED
        assert self.ledger.end_here(task, how) is is_open
        if is_open:
            self._ended(task, how)
        assert not self.ledger.end_here(task, how)

    @precondition(lambda self: any(self.workers))
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        """Taken-back tasks go first, in the order in which they were submitted to the worker."""
        held = self._pick(data, [held for held in self.workers if held])
        holding = list(held.tasks.values())
        keep = data.draw(st.integers(0, len(holding)))
        back = holding[keep:]
        others = [task for task in self.tasks if task.holder is not held][:3]
        waiting = [task for task in self.ledger.waiting if task.state == WAITING]
        assert self.ledger.take_back(held, back + others) == len(back)
        assert list(held.tasks.values()) == holding[:keep]
        assert [t for t in self.ledger.waiting if t.state == WAITING] == back + waiting

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), retry=st.booleans(), how=decided_ends)
    def bury(self, data: st.DataObject, retry: bool, how: str) -> None:
        """Of a dead worker's tasks, what had begun is lost or retried, and the rest waits first."""
        held = self._pick(data, self.workers)
        self.workers.remove(held)
        holding = list(held.tasks.values())
        started = data.draw(st.integers(0, len(holding)))
        first_unbegun = holding[started].seq if started < len(holding) else held.next_seq
        attempts = [task.attempts for task in holding]
        begun = self.ledger.bury(held, lambda task: task.seq < first_unbegun)
        assert begun == holding[:started]
        assert [t for t in self.ledger.waiting if t.state == WAITING][
            : len(holding) - started
        ] == holding[started:]
        for task in begun:
            if retry:
                self.ledger.retry(held, task, 1)
            else:
                assert self.ledger.end_here(task, how)
                self._ended(task, how)
        assert [task.attempts for task in holding] == [
            n + 1 if i < started else n for i, n in enumerate(attempts)
        ]
        assert not held
        self.buried.append(held)

    @invariant()
    def holds(self) -> None:
        """The ledger's own check, and the counts."""
        ledger = self.ledger
        ledger.check()
        assert ledger.submitted == len(self.tasks)
        assert ledger.ended == {how: self.how[how] for how in ENDS}
        assert set(self.ends.values()) <= {1}
        assert {task.id for task in self.tasks if task.state == ENDED} == set(self.ends)
        unended = list(ledger.unended())
        assert len(unended) == len(set(unended)) == ledger.open
        assert ledger.sent == sum(task.state == SENT for task in self.tasks)

    def teardown(self) -> None:
        """Run to the end: every task ends exactly once."""
        while (task := self.ledger.next_waiting()) is not None or self.ledger.open:
            if task is not None:
                held = self.workers[0] if self.workers else self.ledger.join()
                self.ledger.send(held)
                assert self.ledger.end(held, task.id, DONE) is task
                self._ended(task, DONE)
            for task in list(self.ledger.unended()):
                if self.ledger.end_here(task, CANCELLED):
                    self._ended(task, CANCELLED)
        self.holds()
        assert self.ledger.open == 0
        assert self.ends == Counter(task.id for task in self.tasks)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
