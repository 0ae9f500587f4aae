"""The pools that are compared, each brought to one small interface as its own documentation does it.

A further one is one more ``Contender`` in ``CONTENDERS``, with a ``Handle`` for what its pools do in
another way. Libraries are imported when they are asked for, so those which are not installed cost
nothing.
"""

from __future__ import annotations

import concurrent.futures
import importlib.util
import logging
import multiprocessing
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib import metadata
from typing import Any

BASELINE = "stock"
"""The one that the others are measured against."""
OURS = "glasspool"
BARE = "bare"
"""No pool: what the same costs by hand, or at least. The cases have it."""

MANY = 10_000
"""Libraries whose default is single items advise chunks for more than a few: from here on they get
as many as the standard library's pool makes, four per worker."""

ALL_METHODS = frozenset({"fork", "forkserver", "spawn"})
FRESH_INTERPRETERS = frozenset({"spawn"})
"""Of a library with a way of its own to start workers, which has no choice of it."""


class NoCounterpart(Exception):
    """The library has nothing that does this; the text says in a few words what is missing."""


class Handle:
    """One pool. This is the interface of ``multiprocessing.Pool``; others override what differs."""

    def __init__(self, raw: Any, workers: int) -> None:
        self.raw = raw
        self.workers = workers

    def apply(self, function: Callable[..., Any], *args: Any) -> Any:
        """Make one call, and wait for it."""
        return self.raw.apply(function, args)

    def burst(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Start a call for each item, without waiting; then collect the results."""
        submit = self.raw.apply_async
        results = [submit(function, (item,)) for item in items]
        return [result.get() for result in results]

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Start one call."""
        return self.raw.apply_async(function, args)

    def get(self, job: Any, limit_s: float) -> Any:
        """Wait for a call so many seconds at most."""
        return job.get(limit_s)

    def map(
        self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Map in order, in chunks of a size that the library chooses, or of the size told."""
        values: list[Any] = self.raw.map(function, items, chunksize)
        return values

    def map_with(
        self, function: Callable[[Any, Any], Any], data: Any, items: Sequence[Any]
    ) -> list[Any]:
        """Map a function that also needs the same large data for each item."""
        return self.map(partial(function, data), items, 1)

    def imap(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Map single items lazily, in order."""
        results: Iterator[Any] = self.raw.imap(function, items)
        return results

    def imap_unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Map single items lazily, as they are done."""
        results: Iterator[Any] = self.raw.imap_unordered(function, items)
        return results

    def revive(self, lost: Any) -> int:
        """Do what a program does after a death that ended this job; return how many are new."""
        return 1

    def end(self) -> None:
        """Take no more work, and wait for the workers' end."""
        self.raw.close()
        self.raw.join()

    def stop(self) -> None:
        """Leave at once, whatever still runs."""
        self.raw.terminate()


class Contender:
    """A library with a pool. The defaults fit the standard library's."""

    name = BASELINE
    title = "multiprocessing.Pool"
    package: str | None = None
    """Its name in the package index."""
    module = "multiprocessing.pool"
    """What a program imports..."""
    pool = "import multiprocessing.pool"
    """...and the line by which it then has the pool."""
    methods: frozenset[str] = ALL_METHODS
    most: int | None = None
    """So many tasks it does in about three seconds: of more, a part is measured and scaled up."""
    calls: int | None = None
    """The same for calls one after the other."""
    copies: int | None = None
    """So many times it copies an array for ``array-with``, one time for each item, in some seconds."""
    notes = "as it is"
    """How it is used."""

    def version(self) -> str:
        """Return its version; raises PackageNotFoundError where it is not installed."""
        return metadata.version(self.package) if self.package else platform.python_version()

    def is_installed(self) -> bool:
        """Tell whether it can be measured here."""
        return importlib.util.find_spec(self.module.partition(".")[0]) is not None

    def make(self, workers: int, method: str) -> Handle:
        """Make a pool."""
        return Handle(multiprocessing.get_context(method).Pool(workers), workers)


class Glasspool(Contender):
    """This package."""

    name = module = OURS
    title = "glasspool.Pool"
    pool = "from glasspool import Pool"

    def version(self) -> str:
        import glasspool

        return glasspool.__version__

    def make(self, workers: int, method: str) -> Handle:
        import glasspool

        context = multiprocessing.get_context(method)
        return Handle(glasspool.Pool(workers, context=context), workers)


class ExecutorHandle(Handle):
    """The interface of ``concurrent.futures``."""

    def apply(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.raw.submit(function, *args).result()

    def burst(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        submit = self.raw.submit
        futures = [submit(function, item) for item in items]
        return [future.result() for future in futures]

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.raw.submit(function, *args)

    def get(self, job: Any, limit_s: float) -> Any:
        return job.result(limit_s)

    def map(
        self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None
    ) -> list[Any]:
        size = chunksize or chunk_of(len(items), self.workers)
        return list(self.raw.map(function, items, chunksize=size))

    def imap(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self.raw.map(function, items)
        return results

    def imap_unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        futures = [self.submit(function, item) for item in items]
        return (future.result() for future in concurrent.futures.as_completed(futures))

    def revive(self, lost: Any) -> int:
        raise NoCounterpart("it does not replace a dead worker: the executor is broken")

    def end(self) -> None:
        self.raw.shutdown(wait=True)

    def stop(self) -> None:
        self.raw.shutdown(wait=False, cancel_futures=True)


def chunk_of(count: int, workers: int) -> int:
    """Return how many items a chunk has where a library's default is one."""
    return -(-count // (4 * workers)) if count > MANY else 1


class StandardExecutor(Contender):
    """``concurrent.futures.ProcessPoolExecutor``."""

    name = "PPE"
    title = "concurrent.futures.ProcessPoolExecutor"
    module = "concurrent.futures"
    pool = "from concurrent.futures import ProcessPoolExecutor"
    most = 50_000
    copies = 16
    notes = (
        "`submit(f, x).result()` for `apply`, `as_completed` for `imap_unordered`; its default "
        f"chunks are single items, above {MANY:,} items it gets four chunks per worker, as its "
        "documentation advises"
    )

    def make(self, workers: int, method: str) -> Handle:
        context = multiprocessing.get_context(method)
        return ExecutorHandle(
            concurrent.futures.ProcessPoolExecutor(workers, mp_context=context), workers
        )


class SurvivingHandle(ExecutorHandle):
    """An executor that goes on after a death."""

    def revive(self, lost: Any) -> int:
        return 1


class GlasspoolExecutor(Glasspool):
    """This package's executor."""

    name = "glasspool-executor"
    title = "glasspool.Executor"
    pool = "from glasspool import Executor"
    notes = StandardExecutor.notes

    def make(self, workers: int, method: str) -> Handle:
        import glasspool

        context = multiprocessing.get_context(method)
        return SurvivingHandle(glasspool.Executor(workers, context), workers)


class LokyHandle(ExecutorHandle):
    """An executor that is asked for anew: a broken one is replaced that way."""

    def revive(self, lost: Any) -> int:
        lost.exception(30)
        self.raw = _loky_executor(self.workers)
        return self.workers

    def stop(self) -> None:
        self.raw.shutdown(wait=True, kill_workers=True)


def _loky_executor(workers: int) -> Any:
    from loky import get_reusable_executor

    return get_reusable_executor(workers)


class Loky(Contender):
    """joblib's executor."""

    name = package = module = "loky"
    title = "loky.get_reusable_executor"
    pool = "from loky import get_reusable_executor"
    methods = FRESH_INTERPRETERS
    most = 30_000
    copies = 16
    notes = "as PPE; it is asked for anew after a death, which replaces all its workers"

    def make(self, workers: int, method: str) -> Handle:
        return LokyHandle(_loky_executor(workers), workers)


class MpireHandle(Handle):
    """Items that are tuples, dicts or arrays would be unpacked: they travel in tuples of one."""

    def apply(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.raw.apply(function, args)

    def map(
        self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None
    ) -> list[Any]:
        values: list[Any] = self.raw.map(function, _singles(items), chunk_size=chunksize)
        return values

    def map_with(
        self, function: Callable[[Any, Any], Any], data: Any, items: Sequence[Any]
    ) -> list[Any]:
        self.raw.stop_and_join()
        self.raw.set_shared_objects((data,))  # an array alone it would compare with what it has
        values: list[Any] = self.raw.map(partial(_read_shared, function), items, chunk_size=1)
        return values

    def imap(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self.raw.imap(function, _singles(items), chunk_size=1)
        return results

    def imap_unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        self.raw.stop_and_join()  # kept workers still take each item for a numbered one, and raise
        results: Iterator[Any] = self.raw.imap_unordered(function, _singles(items), chunk_size=1)
        return results

    def revive(self, lost: Any) -> int:
        raise NoCounterpart("it does not replace a dead worker: all its work ends")

    def end(self) -> None:
        self.raw.stop_and_join()


def _singles(items: Iterable[Any]) -> list[tuple[Any]]:
    return [(item,) for item in items]


def _read_shared(function: Callable[[Any, Any], Any], shared: tuple[Any], item: Any) -> Any:
    return function(shared[0], item)


class Mpire(Contender):
    """mpire's pool."""

    name = package = module = "mpire"
    title = "mpire.WorkerPool"
    pool = "from mpire import WorkerPool"
    most = 40_000
    notes = (
        "`keep_alive=True`; large data as `shared_objects`, for which it starts its workers anew"
    )

    def make(self, workers: int, method: str) -> Handle:
        import mpire

        return MpireHandle(mpire.WorkerPool(workers, start_method=method, keep_alive=True), workers)


class PebbleHandle(ExecutorHandle):
    """``schedule`` takes the place of ``submit``."""

    def apply(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.raw.schedule(function, args=args).result()

    def burst(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        schedule = self.raw.schedule
        futures = [schedule(function, args=(item,)) for item in items]
        return [future.result() for future in futures]

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.raw.schedule(function, args=args)

    def map(
        self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None
    ) -> list[Any]:
        size = chunksize or chunk_of(len(items), self.workers)
        return list(self.raw.map(function, items, chunksize=size).result())

    def imap(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self.raw.map(function, items).result()
        return results

    def revive(self, lost: Any) -> int:
        return 1

    def end(self) -> None:
        self.raw.close()
        self.raw.join()

    def stop(self) -> None:
        self.raw.stop()
        self.raw.join()


class Pebble(Contender):
    """pebble's process pool."""

    name = module = "pebble"
    package = "Pebble"
    title = "pebble.ProcessPool"
    pool = "from pebble import ProcessPool"
    most = 40_000
    copies = 16
    notes = "`schedule`, and the rest as PPE"

    def make(self, workers: int, method: str) -> Handle:
        import pebble

        context = multiprocessing.get_context(method)
        return PebbleHandle(pebble.ProcessPool(workers, context=context), workers)


class Billiard(Contender):
    """Celery's fork of the standard pool."""

    name = package = module = "billiard"
    title = "billiard.pool.Pool"
    pool = "from billiard.pool import Pool"
    most = 60_000
    copies = 16

    def make(self, workers: int, method: str) -> Handle:
        import billiard

        return Handle(billiard.get_context(method).Pool(workers), workers)


class JoblibHandle(Handle):
    """``Parallel`` takes all calls at once; there is no submitting of single ones."""

    def _run(
        self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], **how: Any
    ) -> Any:
        from joblib import Parallel, delayed

        call = delayed(function)
        return Parallel(n_jobs=self.workers, **how)(call(*args) for args in arguments)

    def apply(self, function: Callable[..., Any], *args: Any) -> Any:
        return self._run(function, [args])[0]

    def burst(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        values: list[Any] = self._run(function, _singles(items))
        return values

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        raise NoCounterpart("no single calls in the background")

    def map(
        self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None
    ) -> list[Any]:
        values: list[Any] = self._run(function, _singles(items), batch_size=chunksize or "auto")
        return values

    def map_with(
        self, function: Callable[[Any, Any], Any], data: Any, items: Sequence[Any]
    ) -> list[Any]:
        values: list[Any] = self._run(function, ((data, item) for item in items), batch_size=1)
        return values

    def imap(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self._run(
            function, _singles(items), batch_size=1, return_as="generator"
        )
        return results

    def imap_unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self._run(
            function, _singles(items), batch_size=1, return_as="generator_unordered"
        )
        return results

    def end(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)

    stop = end


class Joblib(Contender):
    """joblib's ``Parallel`` on its default back end."""

    name = package = module = "joblib"
    title = "joblib.Parallel"
    pool = "from joblib import Parallel, delayed"
    methods = FRESH_INTERPRETERS
    most = 30_000
    calls = 300
    notes = (
        "it has no calls in the background: a burst is one `Parallel(n_jobs)(delayed(f)(x) ...)`, which "
        "cuts the calls into chunks itself and returns all results at once; "
        '`batch_size=1` for chunksize 1; `return_as="generator"` for `imap`'
    )

    def make(self, workers: int, method: str) -> Handle:
        return JoblibHandle(None, workers)


def _read_stored(function: Callable[[Any, Any], Any], stored: Any, item: Any) -> Any:
    import ray

    return function(ray.get(stored), item)


class RayHandle(Handle):
    """The standard interface; large data goes into the object store once."""

    def map_with(
        self, function: Callable[[Any, Any], Any], data: Any, items: Sequence[Any]
    ) -> list[Any]:
        import ray

        return self.map(partial(_read_stored, function, ray.put(data)), items, 1)

    def revive(self, lost: Any) -> int:
        raise NoCounterpart("its pool does not replace a dead actor")

    def end(self) -> None:
        import ray

        super().end()
        ray.shutdown()

    def stop(self) -> None:
        import ray

        ray.shutdown()


class Ray(Contender):
    """Ray's pool, on a cluster of its own on this machine."""

    name = package = module = "ray"
    title = "ray.util.multiprocessing.Pool"
    pool = "from ray.util.multiprocessing import Pool"
    methods = FRESH_INTERPRETERS
    most = 3_000
    calls = 1_000
    notes = (
        "its start includes a cluster on this machine, without dashboard; large data for many items "
        "by `ray.put`"
    )

    def make(self, workers: int, method: str) -> Handle:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray
        from ray.util.multiprocessing import Pool

        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            _node_ip_address="127.0.0.1",
            _temp_dir=os.path.join(tempfile.gettempdir(), "ray"),
        )
        return RayHandle(Pool(workers), workers)


class DaskHandle(ExecutorHandle):
    """A client with its local cluster."""

    def apply(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.raw.submit(function, *map(self._placed, args), pure=False).result()

    def _placed(self, value: Any) -> Any:
        """Large values are to be scattered, as Dask's warnings say."""
        if getattr(value, "nbytes", 0) > 1_000_000:
            return self.raw.scatter(value, hash=False)
        return value

    def burst(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        submit = self.raw.submit
        values: list[Any] = self.raw.gather([submit(function, item, pure=False) for item in items])
        return values

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.raw.submit(function, *args, pure=False)

    def map(
        self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None
    ) -> list[Any]:
        size = chunksize or chunk_of(len(items), self.workers)
        futures = self.raw.map(_each, _chunks(items, size), function=function, pure=False)
        return [value for chunk in self.raw.gather(futures) for value in chunk]

    def map_with(
        self, function: Callable[[Any, Any], Any], data: Any, items: Sequence[Any]
    ) -> list[Any]:
        placed = self.raw.scatter(data, broadcast=True, hash=False)
        futures = [self.raw.submit(function, placed, item, pure=False) for item in items]
        values: list[Any] = self.raw.gather(futures)
        return values

    def imap(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        futures = self.raw.map(function, list(items), pure=False)
        return (future.result() for future in futures)

    def imap_unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        from distributed import as_completed

        futures = self.raw.map(function, list(items), pure=False)
        return (value for _, value in as_completed(futures, with_results=True))

    def revive(self, lost: Any) -> int:
        return 1

    def end(self) -> None:
        self.raw.close()
        self.raw.cluster.close()

    stop = end


def _each(chunk: Sequence[Any], function: Callable[[Any], Any]) -> list[Any]:
    return [function(item) for item in chunk]


def _chunks(items: Sequence[Any], size: int) -> list[list[Any]]:
    return [list(items[at : at + size]) for at in range(0, len(items), size)]


class Dask(Contender):
    """Dask's processes on this machine, through a client."""

    name = "dask"
    module = package = "distributed"
    title = "distributed.Client on a LocalCluster"
    pool = "from distributed import Client, LocalCluster"
    methods = FRESH_INTERPRETERS
    most = 2_000
    calls = 300
    notes = (
        "one thread per worker, no dashboard; it has no chunks: above "
        f"{MANY:,} items the function is mapped over lists; large arguments are scattered"
    )

    def make(self, workers: int, method: str) -> Handle:
        from distributed import Client, LocalCluster

        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        return DaskHandle(Client(cluster), workers)


class Bare(Contender):
    """No pool: each case that has something to compare with says what it is."""

    name = BARE
    title = "by hand"
    notes = (
        "no pool: for the bursts a hand-written loop over socket pairs in chunks of 64 calls, for "
        "`apply` the round trip of 64 bytes through a socket pair, for the arrays a copy in memory"
    )


CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        Contender(),
        Glasspool(),
        StandardExecutor(),
        GlasspoolExecutor(),
        Loky(),
        Mpire(),
        Pebble(),
        Billiard(),
        Joblib(),
        Ray(),
        Dask(),
        Bare(),
    )
}
"""By name, in the order of the table's columns."""

DEFAULT = (BASELINE, OURS, BARE)
