"""Frozen values for what has happened: tasks that ended, spans of the pool's threads, lives of workers.

A ``Recording`` is what timelines and reports are made of. It comes from the pool itself, which keeps a
journal while somebody asked for one, or from outside, from the rings of a scoreboard; then what only the
parent knows (when a task was submitted, its arguments) is None. All ``*_ns`` are of the clock of
``time.monotonic_ns()``, which all processes of a machine share; ``Recording.wall_ns`` leads to the time of
day.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from glasspool.snapshot import DeathCertificate, PoolInfo, WorkerTime


class TaskRecord(NamedTuple):
    """One task that has ended.

    ``status`` is ``done``, ``failed``, ``lost``, ``cancelled`` or ``timeout``. In the worker: ``begun_ns`` is
    when it took the task up, ``called_ns`` when the arguments had been rebuilt and the function was called,
    ``ended_ns`` when it had returned or raised, ``boxed_ns`` when the result was pickled and put away.
    ``called_ns`` and ``boxed_ns`` are None where tasks were too short to measure them one by one. In the
    parent: ``submitted_ns``, ``sent_ns`` and ``received_ns`` (the result had come in).
    ``lane`` is the thread of the worker, counted from 0. ``attempts`` counts this run.
    ``place`` is its place in its job. ``node`` is where it ran on a cluster; times are this machine's.
    """

    pool: str
    slot: int | None
    pid: int | None
    generation: int
    task: int
    function: str
    status: str
    begun_ns: int | None
    ended_ns: int | None
    called_ns: int | None = None
    boxed_ns: int | None = None
    result_bytes: int | None = None
    lane: int = 0
    job: int | None = None
    place: int = 0
    items: int = 1
    arguments: str | None = None
    argument_bytes: int | None = None
    attempts: int = 1
    submitted_ns: int | None = None
    submitter: int | None = None
    """Native id of the thread that submitted it."""
    sent_ns: int | None = None
    received_ns: int | None = None
    node: str | None = None


class Span(NamedTuple):
    """Something that a thread of the program did for a pool.

    ``kind`` is ``pickling`` (of a task's arguments), ``callback``, ``iterable`` (drawing items from the
    user's iterable) or ``unpickling`` (a result that somebody asked for).
    """

    kind: str
    native_id: int
    thread: str
    begun_ns: int
    ended_ns: int
    function: str = ""
    task: int | None = None
    job: int | None = None


class WorkerLife(NamedTuple):
    """One worker process from its start to its end; None: not yet, or not known.

    ``ended_as`` is ``dead`` (unasked), ``recycled`` (replaced on purpose) or ``left`` (it was not needed
    any more); ``reason`` says why. ``time`` is how it spent its life until then, or until now.
    """

    pid: int
    slot: int
    generation: int
    name: str
    native_id: int | None
    started_ns: int | None
    initializer_begun_ns: int | None = None
    initializer_ended_ns: int | None = None
    ended_ns: int | None = None
    ended_as: str | None = None
    reason: str | None = None
    time: WorkerTime | None = None
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """What happened in one pool between two moments.

    ``lost`` counts tasks that ended in that time and are not in ``tasks``, because there was no room to
    keep them or nobody read them in time. ``picture`` is how the pool looked at the end. ``wall_ns`` is what
    has to be added to a ``*_ns`` to get nanoseconds since the epoch. ``source`` is ``journal`` (the pool's
    own) or ``ring`` (read from outside).
    """

    pool: str
    pid: int
    begun_ns: int
    ended_ns: int
    wall_ns: int
    source: str
    tasks: tuple[TaskRecord, ...] = ()
    spans: tuple[Span, ...] = ()
    workers: tuple[WorkerLife, ...] = ()
    deaths: tuple[DeathCertificate, ...] = ()
    lost: int = 0
    picture: PoolInfo | None = None
    notes: tuple[str, ...] = field(default=())
