"""Tiny named ways to go wrong, to be run by workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

# For the programs that some tests start: pytest itself knows the folder.
sys.path.append(str(Path(__file__).parents[1]))

from gates import keep
from gates import shared as _kept


def started_then_wait(gate: str = "gate") -> int:
    """Tell that this runs, and wait for the gate; return the pid."""
    _kept["started"].release()
    if not _kept[gate].wait(60):
        raise RuntimeError("the gate was never opened")
    return os.getpid()


def die_between(path: str, first: int, last: int) -> None:
    """Note the start, and die if it is one of these, counted from 1 (an initializer)."""
    note_pid(path)
    with open(path) as notes:
        if first <= len(notes.readlines()) <= last:
            kill_self(signal.SIGKILL)


def square(value: int) -> int:
    """Return the square."""
    return value * value


def pid(value: Any = None) -> int:
    """Return who runs this."""
    return os.getpid()


def exit_at_once(code: int) -> None:
    """End the process without a word."""
    os._exit(code)


def kill_self(number: int) -> None:
    """End the process by a signal."""
    os.kill(os.getpid(), number)
    time.sleep(60)


def exit_if(value: int, bad: int) -> int:
    """Return the square; end the process at the bad value."""
    if value == bad:
        os._exit(3)
    return value * value


def close_all_and_wait() -> None:
    """Close every descriptor and stay."""
    os.closerange(0, 4096)
    time.sleep(60)


def fork_and_die() -> None:
    """Leave a child behind that holds our descriptors, and die."""
    if os.fork() == 0:
        time.sleep(1)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def spin_in_c() -> None:
    """Stay in C, with the interpreter's lock, for a minute or so."""
    sum(range(10**11))


def started_then_spin_in_c() -> None:
    """Tell that this runs, and stay in C."""
    _kept["started"].release()
    spin_in_c()


def note_pid_then_spin_in_c(path: str) -> None:
    """Write down who this is, and stay in C."""
    note_pid(path)
    spin_in_c()


def note_pid(path: str) -> None:
    """Write down who this is."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{os.getpid()}\n".encode())
    os.close(fd)


def note_pid_then_sleep(path: str) -> None:
    """Write down who this is, and stay."""
    note_pid(path)
    time.sleep(600)


class Unpicklable(Exception):
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("I stay here")


class Unloadable(Exception):
    """Can be pickled, and not be rebuilt: its constructor wants more than it keeps."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class RaisesWhenRebuilt:
    """Can be pickled; rebuilding raises."""

    def __init__(self, how: str = "Exception") -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return rebuild_badly, (self.how, os.getpid())


def rebuild_badly(how: str, home: int) -> Any:
    """Raise, anywhere but at home."""
    if os.getpid() == home:
        return RaisesWhenRebuilt(how)
    if how == "Exception":
        raise LookupError("no home here")
    if how == "SystemExit":
        raise SystemExit(9)
    raise KeyboardInterrupt


class BadText(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def raise_it(what: str) -> None:
    """Raise what the name says."""
    if what == "unpicklable":
        raise Unpicklable("it happened")
    if what == "unloadable":
        raise Unloadable(1, 2)
    if what == "local":

        class Local(Exception):
            pass

        raise Local("it happened")
    if what == "bad text":
        raise BadText
    if what == "with a lock":
        import threading

        raise ValueError("it happened", threading.Lock())
    raise AssertionError(what)


def exit_by(what: str) -> None:
    """Raise what usually ends a program or a loop."""
    if what == "sys.exit":
        sys.exit(3)
    raise {
        "SystemExit": SystemExit("text"),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "GeneratorExit": GeneratorExit(),
        "StopIteration": StopIteration(5),
        "BaseException": BaseException("base"),
    }[what]


def exit_for(value: int) -> int:
    """Raise StopIteration for one value in the middle."""
    if value == 3:
        raise StopIteration
    return value


def large_error(size: int) -> None:
    """Raise an exception of that size."""
    raise ValueError("x" * size)


def unsendable(what: str) -> Any:
    """Return what cannot be rebuilt by the one who gets it."""
    return RaisesWhenRebuilt(what)


def take(value: Any) -> str:
    """Return the type of what arrived."""
    return type(value).__name__


def lower_recursion() -> int:
    """Recurse without an end."""
    return lower_recursion() + 1


def sleep(seconds: float) -> int:
    """Sleep so long; return the pid."""
    time.sleep(seconds)
    return os.getpid()


def fork_and_return(code: int | None) -> str:
    """Fork, and return in both processes, or raise in the child."""
    child = os.fork()
    if child == 0 and code is not None:
        raise SystemExit(code)
    if child:
        return f"{child} {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}"
    return "nobody should have this"


def numbered(what: tuple[int, int]) -> tuple[int, int, bytes]:
    """Return the number, who runs this, and so many bytes."""
    number, size = what
    return number, os.getpid(), bytes(size)


def span(seconds: float) -> tuple[float, float, int]:
    """Return when this began and ended, on the clock of all processes, and who ran it."""
    begun = time.monotonic()
    time.sleep(seconds)
    return begun, time.monotonic(), os.getpid()


def slow_initializer_from_second(names: tuple[str, ...], *values: Any) -> None:
    """Wait for the gate in the initializer of every worker but the first."""
    keep(names, *values)
    if not _kept["token"].acquire(block=False):
        _kept["started"].release()
        _kept["gate"].wait(60)


def fail_second_initializer(names: tuple[str, ...], *values: Any) -> None:
    """Raise in the initializer of the second worker; the last value counts them."""
    keep((*names, "count"), *values)
    with _kept["count"].get_lock():
        _kept["count"].value += 1
        if _kept["count"].value == 2:
            raise RuntimeError("the second one fails")


def has_parent(value: Any = None) -> bool:
    """Tell whether multiprocessing says that our parent lives."""
    parent = multiprocessing.parent_process()
    return parent is not None and parent.is_alive()


def note_initialized(word: str) -> None:
    """Keep a word (an initializer)."""
    _kept["initialized"] = word


def tell_of_main_thread() -> tuple[str, bool, bool, str, int | None]:
    """Return name, whether it is the main one, whether a daemon, the word kept, and the parent."""
    import multiprocessing
    import threading

    me = threading.current_thread()
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)  # only the main thread may
    parent = multiprocessing.parent_process()
    is_main = me is threading.main_thread()
    return me.name, is_main, me.daemon, _kept["initialized"], parent.pid if parent else None


def fork_and_leave(how: str) -> int:
    """Fork; the child leaves in that way. Return its exit code."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # for a traceback
        if how == "sys.exit":
            sys.exit(7)
        if how == "raise":
            raise LookupError("in the child")
        if how == "return":
            return -1
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_and_stay() -> int:
    """Fork a child that stays; return its pid."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    return child
