"""Ways to go wrong on a cluster, to be run by workers of nodes, and tasks that tell by files what ran."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import glasspool


def square(value: int) -> int:
    """Return the square."""
    return value * value


def note(path: str, value: int, pause_s: float = 0.0) -> int:
    """Write down that this has begun, and return the value a little later."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, b"%d\n" % value)
    os.close(file)
    time.sleep(pause_s)
    return value


def agent_pid(value: Any = None) -> int:
    """Return the pid of what a node's workers work for."""
    here = glasspool.worker()
    assert here is not None
    time.sleep(0.1)
    return int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1])


def wait_for(path: str, limit_s: float = 60.0) -> str:
    """Say that this has begun, in a file, and wait until a second one is there."""
    Path(path).touch()
    deadline = time.monotonic() + limit_s
    while not Path(f"{path}.go").exists():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody let it go on")
        time.sleep(0.01)
    return path


def killed() -> None:
    """Die by SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def segfault() -> None:
    """Die by SIGSEGV."""
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    ctypes.string_at(0)


def leave() -> None:
    """End the process without a word."""
    os._exit(3)


def leave_politely() -> None:
    """Ask for the end of the process."""
    sys.exit(4)


def unsendable() -> Any:
    """Return what cannot be pickled."""
    return (value for value in ())


class Unsendable(Exception):
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("this error stays here")


def raise_unsendable() -> None:
    """Raise what cannot be pickled."""
    raise Unsendable("far away")


class Unbuildable(Exception):
    """Can be pickled, and not be rebuilt."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


def raise_unbuildable() -> None:
    """Raise what cannot be rebuilt."""
    raise Unbuildable("one", "two")


def sleep_in_c() -> None:
    """Stay in C for a minute."""
    ctypes.CDLL(None).sleep(60)


def fail_first(path: str, how: str) -> str:
    """Go wrong the first time, return the second time."""
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return how
    if how == "death":
        killed()
    elif how == "timeout":
        time.sleep(60)
    raise KeyError(how)


def fail_on_one_node(path: str) -> None:
    """Fail in the first worker (an initializer), but for one that was started later."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    raise LookupError("not on this node")


def fail_everywhere() -> None:
    """Fail (an initializer)."""
    raise LookupError("on no node")


def hang() -> None:
    """Never return (an initializer)."""
    time.sleep(600)
