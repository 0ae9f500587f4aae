"""What workers run in the tests of large values."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import numpy as np

_kept: list[Any] = []


def inode(array: Any) -> int:
    """Return the number of the file that the memory of an array is a mapping of; 0 if of none."""
    at = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, _, _, _, number, *_ = line.split()
            begin, end = (int(each, 16) for each in span.split("-"))
            if begin <= at < end:
                return int(number)
    return 0


def place_and_sum(array: Any) -> tuple[int, int]:
    """Return where an array lies, and the sum of it."""
    return inode(array), int(array.sum())


def spoil(array: Any, *others: Any) -> tuple[int, int]:
    """Return where an array lies and the sum that it had, and write over all of it."""
    told = place_and_sum(array)
    array[:] = 255
    return told


def full(value: int, size: int) -> Any:
    """Return an array of bytes."""
    return np.full(size, value, "u1")


def keep(array: Any) -> int:
    """Keep an array, without a look at its contents."""
    _kept.append(array)
    return inode(array)


def keep_in_thread(array: Any) -> int:
    """Leave an array to a thread that waits for ever."""
    thread = threading.Thread(target=lambda held: threading.Event().wait(), args=(array,))
    thread.daemon = True
    thread.start()
    _kept.append(weak := memoryview(array)[:1])
    return inode(array) if weak else 0


def drop() -> None:
    """Keep nothing any more."""
    _kept.clear()


def kept_sums() -> list[int]:
    """Return the sums of what was kept."""
    return [int(array.sum()) for array in _kept]


def fork_a_reader(array: Any, start: str, answer: str) -> int:
    """Fork a process that tells the sum of the array when somebody opens ``start``, a fifo."""
    if os.fork():
        return inode(array)
    signal.alarm(30)  # no longer, whatever becomes of the test
    with open(start) as fifo:
        fifo.read()  # woken by the test, which writes to it
    with open(answer, "w") as file:
        file.write(str(int(array.sum())))
    os._exit(0)


def die(array: Any, path: str) -> None:
    """Tell where an array lies, and be killed."""
    with open(path, "w") as file:
        file.write(str(inode(array)))
    os.kill(os.getpid(), signal.SIGKILL)


def back(value: Any) -> Any:
    """Return what was given."""
    return value


def refuse(array: Any) -> None:
    """Raise, with the array in the traceback."""
    raise LookupError(len(array))


def length(value: Any) -> int:
    """Return how long something is."""
    return len(value)


def meet(array: Any, fifo: str, way: str) -> int:
    """Meet another task, which opens the other end of the fifo."""
    with open(fifo, way):
        return array.nbytes


def ends(array: Any) -> tuple[int, int, int]:
    """Return the first, the last and the number of all bytes of an array."""
    return int(array[0]), int(array[-1]), array.nbytes


class Scratch:
    """Lends pickle the same piece of memory, with another content, for each object."""

    memory = np.zeros(600_000, "u1")

    def __init__(self, value: int) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> Any:
        Scratch.memory[:] = self.value
        return back, (Scratch.memory,)
