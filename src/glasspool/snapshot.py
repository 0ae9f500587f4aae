"""Frozen values that describe a pool at one moment: pool -> process -> thread -> frame.

Everything that looks (`inspect`, `ps`, `top`, the page) reads these values, and nothing in here
touches a process. ``to_dict`` gives plain dicts, lists, strings and numbers; ``to_json`` the same as
text, under a schema number that rises when a field changes its meaning or goes away.

Units: ``*_s`` are seconds, ``*_bytes`` bytes, ``*_at`` seconds since the epoch (``time.time()``).
"""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1

HANDLER_ROLES = ("worker-handler", "task-handler", "result-handler")
"""The three duties that every pool has in its parent process, whichever thread holds them."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """How a fact was found out, and how old it is.

    ``source`` is one of ``scoreboard`` (shared memory that the worker writes), ``self`` (the
    process's own word), ``py-spy`` (a reader from outside), ``os`` (the operating system) and
    ``inferred`` (from names or from what else is known). ``note`` says what a reader should know
    more, for example why a stack is missing.

    Of a stack that was read from outside: ``paused_s`` is for how long the process was stopped for it
    at most (0.0: it was not), and ``whole`` tells whether the thread stood still while it was read (True),
    or moved, so that the stack may be put together from two moments (False). None: it does not apply.
    """

    source: str
    age_s: float = 0.0
    note: str | None = None
    paused_s: float | None = None
    whole: bool | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """One call on a stack. Stacks are listed outermost first, as tracebacks are."""

    file: str
    line: int
    function: str


@dataclass(frozen=True, slots=True)
class ThreadRef:
    """The thread that ran something, as it was then."""

    name: str
    ident: int | None
    native_id: int
    is_main: bool


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One task: what it calls, where it is, and what it cost.

    ``state`` is ``waiting``, ``sent``, ``running``, ``done``, ``failed``, ``lost``, ``cancelled`` or
    ``timeout``. ``items`` is how many calls of the user's function the task holds (1 but for
    chunks) and ``item`` the index within the chunk of the one that runs, or of the first one that
    may run: ``grain`` says how finely that is known (``task`` or ``item``).
    For a map, ``tasks`` are its chunks. ``progress`` is what the task last said of itself by
    ``glasspool.report_progress``: how much is done, and of how much (None: not said). ``node`` is where it
    is, or ran, on a cluster. ``stdout`` and
    ``stderr`` are what it has written, in a pool with ``capture_output=True``. Fields that do not apply yet
    are None.
    """

    id: int | None
    job: int | None
    function: str
    state: str
    index: int = 0
    items: int = 1
    item: int | None = None
    grain: str = "task"
    arguments: str | None = None
    attempts: int = 1
    slot: int | None = None
    pid: int | None = None
    thread: ThreadRef | None = None
    submitted_at: float | None = None
    begun_at: float | None = None
    ended_at: float | None = None
    queue_wait_s: float | None = None
    run_s: float | None = None
    argument_bytes: int | None = None
    result_bytes: int | None = None
    tasks: tuple[TaskInfo, ...] = ()
    progress: tuple[float, float | None] | None = None
    stdout: str | None = None
    stderr: str | None = None
    node: str | None = None

    def _repr_html_(self) -> str:
        from glasspool.views import html  # not before a notebook asks

        return html.task(self)


@dataclass(frozen=True, slots=True)
class ThreadInfo:
    """One thread of one process.

    ``name`` is Python's name, or the operating system's for a thread that Python does not know
    (``python`` is False then, and ``roles`` is ``("native",)``). ``os_name`` is the operating
    system's (at most 15 bytes on Linux). ``ident`` is ``threading.get_ident()``, ``native_id`` the
    operating system's thread id. ``state`` is in words; ``since_s`` how long it has lasted;
    ``cpu_s`` the processor time used so far. ``stack`` is None where it was not asked for or not
    to be had: ``evidence.note`` says why. ``pool`` names the pool that the thread serves.

    ``kernel`` is what the kernel says that the thread waits for (``futex``, ``pipe read``), ``cpu_share``
    the part of one processor that it used while the picture was taken, and ``library`` the shared library
    to which a thread that Python does not know belongs. None where it is not known. ``node`` is the node of
    a cluster on which it is, None for threads of this machine's processes.
    """

    pid: int
    process: str
    name: str
    native_id: int
    roles: tuple[str, ...]
    state: str
    ident: int | None = None
    daemon: bool | None = None
    is_main: bool = False
    python: bool = True
    os_name: str | None = None
    task: TaskInfo | None = None
    since_s: float | None = None
    cpu_s: float | None = None
    stack: tuple[Frame, ...] | None = None
    pool: str | None = None
    evidence: Evidence = Evidence("os")
    kernel: str | None = None
    cpu_share: float | None = None
    library: str | None = None
    node: str | None = None

    def _repr_html_(self) -> str:
        from glasspool.views import html  # not before a notebook asks

        return html.thread(self)


@dataclass(frozen=True, slots=True)
class InitializerInfo:
    """Which thread of a worker ran the pool's initializer, when, and for how long.

    ``state`` is ``none`` (the pool has no initializer), ``running``, ``done`` or ``failed``.
    """

    function: str | None
    state: str
    thread: ThreadRef | None = None
    begun_at: float | None = None
    run_s: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerTime:
    """How a worker has spent its life so far, in seconds; the parts add up to the whole.

    ``start_s`` is from its fork or spawn to its initializer, ``initializer_s`` the initializer,
    ``waiting_s`` without anything to do, ``receiving_s`` taking messages and rebuilding arguments,
    ``running_s`` in the user's function, ``sending_s`` pickling and sending what it returned, ``exit_s``
    leaving (finalizer and exit functions).
    """

    start_s: float = 0.0
    initializer_s: float = 0.0
    waiting_s: float = 0.0
    receiving_s: float = 0.0
    running_s: float = 0.0
    sending_s: float = 0.0
    exit_s: float = 0.0

    @property
    def whole_s(self) -> float:
        """The sum of all parts."""
        return float(sum(getattr(self, one.name) for one in dataclasses.fields(self)))


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One process of a pool.

    ``role`` is ``parent``, ``worker``, ``template``, ``fork-server``, ``resource-tracker``,
    ``nanny``, ``manager`` or ``child`` (another process that one of these started); on a cluster also
    ``agent`` (it has the workers of a node) and ``engine`` (the cluster's own). ``node`` names the node it
    is on, None: the machine of the process that made the pool. ``state`` of
    a worker is ``starting``, ``initializing``, ``idle``, ``busy``, ``leaving`` or ``dead``.
    ``tasks_done`` and ``busy_s`` count finished tasks of this process and the time spent in them.
    ``reason`` says why the pool itself replaced or ended it.
    ``command`` is its command line, ``python_version`` its interpreter's, such as ``3.12``, where known.
    ``time`` is how a worker of ours spent its life so far. ``native_threads`` says for each library of a
    worker that computes with threads of its own (BLAS, OpenMP) how many it may use, such as
    ``{"openblas": 1}``; empty: none is loaded; None: not known.
    """

    pid: int
    name: str
    role: str
    threads: tuple[ThreadInfo, ...] = ()
    state: str = ""
    slot: int | None = None
    generation: int = 0
    exitcode: int | None = None
    started_at: float | None = None
    tasks_done: int = 0
    busy_s: float = 0.0
    cpu_s: float | None = None
    rss_bytes: int | None = None
    initializer: InitializerInfo | None = None
    reason: str | None = None
    evidence: Evidence = Evidence("os")
    command: str | None = None
    python_version: str | None = None
    time: WorkerTime | None = None
    native_threads: Mapping[str, int] | None = None
    node: str | None = None

    @property
    def place(self) -> tuple[str | None, int]:
        """The node and the pid: on a cluster two processes may have the same number."""
        return self.node, self.pid


@dataclass(frozen=True, slots=True)
class DeathCertificate:
    """What is known of a worker that died. None is: not known; an empty tuple: none were found.

    ``cause`` is in words. ``signal`` is the number of the signal that ended the worker, or None;
    ``exitcode`` follows ``multiprocessing`` (negative for a signal), None when nobody could learn it.
    ``attempts`` counts how often the task was begun by a worker, this time included, of
    ``attempts_allowed``. ``task.arguments`` are made from built-in types only.

    ``peak_memory_bytes`` is the most that the process had in memory at one time. ``oom_likely`` tells
    whether the kernel's OOM killer ended it, ``oom_evidence`` on what that is based; they are looked
    for after a SIGKILL that was not the pool's own.

    ``stack`` is the last one known of the thread that faulted, else of the task's: outermost call
    first, ``stack_age_s`` before the death was noticed. ``stack_source`` is ``faulthandler`` (what it
    wrote as the worker died) or ``self`` (the worker's own word, when a picture was taken).
    ``others_lost`` is how many tasks were lost beside it: a worker with lanes runs several at once.
    ``last_log`` and ``last_output`` are the last lines that the worker logged, and that it wrote
    through ``sys.stdout`` and ``sys.stderr``, oldest first.

    On a cluster, ``node`` names the node of the worker. ``whole_node`` says that the node was lost, or the
    agent of the pool there, with all its workers: ``pid`` is the agent's then, and ``slot`` means nothing.
    """

    pid: int
    slot: int
    cause: str
    task: TaskInfo | None = None
    signal: int | None = None
    exitcode: int | None = None
    attempts: int = 1
    died_at: float | None = None
    pool: str | None = None
    advice: str | None = None
    attempts_allowed: int = 1
    peak_memory_bytes: int | None = None
    oom_likely: bool | None = None
    oom_evidence: str | None = None
    stack: tuple[Frame, ...] | None = None
    stack_age_s: float | None = None
    stack_source: str | None = None
    last_log: tuple[str, ...] = ()
    last_output: tuple[str, ...] = ()
    others_lost: int = 0
    node: str | None = None
    whole_node: bool = False

    def text(self) -> str:
        """Say in at most six lines what happened to whom, where it was, and what to do next."""
        at = "" if self.node is None else f" on {self.node}"
        who = (
            f"the node {self.node}"
            if self.whole_node
            else f"worker {self.slot}{at} (pid {self.pid})"
        )
        lines = [
            f"{who} {self.cause} {self._when()}.",
            self._others(),
            self._memory(),
            self._where(),
            self._last_words(),
            self.advice,
        ]
        return "\n".join(line for line in lines if line)

    def _others(self) -> str:
        if self.whole_node:
            return "It may have begun the task, so it is not run elsewhere unless retries= allows that."
        if not self.others_lost:
            return "Other tasks are unharmed; the worker was replaced."
        lost = "1 other task" if self.others_lost == 1 else f"{self.others_lost} other tasks"
        was = "was" if self.others_lost == 1 else "were"
        return f"In its other lanes {lost} {was} lost with it; those of other workers are unharmed."

    def _when(self) -> str:
        task = self.task
        if task is None:
            return "while it had no task"
        words = f"{task.function}{task.arguments or ''}"
        if task.items > 1 and task.item is not None:
            later = "" if task.grain == "item" else " or later"
            words += f", item {task.item + 1}{later} of {task.items}"
        if task.id is not None:
            words = f"task {task.id} ({words})"
        if task.run_s is not None and task.run_s >= 0.1:
            words += f" for {task.run_s:.1f} s"
        if self.attempts_allowed > 1 or self.attempts > 1:
            allowed = max(self.attempts, self.attempts_allowed)
            words += f", attempt {self.attempts} of {allowed}"
        return f"while it ran {words}"

    def _memory(self) -> str | None:
        if not self.oom_likely:
            return None
        peak = self.peak_memory_bytes
        had = "" if peak is None else f" It had up to {peak / 1e6:,.0f} MB."
        return f"Most likely the kernel's OOM killer did it: {self.oom_evidence}.{had}"

    def _where(self) -> str | None:
        if not self.stack:
            return None
        seen = f"{self.stack_age_s:.1f} s before, it was" if self.stack_age_s else "It was"
        calls = [f"{frame.function} ({frame.file}:{frame.line})" for frame in self.stack[-2:]]
        return f"{seen} in {', called from '.join(reversed(calls))}."

    def _last_words(self) -> str | None:
        said, how = (self.last_log, "logged") if self.last_log else (self.last_output, "wrote")
        return f"The last that it {how}: {said[-1][:200]}" if said else None

    def _repr_html_(self) -> str:
        from glasspool.views import html  # not before a notebook asks

        return html.certificate(self)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One node of a pool on a cluster, as the process that made the pool knows it.

    ``state`` is ``starting``, ``ready``, ``leaving``, ``lost`` or ``gone``; ``reason`` says why it was lost.
    ``workers`` is how many it is to have, ``tasks`` how many tasks it holds, ``tasks_done`` how many it has
    ended. ``pid`` is its agent's, ``library`` what the cluster runs on (``ray``, ``dask``), with
    ``python_version`` there. ``heard_s`` is how long ago it last said something, None: never.

    What a node's clock tells was set right by ``clock_offset_s`` (to be added to a time of the node's
    ``time.monotonic()``), which is wrong by ``clock_error_s`` at most: half of ``round_trip_s``, the quickest
    way there and back so far. None: not measured yet. ``silent`` says why the picture does not show what the
    node has, and how old what is known of it is; None: it does.
    """

    id: str
    name: str
    host: str
    library: str
    state: str
    processors: int = 0
    workers: int = 0
    tasks: int = 0
    tasks_done: int = 0
    pid: int | None = None
    python_version: str | None = None
    heard_s: float | None = None
    clock_offset_s: float | None = None
    clock_error_s: float | None = None
    round_trip_s: float | None = None
    reason: str | None = None
    silent: str | None = None


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """One pool: its processes, its tasks that have not ended, its counters.

    ``kind`` is ``glasspool.Pool`` for ours, ``multiprocessing.Pool`` and so on for others.
    ``made_at`` is ``FILE:LINE`` of the call that made it. ``stats`` are the counters of
    ``Pool.stats()``. ``ended`` are workers that have been replaced, oldest first. ``notes``
    are sentences on what could not be seen or had, and why. ``forked_beside`` names the program's threads
    that were alive when the pool forked its workers' template. ``engine`` is where its workers are:
    ``local``, ``ray`` or ``dask``; ``nodes`` are those of a cluster.
    """

    name: str
    kind: str
    pid: int
    processes: tuple[ProcessInfo, ...]
    tasks: tuple[TaskInfo, ...] = ()
    stats: Mapping[str, Any] = field(default_factory=dict)
    state: str = "running"
    start_method: str | None = None
    size: int = 0
    made_at: str | None = None
    initializer: str | None = None
    deaths: tuple[DeathCertificate, ...] = ()
    ended: tuple[ProcessInfo, ...] = ()
    notes: tuple[str, ...] = ()
    forked_beside: tuple[str, ...] = ()
    engine: str = "local"
    nodes: tuple[NodeInfo, ...] = ()

    @property
    def workers(self) -> tuple[ProcessInfo, ...]:
        """The processes that run tasks, by slot."""
        return tuple(p for p in self.processes if p.role == "worker")

    @property
    def threads(self) -> tuple[ThreadInfo, ...]:
        """All threads of all processes."""
        return tuple(t for p in self.processes for t in p.threads)

    def _repr_html_(self) -> str:
        from glasspool.views import html  # not before a notebook asks

        return html.pool(self)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A picture of one or more pools at one moment.

    It prints as a table. ``taken_at`` is seconds since the epoch, ``took_s`` how long it took to
    collect: facts in one snapshot may differ in age by that much.
    """

    pools: tuple[PoolInfo, ...]
    taken_at: float
    took_s: float = 0.0
    schema: int = SCHEMA

    @property
    def processes(self) -> tuple[ProcessInfo, ...]:
        """All processes of all pools; a process that serves several pools is listed once."""
        return tuple(_unique((p for pool in self.pools for p in pool.processes), _place))

    @property
    def threads(self) -> tuple[ThreadInfo, ...]:
        """All threads of all processes, each once."""
        return tuple(t for p in self.processes for t in p.threads)

    @property
    def workers(self) -> tuple[ProcessInfo, ...]:
        """All worker processes."""
        return tuple(p for p in self.processes if p.role == "worker")

    @property
    def tasks(self) -> tuple[TaskInfo, ...]:
        """All tasks that have not ended."""
        return tuple(t for pool in self.pools for t in pool.tasks)

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot as plain dicts, lists, strings and numbers."""
        return {
            "schema": self.schema,
            "taken_at": self.taken_at,
            "took_s": self.took_s,
            "pools": [as_plain(pool) for pool in self.pools],
        }

    def to_json(self, indent: int | None = None) -> str:
        """Return ``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)

    def __str__(self) -> str:
        from glasspool.views import table

        return table.snapshot_text(self)

    def _repr_html_(self) -> str:
        from glasspool.views import html  # not before a notebook asks

        return html.snapshot(self)


def as_plain(value: Any) -> Any:
    """Turn frozen values of this module into dicts and lists, field by field.

    A watched program does this twice a second for all its threads and tasks: what is most common comes first.
    """
    cls: type = value.__class__
    if cls in _LEAVES:
        return value
    names = _FIELDS.get(cls)
    if names is None and dataclasses.is_dataclass(cls):
        names = _FIELDS[cls] = tuple(one.name for one in dataclasses.fields(cls))
    if names is not None:
        return {name: as_plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [as_plain(item) for item in value]
    return value


_LEAVES = frozenset((str, int, float, bool, type(None)))
_FIELDS: dict[type, tuple[str, ...]] = {}


def from_dict(plain: Mapping[str, Any]) -> Snapshot:
    """Rebuild a snapshot from ``Snapshot.to_dict()``, ignoring fields that this version lacks.

    Raises:
        ValueError: The text is not a snapshot, or of a newer schema.
    """
    if not isinstance(plain, Mapping) or plain.get("schema") != SCHEMA:
        raise ValueError(f"not a snapshot of schema {SCHEMA}")
    try:
        return Snapshot(
            pools=tuple(_pool(p) for p in plain["pools"]),
            taken_at=float(plain["taken_at"]),
            took_s=float(plain.get("took_s", 0.0)),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a snapshot of schema {SCHEMA}: {error!r}") from None


def describe_exit(exitcode: int | None) -> str:
    """Say in words how a process ended, from an exit code as in ``multiprocessing``."""
    if exitcode is None:
        return "ended (nobody could learn how)"
    if exitcode < 0:
        try:
            name = signal.Signals(-exitcode).name
        except ValueError:
            name = f"signal {-exitcode}"
        return f"was killed by {name}"
    return f"exited with code {exitcode}"


def _place(process: ProcessInfo) -> tuple[str | None, int]:
    return process.place


def _unique(values: Iterable[Any], key: Any) -> list[Any]:
    seen: dict[Any, Any] = {}
    for value in values:
        seen.setdefault(key(value), value)
    return list(seen.values())


def _build(cls: type, plain: Mapping[str, Any] | None, **nested: Any) -> Any:
    if plain is None:
        return None
    known = {f.name for f in dataclasses.fields(cls)}
    values = {key: value for key, value in plain.items() if key in known}
    return cls(**{**values, **nested})


def _task(plain: Mapping[str, Any] | None) -> Any:
    if plain is None:
        return None
    return _build(
        TaskInfo,
        plain,
        thread=_build(ThreadRef, plain.get("thread")),
        tasks=tuple(_task(t) for t in plain.get("tasks", ())),
        progress=None if plain.get("progress") is None else tuple(plain["progress"]),
    )


def _stack(plain: Mapping[str, Any]) -> tuple[Frame, ...] | None:
    stack = plain.get("stack")
    return None if stack is None else tuple(_build(Frame, f) for f in stack)


def _death(plain: Mapping[str, Any]) -> DeathCertificate:
    built: DeathCertificate = _build(
        DeathCertificate,
        plain,
        task=_task(plain.get("task")),
        stack=_stack(plain),
        last_log=tuple(plain.get("last_log", ())),
        last_output=tuple(plain.get("last_output", ())),
    )
    return built


def _thread(plain: Mapping[str, Any]) -> ThreadInfo:
    built: ThreadInfo = _build(
        ThreadInfo,
        plain,
        roles=tuple(plain.get("roles", ())),
        task=_task(plain.get("task")),
        stack=_stack(plain),
        evidence=_build(Evidence, plain.get("evidence")) or Evidence("os"),
    )
    return built


def _process(plain: Mapping[str, Any]) -> ProcessInfo:
    initializer = plain.get("initializer")
    built: ProcessInfo = _build(
        ProcessInfo,
        plain,
        threads=tuple(_thread(t) for t in plain.get("threads", ())),
        initializer=None
        if initializer is None
        else _build(
            InitializerInfo, initializer, thread=_build(ThreadRef, initializer.get("thread"))
        ),
        evidence=_build(Evidence, plain.get("evidence")) or Evidence("os"),
        time=_build(WorkerTime, plain.get("time")),
    )
    return built


def _pool(plain: Mapping[str, Any]) -> PoolInfo:
    built: PoolInfo = _build(
        PoolInfo,
        plain,
        processes=tuple(_process(p) for p in plain["processes"]),
        tasks=tuple(_task(t) for t in plain.get("tasks", ())),
        deaths=tuple(_death(d) for d in plain.get("deaths", ())),
        ended=tuple(_process(p) for p in plain.get("ended", ())),
        notes=tuple(plain.get("notes", ())),
        forked_beside=tuple(plain.get("forked_beside", ())),
        nodes=tuple(_build(NodeInfo, node) for node in plain.get("nodes", ())),
    )
    return built
