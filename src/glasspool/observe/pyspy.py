"""Stacks of other processes, read from outside by py-spy, one reader a process, side by side.

The reader stops its target for some milliseconds and needs the right to trace it. Its option
``--subprocesses`` is not used: with JSON it silently drops every child. Its answer is parsed
defensively, as the format has changed between versions.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glasspool.snapshot import Frame

INSTALL = "pip install glasspool[attach]"


@dataclass(frozen=True, slots=True)
class OutsideThread:
    """One Python thread as py-spy saw it.

    ``stack`` and ``variables`` run in parallel, outermost first; variables are texts made by py-spy
    (an address in place of what it cannot read).
    """

    native_id: int
    name: str
    ident: int | None
    owns_gil: bool
    stack: tuple[Frame, ...]
    variables: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Dump:
    """What py-spy told of one process: its Python threads, or a note why there are none."""

    threads: tuple[OutsideThread, ...] = ()
    note: str | None = None
    taken_at: float = 0.0


def program() -> str | None:
    """Return the path of py-spy: beside this interpreter, else on the search path, else None."""
    beside = os.path.join(sysconfig.get_path("scripts"), "py-spy")
    return shutil.which(beside) or shutil.which("py-spy")


def dump(pids: Iterable[int], timeout_s: float = 2.0) -> dict[int, Dump]:
    """Read the stacks of several processes at once.

    Blocks for at most about ``timeout_s``; readers that are not done by then are ended.
    """
    wanted = tuple(pids)
    found = program() if wanted else None
    if found is None:
        note = f"py-spy, which reads stacks from outside, is not installed: {INSTALL}"
        return {pid: Dump(note=note) for pid in wanted}
    deadline = time.monotonic() + timeout_s
    readers = {pid: _start(found, pid) for pid in wanted}
    try:
        return {pid: _finish(reader, pid, deadline) for pid, reader in readers.items()}
    finally:
        for reader in readers.values():
            _end(reader)  # those that an interrupt left behind


def _start(found: str, pid: int) -> subprocess.Popen[str] | OSError:
    command = [found, "dump", "--json", "--locals", "--pid", str(pid)]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        return error


def _finish(reader: subprocess.Popen[str] | OSError, pid: int, deadline: float) -> Dump:
    if isinstance(reader, OSError):
        return Dump(note=f"py-spy could not be started: {reader}")
    try:
        # Readers that finish meanwhile wait with a full pipe at worst: their targets run on.
        output, complaint = reader.communicate(timeout=max(0.001, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _end(reader)
        return Dump(note="py-spy gave no answer in time")
    taken_at = time.time()
    if reader.returncode != 0:
        return Dump(note=_refusal(complaint, pid), taken_at=taken_at)
    try:
        return Dump(threads=_parse(json.loads(output)), taken_at=taken_at)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Dump(note=f"py-spy's answer was not understood: {error!r}", taken_at=taken_at)


def _end(reader: subprocess.Popen[str] | OSError) -> None:
    if isinstance(reader, subprocess.Popen) and reader.returncode is None:
        reader.kill()
        reader.communicate()  # woken by the end of the process just killed


def _refusal(complaint: str, pid: int) -> str:
    text = complaint.strip()
    if "ermission" in text or "not permitted" in text or "EPERM" in text:
        return (
            "py-spy was not permitted to read the process: run as the same user, grant "
            "CAP_SYS_PTRACE, or set kernel.yama.ptrace_scope to 0"
        )
    if not os.path.exists(f"/proc/{pid}") and os.path.exists("/proc/self"):
        return "the process had ended"
    return f"py-spy failed: {text.splitlines()[0] if text else 'no message'}"


def _parse(told: Any) -> tuple[OutsideThread, ...]:
    if not isinstance(told, list):
        raise TypeError("not a list of threads")
    return tuple(_thread(entry) for entry in told if entry.get("os_thread_id") is not None)


def _thread(entry: Mapping[str, Any]) -> OutsideThread:
    frames: Sequence[Mapping[str, Any]] = list(reversed(entry.get("frames") or ()))
    return OutsideThread(
        native_id=int(entry["os_thread_id"]),
        name=str(entry.get("thread_name") or ""),
        ident=entry.get("thread_id"),
        owns_gil=bool(entry.get("owns_gil")),
        stack=tuple(
            Frame(str(f.get("filename", "?")), int(f.get("line") or 0), str(f.get("name", "?")))
            for f in frames
        ),
        variables=tuple(
            {str(v.get("name")): str(v.get("repr")) for v in f.get("locals") or ()} for f in frames
        ),
    )
