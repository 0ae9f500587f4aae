"""What the workers of ``bench.faults`` run: each a tiny way to go wrong. Importable by spawned workers."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

MEGABYTE = 1 << 20

LOCK = threading.Lock()
"""A lock of the user's program; a case holds it in another thread while a worker is replaced."""


def square(number: int) -> int:
    """Do what a healthy task does."""
    return number * number


def mark(path: str) -> None:
    """Write this process's number into a file, whole or not at all."""
    draft = Path(f"{path}.{os.getpid()}")
    draft.write_text(str(os.getpid()))
    draft.rename(path)


def give_pid() -> int:
    """Return the worker's process number."""
    return os.getpid()


def nap(seconds: float, path: str | None = None) -> int:
    """Sleep, in Python's own sleep; leave a mark first. Run again, as some libraries do, be quick."""
    if path is not None:
        if Path(path).exists():
            return os.getpid()
        mark(path)
    time.sleep(seconds)
    return os.getpid()


def nap_square(number: int) -> int:
    """Take a moment over a healthy task."""
    time.sleep(0.05)
    return number * number


def nap_long(number: int) -> int:
    """Be busy for longer than a case lasts."""
    time.sleep(60)
    return number


# Deaths -------------------------------------------------------------------------------------------


def kill_self(_: object = None) -> NoReturn:
    """Die as by the kernel's OOM killer."""
    os.kill(os.getpid(), signal.SIGKILL)
    while True:  # the signal is on its way
        signal.pause()


def kill_if(number: int, fatal: tuple[int, ...]) -> int:
    """Die for some numbers; take a moment for the others."""
    if number in fatal:
        kill_self()
    return nap_square(number)


def kill_at_7(number: int) -> int:
    """Die at item 7."""
    return kill_if(number, (7,))


def leave_at_once(_: object = None) -> NoReturn:
    """End the process under the pool."""
    os._exit(3)


def segfault(_: object = None) -> object:
    """Read address 0."""
    return ctypes.string_at(0)


def exhaust_memory() -> int:
    """Ask for more memory than a limit allows."""
    with _address_space(200 * MEGABYTE):
        return len(bytearray(2000 * MEGABYTE))


class _address_space:
    """Limit how much more memory this process may map."""

    def __init__(self, more: int) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        self.limit = pages * resource.getpagesize() + more
        self.before = resource.getrlimit(resource.RLIMIT_AS)

    def __enter__(self) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (self.limit, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self.before)


def close_descriptors() -> int:
    """Close all that the worker has open, the pool's channels with them."""
    os.closerange(3, 4096)
    return os.getpid()


def leave_a_child(path: str) -> None:
    """Start a process that inherits every descriptor and lives on, then wait to be killed, once."""
    if Path(path).exists():
        return
    subprocess.Popen(
        ["sleep", "30"],
        close_fds=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for fd in range(3, 256):  # what a bare fork would keep open, too
        try:
            os.set_inheritable(fd, True)
        except OSError:
            continue  # not open
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "30"])
    mark(path)
    time.sleep(60)


def take(data: bytes) -> int:
    """Receive a large argument."""
    return len(data)


def give(size: int, after_s: float = 0.0, path: str | None = None) -> bytes:
    """Return a large result, after a while."""
    if path is not None:
        mark(path)
    time.sleep(after_s)
    return bytes(size)


def fork_and_return() -> int:
    """Fork, and return in both processes, as a child does whose program forgets to end it."""
    child = os.fork()
    return 1 if child == 0 else 2


def alarm_late() -> int:
    """Return before a signal comes whose handler raises."""

    def late(*_: object) -> NoReturn:
        raise RuntimeError("raised in a signal handler")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    return 1


# Ways out of a task -------------------------------------------------------------------------------


class Unusual(BaseException):
    """No ``Exception``."""


def exit_program() -> NoReturn:
    """Call ``sys.exit``."""
    sys.exit(3)


def interrupt() -> NoReturn:
    """Raise what Ctrl-C raises."""
    raise KeyboardInterrupt


def raise_unusual() -> NoReturn:
    """Raise a ``BaseException`` of one's own."""
    raise Unusual("unusual")


# Values that do not travel ------------------------------------------------------------------------


class HoldsLock(Exception):
    """An exception that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class NeedsTwo(Exception):
    """An exception that pickles, and cannot be rebuilt: pickle calls it with one argument."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class Secretive:
    """A value that can neither be pickled nor shown."""

    def __reduce__(self) -> NoReturn:
        raise ValueError("cannot be pickled")

    def __repr__(self) -> NoReturn:
        raise ValueError("cannot be shown")


class BreaksWhenRebuilt:
    """A value that pickles, and raises when it is rebuilt in another process."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[int]]:
        return _rebuild, (os.getpid(),)

    def __call__(self) -> int:
        return 1


def _rebuild(maker: int) -> NoReturn:
    raise ValueError(f"made by {maker}, cannot be rebuilt")


class ExitsWhenPickled:
    """A value whose pickling calls ``sys.exit``."""

    def __reduce__(self) -> NoReturn:
        sys.exit(3)


class RebuiltBy:
    """A value that is rebuilt in another process by a function of choice."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def give_exiting() -> object:
    """Return what exits when it is pickled."""
    return ExitsWhenPickled()


def give_exit() -> object:
    """Return what exits when it is rebuilt."""
    return RebuiltBy(sys.exit, 3)


def give_endless() -> object:
    """Return what takes a minute to be rebuilt."""
    return RebuiltBy(time.sleep, 60)


def raise_locked() -> NoReturn:
    """Raise what cannot be pickled."""
    raise HoldsLock


def raise_needs_two() -> NoReturn:
    """Raise what cannot be rebuilt."""
    raise NeedsTwo("one", "two")


def give_lock() -> object:
    """Return what cannot be pickled."""
    return threading.Lock()


def give_secretive() -> object:
    """Return what can neither be pickled nor shown."""
    return Secretive()


def give_broken() -> object:
    """Return what cannot be rebuilt."""
    return BreaksWhenRebuilt()


def give_deep() -> object:
    """Return a list in a list in a list, 100,000 times."""
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    return value


def accept(_: object) -> int:
    """Take any argument."""
    return 1


# Initializers -------------------------------------------------------------------------------------


def count_start(folder: str) -> None:
    """Leave a file for this start of a worker."""
    Path(folder, f"start-{os.getpid()}-{time.monotonic_ns()}").touch()


def init_raises(folder: str) -> NoReturn:
    """Fail."""
    count_start(folder)
    raise RuntimeError("the initializer fails")


def init_exits(folder: str) -> NoReturn:
    """End the process."""
    count_start(folder)
    os._exit(3)


def init_hangs(folder: str) -> None:
    """Never end."""
    count_start(folder)
    time.sleep(60)


def init_dies_once(folder: str) -> None:
    """Be killed in the first worker, and succeed in all others."""
    count_start(folder)
    try:
        Path(folder, "died").touch(exist_ok=False)
    except FileExistsError:
        return
    kill_self()


# Endless ------------------------------------------------------------------------------------------


def loop_in_python(path: str | None = None) -> NoReturn:
    """Run Python code for ever."""
    if path is not None:
        mark(path)
    while True:
        pass


def loop_in_c(path: str | None = None) -> int:
    """Run C code for ever, which keeps the interpreter lock and looks at no signal."""
    if path is not None:
        mark(path)
    return sum(range(1 << 62))


def loop_deaf(path: str | None = None) -> NoReturn:
    """Run for ever, and ignore the polite signals."""
    ignore_sigterm()
    loop_in_python(path)


def ignore_sigterm() -> None:
    """Be deaf to SIGTERM and SIGINT, where the task runs in the main thread, which alone may be."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def nap_deaf(seconds: float, path: str) -> None:
    """Sleep, and ignore the polite signals."""
    ignore_sigterm()
    mark(path)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(1)


# Forks --------------------------------------------------------------------------------------------


def with_lock(number: int) -> int:
    """Take the user's lock."""
    with LOCK:
        return number * number


def nested(library: str) -> list[int]:
    """Make a pool of the same library in a task, and use it."""
    from bench.fault_pools import POOLS

    return POOLS[library].nested()
