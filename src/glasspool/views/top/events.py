"""What happened between two pictures of a pool, in sentences: the log of ``glasspool top``.

Pure. Only what the pictures tell is said: what came and went between two of them is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from glasspool.snapshot import DeathCertificate, PoolInfo, ProcessInfo, describe_exit

_ENDS = (
    ("failed", "failed"),
    ("lost", "were lost with their worker"),
    ("timeout", "ran out of time"),
    ("cancelled", "were cancelled"),
)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was seen to have happened.

    ``kind`` is ``pool``, ``worker``, ``death``, ``task``, ``function`` or ``note``.
    """

    at: float
    pool: str
    kind: str
    text: str


def between(before: PoolInfo | None, now: PoolInfo, at: float) -> Iterator[Event]:
    """Tell what is different in a picture of a pool from the one before (None: this is the first)."""
    if before is None:
        kind = "" if now.kind == "glasspool.Pool" else f" ({now.kind})"
        size = f", {now.size} workers" if now.size else ""
        yield Event(at, now.name, "pool", f"seen for the first time{kind}: pid {now.pid}{size}")
        for death in now.deaths:
            yield _death(death, now, at)
        for note in now.notes:
            yield Event(at, now.name, "note", note)
        return
    if before.state != now.state:
        yield Event(at, now.name, "pool", f"is {now.state} now, was {before.state}")
    if before.size != now.size and before.size and now.size:
        yield Event(at, now.name, "pool", f"has {now.size} workers now, had {before.size}")
    known = {_name(death) for death in before.deaths}
    for death in now.deaths:
        if _name(death) not in known:
            yield _death(death, now, at)
    yield from _workers(before, now, at)
    yield from _tasks(before, now, at)
    for note in now.notes:
        if note not in before.notes:
            yield Event(at, now.name, "note", note)


def gone(pool: PoolInfo, at: float, why: str) -> Event:
    """Tell that a pool is there no more."""
    return Event(at, pool.name, "pool", why or f"has ended (pid {pool.pid})")


def new_function(pool: str, function: str, at: float) -> Event:
    """Tell that a function was seen for the first time in a pool."""
    return Event(at, pool, "function", f"runs a function that was not seen before: {function}")


def _name(death: DeathCertificate) -> tuple[int, float | None, int | None]:
    return death.pid, death.died_at, None if death.task is None else death.task.id


def _death(death: DeathCertificate, pool: PoolInfo, at: float) -> Event:
    return Event(death.died_at or at, pool.name, "death", death.text().split("\n", 1)[0])


def _workers(before: PoolInfo, now: PoolInfo, at: float) -> Iterator[Event]:
    old = {process.place: process for process in before.workers}
    new = {process.place: process for process in now.workers}
    dead = {(death.node, death.pid) for death in now.deaths}
    ended = {process.place: process for process in now.ended}
    for place, process in old.items():
        if place not in new and place not in dead:
            yield Event(at, now.name, "worker", f"{_label(process)} {_how(ended.get(place))}")
    for place, process in new.items():
        if place not in old:
            again = f" (no. {process.generation + 1} there)" if process.generation else ""
            yield Event(at, now.name, "worker", f"{_label(process)} has started{again}")
        elif _fails(process) and not _fails(old[place]):
            yield Event(at, now.name, "worker", f"{_label(process)}: its initializer failed")


def _label(process: ProcessInfo) -> str:
    where = process.name if process.slot is None else f"worker {process.slot}"
    on = "" if process.node is None else f" on {process.node}"
    return f"{where}{on} (pid {process.pid})"


def _how(ended: ProcessInfo | None) -> str:
    if ended is None:
        return "has ended"
    if ended.reason:
        return ended.reason
    if ended.state == "recycled":
        return "has left in an orderly way"
    return describe_exit(ended.exitcode)


def _fails(process: ProcessInfo) -> bool:
    return process.initializer is not None and process.initializer.state == "failed"


def _tasks(before: PoolInfo, now: PoolInfo, at: float) -> Iterator[Event]:
    for key, words in _ENDS:
        was, count = before.stats.get(key), now.stats.get(key)
        if isinstance(was, int) and isinstance(count, int) and count > was:
            many = count - was
            said = words.replace("were", "was").replace("their", "its") if many == 1 else words
            tasks = "1 task" if many == 1 else f"{many} tasks"
            yield Event(at, now.name, "task", f"{tasks} {said} ({count} in all)")
