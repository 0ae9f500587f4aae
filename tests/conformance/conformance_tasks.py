"""Functions that the programs here run in workers: by reference, so they work when spawned too."""

from __future__ import annotations

import multiprocessing
import multiprocessing.managers
import os
import threading
from typing import Any

from conformance_kinds import class_of

LIMIT_S = 30
"""How long a task waits for the test that holds it up, should the test go wrong."""

shared: Any = None
"""What the initializer left in this worker."""


class Oops(Exception):
    """An error of a task, with two arguments."""

    def __init__(self, number: int, word: str) -> None:
        super().__init__(number, word)


class Unpicklable:
    """A value that refuses to be pickled by anyone."""

    def __reduce__(self) -> Any:
        raise TypeError("Unpicklable cannot be pickled")


class Counting:
    """An object whose state changes with each call."""

    def __init__(self) -> None:
        self.calls = 0

    def run(self, step: int) -> int:
        """Count this call and return how many there were."""
        self.calls += step
        return self.calls

    __call__ = run


def count_in(cell: list[int], step: int) -> int:
    """Add to a list's only number and return it: state that a ``partial`` carries."""
    cell[0] += step
    return cell[0]


def square(x: int) -> int:
    """Return the square."""
    return x * x


def add(x: int, y: int = 10) -> int:
    """Return the sum."""
    return x + y


def echo(*args: Any, **kwds: Any) -> Any:
    """Return what was given."""
    return args, kwds


def same(x: Any) -> Any:
    """Return the argument."""
    return x


def as_bytes(x: Any) -> bytes:
    """Return a copy of a buffer."""
    return bytes(x)


def double(x: Any) -> Any:
    """Return twice the argument."""
    return x + x


def pid_of(_: object = None) -> int:
    """Return the pid of the process that runs this."""
    return os.getpid()


def fail(number: int, word: str = "word") -> None:
    """Raise an error with arguments."""
    raise Oops(number, word)


def fail_at_three(x: int) -> int:
    """Raise for 3, count and return the others."""
    if x == 3:
        fail(x)
    return bump(x)


def make_unpicklable() -> Unpicklable:
    """Return what cannot be sent back."""
    return Unpicklable()


def raise_keyboard_interrupt() -> None:
    """Raise what Ctrl-C raises."""
    raise KeyboardInterrupt("task")


def raise_system_exit() -> None:
    """Raise what ``sys.exit(3)`` raises."""
    raise SystemExit(3)


def set_shared(value: Any) -> None:
    """Keep a value in this worker: an initializer."""
    global shared
    shared = value


def get_shared(_: object = None) -> Any:
    """Return what the initializer left."""
    return shared


def wait_for_shared(x: Any = None) -> Any:
    """Wait for the event that the initializer left, then return the argument."""
    if not shared.wait(LIMIT_S):
        raise TimeoutError("the test did not open the gate")
    return x


def wait_if_zero(x: int) -> int:
    """Wait for the event only for 0."""
    return int(wait_for_shared(x)) if x == 0 else x


def enter_and_wait(x: int = 0) -> int:
    """Say that the task runs, by the first of two events left here, and wait for the second."""
    entered, gate = shared
    entered.set()
    if not gate.wait(LIMIT_S):
        raise TimeoutError("the test did not open the gate")
    return x


def bump(x: Any = None) -> Any:
    """Count this call in the shared number, where there is one, and return the argument."""
    if shared is not None:
        with shared.get_lock():
            shared.value += 1
    return x


def put_in_shared(x: Any) -> None:
    """Put the argument into the queue that the initializer left."""
    shared.put(x)


def lock_shared(x: int) -> int:
    """Take the lock that the initializer left."""
    with shared:
        return x


def count_and_meet(count: Any, barrier: Any) -> None:
    """Count this worker, and wait until all others and the test are here: an initializer."""
    with count.get_lock():
        count.value += 1
    barrier.wait(LIMIT_S)


def identity(_: object = None) -> dict[str, Any]:
    """Return how this process and thread call themselves."""
    process = multiprocessing.current_process()
    parent = multiprocessing.parent_process()
    return {
        "name": process.name,
        "daemon": process.daemon,
        "identity": process._identity,
        "pid": process.pid,
        "os_pid": os.getpid(),
        "parent_pid": None if parent is None else parent.pid,
        "thread": threading.current_thread().name,
        "is_main": threading.current_thread() is threading.main_thread(),
        "threads": threading.active_count(),
    }


def fork_and_wait(code: int) -> int:
    """Fork, let the child exit with a code, and return the code that arrived."""
    pid = os.fork()
    if pid == 0:
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_child_process(x: int) -> int:
    """Start a process from the task and return what it says."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.Process(target=send_square, args=(writer, x))
    child.start()
    answer: int = reader.recv()
    child.join(LIMIT_S)
    reader.close()
    writer.close()
    return answer


def send_square(writer: Any, x: int) -> None:
    """Send the square through a connection."""
    writer.send(x * x)


def map_on_own_pool(kind: str, method: str, items: list[int]) -> list[int]:
    """Make a pool in this process, map on it, and end it."""
    with class_of(kind)(2, context=multiprocessing.get_context(method)) as pool:
        squares: list[int] = pool.map(square, items)
    pool.join()
    return squares


def send_map_on_own_pool(writer: Any, kind: str, method: str, items: list[int]) -> None:
    """Send what ``map_on_own_pool`` returns through a connection."""
    writer.send(map_on_own_pool(kind, method, items))


def pool_of(kind: str, processes: int) -> Any:
    """Make a pool in a manager's server."""
    return class_of(kind)(processes)


class PoolManager(multiprocessing.managers.SyncManager):
    """A manager whose server makes pools of either kind."""


PoolManager.register("pool_of", pool_of, multiprocessing.managers.PoolProxy)
