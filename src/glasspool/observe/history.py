"""What a watch saw in the last minutes, within bounds: counters by second, tasks that ended, sampled stacks.

Pure: views, records and pictures come in, plain lists go out; the time is passed in.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from glasspool.observe.pace import Pace
from glasspool.observe.records import TaskRecord
from glasspool.snapshot import PoolInfo, Snapshot, ThreadInfo

SECONDS = 600
RECORDS = 100_000
SLOWEST = 50
POOLS = 200
"""Series are kept of so many pools; those that ended first go first."""

FLAME_NODES = 20_000
FLAME_DEPTH = 200

Series = dict[str, list[float | None]]


class _Second(NamedTuple):
    """What was last seen of a pool in one second. The counts are totals since the pool was made."""

    second: int
    done: int | None
    failed: int | None
    waiting: int | None
    running: int | None
    busy_share: float | None


class History:
    """The last minutes of all pools that are watched.

    Args:
        seconds: How long series are kept.
        records: How many records are kept, the newest.
        slowest: How many of the slowest tasks are kept, of all that were seen.
    """

    def __init__(
        self, *, seconds: int = SECONDS, records: int = RECORDS, slowest: int = SLOWEST
    ) -> None:
        self._seconds = seconds
        self._series: dict[str, deque[_Second]] = {}
        self._records: deque[TaskRecord] = deque(maxlen=records)
        self._slowest: list[tuple[int, int, TaskRecord]] = []
        self._most_slowest = slowest
        self._numbers = itertools.count()
        self.seen: int = 0
        """How many records came in."""
        self.lost: int = 0
        """How many tasks ended of which there is no record."""

    # Counters by second ---------------------------------------------------------------------------

    def note(self, picture: Snapshot, paces: Mapping[str, Pace], now_ns: int) -> None:
        """Take in how the pools are doing. Pictures of one second replace each other."""
        second = now_ns // 1_000_000_000
        for pool in picture.pools:
            kept = self._series.pop(
                pool.name, None
            )  # and put back last: the order says who is alive
            if kept is None:
                kept = deque(maxlen=self._seconds + 1)
            if kept and kept[-1].second >= second:
                kept.pop()
            kept.append(_second(pool, paces.get(pool.name), second))
            self._series[pool.name] = kept
        oldest = second - self._seconds
        for name, kept in list(self._series.items()):
            if kept[-1].second < oldest or len(self._series) > POOLS:
                del self._series[name]

    def series(self, now_ns: int) -> dict[str, Series]:
        """Return for each pool what it did in each second; the last value is of the second of ``now_ns``.

        ``done`` and ``failed`` are tasks per second; where nobody looked for some seconds, the next one
        tells their average. None: not known.
        """
        last = now_ns // 1_000_000_000
        kept = [one for many in self._series.values() for one in many if one.second <= last]
        first = max(last - self._seconds + 1, min((one.second for one in kept), default=last))
        return {name: _filled(many, first, last) for name, many in self._series.items()}

    # Records --------------------------------------------------------------------------------------

    def add(self, records: Iterable[TaskRecord], lost: int) -> None:
        """Take in tasks that ended, oldest first."""
        self.lost += lost
        slowest, most = self._slowest, self._most_slowest
        for record in records:
            self.seen += 1
            self._records.append(record)
            lasted = (record.ended_ns or 0) - (record.begun_ns or 0)
            if len(slowest) < most:
                heapq.heappush(slowest, (lasted, next(self._numbers), record))
            elif lasted > slowest[0][0]:
                heapq.heapreplace(slowest, (lasted, next(self._numbers), record))

    def records(self, *, limit: int = 1000, since_ns: int | None = None) -> list[TaskRecord]:
        """Return the newest records, oldest first.

        Args:
            limit: At most so many.
            since_ns: Only those of tasks that ended after this.
        """
        newest: list[TaskRecord] = []
        for record in reversed(self._records):
            if len(newest) >= limit:
                break
            if since_ns is None or (record.ended_ns or 0) > since_ns:
                newest.append(record)
        newest.reverse()
        return newest

    def slowest(self) -> list[TaskRecord]:
        """Return the slowest tasks of all that were seen, the slowest first."""
        return [
            record for *_, record in sorted(self._slowest, key=lambda kept: (-kept[0], kept[1]))
        ]


def _second(pool: PoolInfo, pace: Pace | None, second: int) -> _Second:
    stats = pool.stats
    return _Second(
        second,
        stats.get("done"),
        stats.get("failed"),
        stats.get("waiting"),
        stats.get("running"),
        None if pace is None else pace.busy_share,
    )


def _filled(kept: Iterable[_Second], first: int, last: int) -> Series:
    """Lay out what is known of a pool, one place for each second."""
    empty: list[float | None] = [None] * (last - first + 1)
    series: Series = {
        name: list(empty) for name in ("done", "failed", "waiting", "running", "busy_share")
    }
    before: _Second | None = None
    for now in kept:
        if first <= now.second <= last:
            at = now.second - first
            series["waiting"][at] = now.waiting
            series["running"][at] = now.running
            series["busy_share"][at] = now.busy_share
            if before is not None:
                passed_s = now.second - before.second
                series["done"][at] = _grown(before.done, now.done, passed_s)
                series["failed"][at] = _grown(before.failed, now.failed, passed_s)
        before = now
    return series


def _grown(before: int | None, now: int | None, passed_s: int) -> float | None:
    if before is None or now is None or now < before:
        return None  # not counted, or another pool of the same name
    return (now - before) / passed_s


def plain_record(record: TaskRecord) -> list[Any]:
    """Return what programs get of a record: a row of plain values, as it is short."""
    return [
        record.pool,
        record.slot,
        record.pid,
        record.task,
        record.function,
        record.status,
        record.begun_ns,
        record.ended_ns,
        record.result_bytes,
        record.node,
    ]


RECORD_FIELDS = (
    "pool",
    "slot",
    "pid",
    "task",
    "function",
    "status",
    "begun_ns",
    "ended_ns",
    "result_bytes",
    "node",
)


# Sampled stacks -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Node:
    value: int = 0
    children: dict[str, _Node] = field(default_factory=dict)


class Flame:
    """Stacks of many pictures, folded into a tree: which calls were seen how often.

    The first levels are the pool, then what kind of process and which role of thread; workers of a pool are
    counted together. When the tree is full, deeper calls are counted for their caller.
    """

    def __init__(self, *, nodes: int = FLAME_NODES) -> None:
        self._root = _Node()
        self._left = nodes
        self.samples: int = 0
        """How many pictures came in."""

    def add(self, picture: Snapshot) -> None:
        """Take in all stacks of one picture, each thread once."""
        self.samples += 1
        seen: set[tuple[str | None, int, int]] = set()
        for pool in picture.pools:
            for process in pool.processes:
                for thread in process.threads:
                    key = thread.node, thread.pid, thread.native_id
                    if thread.stack and key not in seen:
                        seen.add(key)
                        self._fold(_path(pool.name, process.role, thread))

    def _fold(self, path: Iterator[str]) -> None:
        node = self._root
        node.value += 1
        for name in path:
            child = node.children.get(name)
            if child is None:
                if self._left <= 0:
                    return
                self._left -= 1
                child = node.children[name] = _Node()
            child.value += 1
            node = child

    def tree(self) -> dict[str, Any]:
        """Return the tree: ``name``, ``value`` and ``children``, the most often seen first."""
        return _plain_node("all", self._root)


def _path(pool: str, role: str, thread: ThreadInfo) -> Iterator[str]:
    yield pool
    yield f"{role}: {'+'.join(thread.roles) or thread.name}"
    for frame in (thread.stack or ())[:FLAME_DEPTH]:
        yield f"{frame.function} ({frame.file})"


def _plain_node(name: str, node: _Node) -> dict[str, Any]:
    children = sorted(node.children.items(), key=lambda item: -item[1].value)
    return {
        "name": name,
        "value": node.value,
        "children": [_plain_node(label, child) for label, child in children],
    }
