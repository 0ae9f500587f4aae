"""What every case of ``bench.faults`` has at hand, and the limits that all of them share."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from bench import fault_functions as tasks
from bench.fault_pools import Handle, Library, NoSuchCall, Outcome, Wants

WAIT_S = 5.0
"""So long a call may take to end after its fault, before it counts as one that hangs."""
AFTER_S = 4.0
"""So long a program may take to end, and its processes to vanish."""
DEADLINE_S = 12.0
"""So long a case may take as a whole."""
MEGABYTE = tasks.MEGABYTE


class Failed(Exception):
    """It ended, and not as it should. ``word`` goes into the table."""

    def __init__(self, word: str, seen: str) -> None:
        super().__init__(f"{word}: {seen}")
        self.word = word
        self.seen = seen


class Hangs(BaseException):
    """Something did not end in time. No ``Exception``, so that a library which is interrupted by it
    does not take it for an error of a task."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a case has at hand: the library, a folder of its own, and the one who watches."""

    library: Library
    folder: str
    ask: Callable[..., None]

    @property
    def wait_s(self) -> float:
        """How long a call may take."""
        return WAIT_S * self.library.patience

    def make(self, **wants: Any) -> Handle:
        """Make a pool."""
        return self.library.make(Wants(**wants))

    def path(self, name: str) -> str:
        """Return the path of a file of this case."""
        return str(Path(self.folder, name))

    def marked(self, name: str) -> int:
        """Wait until a task has left its mark, and return its process number."""
        path = Path(self.folder, name)
        for _ in self.ticks(f"no task began to leave {name}"):
            if path.exists():
                return int(path.read_text())
        raise AssertionError

    def ticks(self, words: str) -> Iterator[None]:
        """Look again and again, until there is no more time."""
        deadline = time.monotonic() + self.wait_s
        while time.monotonic() < deadline:
            yield
            time.sleep(0.01)
        raise Hangs(words)

    def end(self, handle: Handle, function: Callable[..., Any], *args: Any, **how: Any) -> Outcome:
        """Call, and wait for the end."""
        try:
            job = handle.submit(function, *args, **how)
        except NoSuchCall:
            raise
        except BaseException as error:
            return Outcome("error", error=error)
        return self.wait(handle, job)

    def wait(self, handle: Handle, job: Any, words: str = "the call does not end") -> Outcome:
        """Wait for the end of a call."""
        outcome = handle.outcome(job, self.wait_s)
        if outcome.kind == "waiting":
            raise Hangs(words)
        return outcome

    def fails(self, handle: Handle, function: Callable[..., Any], *args: Any, **how: Any) -> str:
        """Make sure that a call ends with an error; return its name."""
        outcome = self.end(handle, function, *args, **how)
        if outcome.kind == "value":
            raise Failed("no error", f"the call returned {shown(outcome.value)}")
        return name_of(outcome)

    def goes_on(self, handle: Handle, count: int = 10) -> None:
        """Make sure that the pool still works."""
        jobs = []
        try:
            jobs = [handle.submit(tasks.square, number) for number in range(count)]
        except BaseException as error:
            raise Failed("pool dead", f"no further call: {brief(error)}") from None
        deadline = time.monotonic() + self.wait_s
        for number, job in enumerate(jobs):
            outcome = handle.outcome(job, max(0.1, deadline - time.monotonic()))
            if outcome.kind == "waiting":
                raise Hangs(f"the pool does not go on: call {number + 1} of {count} waits")
            if outcome.kind == "error":
                raise Failed("pool dead", f"a further call fails: {name_of(outcome)}")
            if outcome.value != number * number:
                raise Failed("wrong", f"a further call returned {shown(outcome.value)}")


@dataclass(frozen=True, slots=True)
class Case:
    """One fault: how it is caused, and what counts as a pass."""

    name: str
    words: str
    how: str
    rule: str
    run: Callable[[Scene], str]
    ends: bool = False
    """Whether the program must end by itself after it, and leave no process behind."""
    deadline_s: float = DEADLINE_S


def shown(value: object) -> str:
    """Return a short form of any value."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"something that cannot be shown ({type(error).__name__})"
    return text if len(text) <= 60 else text[:57] + "..."


def brief(error: BaseException | None) -> str:
    """Return a short form of an error."""
    text = " ".join("".join(filter(str.isprintable, f"{error}".replace("\n", " "))).split())
    return f"{type(error).__name__}: {text[:90]}" if text else type(error).__name__


def name_of(outcome: Outcome) -> str:
    """Return what kind of end it was."""
    return type(outcome.error).__name__ if outcome.kind == "error" else outcome.kind


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it is


def within(seconds: float, call: Callable[[], object], words: str) -> float:
    """Make a call that must return in time, in this thread; return how long it took."""

    def late(*_: object) -> NoReturn:
        raise Hangs(f"{words} does not return")

    before = signal.signal(signal.SIGALRM, late)
    begun = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return time.monotonic() - begun
