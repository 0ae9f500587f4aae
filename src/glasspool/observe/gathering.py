"""Make recordings of the pools of another program, from what a watch sees of it.

*Owns* what it has gathered: tasks, certificates, lives of workers, the last picture of each pool. Threads:
none; one thread calls it. It reads; the program notices a picture every now and then.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from glasspool.observe.records import Recording, TaskRecord, WorkerLife
from glasspool.observe.watch import View, Watch
from glasspool.snapshot import DeathCertificate, PoolInfo, ProcessInfo

MOST_TASKS = 1_000_000
"""So many tasks of each pool are kept, the newest; what is dropped is counted as lost."""

FROM_RINGS = (
    "Read from outside: when tasks were submitted, and what travelled when, only the program knows. "
    "'glasspool run --trace' and pool.trace() record that, too."
)

BROKEN_OFF = (
    "The program, or its pool, ended while it was recorded: what workers did that had been replaced in the "
    "last moment, and how they ended, may be missing without being counted."
)


class Gathering:
    """Gathers what a watch sees.

    Args:
        watch: The watch; whoever made it closes it.
        most: How many tasks to keep of each pool.
    """

    def __init__(self, watch: Watch, *, most: int = MOST_TASKS) -> None:
        self._watch = watch
        self._most = most
        self._is_over = False
        self._began_ns = time.monotonic_ns()
        self._wall_ns = time.time_ns() - self._began_ns
        self._tasks: dict[str, deque[TaskRecord]] = {}
        self._dropped: dict[str, int] = {}
        self._missed = 0
        self._pictures: dict[str, PoolInfo] = {}
        self._deaths: dict[str, dict[_Death, DeathCertificate]] = {}
        self._lives: dict[str, dict[_Whose, WorkerLife]] = {}

    @property
    def count(self) -> int:
        """How many tasks there are so far."""
        return sum(map(len, self._tasks.values()))

    @property
    def missed(self) -> int:
        """How many tasks ended that could not be read in time."""
        return self._missed

    @property
    def has_news(self) -> bool:
        """Whether a worker came or went since the last picture: the next one would tell of it."""
        return self._watch.has_news

    def read(self) -> tuple[int, int]:
        """Read the rings; return how many tasks the busiest worker had ended, and how many were missed."""
        return self._keep(*self._watch.drain())

    def look(self) -> View:
        """Take a picture, read the rings, and return what was seen."""
        view = self._watch.look()
        self._keep(view.records, view.lost)
        self._is_over = view.past
        if view.snapshot is not None and not view.past:
            for pool in view.snapshot.pools:
                if is_ours(pool):
                    self._add(pool)
        return view

    def recordings(self) -> tuple[Recording, ...]:
        """Return what was gathered until now, for each pool of ours that was seen."""
        now_ns = time.monotonic_ns()
        names = [*self._pictures, *(name for name in self._tasks if name not in self._pictures)]
        busiest = max(names, key=lambda name: len(self._tasks.get(name, ())), default=None)
        return tuple(
            self._recording(name, now_ns, self._missed if name == busiest else 0) for name in names
        )

    def _keep(self, records: Iterable[TaskRecord], lost: int) -> tuple[int, int]:
        by_worker: dict[int | None, int] = {}
        for record in records:
            kept = self._tasks.get(record.pool)
            if kept is None:
                kept = self._tasks[record.pool] = deque(maxlen=self._most)
            if len(kept) == self._most:
                self._dropped[record.pool] = self._dropped.get(record.pool, 0) + 1
            kept.append(record)
            by_worker[record.pid] = by_worker.get(record.pid, 0) + 1
        self._missed += lost
        return max(by_worker.values(), default=0), lost

    def _add(self, pool: PoolInfo) -> None:
        self._pictures[pool.name] = pool
        deaths = self._deaths.setdefault(pool.name, {})
        for death in pool.deaths:
            if (death.died_at or 0.0) * 1e9 >= self._began_ns + self._wall_ns:
                deaths[_death(death)] = death
        lives = self._lives.setdefault(pool.name, {})
        for process in (*pool.workers, *pool.ended):
            if process.slot is not None:
                lives[process.node, process.pid, process.generation] = self._life(process)

    def _life(self, process: ProcessInfo) -> WorkerLife:
        begun = None if process.started_at is None else self._ns(process.started_at)
        prepared = process.initializer
        initializer: tuple[int | None, int | None] = (None, None)
        if prepared is not None and prepared.begun_at is not None:
            at = self._ns(prepared.begun_at)
            run_s = prepared.run_s if prepared.state != "running" else None
            initializer = (at, None if run_s is None else at + int(run_s * 1e9))
        main = next((thread for thread in process.threads if thread.is_main), None)
        return WorkerLife(
            pid=process.pid,
            slot=process.slot or 0,
            generation=process.generation,
            name=process.name,
            native_id=None if main is None else main.native_id,
            started_ns=begun,
            initializer_begun_ns=initializer[0],
            initializer_ended_ns=initializer[1],
            ended_as="dead" if process.state == "dead" else None,
            reason=process.reason,
            node=process.node,
        )

    def _ns(self, at: float) -> int:
        return int(at * 1e9) - self._wall_ns

    def _recording(self, name: str, now_ns: int, missed: int) -> Recording:
        tasks = tuple(self._tasks.get(name, ()))
        picture = self._pictures.get(name)
        deaths = self._deaths.get(name, {})
        died = {(death.node, death.pid): death for death in deaths.values()}
        begun_ns = min((t.begun_ns for t in tasks if t.begun_ns), default=self._began_ns)
        begun_ns = min(begun_ns, self._began_ns)
        return Recording(
            pool=name,
            pid=0 if picture is None else picture.pid,
            begun_ns=begun_ns,
            ended_ns=now_ns,
            wall_ns=self._wall_ns,
            source="ring",
            tasks=tasks,
            workers=tuple(
                self._ended(life, died.get((life.node, life.pid)))
                for life in self._lives.get(name, {}).values()
                if (life.node, life.pid) in died or _is_of_now(life, tasks, picture)
            ),
            deaths=tuple(deaths.values()),
            lost=missed + self._dropped.get(name, 0),
            picture=picture,
            notes=(FROM_RINGS, BROKEN_OFF) if self._is_over else (FROM_RINGS,),
        )

    def _ended(self, life: WorkerLife, death: DeathCertificate | None) -> WorkerLife:
        if death is None or death.died_at is None:
            return life
        return life._replace(ended_ns=self._ns(death.died_at), ended_as="dead")


_Whose = tuple[str | None, int, int]
"""A worker: its node, its pid and its generation."""

_Death = tuple[str | None, int, int | None]
"""A death: its node, the pid, and the task: with a node, all that it held is lost at once."""


def _death(death: DeathCertificate) -> _Death:
    task = death.task if death.whole_node else None
    return death.node, death.pid, None if task is None else task.id


def is_ours(pool: PoolInfo) -> bool:
    """Tell whether a pool is glasspool's, and so has a ring of finished tasks."""
    return pool.kind.startswith("glasspool.")


def _is_of_now(life: WorkerLife, tasks: Iterable[TaskRecord], picture: PoolInfo | None) -> bool:
    """Tell whether a worker lived while tasks were recorded; those of long ago are left out."""
    living = () if picture is None else picture.workers
    if any(process.place == (life.node, life.pid) for process in living):
        return True
    whose = life.node, life.pid, life.generation
    return any((t.node, t.pid, t.generation) == whose for t in tasks)
