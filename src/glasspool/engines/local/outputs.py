"""Outputs: what tasks have written, as the parent knows it; for pools with ``capture_output=True``.

Owns: the file of shared memory in which workers keep it (``capturing``). Threads: none. What a call has
written comes from its worker ahead of its result; what a running or lost one has written is read where the
worker keeps it. Of a task with many calls (a chunk), all of it is put together, and the end is kept.
"""

from __future__ import annotations

import marshal
import os
import struct
from typing import TYPE_CHECKING

from glasspool.engines.local.capturing import (
    HEAD_BYTES,
    MOST_BYTES,
    PAGE,
    STREAMS,
    TAIL_BYTES,
    CaptureFile,
    empty,
)

if TYPE_CHECKING:
    from glasspool.engines.local.collector import Collector
    from glasspool.engines.local.workers import Worker
    from glasspool.ledger import Task

_WORDS = struct.Struct("<4Q")

LINES = 5

LOOK_EVERY_S = 0.1
"""While tasks run, it is looked so often whether one has written too much."""


class Output:
    """What one task has written: the end of each stream, and how much there was in all."""

    __slots__ = ("attempts", "number", "tails", "totals")

    def __init__(self, attempts: int) -> None:
        self.attempts: int = attempts
        self.number: int = 0  # of the last capture that is in it
        self.tails: list[bytes] = [b"", b""]
        self.totals: list[int] = [0, 0]

    def add(self, number: int, parts: tuple[bytes, int, bytes, int]) -> None:
        """Add what a call has written."""
        self.number = number
        for at in range(2):
            self.tails[at] = (self.tails[at] + parts[2 * at])[-TAIL_BYTES:]  # type: ignore[operator]
            self.totals[at] += parts[2 * at + 1]  # type: ignore[operator]

    def copy(self) -> Output:
        """Return one like it."""
        made = Output(self.attempts)
        made.number, made.tails, made.totals = self.number, self.tails.copy(), self.totals.copy()
        return made

    def texts(self) -> tuple[str, str]:
        """Return standard output and error; a first line says so if they are cut."""
        return _text(self.tails[0], self.totals[0]), _text(self.tails[1], self.totals[1])


class Outputs:
    """The outputs of a pool's tasks."""

    def __init__(self, count: int) -> None:
        self.file: CaptureFile = CaptureFile.create(count)
        self._is_watching = False

    def arrived(self, task: Task, body: bytes) -> None:
        """Take what a worker says that a task has written (the collector, or a caller)."""
        number, *parts = marshal.loads(body)
        output = _of(task)
        if output.number != number:
            output.add(number, tuple(parts))
            task.output = output

    def rescue(self, worker: Worker, task: Task) -> None:
        """Read what a task has written that ends without its worker's word (collector)."""
        seen = self._seen(worker.record, task)
        if seen is not None:
            task.output = seen

    def live(self, record: int | None, task: Task) -> tuple[str, str]:
        """Return what a task that has begun has written so far."""
        seen = None if record is None else self._seen(record, task)
        found = seen or getattr(task, "output", None)
        return ("", "") if found is None else found.texts()

    def last_lines(self, task: Task | None) -> tuple[str, ...]:
        """Return the last lines that a task has written, for a certificate."""
        output: Output | None = getattr(task, "output", None)
        if output is None:
            return ()
        from glasspool.engines.local.blackbox import text_of_line

        written = output.tails[0] or output.tails[1]
        lines = [line for line in written.splitlines() if line.strip()]
        return tuple(map(text_of_line, lines[-LINES:]))

    def _seen(self, record: int, task: Task) -> Output | None:
        """Return the output of a task with what its worker has kept and not sent."""
        fd = self.file.fd
        if fd < 0:
            return None
        try:
            number, of_task, *begins = _WORDS.unpack(os.pread(fd, _WORDS.size, record * HEAD_BYTES))
            output = _of(task).copy()
            if not number or of_task != task.id or number == output.number:
                return None
            parts: list[bytes | int] = []
            for stream, begin in zip(STREAMS, begins, strict=True):
                parts += self._read(fd, begin, self.file.area(record, stream))
            again = _WORDS.unpack(os.pread(fd, _WORDS.size, record * HEAD_BYTES))
        except (OSError, struct.error):  # the pool has ended meanwhile
            return None
        if again[0] != number:
            return None  # another call has begun
        output.add(number, tuple(parts))  # type: ignore[arg-type]
        return output

    def watch(self, collector: Collector) -> None:
        """Look from now on, as long as tasks run, whether one writes too much (collector)."""
        if not self._is_watching:
            self._is_watching = True
            collector.timers.later(LOOK_EVERY_S, lambda: self._look(collector))

    def _look(self, collector: Collector) -> None:
        self._is_watching = False
        busy = [worker for worker in collector.workers.values() if worker.held]
        for worker in busy:
            self._trim(worker.record)
        if busy:
            self.watch(collector)

    def _trim(self, record: int) -> None:
        """Give the memory of what a call has written back, but for its end.

        Its worker only goes forward in the file, so what is taken here is never another call's.
        """
        fd = self.file.fd
        number, _, *begins = _WORDS.unpack(os.pread(fd, _WORDS.size, record * HEAD_BYTES))
        for stream, begin in zip(STREAMS, begins, strict=True):
            data, stop = self._last_extent(fd, begin, self.file.area(record, stream))
            if number and stop - data > MOST_BYTES:
                start = -(-data // PAGE) * PAGE
                empty(fd, start, (stop - 2 * TAIL_BYTES) // PAGE * PAGE)

    def _last_extent(self, fd: int, begin: int, area: int) -> tuple[int, int]:
        """Return where the last memory of an area begins and ends, from a place on."""
        data = stop = begin
        end = area + self.file.area_bytes
        try:
            while (following := os.lseek(fd, stop, os.SEEK_DATA)) < end:
                data, stop = following, min(os.lseek(fd, following, os.SEEK_HOLE), end)
        except OSError:  # nothing has been written so far back in the file
            pass
        return data, stop

    def _read(self, fd: int, begin: int, area: int) -> tuple[bytes, int]:
        """Return the end of what stands in an area from a place on, and how much it is in all."""
        data, stop = self._last_extent(fd, begin, area)
        if stop <= begin:
            return b"", 0
        # The rest of the last page is zeros.
        start = max(data, stop - TAIL_BYTES - PAGE)
        tail = os.pread(fd, stop - start, start).rstrip(b"\0")
        return tail[-TAIL_BYTES:], start + len(tail) - begin

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self.file.close()


def _of(task: Task) -> Output:
    """Return the output of a task's present attempt."""
    output: Output | None = getattr(task, "output", None)
    if output is None or output.attempts != task.attempts:
        return Output(task.attempts)
    return output


def _text(tail: bytes, total: int) -> str:
    text = tail.decode("utf-8", "replace")
    cut = total - len(tail)
    return f"[... {cut:,} bytes ...]\n{text}" if cut > 0 else text
