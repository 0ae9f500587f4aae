"""The pools of this process: their names, their fork, and what a fork of the user's means to them.

Owns: the list of engines that have not ended, and the lock under which pools are made (a pool may fork
the process, and the helper threads of all other pools stand aside for that).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

    from glasspool.engines.cluster.engine import ClusterEngine
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.threads.engine import ThreadEngine
    from glasspool.pool import Pool
    from glasspool.snapshot import PoolInfo, TaskInfo

ShutdownHook = Callable[["PoolInfo", tuple["TaskInfo", ...]], None]

_engines: dict[int, LocalEngine] = {}
_thread_engines: dict[int, ThreadEngine] = {}
_cluster_engines: dict[int, ClusterEngine] = {}
_finalizers: dict[int, util.Finalize] = {}
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_names: set[str] = set()
_numbers = itertools.count(1)
_making = threading.RLock()
_hooks: list[ShutdownHook] = []
_made_hooks: list[Callable[[LocalEngine], None]] = []
_forker: int | None = None

PARK_LIMIT_S = 1.0
COME_BACK_S = 1.0
EXIT_LIMIT_S = 5.0


class ForkWarning(RuntimeWarning):
    """The process was forked for a pool while threads of the program were running.

    A lock that such a thread held at that moment stays locked in the workers for ever.
    """


class StallWarning(RuntimeWarning):
    """A pool has work, and nothing has moved for ``stall_after`` seconds: the text says why."""


class ProgressWarning(RuntimeWarning):
    """A display of progress cannot be had, or failed: the job goes on without it."""


def new_name(name: str | None) -> tuple[str, int]:
    """Return a name that no pool of this process has, and the pool's number.

    Raises:
        TypeError: The name is no string.
        ValueError: It is empty, too long, or no good as a part of a file name.
    """
    number = next(_numbers)
    if name is None:
        name = f"glasspool-{number}"
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {type(name).__name__}")
    if not name or len(name) > 64 or "/" in name or "\0" in name or not name.isprintable():
        raise ValueError(f"name must be 1 to 64 printable characters without a slash, not {name!r}")
    base, count = name, 1
    with _making:
        while name in _names:
            count += 1
            name = f"{base}-{count}"
        _names.add(name)
    return name, number


def add(pool: Pool, engine: LocalEngine) -> None:
    """Note a pool that has been made."""
    engine.on_disposed = _remove
    engine.on_shutdown = _run_hooks
    if not engine.done.is_set():
        _engines[engine.number] = engine
        # As the interpreter exits, before multiprocessing ends its children. It holds the engine and
        # not the pool, which may be dropped before.
        _finalizers[engine.number] = util.Finalize(
            None, _end_at_exit, args=(engine,), exitpriority=15
        )
    _pools.add(pool)
    for hook in _made_hooks:
        hook(engine)


def add_threads(engine: ThreadEngine) -> None:
    """Note a pool of threads that is about to start them."""
    engine.on_disposed = _remove
    engine.on_shutdown = _run_hooks_of_threads
    _thread_engines[engine.number] = engine
    _finalizers[engine.number] = util.Finalize(None, _end_at_exit, args=(engine,), exitpriority=15)


def add_cluster(engine: ClusterEngine) -> None:
    """Note a pool on a cluster that is about to start."""
    engine.on_disposed = _remove
    engine.on_shutdown = _run_hooks_of_cluster
    _cluster_engines[engine.number] = engine
    _finalizers[engine.number] = util.Finalize(None, _end_at_exit, args=(engine,), exitpriority=15)


def made_cluster(engine: ClusterEngine) -> None:
    """Tell of a pool on a cluster that has been made, before it has a task."""
    for hook in _made_hooks:
        hook(engine)  # type: ignore[arg-type]  # under the same names


def on_made(hook: Callable[[LocalEngine], None]) -> Callable[[], None]:
    """Have a hook called for each pool that is made from now on; return a function that takes it away."""
    _made_hooks.append(hook)

    def remove() -> None:
        with contextlib.suppress(ValueError):
            _made_hooks.remove(hook)

    return remove


def free_name(name: str) -> None:
    """Let a name be used again."""
    _names.discard(name)


def _remove(engine: LocalEngine | ThreadEngine | ClusterEngine) -> None:
    _engines.pop(engine.number, None)
    _thread_engines.pop(engine.number, None)
    _cluster_engines.pop(engine.number, None)
    finalizer = _finalizers.pop(engine.number, None)
    if finalizer is not None:
        finalizer.cancel()
    _names.discard(engine.name)


def _end_at_exit(engine: LocalEngine | ThreadEngine | ClusterEngine) -> None:
    for other in live_engines():  # all at once: each may take its time
        other.terminate("the program ended")
    for threads in live_thread_engines():
        threads.terminate("the program ended")
    for cluster in live_cluster_engines():
        cluster.terminate("the program ended")
    engine.done.wait(EXIT_LIMIT_S)
    engine.join_words()


def live_pools() -> tuple[Pool, ...]:
    """Return the pools of processes that have not ended, oldest first."""
    pools = [pool for pool in list(_pools) if pool._engine.number in _engines]
    return tuple(sorted(pools, key=lambda pool: pool._engine.number))


def live_engines() -> tuple[LocalEngine, ...]:
    """Return the engines of this process that have not ended, oldest first."""
    return tuple(engine for _, engine in sorted(_engines.copy().items()))


def live_thread_engines() -> tuple[ThreadEngine, ...]:
    """Return the engines of this process's thread pools that have not ended, oldest first."""
    return tuple(engine for _, engine in sorted(_thread_engines.copy().items()))


def live_cluster_engines() -> tuple[ClusterEngine, ...]:
    """Return the engines of this process's pools on clusters that have not ended, oldest first."""
    return tuple(engine for _, engine in sorted(_cluster_engines.copy().items()))


def on_shutdown(hook: ShutdownHook) -> Callable[[], None]:
    """Have a hook called for each pool just before its workers are stopped.

    It gets the last picture of the pool and its slowest finished tasks, longest first. Returns a
    function that takes the hook away.
    """
    _hooks.append(hook)

    def remove() -> None:
        with contextlib.suppress(ValueError):
            _hooks.remove(hook)

    return remove


def has_shutdown_hooks() -> bool:
    """Tell whether somebody is to see pools before they end."""
    return bool(_hooks)


def _run_hooks(engine: LocalEngine) -> None:
    if _hooks:
        from glasspool.observe import roster

        picture = roster.describe(engine)
        slowest = roster.slowest(engine)
        for hook in _hooks.copy():  # one may take itself away
            hook(picture, slowest)


def _run_hooks_of_threads(engine: ThreadEngine) -> None:
    if _hooks:
        from glasspool.observe import thread_pools

        picture = thread_pools.describe(engine)
        for hook in _hooks.copy():
            hook(picture, ())


def _run_hooks_of_cluster(engine: ClusterEngine) -> None:
    if _hooks:
        from glasspool.observe import cluster

        picture = cluster.describe(engine, last=True)
        for hook in _hooks.copy():
            hook(picture, cluster.slowest(engine))


@contextlib.contextmanager
def forking(where: tuple[str, int], again: bool = False) -> Iterator[tuple[str, ...]]:
    """Let the caller fork this process, with the helper threads of all our pools out of existence.

    Threads of the program itself cannot be stopped; if there are any, one warning names them, and so
    does the value.

    Args:
        where: File and line for that warning.
        again: The fork replaces a template that died: by a thread of ours, the program goes on.

    Raises:
        BlockingIOError: The threads cannot all be started again: there is room for the fork or for
            them. The caller undoes his fork, and calls ``bring_back``.
    """
    global _forker
    with _making:
        engines = live_engines()
        try:
            _forker = threading.get_ident()
            gone: list[int] = []
            for engine in engines:
                gone += engine.park()
            _wait_until_gone(gone)
            yield _warn_of_threads(where, again)
        finally:
            lame = [engine for engine in engines if not engine.come_back()]
            _forker = None
            if lame:
                raise BlockingIOError(errno.EAGAIN, "no more threads can be started")


def bring_back() -> None:
    """Start the threads of our pools again that ``forking`` could not; end those where that fails.

    It fails no sooner than ``COME_BACK_S`` after the first try: what the caller has just ended gives its
    room back when the kernel comes to it, which nothing tells.
    """
    with _making:
        deadline = time.monotonic() + COME_BACK_S
        pause = threading.Event()
        for engine in live_engines():
            while not (back := engine.come_back()) and time.monotonic() < deadline:
                pause.wait(0.002)
            if not back:
                engine.collapse()


def is_forking_elsewhere() -> bool:
    """Tell whether another thread is about to fork this process for a pool."""
    return _forker is not None and _forker != threading.get_ident()


def _wait_until_gone(native_ids: list[int]) -> None:
    """Wait until the kernel lists these threads no more: a joined thread may be, for a moment.

    Nothing tells of that, so this looks again and again, for some microseconds as a rule.
    """
    deadline = time.monotonic() + PARK_LIMIT_S
    while native_ids and time.monotonic() < deadline:
        native_ids = [tid for tid in native_ids if os.path.exists(f"/proc/self/task/{tid}")]
        if native_ids and hasattr(os, "sched_yield"):
            os.sched_yield()


def _warn_of_threads(where: tuple[str, int], again: bool) -> tuple[str, ...]:
    me = threading.current_thread()
    others = [thread for thread in threading.enumerate() if thread is not me]
    told = [thread.name for thread in others if not _is_a_kernels(thread)]
    beside = tuple(thread.name for thread in others)
    if not told:
        return beside
    file, line = where
    names = ", ".join(told)
    if again:
        # Where warnings are errors, nobody on this thread could take one.
        with contextlib.suppress(Warning):
            warnings.warn_explicit(_AGAIN.format(names=names), ForkWarning, file, line)
    else:
        warnings.warn_explicit(_BESIDE.format(names=names), ForkWarning, file, line)
    return beside


def _is_a_kernels(thread: threading.Thread) -> bool:
    """Tell whether a thread belongs to the kernel of a notebook.

    It is there in every notebook, and nobody can do without it. The locks that it may hold are the
    kernel's: of its sockets, which a worker does not use, and of its streams, in whose place a worker
    has others (``engines/local/cells``).
    """
    if "ipykernel" not in sys.modules:
        return False
    target = getattr(thread, "_target", None)
    modules = (type(thread).__module__, getattr(target, "__module__", None))
    return any(str(module).partition(".")[0] in _KERNEL for module in modules)


_KERNEL = frozenset({"ipykernel", "IPython", "zmq", "tornado", "jupyter_client"})
_BESIDE = (
    "a glasspool pool forks this process while other threads are alive: {names}. A lock that one of "
    "them holds now stays locked in the workers. Make the pool before you start threads, or pass "
    "context=multiprocessing.get_context('forkserver')."
)
_AGAIN = (
    "the template process of a glasspool pool has died; a new one is forked while other threads are "
    "alive: {names}. A lock that one of them holds now stays locked in the new workers. Look for what "
    "killed it; context=multiprocessing.get_context('forkserver') needs no template."
)


passed_over: set[str] = set()
"""Folders of libraries that make pools for their users, where it is not they who are asked for."""


def caller_place() -> tuple[str, int]:
    """Return file and line of the user's code that called into the package.

    Who is between the user and us is passed over. If all of the calls are the package's own, as in its
    command, the nearest one outside the pool.
    """
    here = os.path.dirname(os.path.abspath(__file__)) + os.sep
    nearest: tuple[str, int] | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(
            (here, "<frozen", *passed_over)
        ) and "multiprocessing" not in os.path.dirname(file):
            return file, frame.f_lineno
        if nearest is None and file not in (f"{here}registry.py", f"{here}pool.py"):
            nearest = file, frame.f_lineno
        frame = frame.f_back
    return nearest or ("<unknown>", 0)


def _in_child() -> None:
    """After a fork of the user's: our pools are the parent's business, and foreign here."""
    global _making
    _making = threading.RLock()
    engines: list[LocalEngine | ThreadEngine | ClusterEngine] = [
        *_engines.values(),
        *_thread_engines.values(),
        *_cluster_engines.values(),
    ]
    _engines.clear()
    _thread_engines.clear()
    _cluster_engines.clear()
    _finalizers.clear()
    _names.clear()
    _hooks.clear()  # what is made here is not the parent's
    _made_hooks.clear()
    for engine in engines:
        # The parent's threads may have been closing the same at that moment.
        with contextlib.suppress(OSError):
            engine.abandon_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
