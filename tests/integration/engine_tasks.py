"""What the workers of ``test_engine`` run; importable by name, also in a spawned process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Any

import glasspool

# For the programs that some tests start: pytest itself knows the folder.
sys.path.append(str(Path(__file__).parents[1]))

import gates


def share(**values: Any) -> None:
    """Keep what the parent shares (an initializer)."""
    gates.shared.update(values)


def wait_for(name: str, value: Any = None) -> Any:
    """Tell that this runs, wait for a gate of the parent, and return the value."""
    started: Semaphore | None = gates.shared.get("started")
    if started is not None:
        started.release()
    gate: gates.Turnstile = gates.shared[name]
    if not gate.wait(60):
        raise RuntimeError("the gate was never opened")
    return value


def wait_if(value: int, threshold: int) -> tuple[int, int]:
    """Wait for the gate if the value is the threshold; return it and the pid."""
    if value == threshold:
        wait_for("gate")
    return value, os.getpid()


def echo(value: Any = None) -> Any:
    """Return the value."""
    return value


def add(left: Any, right: Any) -> Any:
    """Return the sum."""
    return left + right


def lengths(left: Any, right: Any) -> int:
    """Return how long both are together."""
    return len(left) + len(right)


def square(value: int) -> int:
    """Return the square."""
    return value * value


def pid(value: Any = None) -> int:
    """Return who runs this."""
    return os.getpid()


def fail(value: Any = None) -> None:
    """Raise."""
    raise ZeroDivisionError(f"on purpose {value}")


def who_runs_this() -> dict[str, Any]:
    """Return what Python, the operating system and glasspool say of the thread that runs this."""
    thread = threading.current_thread()
    native = threading.get_native_id()
    return {
        "pid": os.getpid(),
        "name": thread.name,
        "is_main": thread is threading.main_thread(),
        "ident": thread.ident,
        "native_id": native,
        "comm": Path(f"/proc/self/task/{native}/comm").read_text().strip(),
        "threads": len(os.listdir("/proc/self/task")),
        "worker": glasspool.worker(),
    }


def worker_in_thread() -> Any:
    """Return what ``glasspool.worker()`` says on a thread that the task started."""
    said: list[Any] = []
    thread = threading.Thread(target=lambda: said.append(glasspool.worker()))
    thread.start()
    thread.join()
    return said[0]


def worker_in_fork() -> bool:
    """Tell whether ``glasspool.worker()`` is None in a process that the task forked."""
    child = os.fork()
    if child == 0:
        os._exit(0 if glasspool.worker() is None else 1)
    _, status = os.waitpid(child, 0)
    return status == 0


def spin(seconds: float) -> int:
    """Use the processor for so long; return the pid."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return os.getpid()


def note_start(path: str) -> None:
    """Note in a file that a worker starts."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{os.getpid()}\n".encode())
    os.close(fd)


def raising_initializer(path: str) -> None:
    """Note the start and raise."""
    note_start(path)
    raise LookupError("no configuration in this worker")


def exiting_initializer(path: str, how: str) -> None:
    """Note the start and end the process."""
    note_start(path)
    if how == "os._exit":
        os._exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(7)


def fail_once_initializer(path: str) -> None:
    """Raise in the first worker that comes here, and in no other."""
    note_start(path)
    with contextlib.suppress(FileExistsError):
        Path(f"{path}.failed").touch(exist_ok=False)
        raise LookupError("only the first")


def thread_initializer(path: str) -> None:
    """Note which thread of which process initialises."""
    with open(path, "a") as file:
        file.write(f"{os.getpid()} {threading.current_thread().name} {threading.get_native_id()}\n")


def record_warnings(folder: str) -> None:
    """Have each warning of this process written to a file (an initializer)."""

    def show(message: Any, category: Any, *more: Any, **others: Any) -> None:
        with open(f"{folder}/{os.getpid()}", "a") as file:
            file.write(f"{category.__name__}: {message}\n")

    warnings.simplefilter("always")
    warnings.showwarning = show


def fill(array: Any) -> Any:
    """Write into the argument and return it."""
    array[0] = 99
    return array


def total(array: Any) -> float:
    """Return the sum of an array."""
    return float(array.sum())


def large(count: int) -> Any:
    """Return a new array."""
    import numpy as np

    return np.arange(count, dtype="f8")


def nap_and_echo(seconds: float) -> float:
    """Sleep so long, and return the time."""
    time.sleep(seconds)
    return seconds
