"""What a type checker is to see; never run. ``test_typing`` has mypy check it.

A line marked ``# rejected`` must be an error: its ignore comment is one too many otherwise.
"""

from __future__ import annotations

import concurrent.futures
import functools
import math
import multiprocessing
import multiprocessing.pool
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, assert_type

import glasspool
from glasspool import (
    AsyncResult,
    Executor,
    Future,
    IMapIterator,
    MapResult,
    Pool,
    Snapshot,
    TaskInfo,
    ThreadInfo,
    ThreadPool,
    WorkerInfo,
)

R = TypeVar("R")


def area(width: int, height: int = 1) -> float:
    """Take one or two numbers."""
    return float(width * height)


def shout(text: str, *, times: int = 1) -> bytes:
    """Take a keyword."""
    return text.encode() * times


def now() -> str:
    """Take nothing."""
    return ""


def total(*numbers: int) -> int:
    """Take any number of numbers."""
    return sum(numbers)


class Box:
    """Something to call, and to call a method of."""

    def __init__(self, width: int) -> None:
        self.width = width

    def __call__(self, width: int) -> bool:
        """Compare one number."""
        return width <= self.width

    def fits(self, width: int, height: int) -> bool:
        """Compare two numbers."""
        return self(width) and self(height)


def calls(pool: Pool, anything: Any) -> None:
    """Values come back with the type that the function returns."""
    assert_type(pool.apply(area, (1, 2)), float)
    assert_type(pool.apply(area, (1,)), float)
    assert_type(pool.apply(area, [1, 2]), float)
    assert_type(pool.apply(area, iter([1, 2])), float)
    assert_type(pool.apply(now), str)
    assert_type(pool.apply(now, ()), str)
    assert_type(pool.apply(shout, ("a",)), bytes)
    assert_type(pool.apply(shout, ("a",), {"times": 2}), bytes)
    assert_type(pool.apply(shout, ("a",), kwds={"times": 2}), bytes)
    assert_type(pool.apply(shout, kwds={"text": "a"}), bytes)
    assert_type(pool.apply(total, (1, 2, 3)), int)
    assert_type(pool.apply(functools.partial(area, 1), (2,)), float)
    assert_type(pool.apply(len, ([1],)), int)
    assert_type(pool.apply(math.sqrt, (4.0,)), float)
    assert_type(pool.apply(str.upper, ("a",)), str)
    assert_type(pool.apply(os.getpid), int)
    assert_type(pool.apply(Box, (1,)), Box)
    assert_type(pool.apply(Box(1), (1,)), bool)
    assert_type(pool.apply(Box(1).fits, (1, 2)), bool)
    assert_type(pool.apply(anything, anything), Any)
    pool.apply(lambda width: width, (1,))
    pool.apply(print, ("a", 1))
    pool.apply(int, ("3",))
    pool.apply(max, (1, 2))
    pool.apply(area, ("one", 2))  # type: ignore[arg-type]  # rejected
    pool.apply(area, (1, 2, 3))  # type: ignore[arg-type]  # rejected
    pool.apply(now, (1,))  # type: ignore[arg-type]  # rejected
    pool.apply(area, 1)  # type: ignore[call-overload]  # rejected
    pool.apply("area", (1,))  # type: ignore[call-overload]  # rejected


def results(pool: Pool) -> None:
    """Results and iterators carry the type too, and so do their callbacks."""
    result = pool.apply_async(area, (1, 2))
    assert_type(result, AsyncResult[float])
    assert_type(result.get(), float)
    assert_type(result.get(timeout=1.5), float)
    assert_type(result.ready(), bool)
    assert_type(result.successful(), bool)
    assert_type(result.info, TaskInfo)
    assert_type(pool.apply_async(now), AsyncResult[str])
    assert_type(pool.apply_async(area, [1]), AsyncResult[float])
    assert_type(pool.apply_async(shout, ("a",), {"times": 2}), AsyncResult[bytes])
    assert_type(pool.apply_async(area, (1,), {}, take_float, take_error), AsyncResult[float])
    assert_type(pool.apply_async(area, (1,), callback=take_float), AsyncResult[float])
    pool.apply_async(area, ("one",))  # type: ignore[arg-type]  # rejected
    pool.apply_async(now, (), callback=take_float)  # type: ignore[misc]  # rejected


def maps(pool: Pool, lines: Iterable[str]) -> None:
    """Items must fit the function."""
    assert_type(pool.map(area, [1, 2]), list[float])
    assert_type(pool.map(len, lines, 10), list[int])
    assert_type(pool.map(str.upper, lines), list[str])
    assert_type(pool.map_async(area, range(3)), MapResult[float])
    assert_type(pool.map_async(area, range(3)).get(1), list[float])
    assert_type(pool.map_async(area, range(3), callback=take_floats).info, TaskInfo)
    assert_type(pool.starmap(area, [(1, 2)]), list[float])
    assert_type(pool.starmap(area, zip([1], [2], strict=True)), list[float])
    assert_type(pool.starmap(area, [[1, 2]]), list[float])
    assert_type(pool.starmap_async(area, [(1, 2)]), MapResult[float])
    assert_type(pool.imap(area, range(3)), IMapIterator[float])
    assert_type(pool.imap_unordered(area, range(3), chunksize=2), IMapIterator[float])
    assert_type(pool.imap(area, range(3)).next(timeout=1), float)
    for value in pool.imap(area, range(3)):
        assert_type(value, float)
    iterator: Iterator[float] = pool.imap(area, range(3))
    next(iterator)
    pool.map(area, ["one"])  # type: ignore[arg-type]  # rejected
    pool.map(now, [1])  # type: ignore[arg-type]  # rejected
    pool.map(Box(1).fits, [1])  # type: ignore[arg-type]  # rejected
    pool.imap(area, 3)  # type: ignore[arg-type]  # rejected


class Bar:
    """What can show progress, as tqdm's objects can."""

    def __init__(self, total: int | None = None) -> None:
        self.total = total

    def update(self, n: float | None = 1) -> bool | None:
        """Take note of more."""


def progress(pool: Pool) -> None:
    """A call shows its progress by whatever has an ``update``, or by what makes one."""
    assert_type(pool.map(area, [1, 2], progress=True), list[float])
    assert_type(pool.map_async(area, [1, 2], progress="areas"), MapResult[float])
    assert_type(pool.starmap(area, [(1, 2)], progress=Bar()), list[float])
    assert_type(pool.starmap_async(area, [(1, 2)], progress=Bar), MapResult[float])
    assert_type(pool.imap(area, range(3), progress=functools.partial(Bar, 3)), IMapIterator[float])
    assert_type(pool.imap_unordered(area, range(3), progress=None), IMapIterator[float])
    pool.map(area, [1, 2], progress=3)  # type: ignore[arg-type]  # rejected
    pool.map(area, [1, 2], progress=Box(1))  # type: ignore[arg-type]  # rejected


def seeing(pool: Pool, stock: multiprocessing.pool.Pool) -> None:
    """What is seen has a type down to the last field."""
    assert_type(pool.inspect(stacks=True), Snapshot)
    assert_type(pool.threads(), tuple[ThreadInfo, ...])
    assert_type(pool.stats(), dict[str, int])
    assert_type(glasspool.inspect(), Snapshot)
    assert_type(glasspool.inspect(stock, stacks=True), Snapshot)
    assert_type(glasspool.inspect(os.getpid()), Snapshot)
    assert_type(glasspool.worker(), WorkerInfo | None)
    assert_type(pool.inspect().threads[0].roles, tuple[str, ...])


def a_pool_like_any_other(pool: Pool) -> multiprocessing.pool.Pool:
    """It goes wherever the standard library's does."""
    with pool as entered:
        assert_type(entered, Pool)
    return pool


async def awaited(pool: Pool) -> None:
    """A task of an event loop gets the same types as a thread."""
    assert_type(await pool.apply_async(area, (1, 2)), float)
    assert_type(await pool.map_async(area, range(3)), list[float])
    assert_type(await pool.starmap_async(area, [(1, 2)]), list[float])
    async for value in pool.imap(area, range(3)):
        assert_type(value, float)
    async for size in pool.imap_unordered(len, ["a"]):
        assert_type(size, int)
    await pool.apply_async(area, ("one",))  # type: ignore[arg-type]  # rejected
    await pool.map(area, [1, 2])  # type: ignore[misc]  # rejected


def everywhere(pool: Pool) -> None:
    """A call in every worker gives a value of each."""
    assert_type(pool.run_on_all(area, 1, height=2), list[float])
    assert_type(pool.run_on_all(now), list[str])
    pool.run_on_all("now")  # type: ignore[arg-type]  # rejected


def futures(executor: Executor) -> None:
    """Futures carry the type, and arguments must fit: they are passed as they are, not in a tuple."""
    future = executor.submit(area, 1, height=2)
    assert_type(future, Future[float])
    assert_type(future.result(), float)
    assert_type(future.result(timeout=1.5), float)
    assert_type(future.exception(), BaseException | None)
    assert_type(executor.submit(shout, "a", times=2), Future[bytes])
    assert_type(executor.submit(now).result(), str)
    assert_type(executor.map(area, [1, 2], [3, 4]), Iterator[float])
    assert_type(executor.map(len, ["a"], timeout=1, chunksize=2), Iterator[int])
    for done in concurrent.futures.as_completed([future]):
        assert_type(done.result(), float)
    executor.submit(area, "one")  # type: ignore[arg-type]  # rejected
    executor.submit(now, 1)  # type: ignore[call-arg]  # rejected
    executor.map(area, 3)  # type: ignore[arg-type]  # rejected


def an_executor_like_any_other() -> concurrent.futures.Executor:
    """It goes wherever the standard library's does."""
    with Executor(2) as entered:
        assert_type(entered, Executor)
    return entered


def threads(pool: ThreadPool) -> Pool:
    """A pool of threads has the types of one of processes, and goes wherever one does."""
    with ThreadPool(2, shout, ("a",), name="mine") as entered:
        assert_type(entered, ThreadPool)
    assert_type(pool.apply(area, (1, 2)), float)
    assert_type(pool.apply_async(now).get(), str)
    assert_type(pool.map(len, ["a"]), list[int])
    assert_type(pool.map_async(area, range(3)), MapResult[float])
    assert_type(pool.imap(area, range(3)), IMapIterator[float])
    assert_type(pool.run_on_all(now), list[str])
    assert_type(pool.inspect(), Snapshot)
    pool.map(area, ["one"])  # type: ignore[arg-type]  # rejected
    return pool


def joblibs() -> None:
    """The backend is registered by a call without a value."""
    glasspool.register_joblib()
    glasspool.register_joblib(make_default=True)
    glasspool.register_joblib(True)  # type: ignore[call-arg]  # rejected


def made() -> Pool:
    """All arguments of the constructor, by name."""
    return Pool(
        processes=2,
        initializer=shout,
        initargs=("a",),
        maxtasksperchild=3,
        context=multiprocessing.get_context("spawn"),
        name="mine",
        engine="local",
    )


class Logged(Pool):
    """A subclass that passes all on, as many programs have it."""

    def apply_async(  # type: ignore[override]  # as wide as the standard library's
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Any = None,
        callback: Callable[[R], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[R]:
        """Pass all on."""
        return super().apply_async(func, args, kwds or {}, callback, error_callback)


def passed_on(pool: Pool, function: Callable[..., R], *args: Any, **kwds: Any) -> R:
    """Any arguments can be passed on."""
    assert_type(pool.apply(function, args), R)
    return pool.apply(function, args, kwds)


def take_float(value: float) -> None:
    """Be a callback."""


def take_floats(values: list[float]) -> None:
    """Be a callback of a map."""


def take_error(error: BaseException) -> None:
    """Be an error callback."""
