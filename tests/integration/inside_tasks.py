"""Tasks for pools of any library, importable by name in their workers."""

import os
import signal

LIFE_S = 60


def wait_until_told(told: str, gate: str) -> int:
    """Say by a file that the task runs, then wait until somebody writes into the gate."""
    with open(told, "w") as file:
        file.write(str(os.getpid()))
    with open(gate, "rb", buffering=0) as fifo:
        fifo.read(1)
    return os.getpid()


def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


def end_soon() -> None:
    """Initializer: no worker outlives its test by long."""
    signal.alarm(LIFE_S)


def kill_this_process() -> None:
    """End this process as the kernel would."""
    os.kill(os.getpid(), signal.SIGKILL)


def wait_in(path: str) -> int:
    """Wait until somebody writes into a fifo."""
    with open(path, "rb", buffering=0) as fifo:
        return len(fifo.read(1))
