"""The exit codes of the commands that look at running programs: one table for ``ps``, ``stack`` and ``why``.

``PROBLEMS`` are what keeps a command from doing what it was asked for. ``VERDICTS`` are what ``why`` found.
Numbers are never given a new meaning.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

FINE, USAGE = 0, 2

PROBLEMS: Mapping[str, tuple[int, str]] = {
    "gone": (3, "no such process, or it has ended"),
    "not-python": (4, "the process is no Python program"),
    "no-pool": (5, "a Python program, but no pool was found in it"),
    "denied": (6, "the system does not permit to read it"),
    "unreadable": (7, "its Python version cannot be read"),
}
"""By name: the exit code, and what it says. From 4 on, what the operating system tells is printed too."""

VERDICTS: Mapping[str, tuple[int, str]] = {
    "task-lost": (10, "a task was lost with a worker that died; nobody sends it again"),
    "lock-dead": (11, "a dead process holds the lock of a queue"),
    "idle-killed": (12, "a worker was killed while idle, holding the queue's lock"),
    "fork-lock": (13, "a lock was inherited locked, over a fork"),
    "handler-dead": (14, "a helper thread of the pool has ended"),
    "iterable": (15, "the program's iterable keeps a helper thread"),
    "callback": (16, "the program's callback keeps a helper thread"),
    "initializer-failing": (17, "the initializer fails again and again"),
    "initializer-hanging": (18, "the initializer does not end"),
    "nested": (19, "a task waits for a task of its own, full pool"),
    "pipe-full": (20, "a pipe is full, and nobody reads from it"),
    "gil": (21, "C code holds the interpreter lock"),
    "stopped": (22, "a process is stopped, by a signal or a debugger"),
    "oversubscribed": (23, "far more native threads than processors"),
    "workers-failing": (24, "workers die as they start"),
    "task": (25, "a task waits for something that nothing will bring"),
    "pool-broken": (26, "the pool is broken and takes no more work"),
    "other": (29, "something else is wrong"),
}
"""By name: the exit code of ``why``, and what it says."""


def of(name: str) -> int:
    """Return the exit code of a problem or a verdict; that of ``other`` for a name unknown here."""
    return (PROBLEMS.get(name) or VERDICTS.get(name) or VERDICTS["other"])[0]


def text(*, verdicts: bool = False) -> str:
    """Return the table for the help of a command, those of ``why`` only on request."""
    fine = "nothing is wrong: busy, or idle" if verdicts else "success"
    rows = [(FINE, fine), (USAGE, "bad usage"), *PROBLEMS.values()]
    if verdicts:
        rows.extend(VERDICTS.values())
    lines = [f"  {code:>2}  {words}" for code, words in rows]
    return "\n".join(["exit codes:", *lines, _BESIDES])


_BESIDES = "With 4 to 7, what the operating system tells is printed all the same."


def complain(name: str, text: str) -> int:
    """Print one line on stderr, and return the exit code that goes with the problem."""
    print(f"glasspool: {' '.join(text.split())}", file=sys.stderr)
    return of(name)
