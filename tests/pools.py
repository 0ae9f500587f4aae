"""Pools of the tests: made, waited for, ended with the test, and their ledgers checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from typing import Any

import glasspool
from glasspool import registry
from glasspool.latch import Latch
from glasspool.ledger import Ledger

LIMIT_S = 30.0
MakePool = Callable[..., "glasspool.Pool"]


def maker(ctx: BaseContext) -> Iterator[MakePool]:
    """Yield a callable that makes pools, and end what it made.

    It takes a pool's arguments, and as ``pool_class`` a class of the test's own.
    """
    made: list[glasspool.Pool] = []

    def make_one(*args: Any, pool_class: Any = glasspool.Pool, **kwds: Any) -> glasspool.Pool:
        pool: glasspool.Pool = pool_class(*args, context=ctx, **kwds)
        made.append(pool)
        return pool

    yield make_one
    while made:
        pool = made.pop()
        pool.terminate()
        assert pool._engine.done.wait(LIMIT_S), f"{pool.name} does not end"
        pool.join()


def wait_until(is_so: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Look again and again at something that nobody announces, until it is so."""
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.005)


def check_ledger(pool: glasspool.Pool) -> None:
    """Check the ledger of a living pool, on the thread that owns it."""
    checked = Latch()
    failures: list[AssertionError] = []

    def check() -> None:
        try:
            pool._engine.collector.ledger.check()
        except AssertionError as error:
            failures.append(error)
        checked.set()

    pool._engine.collector.mailbox.put(check)
    deadline = time.monotonic() + LIMIT_S
    while not checked.wait(0.1) and not pool._engine.done.is_set():
        assert time.monotonic() < deadline, f"the collector of {pool.name} does not answer"
    assert not failures, f"{pool.name}: {failures}"


class LedgerWatch:
    """Sees every pool that is made while it watches, and says afterwards whether its ledger is right.

    It keeps a pool's ledger and latch, and not the pool, which a test may want to drop.
    """

    def __init__(self) -> None:
        self._ledgers: list[tuple[str, Ledger, Latch]] = []
        self._add = registry.add

    def add(self, pool: Any, engine: Any) -> None:
        """Note a pool, in the place of ``registry.add``."""
        self._ledgers.append((engine.name, engine.collector.ledger, engine.done))
        self._add(pool, engine)

    def check(self) -> None:
        """Check every ledger: right in itself, and with nothing open where the pool has ended."""
        for pool in registry.live_pools():
            check_ledger(pool)
        for name, ledger, done in self._ledgers:
            if done.is_set():
                ledger.check()
                assert ledger.submitted == sum(ledger.ended.values()), (
                    f"{name} ended with open tasks: {ledger.submitted} submitted, {ledger.ended}"
                )
