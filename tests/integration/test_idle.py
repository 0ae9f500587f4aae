"""A pool at rest: no processor time, no wake-ups, in any thread of any of its processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import glasspool

IDLE_S = float(os.environ.get("GLASSPOOL_TEST_IDLE_S", "3"))
"""How long the pool idles: set GLASSPOOL_TEST_IDLE_S=10 for a longer look."""

LIMIT_S = 30.0


def times_run(pid: int, tid: int) -> tuple[int, float]:
    """Return how often a thread was switched to, and its processor time in seconds.

    Sources: ``proc_pid_status(5)``, both kinds of context switches; the first number of
    ``schedstat``, in nanoseconds.
    """
    folder = Path(f"/proc/{pid}/task/{tid}")
    switches = sum(
        int(line.split()[1])
        for line in (folder / "status").read_text().splitlines()
        if "ctxt_switches" in line
    )
    return switches, int((folder / "schedstat").read_text().split()[0]) / 1e9


def wait_until_ready(pool: glasspool.Pool) -> None:
    """Wait for the last worker: it may still be starting."""
    deadline = time.monotonic() + LIMIT_S
    while any(worker.state != "idle" for worker in pool.inspect().workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("with_work", [False, True], ids=["fresh", "after work"])
def test_a_pool_at_rest_does_nothing(ctx, with_work):
    """Over some seconds no thread of it is woken, but for the one that looks."""
    with glasspool.Pool(4, context=ctx) as pool:
        if with_work:
            pool.apply_async(abs, (-1,), callback=str).get(LIMIT_S)
            assert list(pool.imap(abs, range(50))) == list(range(50))
            assert pool.map(abs, range(1000)) == list(range(1000))
        wait_until_ready(pool)
        pool.inspect(stacks=True)
        time.sleep(0.5)  # what the work has left to do, it does at once
        mine = os.getpid()
        threads = [(t.pid, t.native_id) for t in pool.threads() if t.native_id != mine]
        assert len(threads) >= 4 + 2
        before = {thread: times_run(*thread) for thread in threads}
        time.sleep(IDLE_S)
        for thread, (switches, cpu_s) in before.items():
            now, cpu_now_s = times_run(*thread)
            assert now - switches <= 1, thread
            assert cpu_now_s - cpu_s < 0.001, thread
    pool.join()
