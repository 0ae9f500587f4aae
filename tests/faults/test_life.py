"""Life-cycle calls in any order, from any thread, with any load: each returns, and all is told.

``GLASSPOOL_LIFE_ORDERS`` is the number of random orders (60 by default; 10,000 for a soak).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import life_tasks as tasks
import psutil
import pytest

import glasspool

HERE = Path(__file__).parent
FORK = multiprocessing.get_context("fork")
LIMIT_S = 30.0
ORDERS = int(os.environ.get("GLASSPOOL_LIFE_ORDERS", "60"))
SHARE = 20

# Calls that must return within two seconds whatever runs; and those that wait for short tasks.
CALLS: dict[str, Callable[[glasspool.Pool], Any]] = {
    "close": lambda pool: pool.close(),
    "terminate": lambda pool: pool.terminate(),
    "join": lambda pool: pool.join(),
    "drain": lambda pool: pool.drain(0.05),
    "with": lambda pool: pool.__exit__(None, None, None),
    "submit": lambda pool: pool.apply_async(tasks.square, (3,)),
    "map": lambda pool: pool.map(tasks.square, range(50), 1),
    "inspect": lambda pool: pool.inspect(),
}
ALLOWED = (ValueError, glasspool.TaskCancelled)  # it is closed, still running, or was terminated


class Order:
    """One random order of life-cycle calls on one pool, from several threads."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.pool = glasspool.Pool(self.rng.choice([1, 2]), context=FORK)
        self.results: list[Any] = []
        self.errors: list[BaseException] = []
        self.log: list[str] = []

    def load(self) -> None:
        """Submit some work of each kind."""
        pool, rng = self.pool, self.rng
        for _ in range(rng.randrange(4)):
            kind = rng.randrange(5)
            if kind == 0:
                self.results.append(pool.map_async(tasks.square, range(rng.randrange(200)), 1))
            elif kind == 1:
                self.results.append(pool.apply_async(time.sleep, (0.02,), callback=str))
            elif kind == 2:
                self.results.append(pool.imap(tasks.square, iter(range(rng.randrange(50)))))
            elif kind == 3:
                self.results.append(pool.map_async(time.sleep, [0.001] * 20, 3))
            else:
                call = CALLS[rng.choice(["close", "terminate", "submit", "inspect"])]
                self.results.append(pool.apply_async(os.getpid, callback=self.caller(call)))

    def caller(self, call: Callable[[glasspool.Pool], Any]) -> Callable[[Any], None]:
        """Return a callback that makes a call."""
        return lambda value: self.call(call)

    def call(self, call: Callable[[glasspool.Pool], Any]) -> None:
        """Make one call; it must return or be refused within two seconds."""
        begun = time.monotonic()
        try:
            made = call(self.pool)
        except ALLOWED:
            made = None
        except BaseException as error:
            self.errors.append(error)
            return
        took = time.monotonic() - begun
        if took > 4:  # two, on a machine that does nothing else
            self.errors.append(AssertionError(f"a call took {took:.1f} s"))
        if isinstance(made, glasspool.AsyncResult):
            self.results.append(made)

    def run(self) -> None:
        """Load the pool, make the calls, end it, and check that everything was told."""
        with contextlib.suppress(ValueError):  # one of its callbacks may have closed the pool
            self.load()
        names = [self.rng.choice(list(CALLS)) for _ in range(self.rng.randrange(1, 5))]
        self.log.append(" ".join(names))
        threads = []
        for name in names:
            if self.rng.random() < 0.5:
                threads.append(threading.Thread(target=self.call, args=(CALLS[name],), name=name))
                threads[-1].start()
            else:
                self.call(CALLS[name])
        for thread in threads:
            if thread.name != "join":
                thread.join(LIMIT_S)
        self.call(CALLS[self.rng.choice(["terminate", "with", "drain"])])
        self.call(CALLS["join"])
        for thread in threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive(), thread
        assert not self.errors, self.errors
        for result in self.results:
            self.check_told(result)
        self.pool._engine.collector.ledger.check()

    def check_told(self, result: Any) -> None:
        """Check that a result has ended."""
        try:
            if isinstance(result, glasspool.IMapIterator):
                while True:
                    result.next(2)
            result.get(2)
        except (StopIteration, glasspool.TaskCancelled):
            pass


@pytest.mark.timeout(max(120, ORDERS))
@pytest.mark.parametrize("share", range(max(1, ORDERS // SHARE)))
def test_any_order(share: int) -> None:
    """Each call returns, every result ends, nothing is left; the seed is in the failure."""
    for seed in range(share * SHARE, (share + 1) * SHARE):
        order = Order(seed)
        try:
            order.run()
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {order.log}: {error!r}") from error


@pytest.mark.parametrize("how", ["ignore", "block", "c"])
@pytest.mark.parametrize("end", ["terminate", "drain"])
def test_workers_that_resist(tmp_path: Path, how: str, end: str) -> None:
    """A worker that ignores or blocks SIGTERM, or is inside of C, is killed within two seconds."""
    path = tmp_path / "notes"
    with glasspool.Pool(1, context=FORK) as pool:
        result = pool.apply_async(tasks.ignore_sigterm_and_wait, (str(path), how))
        deadline = time.monotonic() + LIMIT_S
        while not tasks.notes(path):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        begun = time.monotonic()
        assert (pool.drain(0.05) if end == "drain" else pool.terminate()) in ([], None)
        assert time.monotonic() - begun < 2
        with pytest.raises(glasspool.TaskCancelled):
            result.get(1)
    pool.join()


def test_drain_returns_what_was_not_begun(ctx: BaseContext) -> None:
    """In order, with what is needed to have it done elsewhere; what ran has its result."""
    with glasspool.Pool(1, context=ctx) as pool:
        pool.apply(tasks.square, (1,))
        running = pool.apply_async(time.sleep, (0.3,))
        while running.info.state != "running":
            time.sleep(0.002)
        single = pool.apply_async(int, ("12",), {"base": 3})
        job = pool.starmap_async(pow, [(2, 3), (3, 2), (4, 2)], 2)
        inline = pool.apply_async(lambda: 7)
        undone = pool.drain()
        assert running.get(1) is None
    assert [each.result for each in undone] == [single, job, job, inline]
    assert [each.info.state for each in undone] == ["cancelled"] * 4
    calls = [call for each in undone for call in each.calls()]
    values = [function(*args, **kwds) for function, args, kwds in calls]
    assert values == [5, 8, 9, 16, 7]
    for result in (single, job, inline):
        with pytest.raises(glasspool.TaskCancelled, match="drained"):
            result.get(1)  # type: ignore[attr-defined]
    assert pool.drain() == undone
    with pytest.raises(ValueError, match="not running"):
        pool.apply(tasks.square, (1,))
    with pytest.raises(ValueError, match="timeout"):
        pool.drain(-1)


# Ctrl-C -------------------------------------------------------------------------------------------

CTRL_C = """
    import multiprocessing, os, signal, sys, time
    import life_tasks as tasks
    import glasspool

    method, what = sys.argv[1:]

    def main():
        pool = glasspool.Pool(2, context=multiprocessing.get_context(method))
        pool.map(tasks.square, range(10))
        calls = {
            "apply": lambda: pool.apply(time.sleep, (60,)),
            "map": lambda: pool.map(time.sleep, [60] * 4, 1),
            "get": lambda: pool.apply_async(time.sleep, (60,)).get(),
            "next": lambda: next(pool.imap(time.sleep, [60, 60])),
            "join": lambda: (pool.apply_async(time.sleep, (60,)), pool.close(), pool.join()),
            "drain": lambda: (pool.apply_async(time.sleep, (60,)), time.sleep(0.2), pool.drain()),
        }
        print("ready", flush=True)
        try:
            with pool:
                calls[what]()
        except KeyboardInterrupt:
            print("interrupted", time.monotonic(), flush=True)

    if __name__ == "__main__":
        main()
"""


@pytest.mark.parametrize("what", ["apply", "map", "get", "next", "join", "drain"])
def test_ctrl_c(tmp_path: Path, start_method: str, what: str) -> None:
    """One ``KeyboardInterrupt``, within half a second; no word from workers; nothing is left."""
    if start_method != "fork" and what not in ("map", "join"):
        pytest.skip("the caller's part is the same under each start method")
    path = tmp_path / "ctrl_c.py"
    path.write_text(textwrap.dedent(CTRL_C))
    root = HERE.parent.parent
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(HERE), str(root / "src")]))
    env["GLASSPOOL_DIR"] = str(tmp_path / "gp")
    program = subprocess.Popen(
        [sys.executable, str(path), start_method, what],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    threading.Event().wait(0.3)  # until it waits: nothing tells of that
    sent = time.monotonic()
    os.killpg(program.pid, signal.SIGINT)
    said, complaints = program.communicate(timeout=LIMIT_S)
    word, at = said.split()
    assert word == "interrupted"
    assert (
        float(at) - sent < 2.5
    )  # leaving the block ends the pool; half a second for the interrupt
    assert complaints == ""
    assert program.returncode == 0
    group = [p for p in psutil.process_iter() if _is_of_group(p, program.pid)]
    _, left = psutil.wait_procs(group, 2)
    assert not left


def _is_of_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ProcessLookupError):
        return False
