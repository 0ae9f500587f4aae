"""The two kinds of pool, and a maker of either."""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.pool
from typing import Any

KINDS = ("stock", "glasspool")


def class_of(kind: str) -> type[multiprocessing.pool.Pool]:
    """Return the pool class of a kind, importing ours only when it is asked for."""
    if kind == "stock":
        return multiprocessing.pool.Pool
    pool_class: type[multiprocessing.pool.Pool] = importlib.import_module("glasspool").Pool
    return pool_class


class PoolMaker:
    """Makes pools of one kind, under fork unless told otherwise, and ends them with the test."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pool_class = class_of(kind)
        self._made: list[multiprocessing.pool.Pool] = []

    def __call__(self, *args: Any, **kwds: Any) -> multiprocessing.pool.Pool:
        kwds.setdefault("context", multiprocessing.get_context("fork"))
        pool = kwds.pop("pool_class", self.pool_class)(*args, **kwds)
        self._made.append(pool)
        return pool

    def end(self) -> None:
        """Terminate what the test has not."""
        while self._made:
            pool = self._made.pop()
            pool.terminate()
            pool.join()
