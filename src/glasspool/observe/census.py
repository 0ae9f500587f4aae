"""The Python programs of this machine that run a pool of another library than this one.

First a choice is made from what the operating system says alone: programs that have children like a
pool's workers, or several threads. Workers and helper processes of a program are no programs of their
own. Then the stacks of those that are left are read, to tell whether it is a pool, and of which kind.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from glasspool.observe import families, foreign, procfs, sight
from glasspool.observe.listing import Listing
from glasspool.observe.procfs import OsProcess
from glasspool.snapshot import Evidence, PoolInfo, ProcessInfo, ThreadInfo

STACKS_S = 10.0
"""After so long a list is ended without the stacks of the programs that are left."""

_NANNY = "engines/local/nanny.py"
"""What the command line of a pool of ours has that is no program of its own, either."""


@dataclass(frozen=True, slots=True)
class Program:
    """A Python program that may have a pool: it has children like a pool's workers, or threads.

    ``children`` counts the processes that look like its workers, ``threads`` its threads.
    """

    process: OsProcess
    children: int
    threads: int


def pools(*, everyone: bool, quick: bool, known: Collection[int]) -> tuple[Listing, ...]:
    """List the pools of other libraries.

    Args:
        everyone: Whether to list those of all users.
        quick: Whether to read no stacks: pools of threads are not found then, and kinds are inferred.
        known: Programs that are told of already.
    """
    deadline = time.monotonic() + STACKS_S
    told: dict[tuple[int, str, str], Listing] = {}
    for program in programs(everyone=everyone):
        if program.process.pid in known:
            continue
        stacks = not quick and time.monotonic() < deadline
        taken = sight.take(program.process.pid, stacks=stacks)
        for pool in foreign.pools(taken):
            # A program that another one has started is seen twice.
            told.setdefault((pool.pid, pool.kind, pool.name), _listing(pool, taken))
    found = (item for item in told.values() if item.size and item.pid not in known)
    return tuple(sorted(found, key=lambda item: (item.pid or 0, item.name)))


def _listing(pool: PoolInfo, taken: sight.Sight) -> Listing:
    parent = next((p for p in pool.processes if p.pid == pool.pid), None)
    evidence = _evidence(pool, taken)
    # A worker of one pool may be the parent of another.
    lanes = [
        (p, t)
        for p in pool.processes
        for t in p.threads
        if "task" in t.roles and t.pool in (None, pool.name)
    ]
    rest = [_rests(process, thread) for process, thread in lanes]
    sure = evidence.source != "inferred"
    is_pool = pool.kind != foreign.NO_POOL
    seen = taken.process(pool.pid)
    return Listing(
        name=pool.name,
        path="",
        pid=pool.pid,
        kind=pool.kind,
        state="running",
        size=(pool.size or len(lanes)) if is_pool else 0,
        busy=rest.count(False) if sure else None,
        idle=rest.count(True) if sure else None,
        done=None,
        made_at=pool.made_at,
        started_at=parent.started_at if parent is not None else None,
        command=" ".join(seen.os.cmdline) if seen is not None else None,
        evidence=evidence,
    )


def _evidence(pool: PoolInfo, taken: sight.Sight) -> Evidence:
    """Say how the pool was found: by a stack of one of its threads, or by guessing."""
    threads = [t for t in pool.threads if t.roles not in (("native",), ("main",), ("user",))]
    read = next((t.evidence for t in threads if t.evidence.source not in ("os", "inferred")), None)
    if read is not None:
        return read
    seen = taken.process(pool.pid)
    return Evidence("inferred", note=seen.dump.note if seen is not None else None)


def _rests(process: ProcessInfo, thread: ThreadInfo) -> bool:
    if process.role == "worker" and process.state:
        return process.state == "idle"
    return thread.task is None and thread.state.startswith("waiting for work")


def programs(*, everyone: bool = False) -> tuple[Program, ...]:
    """List the Python programs of this user that may have a pool, by process number.

    Args:
        everyone: Whether to list those of all users.
    """
    seen = _processes(everyone)
    pythons = {pid for pid, process in seen.items() if is_python(process)}
    parts = {pid for pid in pythons if _is_part(seen[pid], seen, pythons)}
    workers: dict[int, int] = {}
    for pid in parts:
        owner = _owner(pid, seen, parts)
        if owner is not None and families.role_by_command(seen[pid]) != "resource-tracker":
            workers[owner] = workers.get(owner, 0) + 1
    told = (
        Program(seen[pid], workers.get(pid, 0), thread_count(pid))
        for pid in sorted(pythons - parts - {os.getpid()})
    )
    return tuple(program for program in told if program.children or program.threads > 1)


def is_python(process: OsProcess) -> bool:
    """Tell whether a process runs Python, by its file, its name, or the libraries in its memory."""
    try:
        file = os.readlink(f"/proc/{process.pid}/exe")
    except OSError:
        # Protected, ended, or a system without /proc: only what the process calls itself is left.
        file = process.cmdline[0] if process.cmdline else ""
        return _names_python(file) or (not file and _names_python(process.name))
    if _names_python(file):
        return True
    # Another program with Python inside, such as a web server. Its memory map is longer to read.
    return thread_count(process.pid) > 1 and _has_python_inside(process.pid)


def thread_count(pid: int) -> int:
    """Return how many threads a process has, 0 if that is not told."""
    if not procfs.HAS_PROC:
        return len(procfs.thread_ids(pid))
    try:
        # A folder has a link from each folder in it, from itself, and from the one that it is in.
        return max(0, os.stat(f"/proc/{pid}/task").st_nlink - 2)
    except OSError:
        return 0


def _names_python(file: str) -> bool:
    name = os.path.basename(file).lower()
    return "python" in name or "pypy" in name


def _has_python_inside(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/maps", errors="replace") as maps:
            return any("/libpython" in line for line in maps)
    except OSError:
        return False


def _processes(everyone: bool) -> dict[int, OsProcess]:
    me = os.geteuid() if hasattr(os, "geteuid") else None
    found = {}
    for pid in _pids():
        if not everyone and not _may_be_of(pid, me):
            continue
        process = procfs.process(pid)
        if process is None or process.state in "ZX" or not process.cmdline:
            continue  # ended, or a thread of the kernel
        if everyone or me is None or process.uid == me:
            found[pid] = process
    return found


def _pids() -> list[int]:
    if not procfs.HAS_PROC:
        import psutil

        return list(psutil.pids())
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _may_be_of(pid: int, user: int | None) -> bool:
    """Tell whether a process can be this user's, at the price of one system call."""
    if user is None or not procfs.HAS_PROC:
        return True
    try:
        # The folder of a process that protects itself belongs to root, whoever runs it.
        return os.stat(f"/proc/{pid}").st_uid in (0, user)
    except OSError:
        return False


def _is_part(process: OsProcess, seen: Mapping[int, OsProcess], pythons: set[int]) -> bool:
    """Tell whether a Python process is a worker or helper of another one."""
    if families.role_by_command(process) is not None or _NANNY in " ".join(process.cmdline):
        return True
    parent = seen.get(process.ppid)
    return parent is not None and parent.pid in pythons and families.is_forked(process, parent)


def _owner(pid: int, seen: Mapping[int, OsProcess], parts: set[int]) -> int | None:
    """Return the program that a worker or helper descends from, None if it has ended."""
    visited: set[int] = set()
    while pid in parts and pid not in visited:
        visited.add(pid)
        pid = seen[pid].ppid if pid in seen else 0
    return pid if pid in seen and pid not in parts else None
