"""Stacks of a process of Python 3.15 or later, read by that version's own ``profiling.sampling``.

For interpreters that py-spy does not know. Its command ``dump`` reads an interpreter of its own version only,
from outside, without stopping it. Written from its documentation and source: it could not be tried, as
no such interpreter was at hand. So what it says is parsed with care, and anything unexpected means None.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Sequence

from glasspool.observe import procfs, readers
from glasspool.observe.pyspy import Dump, OutsideThread
from glasspool.snapshot import Frame

_SINCE = (3, 15)

# "Stack dump for PID 7, thread 7 (main thread, has GIL; most recent call last):"
_HEADER = re.compile(r"Stack dump.*?\bthread (\d+) \((.*)\):$")
_FRAME = re.compile(r'  File "(.+)", (?:line (\d+), )?in (.+?)(?:  opcode=\S+)?$')


def dump(pid: int, timeout_s: float = 2.0) -> Dump | None:
    """Read the stacks of one process; None if there is no such reader for it, or it failed.

    Blocks for at most about ``timeout_s``.
    """
    reader = _program(procfs.python_version(pid))
    if reader is None:
        return None
    command = (reader, "-I", "-m", "profiling.sampling", "dump", "-a", str(pid))
    try:
        answer = readers.run({pid: command}, time.monotonic() + timeout_s).get(pid)
    except OSError:
        return None
    threads = parse(answer.output.decode(errors="replace")) if answer and answer.code == 0 else ()
    if not answer or not threads:
        return None
    return Dump(threads, None, answer.taken_at, "profiling.sampling", still=answer.still)


def parse(text: str) -> tuple[OutsideThread, ...]:
    """Read what the command prints: for each thread a header and its frames, outermost first.

    Lines that are neither, such as source lines, are left out.
    """
    found: list[tuple[int, str, list[Frame]]] = []
    for line in text.splitlines():
        header, frame = _HEADER.match(line), _FRAME.match(line)
        if header:
            found.append((int(header[1]), header[2], []))
        elif frame and found:
            found[-1][2].append(Frame(frame[1], int(frame[2] or 0), frame[3]))
    return tuple(_thread(tid, told, frames) for tid, told, frames in found)


def _thread(tid: int, told: str, frames: Sequence[Frame]) -> OutsideThread:
    return OutsideThread(
        native_id=tid,
        name="MainThread" if "main thread" in told else "",
        ident=None,
        owns_gil="has GIL" in told,
        stack=tuple(frames),
        variables=tuple({} for _ in frames),
    )


def _program(version: str | None) -> str | None:
    """Find an interpreter of a version: ours, or one on the search path, never the target's own file."""
    parts = tuple(map(int, (version or "0").split(".")))
    if parts < _SINCE:
        return None
    if parts == sys.version_info[:2]:
        return sys.executable or None
    return shutil.which(f"python{version}")
