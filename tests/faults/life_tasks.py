"""Initializers, finalizers and tasks that go wrong, to be run by workers."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from multiprocessing import util
from pathlib import Path
from typing import Any


def note(path: str, word: str) -> None:
    """Add a line to a file, in one piece."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{word} {os.getpid()}\n".encode())
    os.close(fd)


def notes(path: Path) -> list[tuple[str, int]]:
    """Return what was noted: word and pid."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(word, int(pid)) for word, pid in map(str.split, lines)]  # type: ignore[misc]


class Finalizer:
    """A finalizer that notes who ran it, and where, and may then go wrong."""

    def __init__(self, path: Path, then: str = "") -> None:
        self.path = str(path)
        self.then = then

    def __call__(self) -> None:
        import threading

        is_main = threading.current_thread() is threading.main_thread()
        note(self.path, "finalizer" if is_main else "elsewhere")
        if self.then == "raise":
            raise LookupError("the finalizer's own")
        if self.then == "exit":
            sys.exit(3)
        if self.then == "hang":
            time.sleep(600)


def register_exit(path: str) -> int:
    """Have an exit function of the worker's own run, and one of multiprocessing's, which note that."""
    atexit.register(note, path, "atexit")
    util.Finalize(None, note, args=(path, "finalize"), exitpriority=1)
    sys.stdout.write("written and not flushed")
    return os.getpid()


def note_start(path: str) -> None:
    """Note that a worker starts (an initializer)."""
    note(path, "start")


def hang_in_initializer(path: str) -> None:
    """Hang in Python."""
    note(path, "start")
    time.sleep(600)


def hang_in_c(path: str) -> None:
    """Hang in C, with the interpreter's lock."""
    note(path, "start")
    sum(range(10**11))


def fail_by(path: str, how: str) -> None:
    """Fail in the way that the word says."""
    note(path, "start")
    if how == "raise":
        raise LookupError("no such thing")
    if how == "sys.exit":
        sys.exit(4)
    if how == "os._exit":
        os._exit(5)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "rebuild":
        raise Unrebuildable


class Unrebuildable(Exception):
    """Ends the program of whoever rebuilds it."""

    def __reduce__(self) -> Any:
        return sys.exit, (7,)


def fail_at_first(path: str, often: int) -> None:
    """Fail until so many workers have tried."""
    note(path, "start")
    if len(notes(Path(path))) <= often:
        raise LookupError("not yet")


def hang_in_one(path: str) -> None:
    """Hang in the worker that creates the file first."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    time.sleep(600)


def square(value: int) -> int:
    """Return the square."""
    return value * value


def ignore_sigterm_and_wait(path: str, how: str) -> None:
    """Stay, whatever SIGTERM says."""
    if how == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif how == "block":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    note(path, "begun")
    if how == "c":
        sum(range(10**11))
    time.sleep(600)
