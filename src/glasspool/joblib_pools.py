"""The pools on which joblib's calls run, kept from one call to the next.

Owns: the pools. A call *rents* one. What asks for the same gets the same pool, also when several do at a
time. One that was rented for a context of joblib's (``parallel_config``) ends with the context; one of a
single ``Parallel`` is kept for the next, until another kind is wanted or the program ends.

The lock is an ``RLock``: leases end in finalizers, which may run in the middle of anything.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from typing import Any

from glasspool import registry
from glasspool.engines.local import native_limits
from glasspool.pool import RUN, Pool

NAME = "joblib"
TBB_TALKS = "ENABLE_IPC"
"""With this variable at 1, TBB's schedulers of several processes share the processors, as under loky."""


class _Kept:
    """A pool, what it was asked for with, and who has rented it."""

    def __init__(self, asked: tuple[Any, ...], pool: Pool) -> None:
        self.asked = asked
        self.pool = pool
        self.leases = 0


class Lease:
    """The use of a pool by one backend. ``end`` may be called again, by any thread."""

    def __init__(self, kept: _Kept, closes: bool) -> None:
        self._kept = kept
        self._closes = closes
        self._has_ended = False

    @property
    def pool(self) -> Pool:
        """The pool."""
        return self._kept.pool

    def fits(self, size: int, keywords: dict[str, Any]) -> bool:
        """Tell whether this is, still, what somebody would rent now."""
        with _lock:
            kept = self._kept
            is_ours = any(one is kept for one in _pools)
            return is_ours and not self._has_ended and _fits(kept, _asked(size, keywords))

    def end(self) -> None:
        """Give the pool back."""
        with _lock:
            if self._has_ended:
                return
            self._has_ended = True
            self._kept.leases -= 1
            if self._closes:
                _close_unless_used(self._kept)


_lock = threading.RLock()
_pools: list[_Kept] = []


def rent(size: int, keywords: dict[str, Any], closes: bool) -> Lease:
    """Return the use of a pool of ``size`` workers, made with these arguments.

    Args:
        size: How many workers.
        keywords: Arguments of ``Pool``.
        closes: Whether the pool is closed when the last lease ends.

    Raises:
        Exception: The pool cannot be made.
    """
    asked = _asked(size, keywords)
    with _lock:
        found = next((kept for kept in _pools if _fits(kept, asked)), None)
        if found is None:
            for kept in _pools.copy():
                _close_unless_used(kept)
            _pass_over_libraries()
            found = _Kept(asked, Pool(size, **_arguments(keywords)))
            _pools.append(found)
        found.leases += 1
        return Lease(found, closes)


def _asked(size: int, keywords: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells one kind of pool from another: also what its workers would inherit."""
    context = _context(keywords)
    others = {name: value for name, value in keywords.items() if name != "context"}
    return size, str(context.get_start_method()), others, native_limits.variables_set(os.environ)


def _arguments(keywords: dict[str, Any]) -> dict[str, Any]:
    env = keywords.get("env")
    if not callable(env) and TBB_TALKS not in os.environ:
        env = {TBB_TALKS: "1", **(env or {})}
    return {"name": NAME, **keywords, "context": _context(keywords), "env": env}


def _pass_over_libraries() -> None:
    """Have the pool say that it was made where the user called joblib, or what calls joblib."""
    for name in ("joblib", "sklearn"):
        module = sys.modules.get(name)
        if module is not None and module.__file__:
            registry.passed_over.add(os.path.dirname(module.__file__) + os.sep)


def _context(keywords: dict[str, Any]) -> Any:
    context = keywords.get("context")
    if context is None or isinstance(context, str):
        return multiprocessing.get_context(context)
    return context


def _fits(kept: _Kept, asked: tuple[Any, ...]) -> bool:
    pool = kept.pool
    return pool._state == RUN and pool._engine.goes_on and kept.asked == asked


def _close_unless_used(kept: _Kept) -> None:
    if not kept.leases or kept.pool._state != RUN:
        kept.pool.close()  # does not wait; its workers leave
        if kept in _pools:
            _pools.remove(kept)


def _forget() -> None:
    """Begin anew in a fork: the pools are the parent's."""
    global _lock
    _lock = threading.RLock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
