"""The recorder: keeps the last words of a worker in its black box, for the time when it cannot speak.

Runs in the worker and starts no thread. It records, and never changes, what a task does:

* ``faulthandler`` writes into the box at a fault. If it was enabled before, the parent writes the text to
  stderr too when it finds it.
* Log lines are copied where ``Logger`` passes a record to its handlers: no handler is added, no level
  changed. The text is the one that a handler made; where none did, it is made from built-in types only, so
  that no ``__str__`` of the user's runs which would not have run without us.
* What is written through ``sys.stdout`` and ``sys.stderr`` is copied by an attribute ``write`` of the
  stream object, which stays the object that it is. A stream that is not a plain ``TextIOWrapper`` is
  left alone. Not seen: ``sys.stdout.buffer``, C code, subprocesses.

A fork of the user's in a task inherits all of this, and is taken out of it before its first line runs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import itertools
import mmap
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import blackbox, kernel
from glasspool.engines.local.blackbox import LOG, LOG_BYTES, LOG_SLOTS, OUTPUT_AT, OUTPUT_BYTES
from glasspool.engines.local.scoreboard import reserve_memory

if TYPE_CHECKING:
    import logging

_LEAST_FD = 200
"""Our descriptor keeps off the low numbers: those are used again first if a task closes them all."""

_LINE = 500
_SAFE = (str, int, float, bool, bytes, type(None))

_current: Recorder | None = None

awaits_logging: bool = False
"""Whether nobody has imported ``logging`` here yet, so that there are no log lines to follow."""


CLEAR = "\x1b[J"
"""Clears what the pool's program has drawn of progress below the cursor (``views/progress_terminal``)."""


def install(
    boxes: blackbox.BlackBoxes,
    record: int,
    peak: bool = True,
    is_drawn_below: Callable[[], bool] = bool,
) -> None:
    """Record the last words of this process from now on. Called once, as the worker starts.

    ``peak``: note the peak memory of the process so far, which may be that of the one that started it.
    ``is_drawn_below``: tells whether lines are drawn on the terminal where the next one is printed.
    """
    global _current
    # A worker of a pool that was made in a worker inherited its parent's recorder.
    had = _current.had if _current is not None else faulthandler.is_enabled()
    recorder = Recorder(boxes, record, had)
    if peak:
        recorder.note_peak()
    _current = recorder
    recorder.trace_faults()
    look_for_logging()
    for stream in (sys.stdout, sys.stderr):
        recorder.follow_stream(stream, is_drawn_below)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=recorder.abandon)


def note_output(text: str) -> None:
    """Copy what was written to a standard stream that is not followed here."""
    if _current is not None and os.getpid() == _current.pid:
        _current.note_output(text)


def note_log(record: logging.LogRecord) -> None:
    """Copy a record that did not come to handlers here."""
    if _current is not None:
        _current._note_record(record)


def look_for_logging() -> None:
    """Follow the log lines of this process as soon as there can be any."""
    global awaits_logging
    awaits_logging = "logging" not in sys.modules
    if _current is not None and not awaits_logging:
        _current.follow_log()


class Recorder:
    """The worker's side of its black box."""

    def __init__(self, boxes: blackbox.BlackBoxes, record: int, had: bool) -> None:
        start = record * blackbox.RING_BYTES
        self.had = had
        self.pid: int = os.getpid()
        self._file = boxes.fd
        self._trace_at = boxes.traces_at(record)
        self._memory = mmap.mmap(boxes.fd, boxes.count * blackbox.RING_BYTES)
        view = memoryview(self._memory)[start : start + blackbox.RING_BYTES]
        self._words = view[:64].cast("Q")
        self._log_at = boxes.logs_at(record)
        self._log: mmap.mmap | None = None
        self._output = view[OUTPUT_AT:]
        self._written = 0
        self._next_line: Callable[[], int] = itertools.count(1).__next__
        self._trace_fd = -1
        self._call_handlers: Any = None
        self._follower: Any = None
        self._streams: list[tuple[Any, Any]] = []

    def note_peak(self) -> None:
        """Note the peak memory of the process as it starts."""
        self._words[2] = _peak_bytes()

    # Faults -------------------------------------------------------------------------------------

    def trace_faults(self) -> None:
        """Let ``faulthandler`` write into the box, where the platform can give it a place there."""
        fd = _reopened(self._file)
        if fd is None:
            return
        os.lseek(fd, self._trace_at, os.SEEK_SET)
        self._trace_fd = fd
        faulthandler.enable(file=fd, all_threads=True)
        flags = blackbox.FLAG_TRACES | (blackbox.FLAG_USUAL if self.had else 0)
        number = kernel.dump_signal()
        if number is not None:
            faulthandler.register(number, file=fd, all_threads=True, chain=False)
            flags |= blackbox.FLAG_ANSWERS
        self._words[0] = flags

    # Log lines ----------------------------------------------------------------------------------

    def follow_log(self) -> None:
        """Copy each record that a logger passes to its handlers, after they have had it."""
        import logging

        if not self.reserve_log():
            return
        call_handlers = logging.Logger.callHandlers
        note = self._note_record

        def followed_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
            call_handlers(self, record)
            note(record)

        self._call_handlers, self._follower = call_handlers, followed_handlers
        logging.Logger.callHandlers = followed_handlers  # type: ignore[method-assign]

    def reserve_log(self) -> bool:
        """Have room for log lines; False if there is none, or a task has closed the descriptor."""
        try:
            reserve_memory(self._file, self._log_at, LOG_BYTES)
            self._log = mmap.mmap(self._file, LOG_BYTES, offset=self._log_at)
        except (OSError, ValueError):
            return False
        return True

    def _note_record(self, record: logging.LogRecord) -> None:
        if self._written < 0 or self._log is None:
            return  # a fork, whose logger calls somebody who calls us
        try:
            text = f"{record.levelname} {record.name}: {_message(record)}"
            line = text[:_LINE].replace("\n", "\\n").encode("utf-8", "replace")
            number = self._next_line()
            # One call into C, so that threads that log at the same time don't mix.
            LOG.pack_into(self._log, (number - 1) % LOG_SLOTS * LOG.size, number, line)
        except Exception:  # the user's records may hold anything; logging goes on without a copy
            return

    # Output -------------------------------------------------------------------------------------

    def follow_stream(self, stream: Any, is_drawn_below: Callable[[], bool] = bool) -> None:
        """Copy what is written through a standard stream, unless it is one of the user's making.

        On a terminal, where the program draws its progress, each line clears its place first.
        """
        if not isinstance(stream, io.TextIOWrapper):
            return
        if type(stream).write is not io.TextIOWrapper.write or "write" in vars(stream):
            return
        write, note = stream.write, self.note_output

        def followed_write(text: str, /) -> int:
            count = write(text)
            if type(text) is str:
                note(text)
            return count

        if _is_terminal(stream):
            lines = _WholeLines(stream, is_drawn_below)
            write = lines.write
            stream.flush = lines.flush  # type: ignore[method-assign]
        stream.write = followed_write  # type: ignore[method-assign]
        self._streams.append((stream, followed_write))

    def note_output(self, text: str) -> None:
        """Copy what was written to a standard stream."""
        # Threads that print at the same time may overwrite each other's copy, not the output itself.
        raw = text[-OUTPUT_BYTES:].encode("utf-8", "replace")[-OUTPUT_BYTES:]
        at = self._written % OUTPUT_BYTES
        end = at + len(raw)
        if end <= OUTPUT_BYTES:
            self._output[at:end] = raw
        else:
            room = OUTPUT_BYTES - at
            self._output[at:] = raw[:room]
            self._output[: end - OUTPUT_BYTES] = raw[room:]
        self._written += len(raw)
        self._words[1] = self._written

    # A fork of the user's -------------------------------------------------------------------------

    def abandon(self) -> None:
        """Stop recording, in a child that a task forked: the box tells of its parent."""
        if os.getpid() == self.pid or self._written < 0:
            return
        self._written = -1
        logger = getattr(sys.modules.get("logging"), "Logger", None)
        if logger is not None and logger.callHandlers is self._follower:
            logger.callHandlers = self._call_handlers
        for stream, follower in self._streams:
            if vars(stream).get("write") is follower:
                del stream.write
                vars(stream).pop("flush", None)
        if self._trace_fd >= 0:
            # Not disabled: a task may have enabled it anew, for a file of its own.
            with contextlib.suppress(OSError):
                target = 2 if self.had else os.open(os.devnull, os.O_WRONLY)
                os.dup2(target, self._trace_fd, inheritable=False)
                if target != 2:
                    os.close(target)


def _is_terminal(stream: io.TextIOWrapper) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False


class _WholeLines:
    """Writes to a terminal on which something is drawn: whole lines, each of which clears its place.

    While nothing is drawn it changes nothing. Python may be told to let pieces of a line through at once
    (``PYTHONUNBUFFERED``); these would stand between what is drawn anew, so they wait for the line's end.
    """

    def __init__(self, stream: io.TextIOWrapper, is_drawn_below: Callable[[], bool]) -> None:
        self._write = stream.write
        self._flush = stream.flush
        self._is_drawn_below = is_drawn_below
        self._begun: list[str] = []

    def write(self, text: str, /) -> int:
        """Write, or keep the begin of a line."""
        if type(text) is not str or not (self._begun or self._is_drawn_below()):
            return self._write(text)
        self._begun.append(text)
        if "\n" in text:
            self._let_go()
        return len(text)

    def flush(self) -> None:
        """Write what was kept."""
        if self._begun:
            self._let_go()
        self._flush()

    def _let_go(self) -> None:
        begun, self._begun = self._begun, []
        self._write(CLEAR + "".join(begun))


def _message(record: logging.LogRecord) -> str:
    """Return the text of a record without running the user's code."""
    made = record.__dict__.get("message")
    if type(made) is str:
        # A handler has made it, and the traceback that belongs to it.
        story = record.exc_text
        return f"{made} | {story.splitlines()[-1]}" if type(story) is str and story else made
    text = record.msg if type(record.msg) is str else f"<{type(record.msg).__qualname__}>"
    args = record.args
    if not args:
        return text
    if type(args) is tuple and all(type(value) in _SAFE for value in args):
        with contextlib.suppress(TypeError, ValueError):
            return text % args
    shown = args if type(args) is tuple else (args,)
    parts = (
        repr(value)[:100] if type(value) in _SAFE else f"<{type(value).__qualname__}>"
        for value in shown
    )
    return f"{text} ({', '.join(parts)})"


def _reopened(fd: int) -> int | None:
    """Open the file behind a descriptor anew, with a position of its own; None if that cannot be."""
    try:
        opened = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        import fcntl

        high = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _LEAST_FD)
    except (ImportError, OSError):  # few descriptors are allowed
        return opened
    os.close(opened)
    return high


def _peak_bytes() -> int:
    try:
        import resource
    except ImportError:  # not on this platform
        return 0
    return kernel.rusage_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
