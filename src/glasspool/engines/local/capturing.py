"""Capturing: what a task writes to its standard output and error, kept for its result.

In the worker, for pools with ``capture_output=True``. Around each call descriptors 1 and 2 lead to places
of this worker in a file of shared memory; so what C code and subprocesses write is caught as well as
``print``. At the end of the call the last ``TAIL_BYTES`` of each are sent to the parent, ahead of the
result. The parent reads the same places while the task runs, and when its worker has died (``outputs``).
What is written outside of tasks goes where it went.

Layout of the file: for each record of the scoreboard HEAD_BYTES of words::

    number of the capture from 1, 0 while it is being changed; task; where its output, its error begins

and from the next page on, ``area_bytes`` apart, two areas for each record. An area takes memory only where
something was written; before the next call it is emptied when it holds more than ``ROOM_BYTES``, and while
a call goes on writing the parent keeps it below ``MOST_BYTES`` or so.
"""

from __future__ import annotations

import contextlib
import io
import marshal
import mmap
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing import reduction
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import channel, kernel, wire
from glasspool.engines.local.scoreboard import reserve_memory
from glasspool.engines.local.segments import new_file

if TYPE_CHECKING:
    import socket

    from glasspool.engines.local.worker import Setup

TAIL_BYTES = 64 * 1024
ROOM_BYTES = 1 << 20
MOST_BYTES = 8 << 20
AREA_BYTES = 1 << 36
LEAST_AREA_BYTES = 16 << 20

PAGE = 4096
HEAD_BYTES = 64
W_NUMBER, W_TASK, W_OUT, W_ERR = range(4)
STREAMS = (1, 2)
_NAMES = {1: "stdout", 2: "stderr"}

_HIGH_FD = 200
"""Our descriptors keep off the low numbers: those are used again first if a task closes them all."""

_FALLOC_PUNCH_HOLE, _FALLOC_KEEP_SIZE = 2, 1


class CaptureFile:
    """The file of a pool. It travels to each worker as it starts."""

    def __init__(self, fd: int, count: int, area_bytes: int) -> None:
        self.fd: int = fd
        self.count = count
        self.area_bytes = area_bytes
        self.heads_bytes: int = heads_bytes(count)

    @classmethod
    def create(cls, count: int) -> CaptureFile:
        """Make it for so many records.

        Raises:
            OSError: There is no room for it, or files of this process may not be large enough.
        """
        limit = kernel.file_size_limit()
        area = AREA_BYTES
        if limit is not None:
            area = (limit - heads_bytes(count)) // (2 * count) // PAGE * PAGE
            if area < LEAST_AREA_BYTES:
                raise OSError(
                    f"capture_output=True needs files of {2 * count * LEAST_AREA_BYTES:,} bytes, and "
                    f"this process may write {limit:,}: raise the limit (ulimit -f)."
                )
        fd = new_file()
        try:
            os.ftruncate(fd, heads_bytes(count))
            reserve_memory(fd, 0, heads_bytes(count))
            _c_library()  # here, so that forked workers have it
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, count, area)

    def area(self, record: int, stream: int) -> int:
        """Return where the area of a stream (1 or 2) begins."""
        return self.heads_bytes + (2 * record + stream - 1) * self.area_bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (reduction.DupFd(self.fd), self.count, self.area_bytes)

    def close(self) -> None:
        """Close the descriptor. Safe to call twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def heads_bytes(count: int) -> int:
    """Return where the areas begin in the file of so many records."""
    return -(-count * HEAD_BYTES // PAGE) * PAGE


def _attach(duplicate: Any, count: int, area_bytes: int) -> CaptureFile:
    return CaptureFile(duplicate.detach(), count, area_bytes)


def begin(file: CaptureFile, setup: Setup) -> None:
    """Be ready to capture what the tasks of this process write (a worker's main thread, once).

    Raises:
        OSError: The file cannot be opened anew, or there are no descriptors.
    """
    global _here
    from glasspool.engines.local import worker

    here = worker._here
    if here is None:
        return
    worker.surround = _Captured
    _here = Capture(file, setup.record, here._end, lambda: here._task[0] if here._task else 0)
    if not setup.forwards:  # else ``note`` is told
        for stream in STREAMS:
            _here.follow(stream)


def note(number: int, text: str) -> None:
    """Keep what a stream that does not end in its descriptor was given; 0 is output, 1 is error."""
    if _here is not None and _here.is_on and _here.pid == os.getpid():
        with contextlib.suppress(OSError):  # a task has closed it
            os.write(number + 1, text.encode("utf-8", "replace"))


class Capture:
    """The worker's side of what is captured."""

    def __init__(
        self, file: CaptureFile, record: int, end: socket.socket, running: Callable[[], int]
    ) -> None:
        self.pid: int = os.getpid()
        self.is_on: bool = False
        self._end = end
        self._running = running
        self._number = 0
        self._task = 0
        self._memory = mmap.mmap(file.fd, file.heads_bytes)
        self._words = memoryview(self._memory).cast("Q")[record * HEAD_BYTES // 8 :]
        self._areas = tuple(file.area(record, stream) for stream in STREAMS)
        self._ours = tuple(_opened(file.fd, area) for area in self._areas)
        self._theirs = tuple(_moved_up(stream) for stream in STREAMS)
        self._begins = list(self._areas)
        self._emptied = list(self._areas)  # up to there
        self._room = file.area_bytes // 2
        for area, fd in zip(self._areas, self._ours, strict=True):
            _clear(fd, area, area + file.area_bytes)  # of an earlier worker
        self._fence = threading.Lock()
        self._instead: list[tuple[str, Any, Any]] = []

    def follow(self, number: int) -> None:
        """See to it that what is written through ``sys.stdout`` comes to its descriptor, and at once."""
        name = _NAMES[number]
        stream = getattr(sys, name)
        try:
            if stream.fileno() == number:
                stream.reconfigure(line_buffering=True)  # to be read while the task runs
                return
        except (AttributeError, OSError, ValueError):  # it is one of the program's, or closed
            pass
        # A fork has what its parent put there, pytest for one.
        raw = io.FileIO(number, "w", closefd=False)
        made = io.TextIOWrapper(io.BufferedWriter(raw), errors="replace", line_buffering=True)
        self._instead.append((name, stream, made))

    def begin(self) -> None:
        """Lead what is written from now on into our file."""
        if self.is_on:
            self.end()  # an exception came in the middle of it
        _flush()
        words, begins = self._words, self._begins
        words[W_NUMBER] = 0
        for at, (fd, area) in enumerate(zip(self._ours, self._areas, strict=True)):
            position = os.lseek(fd, 0, os.SEEK_CUR)
            if position - self._emptied[at] > ROOM_BYTES:
                # Forward only, as long as there is room: the parent may be emptying what it has seen.
                if not empty(fd, self._emptied[at], position) or position - area > self._room:
                    _clear(fd, area, position)
                    position = os.lseek(fd, area, os.SEEK_SET)
                self._emptied[at] = position
            begins[at] = position
        self._task = self._running()
        self._number += 1
        words[W_TASK], words[W_OUT], words[W_ERR] = self._task, *begins
        self._fence.acquire(False)
        self._fence.release()
        words[W_NUMBER] = self._number
        self.is_on = True
        for stream, fd in zip(STREAMS, self._ours, strict=True):
            os.dup2(fd, stream)
        for name, usual, instead in self._instead:
            if getattr(sys, name) is usual:
                setattr(sys, name, instead)

    def end(self) -> None:
        """Lead what is written to where it went before, and send what was captured."""
        if not self.is_on:
            return
        _flush()
        for name, usual, instead in self._instead:
            if getattr(sys, name) is instead:
                setattr(sys, name, usual)
        for stream, fd in zip(STREAMS, self._theirs, strict=True):
            if fd is None:
                os.close(stream)
            else:
                os.dup2(fd, stream)
        self.is_on = False
        tails: list[bytes | int] = []
        for fd, begin_ in zip(self._ours, self._begins, strict=True):
            total = os.lseek(fd, 0, os.SEEK_CUR) - begin_
            tail = min(total, TAIL_BYTES)
            tails += [os.pread(fd, tail, begin_ + total - tail) if tail > 0 else b"", total]
        if tails[0] or tails[2]:
            body = marshal.dumps([self._number, *tails])
            head = wire.REPLY.pack(wire.CAPTURED, 0, len(body), self._task, 0, 0)
            channel.send(self._end, head + body)


_here: Capture | None = None


class _Captured:
    """A callable of the user's, with what its calls write captured."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwds: Any) -> Any:
        here, function = _here, self._function
        if here is None or here.pid != os.getpid():
            return function(*args, **kwds)
        try:
            here.begin()
            return function(*args, **kwds)
        finally:
            if here.pid == os.getpid():  # else a fork that the function made
                with contextlib.suppress(OSError):  # the pool is gone, or a task closed descriptors
                    here.end()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a user's stream may do anything
            stream.flush()
    library = _c_library()
    if library is not None:
        library.fflush(None)


_library: Any = None


def _c_library() -> Any:
    global _library
    if _library is None:
        try:
            import ctypes

            _library = ctypes.CDLL(None)
        except (ImportError, OSError):
            return None
    return _library


def _opened(fd: int, position: int) -> int:
    """Open the file behind a descriptor anew, at a position of its own."""
    opened = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    os.lseek(opened, position, os.SEEK_SET)
    moved = _moved_up(opened)
    os.close(opened)
    return opened if moved is None else moved


def _moved_up(fd: int) -> int | None:
    """Duplicate a descriptor to a high number; None if it is closed."""
    import fcntl

    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
    except OSError:
        try:
            return os.dup(fd)  # few descriptors are allowed
        except OSError:
            return None


def _clear(fd: int, start: int, stop: int) -> None:
    """Empty an area; where its memory cannot be given back, write zeros over it."""
    if not empty(fd, start, stop):
        at = start
        while at < stop and os.pread(fd, 1, at):
            at += os.pwrite(fd, bytes(min(ROOM_BYTES, stop - at)), at)


def empty(fd: int, start: int, stop: int) -> bool:
    """Give the memory of a part of the file back; False if that cannot be."""
    library = _c_library()
    if library is not None and hasattr(library, "fallocate64"):
        import ctypes

        mode = _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE
        offset, size = ctypes.c_int64(start), ctypes.c_int64(stop - start)
        return bool(library.fallocate64(fd, mode, offset, size) == 0)
    return False
