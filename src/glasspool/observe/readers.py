"""Programs that read other processes: run side by side, within a common time, and none left behind.

*Owns*: the reader processes, from start to reaped. *Threads*: none; the caller waits for the readers'
output. *Invariant*: when ``run`` returns or raises, each reader that it started has ended. Readers that are
not done in time are killed; one that has stopped its target releases it by its end, as the kernel does so.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import IO, NamedTuple

from glasspool.observe import procfs

_BLOCK_BYTES = 1 << 16


class Answer(NamedTuple):
    """What a reader said. ``code`` is its exit code, None if it was not done in time.

    ``began`` and ``lasted_s`` are its whole life; ``still`` are the threads of its target that
    did not move in that time, and ``rest`` has the marks of all that rested at its end.
    """

    output: bytes = b""
    complaint: str = ""
    code: int | None = None
    taken_at: float = 0.0
    lasted_s: float = 0.0
    still: frozenset[int] = frozenset()
    rest: Mapping[int, tuple[int, int]] = MappingProxyType({})


@dataclass(slots=True)
class _Reader:
    pid: int
    process: subprocess.Popen[bytes]
    resting: Mapping[int, tuple[int, int]]
    began: float
    output: bytearray = field(default_factory=bytearray)
    complaint: bytearray = field(default_factory=bytearray)
    open_ends: int = 2


def run(commands: Mapping[int, Sequence[str]], deadline: float) -> dict[int, Answer]:
    """Run one reader for each process, at most a few at a time, until a time of the monotonic clock.

    A process without an answer in the result was not reached in time.

    Raises:
        OSError: A reader could not be started.
    """
    waiting = deque(commands.items())
    running: dict[int, _Reader] = {}
    answers: dict[int, Answer] = {}
    with selectors.DefaultSelector() as ends:
        try:
            while (waiting or running) and time.monotonic() < deadline:
                # Readers are busy all their life: more than processors make each slower, and
                # leave their targets more time to move meanwhile.
                while waiting and len(running) < _processors():
                    pid, command = waiting.popleft()
                    running[pid] = _start(pid, command, ends)
                # Woken by what a reader writes or by its end, or by the time.
                for key, _ in ends.select(max(0.0, deadline - time.monotonic())):
                    reader, into = key.data
                    if _is_done(reader, key.fileobj, into, ends):
                        del running[reader.pid]
                        answers[reader.pid] = _finished(reader, deadline)
        finally:
            for reader in running.values():
                _end(reader)
                answers[reader.pid] = Answer(lasted_s=time.monotonic() - reader.began)
    return answers


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return max(2, len(os.sched_getaffinity(0)))
    return max(2, os.cpu_count() or 2)


def _start(pid: int, command: Sequence[str], ends: selectors.BaseSelector) -> _Reader:
    resting, began = procfs.resting(pid), time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=_NOWHERE,
    )
    reader = _Reader(pid, process, resting, began)
    for end, into in ((process.stdout, reader.output), (process.stderr, reader.complaint)):
        if end is not None:
            ends.register(end, selectors.EVENT_READ, (reader, into))
    return reader


# Below no folder that holds programs: a reader that shortens paths by its own folder finds none to cut.
_NOWHERE = "/proc" if os.path.isdir("/proc") else None


def _is_done(reader: _Reader, end: object, into: bytearray, ends: selectors.BaseSelector) -> bool:
    """Take in what a reader wrote; tell whether that was the last of it."""
    stream: IO[bytes] = end  # type: ignore[assignment]  # what we registered
    block = os.read(stream.fileno(), _BLOCK_BYTES)
    if block:
        into += block
        return False
    ends.unregister(stream)
    stream.close()
    reader.open_ends -= 1
    return reader.open_ends == 0


def _finished(reader: _Reader, deadline: float) -> Answer:
    resting, taken_at = procfs.resting(reader.pid), time.time()
    try:
        # It has closed what it writes to, so it is about to end.
        code = reader.process.wait(max(0.05, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _end(reader)
        return Answer(lasted_s=time.monotonic() - reader.began)
    return Answer(
        output=bytes(reader.output),
        complaint=reader.complaint.decode(errors="replace"),
        code=code,
        taken_at=taken_at,
        lasted_s=time.monotonic() - reader.began,
        still=frozenset(tid for tid, mark in resting.items() if reader.resting.get(tid) == mark),
        rest=resting,
    )


def _end(reader: _Reader) -> None:
    for end in (reader.process.stdout, reader.process.stderr):
        if end is not None:
            end.close()
    with contextlib.suppress(OSError):  # it has ended by itself
        reader.process.kill()
    reader.process.wait()  # woken by the end of the process just killed
