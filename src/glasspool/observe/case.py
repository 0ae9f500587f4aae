"""One recording with what it adds up to, which rules and views look at, and what rules say. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from glasspool.observe.accounts import Sum, WorkerAccount, accounts, sum_of
from glasspool.observe.records import Recording
from glasspool.observe.tally import (
    BINS,
    LEAST_BINS,
    Course,
    FunctionTally,
    JobTally,
    by_function,
    by_job,
    course,
    workers_of,
)
from glasspool.snapshot import PoolInfo


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing that would make a pool faster or safer.

    ``name`` is fixed, for programs; ``sentence`` says what was seen, ``figure`` by what it shows, and
    ``what_to_do`` what would help. ``pool`` is None where it is about several pools.
    """

    name: str
    sentence: str
    figure: str
    what_to_do: str
    pool: str | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """The workers' time while there was work: all, in tasks, and idle while the iterable was drawn from."""

    worker_s: float
    busy_s: float
    starved_s: float
    drawing_s: float

    @property
    def idle_s(self) -> float:
        """What was not spent in tasks."""
        return max(0.0, self.worker_s - self.busy_s)


@dataclass(frozen=True)
class Case:
    """One recording with what it adds up to, each computed once and only if asked for."""

    recording: Recording
    processors: int
    memory_bytes: int | None = None

    @property
    def picture(self) -> PoolInfo | None:
        """How the pool looked at the end."""
        return self.recording.picture

    @cached_property
    def workers(self) -> int:
        """How many workers the pool had at a time; where they have lanes, how many lanes."""
        return workers_of(self.recording) * self.lanes

    @cached_property
    def lanes(self) -> int:
        """How many tasks ran at once in a worker, at most."""
        return 1 + max((task.lane for task in self.recording.tasks), default=0)

    @property
    def unit(self) -> str:
        """What ``workers`` counts."""
        return "worker" if self.lanes == 1 else "lane"

    @cached_property
    def accounts(self) -> tuple[WorkerAccount, ...]:
        """How each worker spent its life."""
        return accounts(self.recording)

    @cached_property
    def sum(self) -> Sum:
        """How all workers spent their lives."""
        return sum_of(self.accounts)

    @cached_property
    def functions(self) -> list[FunctionTally]:
        """The tasks by function."""
        return by_function(self.recording.tasks)

    @cached_property
    def jobs(self) -> list[JobTally]:
        """The tasks by job."""
        return by_job(self.recording.tasks)

    @cached_property
    def course(self) -> Course:
        """What went on over time."""
        # With few tasks, narrow parts would show each of them as a peak.
        return course(self.recording, max(LEAST_BINS, min(BINS, self.tasks // 4)))

    @cached_property
    def tasks(self) -> int:
        """How many tasks were recorded."""
        return len(self.recording.tasks)

    @cached_property
    def run_s(self) -> float:
        """How long the tasks ran altogether."""
        return sum(sum(one.run_ns) for one in self.functions) / 1e9

    @cached_property
    def mean_run_s(self) -> float:
        """How long a task ran on average."""
        count = sum(len(one.run_ns) for one in self.functions)
        return self.run_s / count if count else 0.0

    @cached_property
    def work(self) -> Work:
        """The workers' time while there was work."""
        return _work(self.course, self.workers)

    @cached_property
    def bytes_per_task(self) -> float:
        """How many bytes of arguments and results a task moved on average."""
        moved = sum(sum(one.result_bytes) for one in self.functions)
        moved += sum(task.argument_bytes or 0 for task in self.recording.tasks)
        return moved / self.tasks if self.tasks else 0.0


def _work(seen: Course, workers: int) -> Work:
    width_s = seen.width_ns / 1e9
    worker = busy = starved = drawing = 0.0
    for part in range(seen.count):
        running, iterable = seen.running[part], min(1.0, seen.iterable[part])
        waits = seen.waiting is not None and seen.waiting[part] > 0
        if not (running or iterable or waits or seen.done[part] or seen.bad[part]):
            continue  # the program gave it nothing to do
        worker += workers
        busy += min(running, workers)
        drawing += iterable
        starved += max(0.0, workers - running) * iterable
    return Work(worker * width_s, busy * width_s, starved * width_s, drawing * width_s)


def percent(part: float, whole: float) -> str:
    """Say which part of a whole something is."""
    return f"{part / whole * 100:.0f} %" if whole > 0 else "0 %"
