"""Which process of a Python program is what, as far as command lines and the process tree tell.

What multiprocessing and its copies start says so in its command line; what they fork has that of its
parent. All of it is inferred: stacks know better where they can be read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from glasspool.observe import procfs
from glasspool.observe.procfs import OsProcess

# What the command line of a process holds that a pool's library started, and the role that it means.
_STARTED_WITH = (
    ("resource_tracker import main", "resource-tracker"),
    ("semaphore_tracker import main", "resource-tracker"),
    (".forkserver import main", "fork-server"),
    (".spawn import spawn_main", "worker"),
    ("--multiprocessing-fork", "worker"),
    ("loky.backend.popen_loky", "worker"),
)
_MODULES = (
    ("loky.backend", "loky"),
    ("multiprocess.", "multiprocess"),
    ("billiard.", "billiard"),
    ("multiprocessing.", "multiprocessing"),
)
_MOST_LEVELS = 32


def role_by_command(process: OsProcess) -> str | None:
    """Tell what a process is that one of the libraries started with a command line of its own."""
    command = " ".join(process.cmdline)
    return next((role for words, role in _STARTED_WITH if words in command), None)


def module_of(process: OsProcess) -> str | None:
    """Name the library that started a process with a command line of its own."""
    if role_by_command(process) is None:
        return None
    command = " ".join(process.cmdline)
    return next((name for words, name in _MODULES if words in command), None)


def is_forked(process: OsProcess, parent: OsProcess | None) -> bool:
    """Tell whether a process still has the command line of its parent, and so was forked from it."""
    return parent is not None and bool(process.cmdline) and process.cmdline == parent.cmdline


def role_in_tree(process: OsProcess, parent: OsProcess | None) -> str | None:
    """Tell what a descendant of a program is for; None if it is none of a pool's."""
    role = role_by_command(process)
    if not is_forked(process, parent):
        return role
    # A fork server's child has its command line, and a tracker or a worker does not fork by itself.
    return "worker" if role in (None, "fork-server", "worker") else role


def looks_like_python(process: OsProcess) -> bool:
    """Tell whether the command line is a Python interpreter's."""
    name = os.path.basename(process.cmdline[0]) if process.cmdline else process.name
    return "python" in name.lower() or "pypy" in name.lower()


def root_of(pid: int) -> int:
    """Return the program whose pools a process works for: itself, if it works for none.

    Goes up from a worker, a fork server or another process that a pool's library started, and from one
    that was forked and still has its parent's command line.
    """
    for _ in range(_MOST_LEVELS):
        process = procfs.process(pid)
        parent = None if process is None else procfs.process(process.ppid)
        if process is None or parent is None or parent.pid <= 1:
            return pid
        if parent.pid == os.getpid():
            return pid  # what asks for a child of its own means that one
        if role_in_tree(process, parent) is None or parent.state in "ZX":
            return pid
        if parent.uid != process.uid:
            return pid  # a program of somebody else's would not be shown anyway
        pid = parent.pid
    return pid


def owner_of(pid: int, processes: Sequence[OsProcess], servers: frozenset[int]) -> int | None:
    """Return the process for which another one works: its parent, or that of the fork server."""
    parents = {process.pid: process.ppid for process in processes}
    owner = parents.get(pid)
    while owner in servers:
        owner = parents.get(owner)
    return owner if owner in parents else None
