"""Make the standard library's names of pools lead to glasspool, and back.

``multiprocessing.Pool`` and ``get_context(...).Pool`` look ``multiprocessing.pool.Pool`` up at each
call, so putting a class of ours there covers all three; so it is with ``ThreadPool``, which
``multiprocessing.dummy.Pool`` makes, and with the pool of the library ``multiprocess``, which may be
imported later (``imports``). ``concurrent.futures`` copies ``ProcessPoolExecutor`` from its module
``process`` when it is first asked for it. Some places need care:

* Methods of the standard library's own class, and of ``ThreadPool`` below it, find their siblings
  through that same name. So our class hands them the standard library's functions, and when it is
  called to initialise an object that is not one of ours it steps aside.
* ``multiprocessing.managers`` keeps the class that it found at import, and pickles it by name when
  a manager is started by spawn; a class that its name no longer leads to cannot be pickled. So the
  registered class is exchanged too.
* Names that a program has copied before stay as they are; what is made by them is noted.

*Owns* the names it replaces, the count of installs, and the list of pools that were left alone.
Threads: none of its own. All of its state changes under ``_lock``.
"""

from __future__ import annotations

import concurrent.futures.process
import functools
import multiprocessing.pool
import os
import sys
import threading
from abc import ABCMeta
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures.process import ProcessPoolExecutor as _StockExecutor
from concurrent.futures.thread import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.pool import Pool as _StockPool
from multiprocessing.pool import ThreadPool as _StockThreadPool
from types import FrameType, TracebackType
from typing import Any

from glasspool import executor as _our_executor
from glasspool import imports
from glasspool import pool as _ours
from glasspool import threadpool as _our_threads
from glasspool.engines import base

SWITCH = "GLASSPOOL"
"""The environment variable that switches the replacement off when it is ``0``."""

_TRANSPARENT = frozenset(
    {"glasspool", "multiprocessing", "multiprocess", "concurrent", "asyncio", "threading"}
)

# Re-entrant: a signal handler of the user may make a pool while the main thread records one.
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A thread that is not in the child may have held it.
    os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]
_count = 0
_keep_size = True
_elsewhere: dict[str, Any] = {}  # the engine and the address that pools are given, if not local
_undo: list[Callable[[], None]] = []
_left_alone: dict[tuple[str, str | None, str], int] = {}


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A pool, or several made at one place, that the replacement did not touch, and why."""

    kind: str
    made_at: str | None
    reason: str
    count: int = 1


class Pool(_ours.Pool, metaclass=ABCMeta):
    """What ``multiprocessing.pool.Pool`` is while the replacement is installed.

    Its arguments are the standard library's, and so is its default size. Objects of the standard
    library's class and of ``ThreadPool`` still count as instances of it, as programs expect.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
    ) -> None:
        if Pool not in type(self).__mro__:
            # ThreadPool.__init__ calls the class that it finds under the name "Pool".
            _StockPool.__init__(self, processes, initializer, initargs, maxtasksperchild, context)
            return
        processes, context = _told(processes, context)
        super().__init__(processes, initializer, initargs, maxtasksperchild, context, **_elsewhere)

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        if cls is Pool and issubclass(other, _StockPool):
            return True
        return NotImplemented  # type: ignore[no-any-return]


class ThreadPool(_our_threads.ThreadPool, metaclass=ABCMeta):
    """What ``multiprocessing.pool.ThreadPool`` is while the replacement is installed."""

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        if ThreadPool not in type(self).__mro__:
            # A class below the standard library's calls the one that it finds under its name.
            _StockThreadPool.__init__(self, processes, initializer, initargs)
            return
        if processes is None and _keep_size:
            processes = stock_size()
        super().__init__(processes, initializer, initargs)

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        if cls is ThreadPool and issubclass(other, _StockThreadPool):
            return True
        return NotImplemented  # type: ignore[no-any-return]


class ProcessPoolExecutor(_our_executor.Executor, metaclass=ABCMeta):
    """What ``concurrent.futures.ProcessPoolExecutor`` is while the replacement is installed."""

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        if ProcessPoolExecutor not in type(self).__mro__:
            stock_init: Any = _StockExecutor.__init__
            keywords = {"max_tasks_per_child": max_tasks_per_child}
            stock_init(self, max_workers, mp_context, initializer, initargs, **keywords)
            return
        max_workers, mp_context = _told(max_workers, mp_context)
        super().__init__(
            max_workers,
            mp_context,
            initializer,
            initargs,
            max_tasks_per_child=max_tasks_per_child,
            **_elsewhere,
        )

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        if cls is ProcessPoolExecutor and issubclass(other, _StockExecutor):
            return True
        return NotImplemented  # type: ignore[no-any-return]


class Replacement:
    """What ``install()`` returns; leaving it as a context manager uninstalls.

    Attributes:
        active: False where the environment switched the replacement off.
        reason: Why it is off, or None.
    """

    def __init__(self, active: bool, reason: str | None = None) -> None:
        self.active = active
        self.reason = reason
        self._open = active

    @property
    def left_alone(self) -> tuple[LeftAlone, ...]:
        """The pools made meanwhile that stay as the standard library makes them."""
        return left_alone()

    def uninstall(self) -> None:
        """Take this install back; a second call does nothing."""
        with _lock:
            was_open, self._open = self._open, False
        if was_open:
            uninstall()

    def __bool__(self) -> bool:
        return self.active

    def __enter__(self) -> Replacement:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.uninstall()

    def __repr__(self) -> str:
        state = "active" if self.active else f"off: {self.reason}"
        return f"<glasspool.install(): {state}>"


def _told(
    processes: int | None, context: BaseContext | None
) -> tuple[int | None, BaseContext | None]:
    """Return the size and the context of a pool that was made under the standard library's name."""
    if _elsewhere:
        return processes, _cluster_context(context)
    return (stock_size() if processes is None and _keep_size else processes), context


def _cluster_context(context: BaseContext | None) -> BaseContext | None:
    """Leave a context out by which a cluster starts no workers: ``multiprocessing.Pool`` always gives one.

    One with a class of processes of the program's own is kept, and refused by the pool.
    """
    if context is None or _ours.has_own_processes(context):
        return context
    can = base.CAPABILITIES[_elsewhere["engine"]]
    return context if str(context.get_start_method()) in can.start_methods else None


def install(
    *, keep_size: bool = True, engine: str | Any = base.LOCAL, address: Any = None
) -> Replacement:
    """Make ``multiprocessing.Pool`` and other names of pools create pools of glasspool.

    Covers ``multiprocessing.Pool``, ``multiprocessing.pool.Pool`` and ``get_context(...).Pool``,
    ``multiprocessing.pool.ThreadPool`` and ``multiprocessing.dummy.Pool``,
    ``concurrent.futures.ProcessPoolExecutor``, and the pools of processes of the library
    ``multiprocess``, also if that is imported later; all of them also as base classes of what is
    defined from now on. ``ThreadPoolExecutor``, pools that exist already and names that the program
    has copied before stay as they are. Calls are counted: names go back at the ``uninstall()`` that
    matches the first ``install()``. Safe from any thread.

    Args:
        keep_size: A pool made without a size gets the standard library's default size; False
            gives it glasspool's own (the processors that the process may really use). On a cluster it has
            as many workers as the cluster has processors.
        engine: Where the workers of pools of processes are, as for ``Pool``. On a cluster the start method
            fork, which is what most pools have without being told, is left out.
        address: Which cluster, as for ``Pool``. It is that of the first ``install()`` that holds.

    Returns:
        A value that is false, with a ``reason``, where ``GLASSPOOL=0`` in the environment has
        switched the replacement off. As a context manager it uninstalls at its end.

    Raises:
        EngineUnavailable: There is no such engine.
        EngineCannot: The engine takes no address.
    """
    engine, address = base.named(engine, address)
    off = why_off()
    if off is not None:
        return Replacement(False, off)
    global _count, _keep_size, _elsewhere
    with _lock:
        _count += 1
        if _count == 1:
            _keep_size = keep_size
            is_local = engine == base.LOCAL
            _elsewhere = {} if is_local else {"engine": engine, "address": address}
            _left_alone.clear()
            _replace()
    return Replacement(True)


def why_off() -> str | None:
    """Say why ``install()`` does nothing here, or None."""
    off = os.environ.get(SWITCH, "").strip() == "0"
    return f"{SWITCH}=0 in the environment" if off else None


def uninstall() -> None:
    """Take one ``install()`` back; the last one gives all names their old values.

    Pools that were made meanwhile go on. Without an install this does nothing.
    """
    global _count
    with _lock:
        if _count == 0:
            return
        _count -= 1
        if _count == 0:
            while _undo:
                _undo.pop()()


def left_alone() -> tuple[LeftAlone, ...]:
    """Return the pools made since ``install()`` that the replacement did not touch."""
    with _lock:
        return tuple(LeftAlone(*key, count=count) for key, count in _left_alone.items())


def stock_size() -> int:
    """Return the size that the standard library gives a pool made without one."""
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return count() or 1


def _replace() -> None:
    _put(multiprocessing.pool, "Pool", _StockPool, Pool)
    _put(multiprocessing.pool, "ThreadPool", _StockThreadPool, ThreadPool)
    _put(concurrent.futures.process, "ProcessPoolExecutor", _StockExecutor, ProcessPoolExecutor)
    _put(concurrent.futures, "ProcessPoolExecutor", _StockExecutor, ProcessPoolExecutor)
    _undo.append(imports.after("multiprocess.pool", _replace_in_multiprocess))
    _exchange_in_managers(_StockPool, Pool)
    _undo.append(lambda: _exchange_in_managers(Pool, _StockPool))
    _watch(_StockPool, "its class was taken from multiprocessing.pool before the replacement")
    _watch(_StockThreadPool, "its class was taken from multiprocessing.pool before the replacement")
    _watch(ThreadPoolExecutor, "its workers are threads")
    _watch(_StockExecutor, "its class was taken from concurrent.futures before the replacement")


def _put(module: Any, name: str, stock: type, ours: type) -> None:
    """Let a name of a module lead to a class of ours, until all is undone."""
    # concurrent.futures has a name only once somebody has asked for it.
    was_there = name in vars(module)
    setattr(module, name, ours)

    def undo() -> None:
        # Somebody may have replaced the name after us: then it is theirs to give back.
        if vars(module).get(name) is not ours:
            return
        if was_there:
            setattr(module, name, stock)
        else:
            delattr(module, name)

    _undo.append(undo)


def _replace_in_multiprocess(module: Any) -> None:
    """Let the names of ``multiprocess`` make pools of ours, too (whoever imports it)."""
    with _lock:
        stock = vars(module).get("Pool")
        if not _count or not isinstance(stock, type) or issubclass(stock, _ours.Pool):
            return
        _put(module, "Pool", stock, _class_for(stock))  # type: ignore[arg-type]  # a class
        _watch(stock, "its class was taken from multiprocess.pool before the replacement")


@functools.cache
def _class_for(stock: type[Any]) -> type[Any]:
    """Make the class that stands in for the pool of ``multiprocess``, and counts as one.

    What that library pickles with dill travels by cloudpickle here. Its contexts are those of the
    standard library under other names.
    """

    class Pool(_ours.Pool, stock, metaclass=ABCMeta):  # type: ignore[misc]  # known at run time only
        """What ``multiprocess.pool.Pool`` is while the replacement is installed."""

        def __init__(
            self,
            processes: int | None = None,
            initializer: Callable[..., object] | None = None,
            initargs: Iterable[Any] = (),
            maxtasksperchild: int | None = None,
            context: Any = None,
        ) -> None:
            if Pool not in type(self).__mro__:
                stock.__init__(self, processes, initializer, initargs, maxtasksperchild, context)
                return
            if context is not None and not isinstance(context, BaseContext):
                context = multiprocessing.get_context(context.get_start_method())
            processes, context = _told(processes, context)
            super().__init__(
                processes, initializer, initargs, maxtasksperchild, context, **_elsewhere
            )

        @classmethod
        def __subclasshook__(cls, other: type) -> bool:
            if cls is Pool and issubclass(other, stock):
                return True
            return NotImplemented  # type: ignore[no-any-return]

    return Pool


def _exchange_in_managers(old: type, new: type) -> None:
    managers = sys.modules.get("multiprocessing.managers")
    if managers is None:
        # It will find our class by itself when it is imported.
        return
    classes: list[Any] = [managers.BaseManager]
    for manager in classes:
        classes.extend(manager.__subclasses__())
        registry: Mapping[str, Any] = manager.__dict__.get("_registry", {})
        for typeid, (factory, *rest) in list(registry.items()):
            if factory is old:
                manager._registry[typeid] = (new, *rest)


def _watch(cls: type[Any], reason: str) -> None:
    """Note each object of ``cls`` that is made while the replacement is installed."""
    original = cls.__dict__["__init__"]

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        # The two below _StockPool come here too, one as itself, the other through ThreadPool.
        known = isinstance(self, _ours.Pool) or (
            cls is not _StockThreadPool and isinstance(self, _StockThreadPool)
        )
        if _count and not known:
            _note(type(self), reason)

    def undo() -> None:
        # As above: what was patched over ours stays, and finds ours asleep.
        if cls.__dict__.get("__init__") is __init__:
            cls.__init__ = original

    cls.__init__ = __init__
    _undo.append(undo)


def _note(cls: type, reason: str) -> None:
    key = (f"{cls.__module__}.{cls.__qualname__}", _maker(), reason)
    with _lock:
        _left_alone[key] = _left_alone.get(key, 0) + 1


def _maker() -> str | None:
    """Return FILE:LINE of the innermost caller outside of pools and their libraries."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in _TRANSPARENT:
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return None
