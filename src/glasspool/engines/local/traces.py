"""Traces: what ``faulthandler`` wrote, read back. Pure.

The format is that of CPython's ``Python/traceback.c`` (``_Py_DumpTracebackThreads``), from 3.11 on::

    Fatal Python error: Segmentation fault

    Current thread 0x00007f21 (most recent call first):
      File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
      ...
    Thread 0x00007f22 [name, from 3.14 on] (most recent call first):
"""

from __future__ import annotations

import re
from typing import NamedTuple

from glasspool.snapshot import Frame

_FATAL = re.compile(r"Fatal Python error: (?P<reason>.*)")
_THREAD = re.compile(
    r"(?P<current>Current thread|Thread) 0x(?P<ident>[0-9a-fA-F]+).*\(most recent call first\):"
)
_FRAME = re.compile(
    r'  File (?:"(?P<file>.*)"|\?\?\?), line (?P<line>\d+|\?\?\?) in (?P<function>.*)'
)
_WORKER = "engines/local/worker.py"


class TracedThread(NamedTuple):
    """One thread in a trace; its stack outermost first. ``current`` is the one that faulted."""

    ident: int
    current: bool
    stack: tuple[Frame, ...]


class Trace(NamedTuple):
    """What ``faulthandler`` wrote at one time; ``reason`` is None if it was asked to."""

    reason: str | None
    threads: tuple[TracedThread, ...]

    def stack_of(self, ident: int | None = None) -> tuple[Frame, ...] | None:
        """Return the stack of the thread that faulted; else that of ``ident``; else the oldest's."""
        for thread in self.threads:
            if thread.current:
                return thread.stack
        for thread in self.threads:
            if thread.ident == ident:
                return thread.stack
        return self.threads[-1].stack if self.threads else None


def parse(text: str) -> tuple[Trace, ...]:
    """Read all traces in a text, in their order. What is not understood is passed over."""
    found: list[Trace] = []
    reason: str | None = None
    threads: list[TracedThread] = []
    stack: list[Frame] | None = None

    def end_thread() -> None:
        nonlocal stack
        if stack is not None and threads:
            threads[-1] = threads[-1]._replace(stack=tuple(reversed(stack)))
        stack = None

    def end_trace() -> None:
        nonlocal reason
        end_thread()
        if threads or reason is not None:
            found.append(Trace(reason, tuple(threads)))
        threads.clear()
        reason = None

    for line in text.splitlines():
        if fatal := _FATAL.fullmatch(line):
            end_trace()
            reason = fatal["reason"]
        elif head := _THREAD.fullmatch(line):
            end_thread()
            ident = int(head["ident"], 16)
            if any(thread.ident == ident for thread in threads):
                end_trace()  # the same thread again: the next dump
            threads.append(TracedThread(ident, head["current"] == "Current thread", ()))
            stack = []
        elif stack is not None and (frame := _FRAME.fullmatch(line)):
            stack.append(_frame(frame))
        elif not line.startswith("  "):
            end_thread()
    end_trace()
    return tuple(found)


def of_task(stack: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Cut what a worker's stack begins with: what it inherited by fork, and our own frames.

    A worker that ran no code of the user's keeps ours.
    """
    for index in range(len(stack) - 1, -1, -1):
        if stack[index].function == "main" and stack[index].file.endswith(_WORKER):
            stack = stack[index:]
            break
    for index, frame in enumerate(stack):
        if "glasspool/engines/local/" not in frame.file:
            return stack[index:]
    return stack


def _frame(match: re.Match[str]) -> Frame:
    line = match["line"]
    return Frame(match["file"] or "?", int(line) if line != "???" else 0, match["function"])
