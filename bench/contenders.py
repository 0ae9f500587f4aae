"""The pools that are compared. A further one is one more line in ``CONTENDERS``."""

from __future__ import annotations

import multiprocessing
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BASELINE = "stock"
"""The one that the others are measured against."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A pool: how to make one, and which version of it this is.

    ``load`` imports what a program imports to have the pool. ``make`` takes the number of workers and
    the start method, and returns an object with the methods of ``multiprocessing.pool.Pool``; what
    has another interface is wrapped to have these. Libraries are imported inside, so that those
    which are not installed cost nothing.
    """

    load: Callable[[], object]
    make: Callable[[int, str], Any]
    version: Callable[[], str]


def _load_stock() -> None:
    import multiprocessing.pool  # noqa: F401


def _stock(workers: int, start_method: str) -> Any:
    return multiprocessing.get_context(start_method).Pool(workers)


def _load_glasspool() -> None:
    from glasspool import Pool  # noqa: F401


def _glasspool(workers: int, start_method: str) -> Any:
    import glasspool

    return glasspool.Pool(workers, context=multiprocessing.get_context(start_method))


def _glasspool_version() -> str:
    import glasspool

    return glasspool.__version__


CONTENDERS: dict[str, Contender] = {
    BASELINE: Contender(_load_stock, _stock, platform.python_version),
    "glasspool": Contender(_load_glasspool, _glasspool, _glasspool_version),
}
