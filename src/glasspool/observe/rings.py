"""Read what ended in a pool of ours from its scoreboard, each task once, and count what was missed.

*Owns* the opened scoreboard of one pool and how far the ring of each of its workers has been read. Threads:
none. The worker's ring goes round after 1,024 tasks, whoever reads; so what was overwritten meanwhile is
counted by its numbers. The file may have been removed: its mapping can be read for as long as it is open.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from glasspool.engines.local import scoreboard
from glasspool.engines.local.scoreboard import Board, Entry
from glasspool.observe.records import TaskRecord
from glasspool.snapshot import ProcessInfo

MOST_AT_FIRST = 20_000
"""So many tasks may be read at once by who is told to read few, when it begins: they take a tenth of a
second."""

_STATUS = {scoreboard.DONE: "done", scoreboard.FAILED: "failed"}
_SENT_ALONG = "(sent with its task)"
_FUTURE_NS = 1_000_000_000
"""An end that lies further in the future than this is none: the file is damaged."""

_REMEMBERED = 4096


@dataclass(slots=True)
class _Ring:
    """How far the ring of one worker has been read.

    ``owner`` is pid and generation of the worker; ``next_seq`` the first of its tasks that has not been
    read: all before it were, or are counted as lost, or had ended when the watch began. ``skipped`` of them
    were taken back from the worker, which so did not do them. ``open`` are those before it that still ran in
    a lane of the worker when they were looked at.
    """

    owner: tuple[int, int]
    next_seq: int
    skipped: int = 0
    open: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Part:
    """What there is to read in one ring: the tasks from ``first`` to ``last``."""

    record: int
    ring: _Ring
    first: int
    last: int


@dataclass(slots=True)
class Harvest:
    """Tasks that ended, in any order, and how many more there were."""

    records: list[TaskRecord] = field(default_factory=list)
    lost: int = 0


class Rings:
    """The rings of one pool.

    Args:
        board: Its scoreboard, opened to read; it is closed with this.
        pool: What the records shall call the pool.
    """

    def __init__(self, board: Board, pool: str) -> None:
        self.board = board
        self.pool = pool
        self._rings: dict[int, _Ring] = {}
        self._settled: set[tuple[int, int]] | None = None
        self._read: dict[tuple[int, int], int] = {}
        self._names: dict[int, str] = {}
        self._is_first = True
        self._workers: tuple[tuple[int, int, bool], ...] = ()
        self.has_news: bool = False
        """Whether a worker came or went since the owner of this took it back."""

    def close(self) -> None:
        """Let the scoreboard go. Safe to call twice."""
        self.board.close()

    def drain(self, most: int | None = None) -> Harvest:
        """Read what ended since the last call; the first time, what the rings still hold.

        Args:
            most: Read at most so many tasks of all workers, the newest; more are counted as lost. The first
                time it may be ``MOST_AT_FIRST``: whoever begins to look wants to see what has been.
        """
        if most is not None and self._is_first:
            most = max(most, MOST_AT_FIRST)
        self.board.see_growth()
        harvest = Harvest()
        records = range(self.board.header.records)
        workers = tuple(map(self._worker, records))
        self.has_news |= workers != self._workers
        self._workers = workers
        parts = [p for record in records if (p := self._part(record, *workers[record]))]
        if most is not None and sum(part.last - part.first + 1 for part in parts) > most:
            share = max(1, most // len(parts))
            for part in parts:
                self._skip_to(part, part.last - share + 1, harvest)
        for part in parts:
            self._take(part, harvest)
        self._is_first = False
        return harvest

    def settle(self, ended: Iterable[ProcessInfo]) -> int:
        """Return how many tasks of workers that ended were neither read nor counted as lost.

        A worker's place on the scoreboard is wiped for another one, maybe before all was read.

        Args:
            ended: The workers of the pool that were replaced, as the pool tells of them.
        """
        told = {(p.pid, p.generation): p.tasks_done for p in ended}
        if self._settled is None:
            self._settled = set(told)  # they ended before anybody watched
        readable = {ring.owner for ring in self._rings.values()}
        new = [owner for owner in told if owner not in self._settled and owner not in readable]
        self._settled &= told.keys()
        self._settled.update(new)
        return sum(max(0, told[owner] - self._read.pop(owner, 0)) for owner in new)

    # One ring -------------------------------------------------------------------------------------

    def _worker(self, record: int) -> tuple[int, int, bool]:
        """Return who has a record: pid, generation, and whether it has been given back."""
        board = self.board
        return (
            board.word(record, scoreboard.W_PID),
            board.word(record, scoreboard.W_GENERATION),
            board.word(record, scoreboard.W_STATE) == scoreboard.FREE,
        )

    def _part(self, record: int, pid: int, generation: int, _: bool) -> _Part | None:
        """Say what there is to read in the ring of a record."""
        if not pid:
            # Wiped, and not yet taken: what could not be read before is to be counted with the next picture.
            if (gone := self._rings.pop(record, None)) is not None:
                self._remember(gone)
            return None
        board, owner = self.board, (pid, generation)
        ring = self._rings.get(record)
        if ring is None or ring.owner != owner:
            first = self._oldest(record) if self._is_first else 0
            if ring is not None:
                self._remember(ring)
            ring = self._rings[record] = _Ring(owner, first)
        last = board.newest(record, ring.next_seq)
        if last is None:
            return _Part(record, ring, ring.next_seq, ring.next_seq - 1) if ring.open else None
        return _Part(record, ring, ring.next_seq, last)

    def _remember(self, ring: _Ring) -> None:
        """Keep how far a worker was read whose record another one has, until the pool tells its end."""
        if len(self._read) >= _REMEMBERED:
            del self._read[next(iter(self._read))]
        self._read[ring.owner] = ring.next_seq - ring.skipped - len(ring.open)

    def _oldest(self, record: int) -> int:
        last = self.board.last_seq(record)
        # The place of the oldest one may be overwritten at any moment.
        return 0 if last is None else max(0, last - scoreboard.RING + 2)

    def _skip_to(self, part: _Part, seq: int, harvest: Harvest) -> None:
        missed = seq - part.first
        if missed <= 0:
            return
        readable = max(part.first, part.last - scoreboard.RING + 2)
        taken_back = self.board.count_skipped(part.record, readable, seq - 1)
        part.ring.skipped += taken_back
        part.first = part.ring.next_seq = seq
        harvest.lost += 0 if self._is_first else missed - taken_back

    def _take(self, part: _Part, harvest: Harvest) -> None:
        """Read the tasks of one part; the last one of them may still run."""
        board, record, ring = self.board, part.record, part.ring
        self._skip_to(part, part.last - scoreboard.RING + 2, harvest)
        if board.lanes:
            self._take_of_lanes(part, harvest)
            return
        entries = board.entries(record, part.first, part.last - 1)
        harvest.lost += part.last - part.first - len(entries)  # overwritten just now
        ring.next_seq = part.last
        newest = board.entry(record, part.last)
        if newest is None:
            harvest.lost += 1
            ring.next_seq += 1
        elif newest.ended_ns and board.entry(record, part.last) == newest:
            # Read twice, as its end might just be being written.
            entries.append(newest)
            ring.next_seq += 1
        self._add_records(entries, part, harvest)

    def _take_of_lanes(self, part: _Part, harvest: Harvest) -> None:
        """Read the tasks of one part that have ended, and of those that ran when the one before was read."""
        board, record, ring = self.board, part.record, part.ring
        ring.open.update(range(part.first, part.last + 1))
        ring.next_seq = part.last + 1
        ended = []
        for seq in sorted(ring.open):
            entry = board.entry(record, seq)
            if entry is None:  # others have come round to its place, and it runs no more
                harvest.lost += 1
            elif not entry.ended_ns or board.entry(record, seq) != entry:
                continue  # it runs, or its end is just being written
            else:
                ended.append(entry)
            ring.open.discard(seq)
        self._add_records(ended, part, harvest)

    def _add_records(self, entries: Iterable[Entry], part: _Part, harvest: Harvest) -> None:
        slot = self.board.word(part.record, scoreboard.W_SLOT)
        pid, generation = part.ring.owner
        latest = time.monotonic_ns() + _FUTURE_NS
        for entry in entries:
            if entry.status in _STATUS and entry.begun_ns <= entry.ended_ns <= latest:
                harvest.records.append(self._record(entry, slot, pid, generation))
            elif entry.status == scoreboard.SKIPPED:
                part.ring.skipped += 1
            else:
                harvest.lost += 1

    def _record(self, entry: Entry, slot: int, pid: int, generation: int) -> TaskRecord:
        return TaskRecord(  # in their order: named, they take three times as long
            self.pool,
            slot,
            pid,
            generation,
            entry.task,
            self._names.get(entry.call) or self._name(entry.call),
            _STATUS[entry.status],
            entry.begun_ns,
            entry.ended_ns,
            entry.called_ns or None,
            entry.boxed_ns or None,
            entry.bytes,
            entry.lane,
        )

    def _name(self, call: int) -> str:
        known = self._names.get(call)
        if known is None:
            known = self.board.call_name(call) if call else _SENT_ALONG
            if len(self._names) < scoreboard.CALLS and known != "?":
                self._names[call] = known
        return known
