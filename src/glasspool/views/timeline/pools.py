"""One pool on a timeline: its own track with what it was, its deaths, its numbers, and what overlaps.

A pool's track stands below its program. Slices that overlap (tasks that wait, results that travel, whole
maps) stand on lanes below it, a few of them at a time: the numbers count them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from operator import attrgetter

from glasspool.observe.records import Recording, TaskRecord
from glasspool.snapshot import DeathCertificate, TaskInfo
from glasspool.views.perfetto import Encoder, Value
from glasspool.views.timeline.lanes import MOST_LANES, Lanes
from glasspool.views.timeline.series import Level, Rate, step_ns, window_ns
from glasspool.views.timeline.tracks import Tracks

_JUST = 10_000


def clock_ns(recording: Recording, at: float) -> int:
    """Turn seconds since the epoch into the clock of the recording."""
    return int(at * 1e9) - recording.wall_ns


def over(task: TaskRecord, recording: Recording) -> int:
    """Return when a task was over for its worker: its result put away, or the worker dead."""
    known = (task.boxed_ns, task.ended_ns, task.received_ns)
    return next((at for at in known if at is not None), recording.ended_ns)


class PoolTrack:
    """The track of one pool, below that of its program."""

    def __init__(self, encoder: Encoder, tracks: Tracks, recording: Recording) -> None:
        self._encoder = encoder
        self._tracks = tracks
        self._recording = recording
        program = tracks.program(recording.pid)
        about = "What was recorded of the pool: its numbers, and what waited or travelled."
        self.track: int = tracks.below(program, recording.pool, rank=1, about=about)

    def whole(self) -> None:
        """Write one slice for the whole recording, with what is known of the pool, and what is missing."""
        encoder, recording = self._encoder, self._recording
        told = list(_about(recording))
        encoder.begin(
            self.track, recording.begun_ns, f"recording of {recording.pool}", "pool", told
        )
        if recording.lost:
            name = f"{recording.lost:,} more tasks ended and are not shown"
            encoder.instant(
                self.track, recording.begun_ns, name, "lost", [("lost", recording.lost)]
            )
            encoder.lost(recording.lost)
        for death in recording.deaths:
            if death.died_at is not None:
                self._death(death, clock_ns(recording, death.died_at))
        encoder.end(self.track, recording.ended_ns)

    def _death(self, death: DeathCertificate, at_ns: int) -> None:
        # A death of before the recording would stretch the picture.
        at_ns = min(max(at_ns, self._recording.begun_ns), self._recording.ended_ns)
        name = f"worker {death.slot} ({death.pid}) {death.cause}"
        if death.node is not None:
            name = f"{death.node}: {death.cause if death.whole_node else name}"
        self._encoder.instant(self.track, at_ns, name, "death", certificate(death))

    # Lanes --------------------------------------------------------------------------------------

    def waiting(self) -> Iterator[None]:
        """Write for tasks how long each waited, from its submission to its begin."""
        tasks = [t for t in self._recording.tasks if t.submitted_ns is not None]
        tasks.sort(key=attrgetter("submitted_ns"))
        lanes = _LaneTracks(self._tracks, self.track, "waiting", 10, _count_of(tasks, self._wait))
        for task in tasks:
            begun, ended = self._wait(task)
            track = lanes.place(begun, ended)
            if track is None:
                continue
            self._encoder.begin(track, begun, task.function, "waiting", [("task", task.task)])
            if task.sent_ns is not None and begun <= task.sent_ns <= ended and task.pid:
                self._encoder.begin(track, task.sent_ns, f"sent to slot {task.slot}", "transfer")
                self._encoder.end(track, ended)
            self._encoder.end(track, ended)
            yield

    def _wait(self, task: TaskRecord) -> tuple[int, int]:
        begun = task.submitted_ns or 0
        ended = over(task, self._recording) if task.begun_ns is None else task.begun_ns
        return begun, max(begun, ended)

    def returning(self) -> Iterator[None]:
        """Write for results how long each travelled, from its worker to the program."""
        tasks = [t for t in self._recording.tasks if t.received_ns and t.ended_ns]
        tasks.sort(key=lambda task: task.boxed_ns or task.ended_ns or 0)
        counted = _count_of(tasks, self._return)
        lanes = _LaneTracks(self._tracks, self.track, "results travel", 11, counted)
        for task in tasks:
            begun, ended = self._return(task)
            track = lanes.place(begun, ended)
            if track is not None:
                told = [("task", task.task), *_known(slot=task.slot, bytes=task.result_bytes)]
                self._encoder.begin(track, begun, task.function, "transfer", told)
                self._encoder.end(track, ended)
                yield

    def _return(self, task: TaskRecord) -> tuple[int, int]:
        begun = task.boxed_ns or task.ended_ns or 0
        return begun, max(begun, task.received_ns or 0)

    def jobs(self) -> Iterator[None]:
        """Write for each call that made several tasks (a map) a slice, from submission to last result."""
        jobs: dict[int, list[TaskRecord]] = {}
        for task in self._recording.tasks:
            if task.job is not None and task.submitted_ns is not None:
                jobs.setdefault(task.job, []).append(task)
        spans = sorted((*self._of_job(of), job) for job, of in jobs.items() if len(of) > 1)
        lanes = _LaneTracks(self._tracks, self.track, "maps", 9, _most_lanes(spans))
        for begun, ended, job in spans:
            track = lanes.place(begun, ended)
            if track is not None:
                self._job(track, begun, ended, jobs[job])
                yield

    def _of_job(self, tasks: list[TaskRecord]) -> tuple[int, int]:
        begun = min(task.submitted_ns or 0 for task in tasks)
        ended = max(task.received_ns or over(task, self._recording) for task in tasks)
        return begun, max(begun, ended)

    def _job(self, track: int, begun: int, ended: int, tasks: list[TaskRecord]) -> None:
        failed = sum(task.status != "done" for task in tasks)
        items = sum(task.items for task in tasks)
        told = [("job", tasks[0].job or 0), ("tasks", len(tasks)), ("items", items)]
        told.append(("not done", failed))
        self._encoder.begin(track, begun, tasks[0].function, "map", told)
        self._encoder.end(track, ended)

    # Numbers ------------------------------------------------------------------------------------

    def numbers(self) -> Iterator[None]:
        """Write the numbers that change with time."""
        recording = self._recording
        duration = max(1, recording.ended_ns - recording.begun_ns)
        step = step_ns(len(recording.tasks), duration)
        yield from self._level("tasks waiting", 1, _WAITS, self._waits(Level(step)))
        yield from self._level("tasks running", 2, _RUNS, self._runs(Level(step)))
        yield from self._level("workers alive", 3, _ALIVE, self._alive(Level(1)))
        window = window_ns(duration)
        rates = [Rate(recording.begun_ns, window) for _ in range(3)]
        self._rates(*rates)
        each = f"per second, over {window / 1e9:g} s"
        yield from self._level("done per second", 4, f"Tasks that ended, {each}.", rates[0])
        yield from self._level("argument bytes per second", 5, f"Sent, {each}.", rates[1], True)
        yield from self._level("result bytes per second", 6, f"Received, {each}.", rates[2], True)

    def _level(
        self, name: str, rank: int, about: str, told: Level | Rate, in_bytes: bool = False
    ) -> Iterator[None]:
        track: int | None = None
        for at, value in told.points():
            if track is None:  # a number of which nothing is known has no track
                track = self._tracks.counter(
                    self.track, name, rank=rank, about=about, in_bytes=in_bytes
                )
            self._encoder.count(track, at, value)
            yield

    def _waits(self, level: Level) -> Level:
        if self._recording.source != "journal":
            return level  # of tasks that have ended, nobody knows how long they waited
        for task in self._recording.tasks:
            if task.submitted_ns is not None:
                begun, ended = self._wait(task)
                level.change(begun, 1)
                level.change(ended, -1)
        picture, just_ended = self._recording.picture, self._just_ended()
        for info in () if picture is None else picture.tasks:
            waits = info.state in ("waiting", "sent") and info.id not in just_ended
            if waits and info.submitted_at is not None:
                level.change(clock_ns(self._recording, info.submitted_at), 1)
        return level

    def _runs(self, level: Level) -> Level:
        for task in self._recording.tasks:
            if task.begun_ns is not None:
                level.change(task.begun_ns, 1)
                level.change(max(task.begun_ns, over(task, self._recording)), -1)
        for info in self.running_tasks():
            level.change(clock_ns(self._recording, info.begun_at or 0.0), 1)
        return level

    def _alive(self, level: Level) -> Level:
        for life in self._recording.workers:
            begun = life.started_ns or self._recording.begun_ns
            level.change(max(begun, self._recording.begun_ns), 1)
            if life.ended_ns is not None:
                level.change(max(life.ended_ns, self._recording.begun_ns), -1)
        return level

    def _rates(self, done: Rate, arguments: Rate, results: Rate) -> None:
        for task in self._recording.tasks:
            ended = over(task, self._recording)
            if task.begun_ns is not None:
                done.add(ended)
            if task.sent_ns is not None and task.argument_bytes:
                arguments.add(task.sent_ns, task.argument_bytes)
            if task.result_bytes:
                results.add(task.received_ns or ended, task.result_bytes)

    def running_tasks(self) -> Iterator[TaskInfo]:
        """Return the tasks that had begun and not ended when the recording did."""
        picture, ended = self._recording.picture, self._just_ended()
        for process in () if picture is None else picture.workers:
            for thread in process.threads:
                info = thread.task
                if info is None or info.begun_at is None or info.id in ended:
                    continue
                yield replace(info, pid=process.pid, node=process.node)

    def _just_ended(self) -> set[int | None]:
        """Return the tasks that ended last: the picture was taken a moment before or after."""
        return {task.task for task in self._recording.tasks[-_JUST:]}


_WAITS = "Tasks that have been submitted and that no worker has begun."
_RUNS = "Tasks that have begun in a worker and not ended there, of those in this recording."
_ALIVE = "Worker processes."


def certificate(death: DeathCertificate) -> list[tuple[str, Value]]:
    """Return what a death certificate says, as annotations."""
    told: list[tuple[str, Value]] = [("certificate", death.text())]
    if death.task is not None and death.task.id is not None:
        told.append(("task", death.task.id))
    told.extend(_known(signal=death.signal, exitcode=death.exitcode))
    told.extend(_known(peak_memory_bytes=death.peak_memory_bytes))
    return told


def _known(**values: Value | None) -> Iterator[tuple[str, Value]]:
    for key, value in values.items():
        if value is not None:
            yield key, value


def _about(recording: Recording) -> Iterator[tuple[str, Value]]:
    yield "tasks", len(recording.tasks)
    yield "lost", recording.lost
    yield "source", recording.source
    picture = recording.picture
    if picture is not None:
        yield from _known(size=picture.size, start_method=picture.start_method)
        yield from _known(made_at=picture.made_at, initializer=picture.initializer)
        for node in picture.nodes:
            if node.clock_offset_s is not None and node.clock_error_s is not None:
                off_ms, wrong_ms = node.clock_offset_s * 1e3, node.clock_error_s * 1e3
                words = f"set right by {off_ms:+.3f} ms, wrong by {wrong_ms:.3f} ms at most"
                yield f"clock of {node.name}", words
    for number, note in enumerate(recording.notes, 1):
        yield f"note {number}", note


# Lanes ------------------------------------------------------------------------------------------


class _LaneTracks:
    """The tracks of lanes with one name; the name says how much is not drawn."""

    def __init__(
        self, tracks: Tracks, parent: int, name: str, rank: int, counted: tuple[int, int]
    ) -> None:
        self._lanes = Lanes()
        self._found: dict[int, int] = {}
        drawn, left_out = counted
        if left_out:
            name = f"{name} ({drawn:,} drawn, {left_out:,} more at the same time are not)"
        self._make: Callable[[], int] = lambda: tracks.below(parent, name, rank=rank, lane=True)

    def place(self, begun_ns: int, ended_ns: int) -> int | None:
        lane = self._lanes.place(begun_ns, ended_ns)
        if lane is None:
            return None
        if lane not in self._found:
            self._found[lane] = self._make()
        return self._found[lane]


def _count_of(
    tasks: list[TaskRecord], interval: Callable[[TaskRecord], tuple[int, int]]
) -> tuple[int, int]:
    return _counted(map(interval, tasks))


def _most_lanes(spans: list[tuple[int, int, int]]) -> tuple[int, int]:
    return _counted((begun, ended) for begun, ended, _ in spans)


def _counted(intervals: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return how many intervals will find a lane, and how many will not."""
    lanes = Lanes(MOST_LANES)
    drawn = sum(lanes.place(begun, ended) is not None for begun, ended in intervals)
    return drawn, lanes.left_out
