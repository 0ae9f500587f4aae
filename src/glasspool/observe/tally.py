"""What a recording adds up to: by function, by job, over time. Pure.

A recording may hold a million tasks, so each question is one plain pass over them, and what is kept for
each task is a number in an array.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

from glasspool.observe.records import Recording, Span, TaskRecord
from glasspool.snapshot import PoolInfo, TaskInfo

BINS = 240
"""Parts into which the time of a recording is cut: a curve of so many points is smooth on any screen."""

LEAST_BINS = 30


def run_ns(task: TaskRecord) -> int | None:
    """Return how long the user's function ran; None if that is not known."""
    if task.ended_ns is None or task.begun_ns is None:
        return None
    return task.ended_ns - (task.called_ns or task.begun_ns)


def wait_ns(task: TaskRecord) -> int | None:
    """Return how long a task waited from its submission until a worker took it up."""
    if task.submitted_ns is None or task.begun_ns is None:
        return None
    return max(0, task.begun_ns - task.submitted_ns)


def end_ns(task: TaskRecord) -> int | None:
    """Return when a task had ended, for the worker if that is known, else for the parent."""
    return task.ended_ns if task.ended_ns is not None else task.received_ns


def workers_of(recording: Recording) -> int:
    """Return how many workers the pool had: its size, else the places at which tasks ran."""
    if recording.picture is not None and recording.picture.size:
        return recording.picture.size
    places = {life.slot for life in recording.workers}
    places |= {task.slot for task in recording.tasks if task.slot is not None}
    return max(1, len(places))


def gaps_ns(tasks: Iterable[TaskRecord]) -> list[int]:
    """Return what lies between the end of a task and the call of the next one, for each worker in turn."""
    rows: dict[tuple[int | None, int], list[tuple[int, int]]] = {}
    for task in tasks:
        if task.begun_ns is not None and task.ended_ns is not None:
            called = task.called_ns or task.begun_ns
            rows.setdefault((task.pid, task.lane), []).append((called, task.ended_ns))
    found: list[int] = []
    for row in rows.values():
        row.sort()
        found += [max(0, after[0] - before[1]) for before, after in pairwise(row)]
    return found


def open_time(tasks: Iterable[TaskRecord]) -> tuple[int, float]:
    """Return for how many nanoseconds any task was open, and how many were at once, on average.

    A task is open from its submission until its result has come in. (0, 0.0) if that is not known.
    """
    spans = sorted(
        (task.submitted_ns, task.received_ns)
        for task in tasks
        if task.submitted_ns is not None and task.received_ns is not None
    )
    whole = covered = until = 0
    for begun, ended in spans:
        whole += ended - begun
        if ended > until:
            covered += ended - max(begun, until)
            until = ended
    return covered, whole / covered if covered else 0.0


def running(picture: PoolInfo | None) -> dict[int, TaskInfo]:
    """Return the tasks that ran when a picture was taken, as their workers tell of them, by number."""
    if picture is None:
        return {}
    return {
        thread.task.id: replace(thread.task, slot=worker.slot, pid=worker.pid)
        for worker in picture.workers
        for thread in worker.threads
        if thread.task is not None and thread.task.id is not None and thread.task.state == "running"
    }


# By function --------------------------------------------------------------------------------------


@dataclass(slots=True)
class FunctionTally:
    """What the tasks of one function add up to; the arrays have a number for each task where it is known."""

    function: str
    tasks: int = 0
    items: int = 0
    again: int = 0
    """Tasks that had begun before, and were tried again."""
    ends: Counter[str] = field(default_factory=Counter)
    run_ns: array[int] = field(default_factory=lambda: array("q"))
    wait_ns: array[int] = field(default_factory=lambda: array("q"))
    result_bytes: array[int] = field(default_factory=lambda: array("q"))

    @property
    def bad(self) -> int:
        """How many did not end as they should."""
        return self.tasks - self.ends["done"]


def by_function(tasks: Iterable[TaskRecord]) -> list[FunctionTally]:
    """Add tasks up by function, the one that took most time first."""
    found: dict[str, FunctionTally] = {}
    for task in tasks:
        tally = found.get(task.function)
        if tally is None:
            tally = found[task.function] = FunctionTally(task.function)
        tally.tasks += 1
        tally.items += task.items
        tally.again += task.attempts > 1
        tally.ends[task.status] += 1
        if (ran := run_ns(task)) is not None:
            tally.run_ns.append(ran)
        if (waited := wait_ns(task)) is not None:
            tally.wait_ns.append(waited)
        if task.result_bytes is not None:
            tally.result_bytes.append(task.result_bytes)
    return sorted(found.values(), key=lambda one: (-sum(one.run_ns), one.function))


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the value that this share of all values does not exceed; they are in order already.

    The nearest rank, so that it is one of the values: the 99th percentile of 10 is the largest.
    """
    if not ordered:
        return None
    rank = -int(-share * len(ordered) // 1)
    return ordered[min(len(ordered), max(1, rank)) - 1]


# Over time ----------------------------------------------------------------------------------------


class Bins:
    """How many of some intervals were open, on average, in each part of a stretch of time.

    Args:
        begun_ns: Where the first part begins.
        ended_ns: Where the last part ends.
        count: How many parts.
    """

    def __init__(self, begun_ns: int, ended_ns: int, count: int = BINS) -> None:
        self.begun_ns = begun_ns
        self.count = count
        self.width_ns: float = max(1.0, (ended_ns - begun_ns) / count)
        self._covered = [0.0] * count
        self._edges = [0.0] * (
            count + 1
        )  # +1 where an interval fills parts from here on, -1 behind

    def add(self, begun_ns: int, ended_ns: int, weight: float = 1.0) -> None:
        """Add an interval; what lies outside is left out."""
        # Called for each task several times: what is written in more words here is quicker.
        low = (begun_ns - self.begun_ns) / self.width_ns
        high = (ended_ns - self.begun_ns) / self.width_ns
        if low < 0.0:
            low = 0.0
        if high > self.count:
            high = float(self.count)
        if high <= low:
            return
        first, last = int(low), int(high)
        if first == last:
            self._covered[first] += (high - low) * weight
            return
        self._covered[first] += (first + 1 - low) * weight
        if last < self.count:
            self._covered[last] += (high - last) * weight
        self._edges[first + 1] += weight
        self._edges[last] -= weight

    def means(self) -> list[float]:
        """Return the mean of each part."""
        whole = accumulate(self._edges[: self.count])
        return [max(0.0, part + full) for part, full in zip(self._covered, whole, strict=True)]


@dataclass(frozen=True, slots=True)
class Course:
    """What went on in each part of a recording's time. Means, but for what ended: these are counts.

    ``waiting`` is None where nobody knows when tasks were submitted. ``callback`` and ``iterable`` are shares
    of one thread's time, 0 to 1.
    """

    begun_ns: int
    width_ns: float
    done: list[int]
    bad: list[int]
    running: list[float]
    waiting: list[float] | None
    waiting_bytes: list[float] | None
    callback: list[float]
    iterable: list[float]

    @property
    def count(self) -> int:
        """How many parts."""
        return len(self.done)


def course(recording: Recording, count: int = BINS) -> Course:
    """Cut a recording's time into parts, and tell what went on in each."""
    begun, ended = recording.begun_ns, max(recording.ended_ns, recording.begun_ns + 1)

    def bins() -> Bins:
        return Bins(begun, ended, count)

    done, bad, at_work, waiting, weights = [0] * count, [0] * count, bins(), bins(), bins()
    width, knows = at_work.width_ns, False
    for begun_ns in _still_at_work(recording):
        at_work.add(begun_ns, ended)
    for task in recording.tasks:
        end = end_ns(task)
        if end is not None:
            part = min(count - 1, max(0, int((end - begun) / width)))
            (done if task.status == "done" else bad)[part] += 1
            if task.begun_ns is not None:
                at_work.add(task.begun_ns, end)
        if task.submitted_ns is not None:
            knows = True
            until = task.begun_ns if task.begun_ns is not None else end
            if until is not None:
                waiting.add(task.submitted_ns, until)
                if task.argument_bytes:
                    weights.add(task.submitted_ns, until, task.argument_bytes)
    return Course(
        begun,
        width,
        done,
        bad,
        at_work.means(),
        waiting.means() if knows else None,
        weights.means() if knows else None,
        _shares(recording.spans, "callback", bins()),
        _shares(recording.spans, "iterable", bins()),
    )


def _still_at_work(recording: Recording) -> Iterator[int]:
    """Yield when the tasks began that had not ended."""
    found = running(recording.picture)
    over = {task.task for task in recording.tasks if task.task in found}
    for number, task in found.items():
        if number not in over and task.begun_at is not None:
            yield int(task.begun_at * 1e9) - recording.wall_ns


def _shares(spans: Iterable[Span], kind: str, bins: Bins) -> list[float]:
    for span in spans:
        if span.kind == kind:
            bins.add(span.begun_ns, span.ended_ns)
    return bins.means()


# By job -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class JobTally:
    """One job of more than one task, or all that came one by one: when it began and ended, and where."""

    tasks: int = 0
    begun_ns: int | None = None
    ended_ns: int = 0
    run_ns: int = 0
    longest_ns: int = 0
    last_ns: dict[tuple[int, int], int] = field(default_factory=dict)
    """When each worker (by pid and lane) had ended its last task of this job."""

    def add(self, place: tuple[int, int], begun_ns: int, ended_ns: int) -> None:
        """Add a task."""
        self.tasks += 1
        if self.begun_ns is None or begun_ns < self.begun_ns:
            self.begun_ns = begun_ns
        ran_ns = ended_ns - begun_ns
        self.run_ns += ran_ns
        if ran_ns > self.longest_ns:
            self.longest_ns = ran_ns
        if ended_ns > self.last_ns.get(place, 0):
            self.last_ns[place] = ended_ns
            if ended_ns > self.ended_ns:
                self.ended_ns = ended_ns


def by_job(tasks: Sequence[TaskRecord]) -> list[JobTally]:
    """Add tasks up by job. Jobs of one task count together: they are a row of applies."""
    sizes = Counter(task.job for task in tasks)
    found: dict[int | None, JobTally] = {}
    for task in _that_ran(tasks):
        key = task.job if sizes[task.job] > 1 else None
        job = found.get(key)
        if job is None:
            job = found[key] = JobTally()
        job.add((task.pid or 0, task.lane), task.begun_ns or 0, task.ended_ns or 0)
    return list(found.values())


def _that_ran(tasks: Iterable[TaskRecord]) -> Iterator[TaskRecord]:
    return (task for task in tasks if task.begun_ns is not None and task.ended_ns is not None)
