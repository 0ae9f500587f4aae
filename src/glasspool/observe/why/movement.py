"""Pure: what has moved from one sight of a program to the next, thread by thread, and whose pool it is.

A single sight cannot tell a thread that waits for ever from one that waits for a moment. So a series of
sights is put together: of each thread what it was at in each of them, whether it has been given a
processor in between, and of each pool which threads serve it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from glasspool.observe import loops, procfs
from glasspool.observe.loops import Place
from glasspool.observe.procfs import OsThread
from glasspool.observe.pyspy import OutsideThread
from glasspool.observe.sight import SeenProcess, SeenThread, Sight
from glasspool.snapshot import Frame

THREAD_KINDS = (
    "multiprocessing.pool.ThreadPool",
    "multiprocess.pool.ThreadPool",
    "concurrent.futures.ThreadPoolExecutor",
)
"""Pools whose workers are threads of one process."""

STOCK_KINDS = (
    "multiprocessing.Pool",
    "multiprocessing.pool.ThreadPool",
    "multiprocess.Pool",
    "multiprocess.pool.ThreadPool",
    "billiard.Pool",
)
"""The standard library's pool and its copies: three helper threads, two queues with locks."""

IDLE_STEPS = frozenset({"lock", "receive", "idle"})
BEGUN_STEPS = IDLE_STEPS | {"rebuild", "task", "pickle", "send", "send-lock", "callback"}
"""Steps that a worker takes only after its initializer has ended."""

# futex(2): the low bits of its second argument. A wait of the interpreter lock has a time limit.
_FUTEX_WAITS = (0, 9)
_FUTEX_PRIVATE = 128
_UNMOVED_CPU_S = 0.002
_AWAKENINGS = 10
"""Who has run so often, and is at the same line still, wanted something each time that it did not get."""


@dataclass(frozen=True, slots=True)
class Extra:
    """What the kernel was asked besides, because a sight gave a reason to.

    ``switches`` counts by thread how often it has given its processor away of its own accord. ``asleep_s``
    is for how long threads have not run, about. ``readers`` are the processes (of all that may be read) that
    hold the end of a pipe for reading, by its number; ``fills`` is what pipes hold, and what they can hold.
    ``semaphores`` names the shared semaphore for which a thread waits, ``mappers`` who else has it. ``names``
    are those of processes outside the sight; ``processors`` how many the program may use. ``owners`` names
    the libraries of native threads, by thread.
    """

    switches: Mapping[int, int] = field(default_factory=dict)
    asleep_s: Mapping[int, float] = field(default_factory=dict)
    readers: Mapping[str, frozenset[int]] = field(default_factory=dict)
    fills: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    semaphores: Mapping[int, str] = field(default_factory=dict)
    mappers: Mapping[str, frozenset[int]] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    processors: int | None = None
    owners: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """One sight of a series, and what was asked besides."""

    sight: Sight
    extra: Extra = field(default_factory=Extra)


@functools.lru_cache(maxsize=4096)
def _place(
    stack: tuple[Frame, ...], variables: tuple[tuple[tuple[str, str], ...], ...]
) -> Place | None:
    return loops.place(stack, [dict(each) for each in variables])


def place_of(thread: SeenThread) -> Place | None:
    """Tell what a seen thread is at for a pool, None if it serves none or was not read."""
    python = thread.python
    if python is None or not python.stack:
        return None
    return _place(python.stack, tuple(tuple(each.items()) for each in python.variables))


class Actor:
    """One thread over the sights in which it was there, the latest last.

    ``seen`` and ``places`` run in parallel. ``always`` tells whether it was there in all of them.
    """

    def __init__(self, process: SeenProcess, seen: Sequence[SeenThread], looks: int) -> None:
        """Put together what was seen of one thread."""
        self.process = process
        self.seen: tuple[SeenThread, ...] = tuple(seen)
        self.places: tuple[Place | None, ...] = tuple(place_of(thread) for thread in self.seen)
        self.always: bool = len(self.seen) == looks
        self.os: OsThread = self.seen[-1].os
        self.python: OutsideThread | None = self.seen[-1].python
        self.place: Place | None = self.places[-1]

    @property
    def pid(self) -> int:
        """The process of the thread."""
        return self.os.pid

    @property
    def tid(self) -> int:
        """The number of the thread."""
        return self.os.tid

    @property
    def name(self) -> str:
        """The name of the thread: Python's, if it has one."""
        if self.tid == self.pid:
            return "MainThread"  # a forked worker's may still have the name of its parent's thread
        return (self.python.name if self.python else "") or self.os.name

    @property
    def stack(self) -> tuple[Frame, ...]:
        """The latest stack, without what a fork inherited."""
        return loops.own_part(self.python.stack) if self.python else ()

    @functools.cached_property
    def is_still(self) -> bool:
        """Whether it slept in all sights and was given no processor in between."""
        if not self.always or len(self.seen) < 2:
            return False
        if any(thread.os.state not in "SD" for thread in self.seen):
            return False
        first = self.seen[0].os
        if first.runs is not None and self.os.runs is not None and not self._was_paused():
            return first.runs == self.os.runs
        same = {(thread.os.syscall, thread.os.syscall_args) for thread in self.seen}
        return len(same) == 1 and self.os.cpu_s - first.cpu_s < _UNMOVED_CPU_S

    def _was_paused(self) -> bool:
        # A reader that stops its target makes each of its threads run once more.
        return self.process.dump.paused_s > 0

    @functools.cached_property
    def is_unmoved(self) -> bool:
        """Whether its Python stack was the same in all sights."""
        return self.always and len({t.python.stack if t.python else () for t in self.seen}) == 1

    @property
    def used_s(self) -> float:
        """The processor time that it used from the first sight to the last."""
        return self.os.cpu_s - self.seen[0].os.cpu_s

    @property
    def steps(self) -> frozenset[str]:
        """All steps in which it was seen."""
        return frozenset(place.step if place else "" for place in self.places)

    @property
    def step(self) -> str:
        """The latest step, empty if it serves no pool."""
        return self.place.step if self.place else ""

    def stays_at(self, *steps: str) -> bool:
        """Tell whether it rests in one of these steps, and has since the first sight."""
        return self.is_still and self.steps <= set(steps)

    @property
    def waits_privately(self) -> bool:
        """Whether it rests, without a limit of time, for what only its own process can give it."""
        told = self.os
        if not self.is_still or procfs.sleeps_in(told) != "futex" or len(told.syscall_args) < 4:
            return False
        operation, limit = told.syscall_args[1], told.syscall_args[3]
        if operation & 0x7F not in _FUTEX_WAITS or limit:
            return False
        return bool(operation & _FUTEX_PRIVATE)

    @property
    def waits_for_shared(self) -> bool:
        """Whether it rests, without a limit of time, for a semaphore that processes share."""
        told = self.os
        if not self.is_still or procfs.sleeps_in(told) != "futex" or len(told.syscall_args) < 4:
            return False
        operation, limit = told.syscall_args[1], told.syscall_args[3]
        return operation & 0x7F in _FUTEX_WAITS and not operation & _FUTEX_PRIVATE and not limit

    @property
    def wants_gil(self) -> bool:
        """Whether each sight found it in a wait with a limit, as that for the interpreter lock is.

        It wakes up 200 times a second, so some sights may find it running; all of that takes next to nothing.
        """
        waits = [_is_limited_wait(thread.os) for thread in self.seen]
        awake = [thread.os.state == "R" for thread in self.seen]
        if not all(w or a for w, a in zip(waits, awake, strict=True)):
            return False
        if not any(waits) and (self.os.runs or 0) - (self.seen[0].os.runs or 0) < _AWAKENINGS:
            return False
        return self.always and not self.is_still and self.used_s < 0.25

    def pipe(self, *words: str) -> str | None:
        """Return the pipe (``pipe:[NUMBER]``) in which it rests reading or writing, as the words say."""
        if self.os.state not in "SD" or not self.os.syscall_args:
            return None
        if procfs.sleeps_in(self.os) not in words:
            return None
        target = self.process.files.get(self.os.syscall_args[0], "")
        return target if target.startswith("pipe:") else None


def _rest_of(told: OsThread) -> tuple[int | None, tuple[int, ...]]:
    """Tell in which system call a thread rests, and for what: a lock's address, or a descriptor."""
    return told.syscall, told.syscall_args[:1]


def _is_limited_wait(told: OsThread) -> bool:
    args = told.syscall_args
    if procfs.sleeps_in(told) != "futex" or len(args) < 4:
        return False
    return args[1] & 0x7F == _FUTEX_WAITS[1] and bool(args[3])


@dataclass
class Crew:
    """One pool: the threads that serve it. ``pid`` is the process that made it.

    ``helpers`` are by role, ``workers`` are the threads in which tasks run: of a pool of processes the main
    threads of these. ``variables`` are those of the helper's loop that tells most. ``feeders`` are threads
    beside the helpers that only send.
    """

    kind: str
    pid: int
    helpers: dict[str, Actor] = field(default_factory=dict)
    workers: list[Actor] = field(default_factory=list)
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def of_threads(self) -> bool:
        """Whether the workers are threads of one process."""
        return self.kind in THREAD_KINDS

    @property
    def is_stock(self) -> bool:
        """Whether it is the standard library's pool, or a copy of it."""
        return self.kind in STOCK_KINDS

    @property
    def jobs(self) -> str | None:
        """The open jobs, as a text of py-spy's; empty if there are none, None if not known."""
        told = self.variables.get("cache")
        return None if told is None else told.strip("{}")

    @property
    def name(self) -> str:
        """What to call it: its kind and its process."""
        return f"{self.kind} of process {self.pid}"

    @property
    def words(self) -> str:
        """What its workers are called."""
        return "thread" if self.of_threads else "worker"


@dataclass(frozen=True)
class Series:
    """Several sights of one program, the latest last."""

    looks: tuple[Look, ...]

    @property
    def last(self) -> Sight:
        """The latest sight."""
        return self.looks[-1].sight

    @property
    def extra(self) -> Extra:
        """What was asked besides at the latest sight."""
        return self.looks[-1].extra

    @property
    def window_s(self) -> float:
        """The time from the first sight to the last."""
        return self.looks[-1].sight.taken_at - self.looks[0].sight.taken_at

    @functools.cached_property
    def actors(self) -> tuple[Actor, ...]:
        """All threads of the latest sight."""
        return tuple(
            Actor(process, self._over_time(thread), len(self.looks))
            for process in self.last.processes
            for thread in process.threads
        )

    @functools.cached_property
    def _by_key(self) -> tuple[dict[tuple[int, int, int], SeenThread], ...]:
        return tuple(
            {
                (process.pid, thread.os.tid, thread.os.start_ticks): thread
                for process in look.sight.processes
                for thread in process.threads
            }
            for look in self.looks
        )

    def _over_time(self, thread: SeenThread) -> list[SeenThread]:
        key = (thread.os.pid, thread.os.tid, thread.os.start_ticks)
        return [seen[key] for seen in self._by_key if key in seen]

    def of(self, pid: int) -> tuple[Actor, ...]:
        """Return the threads of one process."""
        return tuple(actor for actor in self.actors if actor.pid == pid)

    def python_of(self, pid: int) -> tuple[Actor, ...]:
        """Return the Python threads of one process."""
        return tuple(actor for actor in self.of(pid) if actor.python is not None)

    def ancestors(self, pid: int) -> tuple[int, ...]:
        """Return the parents of a process within the sight, nearest first."""
        found: list[int] = []
        process = self.last.process(pid)
        while process is not None and process.os.ppid not in found:
            process = self.last.process(process.os.ppid)
            if process is not None:
                found.append(process.pid)
        return tuple(found)

    @functools.cached_property
    def crews(self) -> tuple[Crew, ...]:
        """The pools of other libraries in the latest sight."""
        return tuple(_crews(self))

    def unread(self, crew: Crew) -> frozenset[int]:
        """Return processes that may be workers of a pool, and of which is not known where they are.

        Of those whose stacks were not to be had the kernel tells enough if they rest where others rest
        that were read: a fork keeps the address of a lock, and the number of a descriptor.
        """
        own = self.last.process(crew.pid)
        commands = {worker.process.os.cmdline for worker in crew.workers}
        commands |= {own.os.cmdline} if own is not None else set()
        rests = {_rest_of(w.os) for w in crew.workers if w.stays_at("lock", "receive")}
        return frozenset(
            actor.pid
            for actor in self.actors
            if actor.tid == actor.pid != crew.pid
            and actor.process.os.cmdline in commands
            and not all(t.python and t.python.stack for t in actor.seen)
            and not (actor.is_still and _rest_of(actor.os) in rests)
            and crew.pid in self.ancestors(actor.pid)
        )

    def worker_pids(self, at: int) -> frozenset[int]:
        """Return the processes of one sight that are workers of pools, or may become such."""
        sight = self.looks[at].sight
        found = set()
        for process in sight.processes:
            if process.pid == sight.pid:
                continue
            main = process.main
            place = place_of(main) if main else None
            if (place and "task" in place.roles) or (main and main.python is None):
                found.add(process.pid)
        return frozenset(found)


def _crews(series: Series) -> list[Crew]:
    crews: dict[tuple[str, int, str], Crew] = {}
    for actor in series.actors:
        place = actor.place
        if place is None or not place.kind or place.roles == ("caller",):
            continue
        if "task" in place.roles and place.kind not in THREAD_KINDS:
            continue
        key = (place.kind, actor.pid, _queue_of(place))
        crew = crews.setdefault(key, Crew(place.kind, actor.pid))
        if "task" in place.roles:
            crew.workers.append(actor)
            continue
        for role in place.roles:
            crew.helpers.setdefault(role, actor)
        if "worker-handler" in place.roles or not crew.variables:
            crew.variables = place.variables
    for actor in series.actors:
        _enlist(series, actor, list(crews.items()), crews)
    return list(crews.values())


def _queue_of(place: Place) -> str:
    """Name the queue that tells one pool of a process from another."""
    return place.variables.get("outqueue") or place.variables.get("work_queue") or ""


def _enlist(
    series: Series,
    actor: Actor,
    known: list[tuple[tuple[str, int, str], Crew]],
    crews: dict[tuple[str, int, str], Crew],
) -> None:
    """Put the main thread of a worker process to the pool that it works for."""
    place = actor.place
    if place is None or "task" not in place.roles or place.kind in THREAD_KINDS:
        return
    for above in series.ancestors(actor.pid):
        found = [
            (key, crew)
            for key, crew in known
            if crew.pid == above and not crew.of_threads and place.kind in ("", crew.kind)
        ]
        if found:
            _chosen(actor, place, found).workers.append(actor)
            return
        if _is_worker(series, above):
            return  # a task has forked: it looks like a worker, and is none
    if place.kind:  # its pool has no helper thread that could be seen
        above = next(iter(series.ancestors(actor.pid)), actor.pid)
        key = (place.kind, above, "")
        crews.setdefault(key, Crew(place.kind, above)).workers.append(actor)


def _is_worker(series: Series, pid: int) -> bool:
    process = series.last.process(pid)
    place = place_of(process.main) if process and process.main else None
    return place is not None and "task" in place.roles and place.kind not in ("", *THREAD_KINDS)


def _chosen(actor: Actor, place: Place, found: list[tuple[tuple[str, int, str], Crew]]) -> Crew:
    """Choose among several pools of one process: by the queue, as a fork keeps its address, else by pipes."""
    if len(found) > 1:
        queue = _queue_of(place)
        for key, crew in found:
            if queue and key[2] == queue:
                return crew
        pipes = set(actor.process.files.values())
        for _, crew in found:
            taker = crew.helpers.get("result-handler")
            pipe = taker.pipe("pipe read", "read") if taker else None
            if pipe in pipes:
                return crew
    return found[0][1]
