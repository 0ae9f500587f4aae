"""What the workers of the tests of logs, output and events run."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from typing import Any

import gates
import glasspool

NAME = "gptest"
logger = logging.getLogger(f"{NAME}.part")


class Thing:
    """Travels with a record."""

    def __init__(self, value: int) -> None:
        self.value = value


class Stubborn:
    """Does not travel."""

    def __reduce__(self) -> Any:
        raise TypeError("not me")

    def __repr__(self) -> str:
        return "<stubborn>"


def begin() -> None:
    """Log in the initializer, and have an exit function log (an initializer)."""
    logger.info("initializer")
    atexit.register(logger.info, "exit function")


def end() -> None:
    """Log at the end (a finalizer)."""
    logger.info("finalizer")


def log_all_kinds(number: int) -> tuple[int, int, int | None]:
    """Log in several ways; return the process, the slot and the task."""
    logger.debug("number %d of %s", number, "many")
    try:
        raise KeyError("lost")
    except KeyError:
        logger.exception("failed", extra={"thing": Thing(number), "odd": Stubborn(), "plain": 7})
    thread = threading.Thread(target=logger.info, args=("in a thread",), name="helper")
    thread.start()
    thread.join()
    here = glasspool.worker()
    assert here is not None
    return os.getpid(), here.slot, here.task


def burst(count: int) -> int:
    """Log so many records."""
    for number in range(count):
        logger.info("%d", number)
    return os.getpid()


def burst_and_die(count: int) -> None:
    """Log so many records, and be killed."""
    burst(count)
    os.kill(os.getpid(), signal.SIGKILL)


def log_long(size: int) -> None:
    """Log one long record."""
    logger.info("x" * size)


def log_wrong() -> None:
    """Log a record whose arguments don't fit its text."""
    logger.info("%d", "no number")


def log_in_a_fork() -> int:
    """Log in a process that the task forks; return its exit code."""
    pid = os.fork()
    if not pid:
        code = 1
        with contextlib.suppress(BaseException):
            logger.warning("in a fork")
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def log_in_a_signal_handler() -> None:
    """Log in the handler of a signal, while records are logged."""
    signal.signal(signal.SIGUSR1, lambda number, frame: logger.info("in a handler"))
    for number in range(100):
        if number % 10 == 0:
            os.kill(os.getpid(), signal.SIGUSR1)
        logger.info("%d", number)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def inner_burst(count: int) -> None:
    """Log in a worker of a pool that is made in a worker."""
    with glasspool.Pool(1) as pool:
        pool.apply(burst, (count,))
        pool.close()
        pool.join()


def warn_by_module() -> None:
    """Have a warning logged."""
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("a warning of the task", UserWarning, stacklevel=1)
    finally:
        logging.captureWarnings(False)


def own_handler(path: str) -> None:
    """Log into a file of the worker's own (an initializer)."""
    logger.addHandler(logging.FileHandler(path, mode="a", delay=True))


def lower_level() -> None:
    """Let the workers log more than the program (an initializer)."""
    logger.setLevel(logging.DEBUG)


# Output ---------------------------------------------------------------------------------------------


def announce() -> None:
    """Print in the initializer."""
    print("from the initializer", flush=True)


def write_in_all_ways(number: int) -> int:
    """Write to both streams: from Python, C, a subprocess, and a descriptor."""
    print("print", number)
    print("error", number, file=sys.stderr)
    ctypes.CDLL(None).printf(b"printf %d\n", number)
    ctypes.CDLL(None).fflush(None)
    subprocess.run(["/bin/echo", "echo"], check=True)
    os.write(1, b"write\n")
    sys.stdout.write("unfinished")
    return number


def buffered_printf() -> None:
    """Leave something in the buffers of C."""
    ctypes.CDLL(None).printf(b"still in C's buffer")


def print_and_raise() -> None:
    """Print, and raise."""
    print("before it raised")
    raise ValueError("as it should")


def print_and_die() -> None:
    """Print, and be killed."""
    print("before it died")
    os.write(2, b"from C\n")
    os.kill(os.getpid(), signal.SIGKILL)


def print_and_hang(limit_s: float = 60) -> None:
    """Print, and take too long."""
    print("before it hung")
    time.sleep(limit_s)


def print_much(size: int, waits: bool = False) -> None:
    """Print so many characters, and one word; wait at the gate then."""
    for _ in range(size // 1000):
        print("x" * 999)
    print("end")
    if waits:
        gates.shared["started"].release()
        gates.shared["gate"].wait(gates.LIMIT_S)


def print_and_wait() -> None:
    """Print, wait at the gate, and print again."""
    print("live")
    gates.shared["started"].release()
    gates.shared["gate"].wait(gates.LIMIT_S)
    print("after")
