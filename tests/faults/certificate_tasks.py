"""Tasks that die, or nearly do, after having said and used something."""

from __future__ import annotations

import ctypes
import faulthandler
import io
import logging
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

logger = logging.getLogger("certificates")


def speak(word: str) -> None:
    """Print and log something."""
    print("printed", word)
    sys.stderr.write(f"wrote {word}\n")
    logger.warning("logged %s", word)


def speak_and_segfault(word: str, *, where: int = 0) -> None:
    """Say something, and read where nothing is."""
    speak(word)
    ctypes.string_at(where)


def speak_and_kill(word: str) -> None:
    """Say something, and end as if somebody had killed this process."""
    speak(word)
    kill()


def kill(number: int = signal.SIGKILL) -> None:
    """End by a signal from outside."""
    os.kill(os.getpid(), number)
    time.sleep(60)


def fill_and_kill(count: int) -> None:
    """Use so much memory, and end."""
    block = b"x" * count
    kill(signal.SIGKILL if block else signal.SIGTERM)


def exit_with(code: int) -> None:
    """End this process without a word."""
    os._exit(code)


def close_all_and_wait() -> None:
    """Close every descriptor and stay."""
    os.closerange(0, 4096)
    time.sleep(60)


def kill_at(value: int, bad: int) -> int:
    """Take a moment, so that items are noted one by one; end at the bad value."""
    stop = time.perf_counter() + 0.0005
    while time.perf_counter() < stop:
        pass
    if value == bad:
        kill()
    return value


def tell_and_wait(started: str, gate: str) -> None:
    """Tell that this runs through one pipe, and wait for the end of another."""
    tell(started)
    with open(gate, "rb") as file:
        file.read()


def tell(started: str) -> None:
    """Tell through a pipe that this runs."""
    with open(started, "wb") as file:
        file.write(b"x")


def tell_and_spin_in_c(started: str) -> None:
    """Tell that this runs, and stay in C with the interpreter's lock."""
    tell(started)
    sum(range(10**11))


class Noted:
    """Notes in a file which process ran its code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _note(self) -> None:
        with self.path.open("a") as file:
            file.write(f"{os.getpid()}\n")

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._note()

    def __repr__(self) -> str:
        self._note()
        return "noted"


def kill_with(noted: Noted) -> None:
    """End with an argument whose class is watched."""
    kill()


def let_a_child_fault() -> None:
    """Fork a child that speaks and faults, then say something of our own and end."""
    speak("by the parent")
    child = os.fork()
    if child == 0:
        speak("by the child")
        sys.stdout.flush()
        ctypes.string_at(0)
    os.waitpid(child, 0)
    kill()


class CountsTexts:
    """Counts how often it was asked for its text."""

    asked = 0

    def __str__(self) -> str:
        CountsTexts.asked += 1
        return "text"


def about_the_streams() -> dict[str, Any]:
    """Tell whether the standard streams and the loggers are what they would be without us."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    quiet = logging.Logger("quiet", logging.DEBUG)
    quiet.addHandler(logging.NullHandler())
    quiet.debug("%s", CountsTexts())
    loud_stream = io.StringIO()
    loud = logging.Logger("loud")
    loud.addHandler(logging.StreamHandler(loud_stream))
    CountsTexts.asked = 0
    loud.warning("%s", CountsTexts())
    stream = sys.stdout
    return {
        "type": type(stream).__name__,
        "same": stream is sys.stdout and isinstance(stream, io.TextIOWrapper),
        "fileno": stream.fileno() >= 0,
        "attributes": sorted(set(vars(stream)) - {"mode"}),
        "handlers": (handlers, level) == (list(root.handlers), root.level),
        "asked": CountsTexts.asked,
        "logged": loud_stream.getvalue(),
    }


def quiet_texts() -> int:
    """Return how often a logger without a handler that formats asks for a text."""
    CountsTexts.asked = 0
    logger = logging.Logger("quiet", logging.DEBUG)
    logger.addHandler(logging.NullHandler())
    logger.debug("%s", CountsTexts())
    return CountsTexts.asked


def use_a_file_of_my_own(path: str) -> None:
    """Enable ``faulthandler`` for a file, as a user may, and fault."""
    with open(path, "w") as file:
        faulthandler.enable(file)
        ctypes.string_at(0)


def _limit(more: int) -> tuple[int, int]:
    """Allow this process so many bytes of address space more than it has."""
    had = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, had[1]))
    return had


def want_too_much(count: int) -> None:
    """Ask for more memory than this process may have."""
    had = _limit(count // 4)
    try:
        bytearray(count)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, had)


def return_too_much() -> str:
    """Return what there is no memory left to pickle: a text that has to be encoded in one piece."""
    value = "\N{LATIN SMALL LETTER E WITH ACUTE}" * (128 << 20)
    _limit(8 << 20)
    return value


def unlimit() -> int:
    """Take the limit away again, and return the pid."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    return os.getpid()


def enter_cgroup(procs: str) -> None:
    """Move this process into a cgroup (an initializer)."""
    Path(procs).write_text(str(os.getpid()))


def fill_memory(count: int) -> int:
    """Use so much memory, page by page."""
    block = bytearray(count)
    block[::4096] = b"x" * len(block[::4096])
    return len(block)
