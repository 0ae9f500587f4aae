"""What one sitting before ``glasspool top`` has seen: the pools, how busy they were, what happened.

*Owns* the state that lasts from one view to the next. Pure: no thread, no clock, no I/O; who shows it
calls ``take`` with each view of the watch and then reads. Pools that have ended stay, marked as past.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from glasspool.observe.records import TaskRecord
from glasspool.observe.watch import Pace, View
from glasspool.snapshot import PoolInfo, Snapshot
from glasspool.views.top import events
from glasspool.views.top.events import Event
from glasspool.views.top.meters import Meters

RECORDS_KEPT, EVENTS_KEPT, PAST_KEPT = 1000, 1000, 8
_FUNCTIONS_KEPT = 500

PoolKey = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Watched:
    """A pool as it was seen last. ``ended_at`` and ``why`` say since when it is past, and why."""

    info: PoolInfo
    pace: Pace
    taken_at: float
    ended_at: float | None = None
    why: str = ""


class Session:
    """Follows the views of a watch."""

    def __init__(self) -> None:
        self.view: View | None = None
        self.pools: dict[PoolKey, Watched] = {}
        self.meters: Meters = Meters()
        self.records: deque[TaskRecord] = deque(maxlen=RECORDS_KEPT)
        self.log: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.lost: int = 0
        self._functions: set[tuple[str, str]] = set()

    def take(self, view: View) -> None:
        """Take in what the watch saw."""
        self.view = view
        self.records.extend(view.records)
        self.lost += view.lost
        living: dict[PoolKey, Watched] = {}
        if view.snapshot is not None and not view.past:
            living = self._living(view, view.snapshot)
            self.meters.take((one.info for one in living.values()), view.snapshot.taken_at)
        elif view.snapshot is not None and not self.pools:
            living = self._living(view, view.snapshot)  # it was over before we came
        for key, one in living.items():
            before = self.pools.get(key)
            was = None if before is None or before.ended_at is not None else before.info
            self.log.extend(events.between(was, one.info, one.taken_at))
        self._note_functions(view, living)
        self._end_others(living, view)

    def _living(self, view: View, picture: Snapshot) -> dict[PoolKey, Watched]:
        return {
            (pool.pid, pool.name): Watched(pool, pace_of(view, pool), picture.taken_at)
            for pool in picture.pools
        }

    def _end_others(self, living: dict[PoolKey, Watched], view: View) -> None:
        """Keep what is there no more, as past; of many only the last ones."""
        past: dict[PoolKey, Watched] = {}
        over = living if view.past else {}
        for key, one in {**self.pools, **over}.items():
            if key in living and not view.past:
                continue
            if one.ended_at is None:
                why = view.text if view.past or view.problem == "gone" else ""
                one = replace(one, ended_at=view.taken_at, why=why)
                self.log.append(events.gone(one.info, view.taken_at, why))
            past[key] = one
        for key in list(past)[: max(0, len(past) - PAST_KEPT)]:
            del past[key]
        # In the order in which they were first seen, so that nothing jumps when one ends.
        found = {**past, **({} if view.past else living)}
        order = [key for key in self.pools if key in found]
        order += [key for key in found if key not in self.pools]
        self.pools = {key: found[key] for key in order}

    def _note_functions(self, view: View, living: dict[PoolKey, Watched]) -> None:
        at = view.taken_at
        for record in view.records:
            self._note_function(record.pool, record.function, at)
        for one in living.values():
            for task in one.info.tasks:
                self._note_function(one.info.name, task.function, at)
            for thread in one.info.threads:
                if thread.task is not None:
                    self._note_function(one.info.name, thread.task.function, at)

    def _note_function(self, pool: str, function: str, at: float) -> None:
        name = (pool, function)
        if function and name not in self._functions and len(self._functions) < _FUNCTIONS_KEPT:
            self._functions.add(name)
            if any(known == pool for _, known in self.pools):  # else all of them are new
                self.log.append(events.new_function(pool, function, at))

    def finished(self, pool: PoolInfo) -> Iterable[TaskRecord]:
        """Return the tasks of a pool that were seen to end, newest first."""
        pids = {process.place for process in (*pool.workers, *pool.ended)}
        return (
            record
            for record in reversed(self.records)
            # Two programs may have pools of the same name.
            if record.pool == pool.name
            and (record.pid is None or (record.node, record.pid) in pids)
        )


def pace_of(view: View, pool: PoolInfo) -> Pace:
    """Return how fast a pool gets on, as far as it is known."""
    return view.paces.get(pool.name) or Pace()
