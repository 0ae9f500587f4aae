"""How each worker of a recording spent its life, and how much of it that explains. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from glasspool.observe.records import Recording, TaskRecord, WorkerLife
from glasspool.snapshot import ProcessInfo, WorkerTime

PARTS = tuple(one.name for one in dataclasses.fields(WorkerTime))
"""The parts of a worker's time, in the order of its life."""


@dataclass(frozen=True, slots=True)
class WorkerAccount:
    """One worker: how long it lived, and what that time went into.

    ``wall_s`` is from its start to its end, or to the end of the recording; None if its start is not
    known. ``inferred`` tells that the worker did not account for itself: the parts are taken from its tasks,
    and what is left over counts as waiting.
    """

    slot: int | None
    pid: int
    generation: int
    name: str
    time: WorkerTime
    wall_s: float | None
    tasks: int
    ended_as: str | None = None
    reason: str | None = None
    inferred: bool = False
    node: str | None = None

    @property
    def unexplained_s(self) -> float:
        """What the parts do not explain; negative where they add up to more than the wall time."""
        return 0.0 if self.wall_s is None else self.wall_s - self.time.whole_s


@dataclass(frozen=True, slots=True)
class Sum:
    """What some accounts add up to."""

    time: WorkerTime
    wall_s: float
    tasks: int
    workers: int

    @property
    def unexplained_s(self) -> float:
        """What the parts of all do not explain."""
        return self.wall_s - self.time.whole_s

    @property
    def unexplained_share(self) -> float:
        """The same as a part of the wall time, 0 to 1."""
        return self.unexplained_s / self.wall_s if self.wall_s > 0 else 0.0

    def share(self, *parts: str) -> float:
        """Return which part of the wall time went into these, 0 to 1."""
        spent = sum(float(getattr(self.time, part)) for part in parts)
        return spent / self.wall_s if self.wall_s > 0 else 0.0


def accounts(recording: Recording) -> tuple[WorkerAccount, ...]:
    """Return the account of every worker of which something is known, by slot and generation."""
    lives = {(life.node, life.pid): life for life in recording.workers}
    seen = _processes(recording)
    ran = _ran(recording.tasks)
    found = [
        _account(recording, place, lives.get(place), seen.get(place), ran.get(place))
        for place in {**lives, **seen}
    ]
    return tuple(
        sorted(found, key=lambda one: (one.node or "", one.slot or 0, one.generation, one.pid))
    )


def sum_of(found: Iterable[WorkerAccount]) -> Sum:
    """Add accounts up; those of workers whose wall time is not known count as it was their sum."""
    found = tuple(found)
    parts = {part: sum(getattr(one.time, part) for one in found) for part in PARTS}
    wall = sum(one.time.whole_s if one.wall_s is None else one.wall_s for one in found)
    return Sum(WorkerTime(**parts), wall, sum(one.tasks for one in found), len(found))


_Place = tuple[str | None, int]
"""Node and pid of a worker."""


def _processes(recording: Recording) -> dict[_Place, ProcessInfo]:
    if recording.picture is None:
        return {}
    both = (*recording.picture.ended, *recording.picture.workers)
    return {(process.node, process.pid): process for process in both}


@dataclass(slots=True)
class _Ran:
    """What a worker's tasks tell of its time, in nanoseconds."""

    tasks: int = 0
    receiving: int = 0
    running: int = 0
    sending: int = 0


def _ran(tasks: Iterable[TaskRecord]) -> Mapping[_Place, _Ran]:
    found: dict[_Place, _Ran] = {}
    for task in tasks:
        if task.pid is None:
            continue
        place = task.node, task.pid
        ran = found.get(place)
        if ran is None:
            ran = found[place] = _Ran()
        ran.tasks += 1
        if task.begun_ns is None or task.ended_ns is None:
            continue
        called = task.called_ns or task.begun_ns
        ran.receiving += called - task.begun_ns
        ran.running += task.ended_ns - called
        ran.sending += (task.boxed_ns or task.ended_ns) - task.ended_ns
    return found


def _account(
    recording: Recording,
    place: _Place,
    life: WorkerLife | None,
    seen: ProcessInfo | None,
    ran: _Ran | None,
) -> WorkerAccount:
    wall_s = _wall_s(recording, life, seen)
    # The picture was taken while the worker was there; the life goes on to its end.
    known = (life.time if life is not None else None) or (seen.time if seen is not None else None)
    first = life or seen
    account = WorkerAccount(
        slot=None if first is None else first.slot,
        node=place[0],
        pid=place[1],
        generation=0 if first is None else first.generation,
        name="" if first is None else first.name,
        time=known or WorkerTime(),
        wall_s=wall_s,
        tasks=max(seen.tasks_done if seen is not None else 0, ran.tasks if ran else 0),
        ended_as=(life.ended_as if life else None) or _ended_as(seen),
        reason=(life.reason if life else None) or (seen.reason if seen else None),
    )
    if known is not None:
        return account
    return replace(account, time=_inferred(life, seen, ran or _Ran(), wall_s), inferred=True)


def _ended_as(seen: ProcessInfo | None) -> str | None:
    return seen.state if seen is not None and seen.state in ("dead", "recycled") else None


def _wall_s(
    recording: Recording, life: WorkerLife | None, seen: ProcessInfo | None
) -> float | None:
    if life is not None and life.started_ns is not None:
        ended = recording.ended_ns if life.ended_ns is None else life.ended_ns
        return max(0.0, (ended - life.started_ns) / 1e9)
    if seen is None or seen.started_at is None:
        return None
    return max(0.0, (recording.ended_ns + recording.wall_ns) / 1e9 - seen.started_at)


def _inferred(
    life: WorkerLife | None, seen: ProcessInfo | None, ran: _Ran, wall_s: float | None
) -> WorkerTime:
    """Put a worker's time together from its tasks, for one that did not account for itself."""
    start_s = initializer_s = 0.0
    if life is not None and life.initializer_begun_ns is not None:
        start_s = max(0, life.initializer_begun_ns - (life.started_ns or 0)) / 1e9
        if life.started_ns is None:
            start_s = 0.0
        ended = life.initializer_ended_ns or life.initializer_begun_ns
        initializer_s = (ended - life.initializer_begun_ns) / 1e9
    elif seen is not None and seen.initializer is not None:
        initializer_s = seen.initializer.run_s or 0.0
    running_s = max(ran.running / 1e9, seen.busy_s if seen is not None else 0.0)
    known = WorkerTime(
        start_s=start_s,
        initializer_s=initializer_s,
        receiving_s=ran.receiving / 1e9,
        running_s=running_s,
        sending_s=ran.sending / 1e9,
    )
    return replace(known, waiting_s=max(0.0, (wall_s or 0.0) - known.whole_s))
