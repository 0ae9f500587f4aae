"""A program whose main thread is interrupted by raising signal handlers, again and again.

Usage: ``signal_storm.py COUNT SEED``. The handler raises on the main thread, at whatever bytecode
it is, while that submits, gets, maps, iterates and makes and closes pools. At the end it prints
``survived`` and its counts, or fails: if a result never ends, the ledger does not add up, or the
pool does not work and close any more.

It runs as a process of its own, so that a hang can be seen and ended from outside.
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
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import fault_tasks as tasks

import glasspool

LIMIT_S = 30.0
GRACE_S = 0.002


class Storm(Exception):
    """What the handler raises."""


class Weather:
    """Sends signals to the main thread while it is allowed to, until they are used up."""

    def __init__(self, count: int, seed: int) -> None:
        self.left = count
        self.raised = 0
        self._may_raise = False
        self._seed = seed
        self._main = threading.main_thread().ident or 0
        self._armed = threading.Event()
        self._over = threading.Event()
        self.where: Counter[str] = Counter()
        signal.signal(signal.SIGUSR1, self._handle)
        # The thread is a daemon: the program's end does not wait for it.
        self._thread = threading.Thread(target=self._blow, name="weather", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._may_raise:
            return
        self._may_raise = False
        self.raised += 1
        self.left -= 1
        while frame is not None and "glasspool" not in frame.f_code.co_filename:
            frame = frame.f_back
        self.where[frame.f_code.co_qualname if frame else "outside"] += 1
        raise Storm

    def _blow(self) -> None:
        rng = random.Random(self._seed)
        while not self._over.is_set():
            self._armed.wait()
            # Somewhere within the next step: a step lasts some tens or hundreds of microseconds.
            until = time.perf_counter() + rng.random() ** 3 * GRACE_S
            while time.perf_counter() < until:
                pass
            self._armed.clear()
            if not self._over.is_set():
                signal.pthread_kill(self._main, signal.SIGUSR1)

    def during(self, act: Callable[[], Any]) -> Any:
        """Act, with a signal on the way that raises if it comes before the end."""
        self._armed.set()  # before: an event that is interrupted keeps its lock for ever
        try:
            self._may_raise = True
            return act()
        finally:
            self._may_raise = False

    def stop(self) -> None:
        """Send no more."""
        self._over.set()
        self._armed.set()
        self._thread.join(LIMIT_S)


class Program:
    """What the main thread does in the storm, and what it got hold of."""

    def __init__(self, pool: glasspool.Pool, weather: Weather, seed: int) -> None:
        self.pool = pool
        self.weather = weather
        self.rng = random.Random(seed)
        self.singles: list[tuple[Any, int]] = []
        self.maps: list[tuple[Any, list[int]]] = []
        self.iterators: list[tuple[Any, int]] = []
        self.called_back: list[int] = []

    def step(self) -> None:
        """Do one thing."""
        acts = [self.submit, self.submit, self.get, self.map, self.imap, self.apply, self.wait]
        act = self.rng.choice(acts)
        try:
            self.weather.during(act)
        except Storm:
            pass

    def submit(self) -> None:
        """Make some calls, some of them with a callback."""
        for _ in range(self.rng.randrange(1, 6)):
            value = self.rng.randrange(1000)
            callback = self.called_back.append if self.rng.random() < 0.3 else None
            self.singles.append(
                (self.pool.apply_async(tasks.square, (value,), callback=callback), value)
            )

    def get(self) -> None:
        """Get what was asked for, the latest first."""
        for result, value in self.singles[-5:]:
            assert result.get(LIMIT_S) == value * value

    def apply(self) -> None:
        """Call and wait."""
        value = self.rng.randrange(1000)
        assert self.pool.apply(tasks.square, (value,)) == value * value

    def map(self) -> None:
        """Map, and perhaps wait for it."""
        items = [self.rng.randrange(1000) for _ in range(self.rng.randrange(40))]
        job = self.pool.map_async(tasks.square, items, self.rng.choice([1, 3, None]))
        self.maps.append((job, items))
        if self.rng.random() < 0.5:
            job.wait(LIMIT_S)

    def imap(self) -> None:
        """Iterate, and perhaps not to the end."""
        count = self.rng.randrange(1, 30)
        values = self.pool.imap_unordered(tasks.square, range(count), self.rng.choice([1, 4]))
        self.iterators.append((values, count))
        for _ in range(self.rng.randrange(count)):
            values.next(LIMIT_S)

    def wait(self) -> None:
        """Wait for a while, look, and wait again."""
        if self.singles:
            result, _ = self.rng.choice(self.singles)
            result.wait(0.0005)
            result.ready()
            self.pool.stats()

    def check(self) -> None:
        """Every result that we got hold of ends, with the right value, and the counts add up."""
        for result, value in self.singles:
            assert result.get(LIMIT_S) == value * value
        for job, items in self.maps:
            assert job.get(LIMIT_S) == [i * i for i in items]
        for values, count in self.iterators:
            rest = []
            while True:
                try:
                    rest.append(values.next(LIMIT_S))
                except StopIteration:
                    break
            assert set(rest) <= {i * i for i in range(count)}
            assert len(rest) == len(set(rest))
        self.singles.clear()
        self.maps.clear()
        self.iterators.clear()
        assert self.pool.map(tasks.square, range(100), 1) == [i * i for i in range(100)]
        self._check_counts()

    def _check_counts(self) -> None:
        deadline = time.monotonic() + LIMIT_S
        while True:
            # Calls whose result nobody got hold of end, too.
            stats = self.pool.stats()
            if stats["waiting"] == stats["sent"] == 0:
                break
            assert time.monotonic() < deadline, f"never ends: {stats}"
            time.sleep(0.001)
        # A map that was interrupted while it was fed is taken back: nobody has its result.
        assert stats["submitted"] == stats["done"] + stats["cancelled"], stats
        assert stats["failed"] == stats["lost"] == stats["deaths"] == 0, stats
        self.pool._engine.collector.ledger.check()
        assert not self.pool._engine.callers, self.pool._engine.callers


def main(count: int, seed: int) -> None:
    """Survive so many raised signals."""
    # Whoever ends us from outside is told where we were.
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    ctx = multiprocessing.get_context("fork")
    pools = 0
    pool = glasspool.Pool(2, context=ctx)
    pool.stats()  # loads what it needs: an import that is torn away leaves CPython's own locks taken
    weather = Weather(count, seed)
    weather.start()
    programs = Program(pool, weather, seed)
    while weather.left > 0:
        for _ in range(100):
            programs.step()
        programs.check()
        pools += 1
    close_in_the_storm(pool, weather)
    weather.stop()
    assert not pool._engine.feeders
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(
                GRACE_S * 1000
            )  # one that found its duty taken may not have had its turn yet
    names = sorted(thread.name for thread in threading.enumerate())
    assert names == ["MainThread"], names
    print("survived", weather.raised, "rounds", pools, dict(weather.where.most_common(12)))


def close_in_the_storm(pool: glasspool.Pool, weather: Weather) -> None:
    """Close and join, however often we are interrupted, with work under way."""
    last = pool.map_async(tasks.square, range(500), 1)
    for _ in range(200):
        try:
            weather.during(pool.close)
            weather.during(pool.join)
            break
        except Storm:
            continue
    pool.close()
    pool.join()
    assert last.get(LIMIT_S) == [i * i for i in range(500)]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    os._exit(0) if threading.active_count() > 1 else sys.exit(0)
