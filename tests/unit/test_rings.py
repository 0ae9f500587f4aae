"""Rings are read once each: with a worker made by hand, which a test can stop anywhere."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from glasspool.engines.local import scoreboard as sb
from glasspool.observe.rings import Rings
from glasspool.snapshot import ProcessInfo


class HandWorker:
    """Writes a record as a worker does, step by step."""

    def __init__(self, board: sb.Board, record: int, pid: int, generation: int = 0) -> None:
        self.board, self.record, self.pid = board, record, pid
        self.generation = generation
        self.seq = 0
        board.clear(record)
        board.set_word(record, sb.W_PID, pid)
        board.set_word(record, sb.W_GENERATION, generation)
        board.set_word(record, sb.W_STATE, sb.READY)

    def begin(self) -> None:
        """Take up the next task; its id is the worker's pid and its number."""
        at = self.board.ring(self.record) + self.seq % sb.RING * sb.ENTRY.size
        task = self.pid * 1_000_000 + self.seq
        sb.BEGIN.pack_into(self.board.view, at, task, 1, time.monotonic_ns(), 0, self.seq + 1)
        self.seq += 1

    def end(self, status: int = sb.DONE) -> None:
        """End the task that was taken up last."""
        at = (self.board.ring(self.record) + (self.seq - 1) % sb.RING * sb.ENTRY.size) // 8
        self.board.words[at + sb.E_RESULT] = 7 | status << 56
        self.board.words[at + sb.E_ENDED] = time.monotonic_ns() if status != sb.SKIPPED else 1

    def run(self, count: int = 1) -> None:
        """Run tasks."""
        for _ in range(count):
            self.begin()
            self.end()


@pytest.fixture
def board(glasspool_dir: Path) -> Iterator[sb.Board]:
    """Return the scoreboard of a pool that is made by hand."""
    made = sb.Board.create("by-hand", 2, 3, start_method="fork")
    made.name_call(1, "work")
    yield made
    made.close()
    made.unlink()


@pytest.fixture
def rings(board: sb.Board) -> Iterator[Rings]:
    """Return what reads it."""
    made = Rings(sb.Board.open(board.path), "p")
    yield made
    made.close()


def test_every_task_is_told_once_or_counted(board: sb.Board, rings: Rings) -> None:
    """Whenever it is read, what is told and what is lost are all that ended, and nothing is told twice."""
    chance = random.Random(6)
    workers = [HandWorker(board, record, 100 + record) for record in range(2)]
    rings.drain()
    told: list[int] = []
    lost = 0
    for _ in range(60):
        for worker in workers:
            worker.run(chance.choice((0, 1, 5, 900, 1022, 1023, 1024, 3000)))
            worker.begin()
        harvest = rings.drain(chance.choice((None, 1, 10, 5000)))
        told += [record.task for record in harvest.records]
        lost += harvest.lost
        ended = sum(worker.seq - 1 for worker in workers)
        assert len(told) + lost == ended, "the running tasks are neither"
        for worker in workers:
            worker.end()
    assert len(set(told)) == len(told)


def test_nothing_is_lost_that_could_be_read(board: sb.Board, rings: Rings) -> None:
    """Up to 1,022 tasks between two readings, none is lost."""
    worker = HandWorker(board, 0, 100)
    rings.drain()
    for count in (1, 1022, 500, 1022, 1022):
        worker.run(count)
        harvest = rings.drain()
        assert (len(harvest.records), harvest.lost) == (count, 0)
        ids = [record.task for record in harvest.records]
        assert ids == sorted(ids)
    record = harvest.records[-1]
    assert (record.pool, record.pid, record.slot, record.function) == ("p", 100, 0, "work")
    assert (record.status, record.result_bytes) == ("done", 7)


def test_the_first_reading_tells_what_is_still_there(board: sb.Board, rings: Rings) -> None:
    """What ended before anybody watched is told as far as it is there, and not counted as lost."""
    HandWorker(board, 0, 100).run(5000)
    HandWorker(board, 1, 101).run(10)
    harvest = rings.drain()
    assert (len(harvest.records), harvest.lost) == (1022 + 10 + 1, 0)


def test_skipped_tasks_are_nobodys(board: sb.Board, rings: Rings) -> None:
    """A task that was taken back before it ran is neither told nor lost."""
    worker = HandWorker(board, 0, 100)
    rings.drain()
    for status in (sb.DONE, sb.SKIPPED, sb.FAILED, sb.SKIPPED):
        worker.begin()
        worker.end(status)
    harvest = rings.drain()
    assert [record.status for record in harvest.records] == ["done", "failed"]
    assert harvest.lost == 0


def test_skipped_tasks_are_nobodys_in_a_limited_reading_either(
    board: sb.Board, rings: Rings
) -> None:
    """Where only the newest are read, those that were taken back are not among the lost."""
    worker = HandWorker(board, 0, 100)
    rings.drain()
    for number in range(300):
        worker.begin()
        worker.end(sb.SKIPPED if number % 3 else sb.DONE)
    harvest = rings.drain(10)
    assert len(harvest.records) + harvest.lost == 100
    HandWorker(board, 0, 200, generation=1)
    rings.drain()
    ended = ProcessInfo(100, "w", "worker", tasks_done=100)
    assert rings.settle(()) == rings.settle([ended]) == 0


def test_a_task_that_is_just_ending_is_told_later(board: sb.Board, rings: Rings) -> None:
    """A task is told when it has ended, not before, though later tasks of other workers have."""
    worker = HandWorker(board, 0, 100)
    rings.drain()
    worker.begin()
    assert rings.drain().records == []
    worker.end()
    assert [record.task for record in rings.drain().records] == [100_000_000]


def test_a_new_worker_in_an_old_place(board: sb.Board, rings: Rings) -> None:
    """A record that another worker has is read from its beginning; what was missed the pool tells."""
    old = HandWorker(board, 0, 100)
    rings.drain()
    assert rings.settle(()) == 0
    old.run(10)
    rings.drain()
    old.run(7)  # and its place is wiped before anybody reads it
    new = HandWorker(board, 0, 200, generation=1)
    new.run(4)
    harvest = rings.drain()
    assert [record.pid for record in harvest.records] == [200] * 4
    assert (harvest.records[0].generation, harvest.lost) == (1, 0)
    ended = [
        ProcessInfo(100, "w", "worker", generation=0, tasks_done=17),
        ProcessInfo(150, "w", "worker", generation=0, tasks_done=3),  # came and went unseen
    ]
    assert rings.settle(ended) == 7 + 3
    assert rings.settle(ended) == 0


def test_who_ended_before_is_not_missed(board: sb.Board, rings: Rings) -> None:
    """Workers that had ended when the watch began have lost nothing that it should have seen."""
    rings.drain()
    ended = [ProcessInfo(90, "w", "worker", generation=0, tasks_done=1000)]
    assert rings.settle(ended) == 0
    assert rings.settle(ended) == 0


def test_news(board: sb.Board, rings: Rings) -> None:
    """A worker that comes, or whose place is given back, is news; tasks are none."""
    worker = HandWorker(board, 0, 100)
    rings.drain()
    rings.has_news = False
    worker.run(10)
    rings.drain()
    assert not rings.has_news
    board.set_word(0, sb.W_STATE, sb.FREE)
    rings.drain()
    assert rings.has_news


def test_many_entries_at_once_are_those_one_by_one(board: sb.Board) -> None:
    """What is read at once is what would be read one by one, wherever the ring begins."""
    worker = HandWorker(board, 0, 100)
    for count in (10, 1013, 2, 700, 1024, 5):
        worker.run(count)
        last = worker.seq - 2  # a later one has begun
        for first in (last, max(0, last - 5), max(0, last - 1021), max(0, last - 1023)):
            single = [board.entry(0, seq) for seq in range(first, last + 1)]
            assert board.entries(0, first, last) == [one for one in single if one is not None]
        assert board.newest(0, 0) == board.last_seq(0) == worker.seq - 1
        assert board.newest(0, worker.seq) is None
