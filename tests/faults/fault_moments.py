"""Accidents: faults by name, and what makes them happen at one moment of a worker's life.

Importable by name in a spawned worker. An accident happens once, whoever meets it first; who that
was, and when, its token tells: a file with the pid of the victim.
"""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import context
from pathlib import Path
from pickle import PickleBuffer
from typing import Any, NamedTuple

import gates
import glasspool

EXIT_CODE = 7
LARGE = 50_000_000
ROOM = 16_000_000
"""What a worker may still allocate when it meets its memory limit, in bytes."""


# Ways to go wrong ---------------------------------------------------------------------------------


def killed() -> None:
    """Die of SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def crashed() -> None:
    """Die of a segmentation fault, without the test runner's word on it."""
    faulthandler.disable()
    ctypes.string_at(0)


def left() -> None:
    """Leave without a word."""
    os._exit(EXIT_CODE)


def deaf() -> None:
    """Close every descriptor but the standard ones, and go on."""
    os.closerange(3, 4096)


def starved() -> None:
    """Meet a limit of memory, which stays."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    bytearray(20 * ROOM)


FAULTS: dict[str, Callable[[], None]] = {
    "SIGKILL": killed,
    "SIGSEGV": crashed,
    "os._exit": left,
    "closed descriptors": deaf,
    "memory limit": starved,
}

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGSEGV": signal.SIGSEGV}
"""The faults that can come from outside."""


class Accident(NamedTuple):
    """A fault that happens once."""

    fault: str
    token: str

    def happen(self, *_: Any) -> int:
        """Let it happen, if it has not; return 1."""
        if self.mark(os.getpid()):
            FAULTS[self.fault]()
        return 1

    def mark(self, victim: int) -> bool:
        """Say that it happens now, and to whom; False if it has happened before."""
        try:
            fd = os.open(self.token, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        os.write(fd, str(victim).encode())
        os.close(fd)
        return True

    @property
    def has_happened(self) -> bool:
        return os.path.exists(self.token)

    @property
    def victim(self) -> int:
        """The pid of the one that it happened to."""
        return int(Path(self.token).read_text())

    @property
    def time(self) -> float:
        """The time at which it began, in seconds of ``time.time``."""
        return os.stat(self.token).st_mtime


# Moments: while a worker starts -------------------------------------------------------------------


class _Doomed:
    """A process that has an accident before its target runs."""

    accident: Accident

    def run(self) -> None:
        self.accident.happen()
        super().run()  # type: ignore[misc]


class _DoomedFork(_Doomed, context.ForkProcess):
    pass


class _DoomedSpawn(_Doomed, context.SpawnProcess):
    pass


class _DoomedForkServer(_Doomed, context.ForkServerProcess):
    pass


_DOOMED: dict[str, Any] = {
    "fork": _DoomedFork,
    "spawn": _DoomedSpawn,
    "forkserver": _DoomedForkServer,
}


class DoomedPool(glasspool.Pool):
    """A pool with processes of the user's own."""

    accident: Accident

    @classmethod
    def Process(cls, ctx: Any, *args: Any, **kwds: Any) -> Any:
        """Make a worker's process."""
        made = _DOOMED[ctx.get_start_method()](*args, **kwds)
        made.accident = cls.accident
        return made


# Moments: values on their way ---------------------------------------------------------------------


class Trap:
    """A value whose rebuilding is an accident."""

    def __init__(self, accident: Accident) -> None:
        self._accident = accident

    def __reduce__(self) -> Any:
        return self._accident.happen, ()


class Mine:
    """A value whose pickling is an accident."""

    def __init__(self, accident: Accident) -> None:
        self._accident = accident

    def __reduce__(self) -> Any:
        self._accident.happen()
        return int, (1,)


class Load:
    """A value of many megabytes, with an accident while they are copied into shared memory."""

    def __init__(self, accident: Accident) -> None:
        self._accident = accident
        self._content = bytearray(LARGE)

    def __reduce_ex__(self, protocol: Any) -> Any:
        threading.Thread(target=self._watch, daemon=True).start()
        return _length, (PickleBuffer(self._content),)

    def _watch(self) -> None:
        # The writing thread lets go of the interpreter while the kernel copies.
        until = time.monotonic() + 30
        while not _in_segments() and time.monotonic() < until:
            pass
        self._accident.happen()


def _length(content: Any) -> int:
    return len(content)


def _in_segments() -> int:
    """Return how much lies in the segments that this process holds, in bytes."""
    size = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if "memfd:glasspool" in os.readlink(f"/proc/self/fd/{name}"):
                told = os.stat(f"/proc/self/fd/{name}")
                size += told.st_blocks * 512 if told.st_size >= LARGE else 0
        except OSError:  # closed meanwhile
            continue
    return size


# What workers run ---------------------------------------------------------------------------------


def square(value: int) -> int:
    """Return the square."""
    return value * value


def take(*values: Any) -> int:
    """Take whatever comes."""
    faulthandler.disable()  # as in ``crashed``
    return 1


def mine(accident: Accident, size: int = 0) -> Any:
    """Return what cannot be pickled without an accident."""
    return [bytearray(size), Mine(accident)]


def load(accident: Accident) -> Any:
    """Return what cannot be sent without an accident."""
    return Load(accident)


def wait() -> int:
    """Tell that this runs, and wait for the gate."""
    gates.shared["started"].release()
    gates.shared["gate"].wait(60)
    return 1


def wait_or_give(size: int) -> bytes:
    """Tell that this runs; wait for the gate, or return so many bytes."""
    faulthandler.disable()
    gates.shared["started"].release()
    if not size:
        gates.shared["gate"].wait(60)
    return bytes(abs(size))


def later(accident: Accident) -> int:
    """Leave a thread behind that has an accident when the gate opens."""

    def wait_for_it() -> None:
        gates.shared["gate"].wait(60)
        try:
            accident.happen()
        except MemoryError:  # nobody is there to take it
            return

    threading.Thread(target=wait_for_it, daemon=True).start()
    return 1


def at_exit(accident: Accident) -> int:
    """Have an accident when the worker leaves."""
    atexit.register(accident.happen)
    return 1
