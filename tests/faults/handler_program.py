"""A program whose signal handler calls the pool in the middle of whatever the main thread does.

Usage: ``handler_program.py CALL SEED``. Prints ``passed`` and how many handlers ran; each of them had to
return in time, and each call of the main thread, too.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import life_tasks as tasks

import glasspool

ROUNDS = 40
ENDS = {
    "terminate": lambda pool: (pool.terminate(), pool.join()),
    "close": lambda pool: (pool.close(), pool.join()),
    "drain": lambda pool: pool.drain(),
}
CALLS = {
    "apply": lambda pool: pool.apply(tasks.square, (3,)),
    "map": lambda pool: pool.map(tasks.square, range(10), 1),
    "apply_async": lambda pool: pool.apply_async(tasks.square, (2,)).get(),
    "inspect": lambda pool: pool.inspect(),
    **ENDS,
}
LIMIT_S = 3.0


def make_another() -> None:
    """Make a pool, use it and end it."""
    with glasspool.Pool(1, context=multiprocessing.get_context("fork")) as pool:
        pool.apply(tasks.square, (2,))
    pool.join()


class Program:
    """One pool after the other, used by the main thread until the handler has come."""

    def __init__(self, what: str, seed: int) -> None:
        self.what = what
        self.rng = random.Random(seed)
        self.handled = 0
        self.slowest = 0.0
        self.refused = 0
        self.pool: Any = None
        signal.signal(signal.SIGUSR1, self.handle)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Call the pool from here."""
        begun = time.monotonic()
        try:
            CALLS[self.what](self.pool)
        except glasspool.GlasspoolError as error:
            if "while an iterable was drawn" not in str(error):
                raise
            self.refused += 1
        except ValueError as error:
            if "not running" not in str(error):
                raise
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self.handled += 1

    def use(self, which: str) -> None:
        """Use the pool as the main thread."""
        pool = self.pool
        if which == "apply":
            assert pool.apply(tasks.square, (5,)) == 25
        elif which == "map":
            assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
        elif which == "imap":
            assert list(pool.imap(tasks.square, range(5))) == [0, 1, 4, 9, 16]
        elif which == "get":
            assert pool.apply_async(tasks.square, (5,), callback=str).get() == 25
        else:
            make_another()

    def round(self, which: str) -> None:
        """Use a pool until the handler has come, and a little longer."""
        ctx = multiprocessing.get_context("fork")
        pool = self.pool = glasspool.Pool(1, context=ctx)
        pool.apply(tasks.square, (2,))
        sender = threading.Thread(target=self.send, args=(self.rng.random() ** 2 * 0.01,))
        before = self.handled
        if which != "pool":  # a thread beside a fork would warn
            sender.start()
        else:
            signal.setitimer(signal.ITIMER_REAL, 0.0001 + self.rng.random() * 0.02)
        try:
            while self.handled == before:
                self.use(which)
            self.use(which)
        except (ValueError, glasspool.TaskCancelled) as error:
            if self.what not in ENDS:  # else the handler has ended the pool
                raise AssertionError("a call was lost") from error
        if sender.ident is not None:
            sender.join()
        pool.terminate()
        pool.join()

    def send(self, delay_s: float) -> None:
        """Send the signal after a moment."""
        until = time.perf_counter() + delay_s
        while time.perf_counter() < until:
            pass
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def main(what: str, seed: int) -> None:
    """Run the rounds."""
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    program = Program(what, seed)
    signal.signal(signal.SIGALRM, program.handle)
    for number in range(ROUNDS):
        program.round(("apply", "map", "imap", "get", "pool")[number % 5])
    assert program.slowest < LIMIT_S, program.slowest
    assert program.refused <= program.handled // 2
    print(f"passed {program.handled} {program.refused} {program.slowest:.3f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
    sys.stdout.flush()
    for thread in threading.enumerate():  # daemons of ended pools are about to end
        if thread is not threading.main_thread():
            thread.join(10)
    os._exit(0 if threading.active_count() == 1 else 1)
