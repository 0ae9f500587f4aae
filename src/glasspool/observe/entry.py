"""``glasspool.inspect`` and ``glasspool.name_threads``: one door to every kind of pool."""

from __future__ import annotations

import multiprocessing.pool
import time
from typing import Any

from glasspool.snapshot import Snapshot


def inspect(target: Any = None, *, stacks: bool = False) -> Snapshot:
    """Take a picture of a pool: every process and thread, its role, its state, its task.

    Args:
        target: A ``glasspool.Pool``, a ``multiprocessing.pool.Pool`` of this process, the pid of a
            process that runs pools, or None for all glasspool pools of this process.
        stacks: Also the stacks.

    Raises:
        TypeError: The target is none of these.
        LookupError: There is no such process, or it runs no pool.
        PermissionError: The process may not be read.
    """
    from glasspool import registry
    from glasspool.observe import roster
    from glasspool.pool import Pool

    if target is None:
        return roster.snapshot(registry.live_engines(), stacks=stacks)
    if isinstance(target, Pool):
        return target.inspect(stacks=stacks)
    if isinstance(target, multiprocessing.pool.Pool):
        return _stock(target, stacks)
    if isinstance(target, int) and not isinstance(target, bool):
        return _process(target, stacks)
    raise TypeError(
        f"inspect takes a pool, a pid or None, not {type(target).__name__}: "
        "pass a glasspool.Pool, a multiprocessing.pool.Pool, or the number of a process"
    )


def name_threads(pool: multiprocessing.pool.Pool) -> None:
    """Give the helper threads of a stock pool the names that they lack.

    In Python ``pool-1 worker-handler`` and so on, for the operating system ``p1 workers``. Does
    nothing to a pool of ours, whose threads have names.

    Raises:
        TypeError: It is no ``multiprocessing.pool.Pool``.
    """
    from glasspool.observe import stock
    from glasspool.pool import Pool

    if isinstance(pool, Pool):
        return
    if not isinstance(pool, multiprocessing.pool.Pool):
        raise TypeError(
            f"name_threads takes a multiprocessing.pool.Pool, not {type(pool).__name__}"
        )
    stock.name_threads(pool)


def _stock(pool: multiprocessing.pool.Pool, stacks: bool) -> Snapshot:
    from glasspool.observe import stock

    begun = time.monotonic()
    taken_at = time.time()
    described = stock.describe(pool, stacks=stacks)
    return Snapshot((described,), taken_at, time.monotonic() - begun)


def _process(pid: int, stacks: bool) -> Snapshot:
    from glasspool.observe import running

    try:
        return running.picture(pid, stacks=stacks)
    except (running.NoSuchProcess, running.NoPool) as error:
        raise LookupError(str(error)) from None
    except running.NotPermitted as error:
        raise PermissionError(str(error)) from None
