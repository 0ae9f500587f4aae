"""The pools of ``bench.faults``, each brought to one small interface by the library's documented way.

``Handle`` is that interface. What a library has no call for raises ``NoSuchCall``, and counts neither
for nor against it. Libraries are imported when they are asked for, so that those which are not
installed cost nothing.
"""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import platform
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from bench.fault_functions import square


class NoSuchCall(Exception):
    """The library does not offer what a case is about."""


@dataclass(frozen=True, slots=True)
class Wants:
    """How a pool is to be made."""

    workers: int = 2
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    lifespan: int | None = None
    """After how many tasks a worker is replaced."""
    start_timeout: float | None = None
    """How many seconds an initializer may take."""
    nests: bool = False
    """Its tasks make pools of their own."""
    deadlines: bool = False
    """Its calls are given timeouts."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended, or that it did not."""

    kind: str
    """``value``, ``error`` or ``waiting``."""
    value: Any = None
    error: BaseException | None = None


WAITING = Outcome("waiting")


def ended_by(get: Callable[[], Any]) -> Outcome:
    """Return how a call ends that has ended."""
    try:
        return Outcome("value", get())
    except BaseException as error:  # whatever a library hands to its caller is the outcome
        return Outcome("error", error=error)


class Handle:
    """One pool. This is the interface of ``multiprocessing.Pool``; others override what differs."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def submit(
        self,
        function: Callable[..., Any],
        *args: Any,
        timeout: float | None = None,
        callback: Callable[[Any], object] | None = None,
    ) -> Any:
        """Start one call, which may have a deadline that ends it while it runs."""
        if timeout is not None:
            raise NoSuchCall("timeout of a task")
        return self.raw.apply_async(function, args, callback=callback)

    def outcome(self, job: Any, wait_s: float) -> Outcome:
        """Wait so long for the end of a call."""
        job.wait(wait_s)
        if not job.ready():
            return WAITING
        return ended_by(lambda: job.get(wait_s))

    def get(self, job: Any) -> Any:
        """Wait for the end of a call without a limit."""
        return job.get()

    def map(self, function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
        """Map in single items, in order."""
        values: list[Any] = self.raw.map(function, items, chunksize=1)
        return values

    def imap(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        """Map lazily, in order."""
        results: Iterator[Any] = self.raw.imap(function, items)
        return results

    def cancel(self, job: Any) -> None:
        """Stop a call that runs."""
        raise NoSuchCall("cancel of a running task")

    def close(self) -> None:
        """Take no more work."""
        self.raw.close()

    def join(self) -> None:
        """Wait for the workers' end."""
        self.raw.join()

    def terminate(self) -> None:
        """Stop all work now."""
        self.raw.terminate()

    def leave(self) -> None:
        """Do what the end of a ``with`` block does."""
        self.raw.__exit__(None, None, None)


class Library:
    """A library with a process pool. The defaults fit the standard library's."""

    name = "stock"
    title = "multiprocessing.Pool"
    package: str | None = None
    patience = 1.0
    """By how much its cases may take longer."""
    notes = ""
    """How it is used, where that says more than its title."""

    def version(self) -> str:
        """Return its version; raises PackageNotFoundError where it is not installed."""
        return metadata.version(self.package) if self.package else platform.python_version()

    def prepare(self) -> None:
        """Import what is needed, and start what is not part of a pool, outside of any time limit."""

    def make(self, wants: Wants) -> Handle:
        """Make a pool."""
        if wants.start_timeout is not None:
            raise NoSuchCall("time limit for an initializer")
        return Handle(self._pool(wants))

    def _pool(self, wants: Wants) -> Any:
        return multiprocessing.Pool(
            wants.workers, wants.initializer, wants.initargs, wants.lifespan
        )

    def nested(self) -> list[int]:
        """Use a pool of this library; called in a task."""
        handle = self.make(Wants(workers=1))
        values = handle.map(square, range(3))
        handle.leave()
        return values

    def collects_dropped(self) -> bool:
        """Tell whether a pool that is dropped without a word may be expected to vanish."""
        return True


class Stock(Library):
    """``multiprocessing.Pool``."""

    def collects_dropped(self) -> bool:
        """The documentation says that garbage collection is not to be relied upon."""
        return False


class GlasspoolHandle(Handle):
    """The standard interface, with timeouts and cancellation."""

    def submit(
        self,
        function: Callable[..., Any],
        *args: Any,
        timeout: float | None = None,
        callback: Callable[[Any], object] | None = None,
    ) -> Any:
        limits = {} if timeout is None else {"timeout": timeout}
        return self.raw.apply_async(function, args, callback=callback, **limits)

    def cancel(self, job: Any) -> None:
        job.cancel()


class Glasspool(Library):
    """This package."""

    name = "glasspool"
    title = "glasspool.Pool"
    notes = "`timeout=`, `start_timeout=` and `result.cancel()`, the rest as the standard library's"

    def version(self) -> str:
        import glasspool

        return glasspool.__version__

    def make(self, wants: Wants) -> Handle:
        import glasspool

        return GlasspoolHandle(
            glasspool.Pool(
                wants.workers,
                wants.initializer,
                wants.initargs,
                wants.lifespan,
                start_timeout=wants.start_timeout,
            )
        )


class ExecutorHandle(Handle):
    """The interface of ``concurrent.futures``."""

    def submit(
        self,
        function: Callable[..., Any],
        *args: Any,
        timeout: float | None = None,
        callback: Callable[[Any], object] | None = None,
    ) -> Any:
        return self._told(self._submit(function, args, timeout), callback)

    def _submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], timeout: float | None
    ) -> Any:
        if timeout is not None:
            raise NoSuchCall("timeout of a task")
        return self.raw.submit(function, *args)

    def _told(self, job: Any, callback: Callable[[Any], object] | None) -> Any:
        if callback is not None:
            job.add_done_callback(lambda done: callback(done.result()))
        return job

    def outcome(self, job: Any, wait_s: float) -> Outcome:
        ended = ended_by(lambda: job.result(wait_s))
        return ended if job.done() else WAITING

    def get(self, job: Any) -> Any:
        return job.result()

    def map(self, function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
        return list(self.raw.map(function, items))

    def imap(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self.raw.map(function, items)
        return results

    def close(self) -> None:
        self.raw.shutdown(wait=False)

    def join(self) -> None:
        self.raw.shutdown(wait=True)

    def terminate(self) -> None:
        raise NoSuchCall("stop of running tasks")


class StandardExecutor(Library):
    """``concurrent.futures.ProcessPoolExecutor``."""

    name = "PPE"
    title = "concurrent.futures.ProcessPoolExecutor"

    def make(self, wants: Wants) -> Handle:
        if wants.start_timeout is not None:
            raise NoSuchCall("time limit for an initializer")
        return ExecutorHandle(
            concurrent.futures.ProcessPoolExecutor(
                wants.workers,
                initializer=wants.initializer,
                initargs=wants.initargs,
                max_tasks_per_child=wants.lifespan,
            )
        )


class LokyHandle(ExecutorHandle):
    """The executor that is asked for anew at each use: a broken one is replaced that way."""

    def __init__(self, wants: Wants) -> None:
        self.wants = wants
        self.killed = False
        super().__init__(self._executor())

    def _executor(self) -> Any:
        from loky import get_reusable_executor

        self.raw = get_reusable_executor(
            self.wants.workers, initializer=self.wants.initializer, initargs=self.wants.initargs
        )
        return self.raw

    def _submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], timeout: float | None
    ) -> Any:
        if timeout is not None:
            raise NoSuchCall("timeout of a task")
        return self._executor().submit(function, *args)

    def map(self, function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
        return list(self._executor().map(function, items))

    def join(self) -> None:
        self.raw.shutdown(wait=True, kill_workers=self.killed)  # the last word counts

    def terminate(self) -> None:
        self.killed = True
        self.raw.shutdown(wait=False, kill_workers=True)


class Loky(Library):
    """joblib's executor."""

    name = package = "loky"
    title = "loky.get_reusable_executor"
    notes = "asked for anew at each call, as documented: that replaces an executor that is broken"

    def collects_dropped(self) -> bool:
        """It stays on purpose, to be used again."""
        return False

    def prepare(self) -> None:
        import loky  # noqa: F401

    def make(self, wants: Wants) -> Handle:
        if wants.lifespan is not None or wants.start_timeout is not None:
            raise NoSuchCall("recycling" if wants.lifespan else "time limit for an initializer")
        return LokyHandle(wants)


class PebbleHandle(ExecutorHandle):
    """``schedule`` takes a timeout, and a future's ``cancel`` stops a running task."""

    def _submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], timeout: float | None
    ) -> Any:
        return self.raw.schedule(function, args=args, timeout=timeout)

    def map(self, function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
        return list(self.imap(function, items))

    def imap(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self.raw.map(function, items).result()
        return results

    def cancel(self, job: Any) -> None:
        job.cancel()

    def close(self) -> None:
        self.raw.close()

    def join(self) -> None:
        self.raw.join()

    def terminate(self) -> None:
        self.raw.stop()


class Pebble(Library):
    """pebble's process pool."""

    name = "pebble"
    package = "Pebble"
    title = "pebble.ProcessPool"
    notes = "`schedule`, with its `timeout=`; a future's `cancel`; `stop` to terminate"

    def make(self, wants: Wants) -> Handle:
        import pebble

        if wants.start_timeout is not None:
            raise NoSuchCall("time limit for an initializer")
        return PebbleHandle(
            pebble.ProcessPool(
                wants.workers, wants.lifespan or 0, wants.initializer, wants.initargs
            )
        )


class DeadpoolHandle(ExecutorHandle):
    """``submit`` takes a timeout, and its futures can kill."""

    def _submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], timeout: float | None
    ) -> Any:
        return self.raw.submit(function, *args, deadpool_timeout=timeout)

    def cancel(self, job: Any) -> None:
        job.cancel_and_kill_if_running()

    def terminate(self) -> None:
        self.raw.shutdown(wait=False, cancel_futures=True)


class Deadpool(Library):
    """deadpool-executor."""

    name = "deadpool"
    package = "deadpool-executor"
    title = "deadpool.Deadpool"
    notes = (
        "`submit`, with its `deadpool_timeout=`; `cancel_and_kill_if_running`; "
        "`shutdown(wait=False, cancel_futures=True)` to terminate"
    )

    def make(self, wants: Wants) -> Handle:
        import deadpool

        if wants.start_timeout is not None:
            raise NoSuchCall("time limit for an initializer")
        return DeadpoolHandle(
            deadpool.Deadpool(
                wants.workers,
                max_tasks_per_child=wants.lifespan,
                initializer=wants.initializer,
                initargs=wants.initargs,
                daemon=not wants.nests,
            )
        )


class MpireHandle(Handle):
    """Initializers, deadlines and recycling are said with each call."""

    def __init__(self, raw: Any, wants: Wants) -> None:
        super().__init__(raw)
        self.start: dict[str, Any] = {}
        if wants.initializer is not None:
            initializer, initargs = wants.initializer, wants.initargs
            self.start["worker_init"] = lambda: initializer(*initargs)
        if wants.start_timeout is not None:
            self.start["worker_init_timeout"] = wants.start_timeout
        self.lifespan = wants.lifespan

    def submit(
        self,
        function: Callable[..., Any],
        *args: Any,
        timeout: float | None = None,
        callback: Callable[[Any], object] | None = None,
    ) -> Any:
        return self.raw.apply_async(
            function, args, callback=callback, task_timeout=timeout, **self.start
        )

    def map(self, function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
        values: list[Any] = self.raw.map(
            function, items, chunk_size=1, worker_lifespan=self.lifespan, **self.start
        )
        return values

    def imap(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self.raw.imap(function, items, chunk_size=1, **self.start)
        return results

    def close(self) -> None:
        raise NoSuchCall("close")

    def join(self) -> None:
        self.raw.stop_and_join()


class Mpire(Library):
    """mpire's pool."""

    name = package = "mpire"
    title = "mpire.WorkerPool"
    notes = (
        "`apply_async`, `map` and `imap`, with `task_timeout=`, `worker_init=`, `worker_lifespan=`; "
        "`daemon=False` for a pool in a task"
    )

    def make(self, wants: Wants) -> Handle:
        import mpire

        return MpireHandle(mpire.WorkerPool(wants.workers, daemon=not wants.nests), wants)


class BilliardHandle(Handle):
    """Celery's pool: deadlines, and jobs that can be terminated by their worker's number."""

    def submit(
        self,
        function: Callable[..., Any],
        *args: Any,
        timeout: float | None = None,
        callback: Callable[[Any], object] | None = None,
    ) -> Any:
        job = self.raw.apply_async(function, args, callback=callback, timeout=timeout)
        if job is None:
            raise RuntimeError("the pool takes no more work")
        return job

    def cancel(self, job: Any) -> None:
        job.terminate(signal.SIGTERM)
        for pid in job.worker_pids():
            self.raw.terminate_job(pid, signal.SIGTERM)


class Billiard(Library):
    """Celery's fork of the standard pool."""

    name = package = "billiard"
    title = "billiard.pool.Pool"
    patience = 3.0  # it tells that a map's worker was lost after 10 s, whatever it is told
    notes = (
        "`lost_worker_timeout=1`, `timeout=` with `enable_timeouts=True`; `terminate_job` to cancel"
    )

    def make(self, wants: Wants) -> Handle:
        from billiard.pool import Pool

        if wants.start_timeout is not None:
            raise NoSuchCall("time limit for an initializer")
        return BilliardHandle(
            Pool(
                wants.workers,
                wants.initializer,
                wants.initargs,
                maxtasksperchild=wants.lifespan,
                lost_worker_timeout=1.0,  # 10 s otherwise
                enable_timeouts=wants.deadlines,
            )
        )

    def collects_dropped(self) -> bool:
        """It is the standard pool in this."""
        return False


class RayHandle(Handle):
    """The standard interface."""


class Ray(Library):
    """Ray's pool, on a cluster of its own for each case."""

    name = package = "ray"
    title = "ray.util.multiprocessing.Pool"
    notes = "a local cluster of its own for each case, started before the clock"
    patience = 3.0

    def prepare(self) -> None:
        import ray

        ray.init(
            address="local",
            num_cpus=8,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            _temp_dir=os.path.join(tempfile.gettempdir(), "ray"),
        )

    def _pool(self, wants: Wants) -> Any:
        from ray.util.multiprocessing import Pool

        return Pool(wants.workers, wants.initializer, wants.initargs, wants.lifespan)


class DaskHandle(ExecutorHandle):
    """A client with its local cluster."""

    def _submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], timeout: float | None
    ) -> Any:
        if timeout is not None:
            raise NoSuchCall("timeout of a task")
        return self.raw.submit(function, *args, pure=False)

    def map(self, function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
        values: list[Any] = self.raw.gather(self.raw.map(function, list(items), pure=False))
        return values

    def imap(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        raise NoSuchCall("imap")

    def close(self) -> None:
        raise NoSuchCall("close")

    def join(self) -> None:
        raise NoSuchCall("join")

    def terminate(self) -> None:
        self.raw.close()
        self.raw.cluster.close()

    leave = terminate


class Dask(Library):
    """Dask's processes on this machine, through a client."""

    name = "dask"
    package = "distributed"
    title = "distributed.LocalCluster(processes=True) + Client"
    notes = (
        "`submit`, one thread per worker, a `WorkerPlugin` as initializer; closing client and cluster "
        "terminates; lost tasks are run again up to 3 times, its default"
    )
    patience = 3.0

    def prepare(self) -> None:
        import distributed  # noqa: F401

    def make(self, wants: Wants) -> Handle:
        from distributed import Client, LocalCluster

        if wants.lifespan is not None or wants.start_timeout is not None:
            raise NoSuchCall("recycling" if wants.lifespan else "time limit for an initializer")
        cluster = LocalCluster(
            n_workers=wants.workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        client = Client(cluster)
        if wants.initializer is not None:
            client.register_plugin(_initializing(wants.initializer, wants.initargs))
        return DaskHandle(client)

    def nested(self) -> list[int]:
        """As documented: a task asks for the client of its own cluster."""
        from distributed import worker_client

        with worker_client() as client:
            values: list[int] = client.gather(client.map(square, range(3)))
        return values


def _initializing(initializer: Callable[..., object], initargs: tuple[Any, ...]) -> Any:
    from distributed import WorkerPlugin

    class Initialize(WorkerPlugin):  # type: ignore[misc,unused-ignore]  # untyped where missing
        name = "initialize"

        def setup(self, worker: Any) -> None:
            initializer(*initargs)

    return Initialize()


POOLS: dict[str, Library] = {
    library.name: library
    for library in (
        Glasspool(),
        Stock(),
        StandardExecutor(),
        Loky(),
        Pebble(),
        Deadpool(),
        Mpire(),
        Billiard(),
        Ray(),
        Dask(),
    )
}
"""By name, in the order of the table's columns."""


def missing(library: Library) -> bool:
    """Tell whether a library is not installed here."""
    try:
        library.version()
    except (metadata.PackageNotFoundError, ImportError):
        return True
    return False
