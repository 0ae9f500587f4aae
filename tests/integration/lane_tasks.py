"""Tasks for workers with lanes: what they see of where they run, and tasks that wait."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import gates
import glasspool

Place = tuple[int, str, int, int, bool]
local = threading.local()


def where() -> Place:
    """Return where this runs: pid, and the thread's name, ident, native id, and whether it is main."""
    thread = threading.current_thread()
    is_main = thread is threading.main_thread()
    return os.getpid(), thread.name, threading.get_ident(), threading.get_native_id(), is_main


def wait_and_tell_where() -> Place:
    """Say that this has begun, wait until the gate is open, and return where this runs."""
    wait_at_gate(None)
    return where()


def prepare(names: tuple[str, ...], *values: Any) -> None:
    """Keep what the parent shares (an initializer), and where this ran."""
    gates.keep(names, *values)
    gates.shared["initialized"] = where()


def initialized() -> Any:
    """Return where the initializer ran."""
    return gates.shared["initialized"]


def wait_at_gate(value: Any) -> Any:
    """Say that this has begun, wait until the gate is open, and return the value."""
    gates.shared["started"].release()
    gates.shared["gate"].wait(gates.LIMIT_S)
    return value


def tell_and_wait(number: int) -> tuple[int, int | None, str | None]:
    """Report progress, wait at the gate, and return what this knows of itself."""
    glasspool.report_progress(number, 10)
    wait_at_gate(number)
    here = glasspool.worker()
    assert here is not None
    return number, here.task, here.function


def start_a_thread(name: str) -> str:
    """Start a thread that waits at the gate, and wait for it."""
    thread = threading.Thread(target=wait_at_gate, args=(name,), name=name)
    thread.start()
    thread.join(gates.LIMIT_S)
    return name


def fork_and_return(number: int) -> int:
    """Fork, and return in both processes: the copy ends there."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return number


def square(number: int) -> int:
    """Return the square."""
    return number * number


def where_and(number: int) -> tuple[int, int]:
    """Return the number and the process that this runs in."""
    return number, os.getpid()


def nap(seconds: float) -> float:
    """Wait."""
    time.sleep(seconds)
    return seconds


def refuse(number: int) -> int:
    """Raise."""
    raise LookupError(number)


def spend(item: tuple[int, float]) -> int:
    """Run bytecode for a while; return the number."""
    number, seconds = item
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return number


def give_back(value: Any) -> Any:
    """Return the argument."""
    return value
