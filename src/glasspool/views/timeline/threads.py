"""Threads on a timeline: what workers ran, what the program's threads did for a pool, arrows between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter

from glasspool.observe.records import Recording, Span, TaskRecord, WorkerLife
from glasspool.snapshot import DeathCertificate, TaskInfo, ThreadInfo
from glasspool.views.perfetto import Encoder, Value
from glasspool.views.timeline.pools import PoolTrack, certificate, clock_ns, over
from glasspool.views.timeline.tracks import Tracks

_FLOWS = 40
"""The number of an arrow is the task's, and above so many bits the pool's."""


class Threads:
    """Writes what threads did for one pool.

    Args:
        encoder: Where to write.
        tracks: All tracks of the trace.
        recording: What happened in the pool.
        pool: Its own track.
        number: Which pool of the trace it is.
    """

    def __init__(
        self, encoder: Encoder, tracks: Tracks, recording: Recording, pool: PoolTrack, number: int
    ) -> None:
        self._encoder = encoder
        self._tracks = tracks
        self._recording = recording
        self._pool = pool
        self._flows = number << _FLOWS
        # Which spans the arrows of tasks go through: a task of which one was recorded starts or ends there.
        self._pickled = {s.task for s in recording.spans if s.kind == "pickling"} - {None}
        self._called_back = {s.task for s in recording.spans if s.kind == "callback"} - {None}
        self._job_called_back = {
            s.job for s in recording.spans if s.kind == "callback" and s.task is None
        } - {None}
        self._last_of_job = _last_of_jobs(recording.tasks, self._job_called_back)

    def _flow(self, task: int) -> int:
        return self._flows + task + 1

    # Workers ------------------------------------------------------------------------------------

    def workers(self) -> Iterator[None]:
        """Write the life of each worker: its start, the initializer, its tasks, its end."""
        lives = {_where(life): life for life in self._recording.workers}
        by_worker: dict[_Where, dict[int, list[TaskRecord]]] = {where: {} for where in lives}
        for task in self._recording.tasks:
            if task.pid is not None and task.begun_ns is not None:
                lanes = by_worker.setdefault(_where(task), {})
                lanes.setdefault(task.lane, []).append(task)
        running = self._running()
        deaths = {_where(death): death for death in self._recording.deaths}
        for worker, lanes in sorted(
            by_worker.items(), key=lambda one: _slot(one[1], lives, one[0])
        ):
            life = lives.get(worker) or _life_of(worker, lanes)
            track = self._tracks.worker(life)
            cursor = self._beginning(life, track)
            for lane, tasks in sorted(lanes.items()):
                where = track if lane == 0 else self._tracks.below(track, f"lane {lane}", rank=lane)
                yield from self._tasks(where, tasks, cursor if lane == 0 else 0)
            self._still_running(track, running.get(worker, ()))
            self._ending(life, track, deaths.get(worker))
            yield

    def _beginning(self, life: WorkerLife, track: int) -> int:
        """Write a worker's start and initializer; return when its tasks may begin.

        What was over before the recording began is left out: it would stretch the picture to the life of
        the pool.
        """
        cursor, since = 0, self._recording.begun_ns
        begun, ended = life.initializer_begun_ns, life.initializer_ended_ns
        if life.started_ns is not None:
            until = begun
            if until is None and life.time is not None:
                until = life.started_ns + int(life.time.start_s * 1e9)
            cursor = max(until or 0, life.started_ns)
            if cursor >= since:
                self._encoder.begin(track, life.started_ns, "start", "worker", _of_life(life))
                self._encoder.end(track, cursor)
        if begun is not None and (ended is None or ended >= since):
            cursor = max(cursor, begun)
            self._encoder.begin(track, cursor, "initializer", "worker", self._initializer())
            if ended is not None:
                cursor = max(cursor, ended)
                self._encoder.end(track, cursor)
        return cursor

    def _initializer(self) -> list[tuple[str, Value]]:
        picture = self._recording.picture
        function = None if picture is None else picture.initializer
        return [("function", function)] if function else []

    def _ending(self, life: WorkerLife, track: int, death: DeathCertificate | None) -> None:
        at = life.ended_ns
        if at is None and death is not None and death.died_at is not None:
            at = clock_ns(self._recording, death.died_at)
        if at is None:
            return
        if death is not None:
            self._encoder.instant(track, at, death.cause, "death", certificate(death))
        else:
            told = [("reason", life.reason)] if life.reason else []
            self._encoder.instant(track, at, life.ended_as or "ended", "worker", told)

    def _tasks(self, track: int, tasks: list[TaskRecord], cursor: int) -> Iterator[None]:
        tasks.sort(key=attrgetter("begun_ns"))
        for task in tasks:
            # Slices of a thread may not cross; records may, if a clock or a file is damaged.
            begun = max(task.begun_ns or 0, cursor)
            cursor = max(begun, over(task, self._recording))
            self._task(track, task, begun, cursor)
            yield

    def _task(self, track: int, task: TaskRecord, begun: int, ended: int) -> None:
        encoder = self._encoder
        name = task.function if task.status == "done" else f"{task.function} ({task.status})"
        encoder.begin(track, begun, name, "task", _of_task(task), flow=self._flow(task.task))
        called = task.called_ns
        if called is not None and begun < called <= ended:
            encoder.begin(track, begun, "receiving", "receiving")
            encoder.end(track, called)
        returned = task.ended_ns
        if (
            task.boxed_ns is not None
            and returned is not None
            and (called or begun) <= returned < ended
        ):
            encoder.begin(track, returned, "pickling the result", "pickling")
            encoder.end(track, ended)
        encoder.end(track, ended)

    def _running(self) -> dict[_Where, list[TaskInfo]]:
        found: dict[_Where, list[TaskInfo]] = {}
        for info in self._pool.running_tasks():
            found.setdefault(_where(info), []).append(info)
        return found

    def _still_running(self, track: int, tasks: Iterable[TaskInfo]) -> None:
        """Write tasks that have not ended: slices without an end, which the viewer shows as such."""
        for info in tasks:
            told: list[tuple[str, Value]] = [("status", "running")]
            told += [] if info.id is None else [("task", info.id)]
            told += [] if not info.arguments else [("arguments", info.arguments)]
            at = clock_ns(self._recording, info.begun_at or 0.0)
            flow = None if info.id is None else self._flow(info.id)
            self._encoder.begin(track, at, info.function, "task", told, flow=flow)

    # Threads of the program ---------------------------------------------------------------------

    def program(self) -> Iterator[None]:
        """Write what the program's own threads did: submitting, pickling, receiving, callbacks."""
        pid = self._recording.pid
        self._tracks.threads_of_roster(pid)
        by_thread: dict[int, list[Span]] = {}
        for span in self._recording.spans:
            by_thread.setdefault(span.native_id, []).append(span)
        for native_id, spans in by_thread.items():
            track = self._tracks.thread(pid, native_id, spans[0].thread)
            yield from self._spans(track, spans)
        yield from self._submits()
        yield from self._results()

    def _spans(self, track: int, spans: list[Span]) -> Iterator[None]:
        """Write spans of one thread, one within the other where they are."""
        encoder = self._encoder
        open_until: list[int] = []
        for span in sorted(spans, key=lambda s: (s.begun_ns, -s.ended_ns)):
            while open_until and open_until[-1] <= span.begun_ns:
                encoder.end(track, open_until.pop())
            ended = max(span.begun_ns, span.ended_ns)
            if open_until:
                ended = min(ended, open_until[-1])
            self._span(track, span)
            open_until.append(ended)
            yield
        while open_until:
            encoder.end(track, open_until.pop())

    def _span(self, track: int, span: Span) -> None:
        name = f"{span.kind} {span.function}".rstrip()
        told: list[tuple[str, Value]] = [] if span.task is None else [("task", span.task)]
        told += [] if span.job is None else [("job", span.job)]
        first = last = None
        if span.kind == "pickling" and span.task is not None:
            first = self._flow(span.task)
        elif span.kind == "callback":
            task = span.task if span.task is not None else self._last_of_job.get(span.job or -1)
            last = None if task is None else self._flow(task)
        self._encoder.begin(track, span.begun_ns, name, span.kind, told, flow=first, last_flow=last)

    def _submits(self) -> Iterator[None]:
        for task in self._recording.tasks:
            if task.submitted_ns is None or task.submitter is None or task.task in self._pickled:
                continue
            track = self._tracks.thread(self._recording.pid, task.submitter)
            self._encoder.instant(
                track,
                task.submitted_ns,
                f"submit {task.function}",
                "submit",
                [("task", task.task)],
                flow=self._flow(task.task),
            )
            yield

    def _results(self) -> Iterator[None]:
        handler = self._result_handler()
        if handler is None:
            track = self._pool.track
        else:
            track = self._tracks.thread(self._recording.pid, handler.native_id, handler.name)
        for task in self._recording.tasks:
            if task.received_ns is None:
                continue
            flow = self._flow(task.task)
            goes_on = task.task in self._called_back or (
                self._last_of_job.get(-1 if task.job is None else task.job) == task.task
            )
            self._encoder.instant(
                track,
                task.received_ns,
                f"result of {task.function}",
                "result",
                [("task", task.task), ("status", task.status)],
                flow=flow if goes_on else None,
                last_flow=None if goes_on else flow,
            )
            yield

    def _result_handler(self) -> ThreadInfo | None:
        picture = self._recording.picture
        for thread in () if picture is None else picture.threads:
            if thread.node is None and "result-handler" in thread.roles:
                return thread
        return None


def _of_task(task: TaskRecord) -> list[tuple[str, Value]]:
    """Return what a task's slice tells who clicks on it."""
    told: list[tuple[str, Value]] = [("task", task.task), ("status", task.status)]
    if task.job is not None:
        told.append(("job", task.job))
        told.append(("place", task.place))
    if task.items > 1:
        told.append(("items", task.items))
    if task.arguments is not None:
        told.append(("arguments", task.arguments))
    if task.node is not None:
        told.append(("node", task.node))
    if task.attempts > 1:
        told.append(("attempts", task.attempts))
    if task.argument_bytes is not None:
        told.append(("argument_bytes", task.argument_bytes))
    if task.result_bytes is not None:
        told.append(("result_bytes", task.result_bytes))
    if task.submitted_ns is not None and task.begun_ns is not None:
        told.append(("queue_wait_ms", (task.begun_ns - task.submitted_ns) / 1e6))
    return told


def _of_life(life: WorkerLife) -> list[tuple[str, Value]]:
    told: list[tuple[str, Value]] = [("slot", life.slot), ("generation", life.generation)]
    told.append(("pid", life.pid))
    return told if life.node is None else [*told, ("node", life.node)]


_Where = tuple[str, int]
"""A worker: its node on a cluster, and its pid there."""


def _where(one: WorkerLife | TaskRecord | DeathCertificate | TaskInfo) -> _Where:
    return one.node or "", one.pid or 0


def _life_of(worker: _Where, lanes: dict[int, list[TaskRecord]]) -> WorkerLife:
    """Make what is known of a worker of which only tasks are known."""
    task, (node, pid) = next(iter(lanes.values()))[0], worker
    return WorkerLife(pid, task.slot or 0, task.generation, "", None, None, node=node or None)


def _slot(
    lanes: dict[int, list[TaskRecord]], lives: dict[_Where, WorkerLife], worker: _Where
) -> tuple[str, int, int, int]:
    life = lives.get(worker) or _life_of(worker, lanes)
    return worker[0], life.slot, life.generation, worker[1]


def _last_of_jobs(tasks: Iterable[TaskRecord], jobs: Iterable[int | None]) -> dict[int, int]:
    """Return for each of these jobs the task whose result came last: its callback is due then."""
    wanted = set(jobs)
    last: dict[int, tuple[int, int]] = {}
    for task in tasks if wanted else ():
        if task.job in wanted and task.job is not None and task.received_ns is not None:
            last[task.job] = max(last.get(task.job, (0, 0)), (task.received_ns, task.task))
    return {job: task for job, (_, task) in last.items()}
