"""Record what the pools of this process do, for a timeline or a report.

*Owns* the journals that it switched on. A pool keeps no journal unless somebody records it, so this costs
nothing until then. Several may record the same pool at once: they share its journal.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from glasspool import registry
from glasspool.engines.local import account, arguments, journal, plain, wire
from glasspool.engines.local import scoreboard as sb
from glasspool.engines.local.journal import Noted
from glasspool.observe import outside, roster
from glasspool.observe.records import Recording, Span, TaskRecord, WorkerLife

if TYPE_CHECKING:
    from glasspool.engines.local.engine import Grave, LocalEngine
    from glasspool.engines.local.workers import Worker
    from glasspool.snapshot import DeathCertificate, PoolInfo, ProcessInfo, TaskInfo

_NUMBERS = frozenset({int, float, bool, type(None)})

MOST_TASKS = 1_000_000
"""A journal keeps so many tasks, the newest; what it drops is counted as lost."""


class Recorder:
    """Records one pool of this process from now on.

    Args:
        engine: The pool's engine.
        most: How many tasks to keep at most. While somebody else records the pool, too, no more than he.
    """

    def __init__(self, engine: LocalEngine, *, most: int = MOST_TASKS) -> None:
        self._engine: LocalEngine = engine
        self._most = most
        self._wall_ns = time.time_ns() - time.monotonic_ns()
        self._begun_ns = time.monotonic_ns()
        self._picture: PoolInfo | None = None
        self._stopped: Recording | None = None
        self._unhook = registry.on_shutdown(self._see_last)
        self._journal = journal.join(engine, most)
        self._before = self._journal.counted()

    def so_far(self) -> Recording:
        """Return what was recorded until now; the recording goes on.

        Any thread may call it, also after the end of the pool.
        """
        if self._stopped is not None:
            return self._stopped
        is_over = self._engine.done.is_set()
        tasks, lost = self._tasks()
        spans, lost_spans = self._spans()
        lives = tuple(sorted(self._lives(), key=lambda one: (one.slot, one.generation)))
        ended_ns = time.monotonic_ns()
        if is_over:  # what came after its end is not the pool's
            ends = (*(t.received_ns for t in tasks), *(s.ended_ns for s in spans))
            ended_ns = max((self._begun_ns, *filter(None, (*ends, *(w.ended_ns for w in lives)))))
        return Recording(
            pool=self._engine.name,
            pid=self._engine.pid,
            begun_ns=self._begun_ns,
            ended_ns=ended_ns,
            wall_ns=self._wall_ns,
            source="journal",
            tasks=tasks,
            spans=spans,
            workers=lives,
            deaths=self._deaths(),
            lost=lost,
            picture=self._last_picture(is_over),
            notes=(*_notes(lost, lost_spans), *self._clocks()),
        )

    def _clocks(self) -> Iterator[str]:
        """Say of each node how its times were set right."""
        if self._engine.is_cluster:
            from glasspool.observe import cluster

            yield from cluster.clock_notes(self._engine)  # type: ignore[arg-type]

    def stop(self) -> Recording:
        """End the recording and return it. Safe to call twice."""
        if self._stopped is None:
            self._stopped = self.so_far()
            self._unhook()
            journal.leave(self._engine, self._journal)
        return self._stopped

    def _see_last(self, picture: PoolInfo, slowest: tuple[TaskInfo, ...]) -> None:
        """Keep the last picture of the pool with its workers still at work (collector)."""
        if self._picture is None and picture.name == self._engine.name:
            self._picture = picture
            self._unhook()  # it is told once, and would keep the recording as long as the program

    def _last_picture(self, is_over: bool) -> PoolInfo | None:
        if not is_over and self._picture is None:
            return _describe(self._engine)
        if self._picture is None:
            return None
        counters = _stats(self._engine) if is_over else self._picture.stats
        return replace(self._picture, deaths=tuple(self._engine.deaths), stats=counters)

    def _tasks(self) -> tuple[tuple[TaskRecord, ...], int]:
        kept_by, before = self._journal, self._before[0]
        for _ in range(5):  # until none was written while we copied
            count, rows, again = kept_by.counted()[0], list(kept_by.rows), kept_by.counted()[0]
            if count == again:
                break
        mine = again - before
        kept = min(mine, len(rows), self._most)
        name, longest = self._engine.name, kept_by.long_arguments()
        tasks = tuple(_task(name, row, longest) for row in (rows[-kept:] if kept else ()))
        return tasks, mine - kept

    def _spans(self) -> tuple[tuple[Span, ...], int]:
        kept = list(self._journal.spans)
        spans = [span for span in kept if span.ended_ns >= self._begun_ns]
        count = self._journal.counted()[1] - self._before[1]
        return tuple(Span(*span) for span in spans), max(0, count - len(spans))

    def _lives(self) -> Iterator[WorkerLife]:
        if self._engine.is_cluster:
            picture = self._picture or _describe(self._engine)
            for process in (*picture.ended, *picture.workers):
                yield life_of_process(process, self._wall_ns)
            return
        graves = list(self._journal.graves)
        buried = {grave.pid for grave in graves}
        for grave in graves:
            if grave.ended_ns >= self._begun_ns:
                yield _life_of_grave(grave)
        for worker in self._engine.handler.workers.copy().values():
            if worker.pid and worker.pid not in buried:
                with contextlib.suppress(ValueError):  # the scoreboard has gone meanwhile
                    yield _life_of_worker(self._engine, worker)

    def _deaths(self) -> tuple[DeathCertificate, ...]:
        since = (self._begun_ns + self._wall_ns) / 1e9
        return tuple(
            d for d in list(self._engine.deaths) if d.died_at is None or d.died_at >= since
        )


class AllRecorder:
    """Records every pool that this process has or makes, until it is stopped.

    Args:
        most: How many tasks to keep of each pool at most.
    """

    def __init__(self, *, most: int = MOST_TASKS) -> None:
        self._most = most
        self._recorders: dict[int, Recorder] = {}
        self._adding = threading.Lock()
        self._unhook = registry.on_made(self._add)
        for engine in (*registry.live_engines(), *registry.live_cluster_engines()):
            self._add(engine)  # type: ignore[arg-type]  # under the same names

    def _add(self, engine: LocalEngine) -> None:
        with self._adding:
            if engine.number not in self._recorders:
                self._recorders[engine.number] = Recorder(engine, most=self._most)

    def so_far(self) -> tuple[Recording, ...]:
        """Return what was recorded until now, in the order in which the pools were made."""
        return tuple(recorder.so_far() for recorder in self._all())

    def stop(self) -> tuple[Recording, ...]:
        """End the recording and return all of it. Safe to call twice."""
        self._unhook()
        return tuple(recorder.stop() for recorder in self._all())

    def _all(self) -> list[Recorder]:
        return [recorder for _, recorder in sorted(self._recorders.copy().items())]


def record_all(*, most: int = MOST_TASKS) -> AllRecorder:
    """Record every pool of this process from now on, also those that are made later."""
    return AllRecorder(most=most)


def _describe(engine: LocalEngine) -> PoolInfo:
    if not engine.is_cluster:
        return roster.describe(engine)
    from glasspool.observe import cluster

    return cluster.describe(engine)  # type: ignore[arg-type]


def _stats(engine: LocalEngine) -> dict[str, int]:
    if not engine.is_cluster:
        return roster.stats(engine)
    from glasspool.observe import cluster

    return cluster.stats(engine)  # type: ignore[arg-type]


def life_of_process(process: ProcessInfo, wall_ns: int) -> WorkerLife:
    """Tell of a worker's life what a picture has of it."""

    def ns(at: float | None) -> int | None:
        return None if at is None else int(at * 1e9) - wall_ns

    ran = process.initializer
    begun = None if ran is None else ns(ran.begun_at)
    lasted = None if ran is None or ran.state == "running" else ran.run_s
    main = next((thread for thread in process.threads if thread.is_main), None)
    return WorkerLife(
        pid=process.pid,
        slot=process.slot or 0,
        generation=process.generation,
        name=process.name,
        native_id=None if main is None else main.native_id,
        started_ns=ns(process.started_at),
        initializer_begun_ns=begun,
        initializer_ended_ns=None if begun is None or lasted is None else begun + int(lasted * 1e9),
        ended_as=process.state if process.state in ("dead", "recycled") else None,
        reason=process.reason,
        time=process.time,
        node=process.node,
    )


def _notes(lost: int, lost_spans: int) -> tuple[str, ...]:
    told = []
    if lost:
        told.append(f"{lost} tasks are not in it: there was no room for them")
    if lost_spans:
        told.append(f"{lost_spans} spans of the pool's threads are not in it: no room for them")
    return tuple(told)


def _task(pool: str, row: Noted, longest: Mapping[int, bytes]) -> TaskRecord:
    is_plain = row.kind & wire.PLAIN
    return TaskRecord(
        pool=pool,
        slot=row.slot,
        pid=row.pid,
        generation=row.generation,
        task=row.task,
        function=row.function,
        status=row.how,
        begun_ns=row.begun_ns or None,
        ended_ns=row.ended_ns or None,
        called_ns=row.called_ns or None,
        boxed_ns=row.boxed_ns or None,
        result_bytes=row.result_bytes if row.how in ("done", "failed") else None,
        job=row.job,
        place=row.place,
        items=row.items,
        arguments=_arguments(row, longest),
        argument_bytes=plain.size(row.packed) if is_plain else row.argument_bytes,
        attempts=row.attempts,
        submitted_ns=row.submitted_ns,
        submitter=row.submitter or None,
        sent_ns=row.sent_ns or None,
        received_ns=row.received_ns,
        lane=row.lane,
        node=row.node,
    )


def _arguments(row: Noted, longest: Mapping[int, bytes]) -> str | None:
    """Return a short text of a task's arguments; of a chunk, of its first item."""
    packed = longest.get(row.task) if row.packed is None else row.packed
    if packed is None:
        return None
    if row.kind & wire.PLAIN and row.items == 1:  # there may be a million of them
        values = packed if type(packed) is tuple else (packed,)
        if _NUMBERS.issuperset(map(type, values)):
            return f"({', '.join(map(repr, values))})"
    text = arguments.of_packed(packed, row.kind, row.argument_bytes)
    return text if row.items == 1 else f"{text} and {row.items - 1} more"


def _life_of_grave(grave: Grave) -> WorkerLife:
    begun, ended = grave.initializer_ns
    return WorkerLife(
        pid=grave.pid,
        slot=grave.slot,
        generation=grave.generation,
        name=grave.name,
        native_id=grave.native_id,
        started_ns=grave.started_ns or None,
        initializer_begun_ns=begun or None,
        initializer_ended_ns=ended or None,
        ended_ns=grave.ended_ns or None,
        ended_as=_how_it_ended(grave),
        reason=grave.reason,
        time=outside.worker_time(grave.time),
    )


def _how_it_ended(grave: Grave) -> str:
    if not grave.on_purpose:
        return "dead"
    return "recycled" if grave.replaced else "left"


def _life_of_worker(engine: LocalEngine, worker: Worker) -> WorkerLife:
    board, record = engine.board, worker.record
    process = worker.process
    return WorkerLife(
        pid=worker.pid,
        slot=worker.slot,
        generation=worker.generation,
        name=process.name if process is not None else f"worker {worker.slot}",
        native_id=board.word(record, sb.W_NATIVE) or None,
        started_ns=board.word(record, sb.W_STARTED_NS) or worker.started_ns,
        initializer_begun_ns=board.word(record, sb.W_INIT_BEGUN_NS) or None,
        initializer_ended_ns=board.word(record, sb.W_INIT_ENDED_NS) or None,
        time=outside.worker_time(account.of_record(board, record, time.monotonic_ns())),
    )
