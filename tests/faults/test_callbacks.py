"""Callbacks and iterables that raise, block, or call the pool: nothing stops, nothing deadlocks."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import life_tasks as tasks
import pytest

import glasspool

LIMIT_S = 30.0
FORK = multiprocessing.get_context("fork")
SQUARES = [i * i for i in range(10)]


@pytest.fixture
def pool(leak_check: None) -> Iterator[glasspool.Pool]:
    """Return a pool of two workers, which must end within two seconds at the end."""
    made = glasspool.Pool(2, context=FORK)
    yield made
    with ends_soon():
        made.terminate()
    made.join()


@contextlib.contextmanager
def ends_soon(limit_s: float = 2.0) -> Iterator[None]:
    """Check that the block does not take long."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < limit_s


@contextlib.contextmanager
def reports() -> Iterator[list[Any]]:
    """Collect what threads report of their exceptions."""
    told: list[Any] = []
    hook, threading.excepthook = threading.excepthook, told.append  # type: ignore[assignment]
    try:
        yield told
    finally:
        threading.excepthook = hook


# What a callback may call. Each gets the pool and must return or raise at once.
CALLS: dict[str, Callable[[glasspool.Pool], Any]] = {
    "apply": lambda pool: pool.apply(tasks.square, (3,)),
    "apply_async": lambda pool: pool.apply_async(tasks.square, (3,)).get(LIMIT_S),
    "map": lambda pool: pool.map(tasks.square, range(10), 1),
    "imap": lambda pool: list(pool.imap(tasks.square, range(10))),
    "inspect": lambda pool: pool.inspect(stacks=True),
    "close": lambda pool: pool.close(),
    "terminate": lambda pool: pool.terminate(),
    "join": lambda pool: (pool.close(), pool.join()),
    "drain": lambda pool: pool.drain(),
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("fails", [False, True], ids=["callback", "error_callback"])
def test_a_callback_calls_the_pool(pool: glasspool.Pool, what: str, fails: bool) -> None:
    """It has its answer, or an error at once where it would wait for itself."""
    done = threading.Event()
    said: list[Any] = []

    def callback(value: Any) -> None:
        try:
            said.append(CALLS[what](pool))
        except BaseException as error:
            said.append(error)
        finally:
            done.set()

    others = pool.map_async(tasks.square, range(50), 1)
    if fails:
        result = pool.apply_async(tasks.fail_by, ("/dev/null", "raise"), error_callback=callback)
    else:
        result = pool.apply_async(tasks.square, (2,), callback=callback)
    assert done.wait(5), "the callback does not return"
    result.wait(5)
    assert result.ready()
    if what in ("join", "drain"):
        assert isinstance(said[0], glasspool.GlasspoolError)
        assert "callback" in str(said[0])
    else:
        assert not isinstance(said[0], BaseException), said
    if what != "terminate":
        assert others.get(5) == [i * i for i in range(50)]


def test_a_raising_callback_is_attached_to_its_result(pool: glasspool.Pool) -> None:
    """And reported by ``threading.excepthook``; the value is there all the same."""

    def bad(value: Any) -> None:
        raise LookupError("the callback's own")

    with reports() as told:
        good = pool.apply_async(tasks.square, (3,), callback=bad)
        failed = pool.apply_async(tasks.fail_by, ("/dev/null", "raise"), error_callback=bad)
        job = pool.map_async(tasks.square, range(10), callback=bad)
        fine = pool.apply_async(tasks.square, (4,), callback=str)
        assert good.get(LIMIT_S) == 9
        assert job.get(LIMIT_S) == SQUARES
        with pytest.raises(LookupError, match="no such thing"):
            failed.get(LIMIT_S)
        assert fine.get(LIMIT_S) == 16
    for result in (good, failed, job):
        assert isinstance(result.callback_error, LookupError)  # type: ignore[attr-defined]
        assert str(result.callback_error) == "the callback's own"  # type: ignore[attr-defined]
    assert fine.callback_error is None
    assert [report.exc_type for report in told] == [LookupError] * 3
    assert told[0].thread.name == f"{pool.name} callback"


def test_a_callback_that_blocks(pool: glasspool.Pool) -> None:
    """It delays only results with callbacks; waiting ends in time, terminate frees who waits."""
    gate, entered = threading.Event(), threading.Event()

    def block(value: Any) -> None:
        entered.set()
        gate.wait(LIMIT_S)

    first = pool.apply_async(tasks.square, (2,), callback=block)
    assert entered.wait(LIMIT_S)
    second = pool.apply_async(tasks.square, (3,), callback=str)
    assert pool.apply_async(tasks.square, (4,)).get(LIMIT_S) == 16
    assert pool.map(tasks.square, range(10)) == SQUARES
    for result in (first, second):
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(0.05)
        assert not result.ready()
    with ends_soon():
        pool.terminate()
        pool.join()
    assert (first.get(1), second.get(1)) == (4, 9)
    gate.set()


def test_a_callback_that_waits_for_another_with_a_callback(pool: glasspool.Pool) -> None:
    """That one's callback could only run after this one: an error at once."""
    begun, both = threading.Event(), threading.Event()
    said: list[BaseException] = []
    others: list[Any] = []

    def wait_for_other(value: Any) -> None:
        begun.set()
        both.wait(LIMIT_S)
        with pytest.raises(glasspool.GlasspoolError) as caught:
            others[0].get()
        said.append(caught.value)

    first = pool.apply_async(tasks.square, (2,), callback=wait_for_other)
    assert begun.wait(LIMIT_S)  # else the other one's callback may be the first
    others.append(pool.apply_async(tasks.square, (3,), callback=str))
    both.set()
    assert first.get(5) == 4
    assert others[0].get(5) == 9
    assert len(said) == 1


def test_callbacks_run_when_the_pool_is_terminated(pool: glasspool.Pool) -> None:
    """An open call ends with ``TaskCancelled``, and its error callback is told."""
    said: list[BaseException] = []
    results = [
        pool.apply_async(
            tasks.ignore_sigterm_and_wait, ("/dev/null", ""), error_callback=said.append
        )
        for _ in range(5)
    ]
    with ends_soon():
        pool.terminate()
        pool.join()
    for result in results:
        with pytest.raises(glasspool.TaskCancelled):
            result.get(1)
    assert [type(error) for error in said] == [glasspool.TaskCancelled] * 5


# Iterables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", CALLS)
def test_an_iterable_calls_the_pool(pool: glasspool.Pool, what: str) -> None:
    """From the iterable's own thread every call is answered, or refused at once."""
    said: list[Any] = []
    answered = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        try:
            said.append(CALLS[what](pool))
        except BaseException as error:
            said.append(error)
        answered.set()
        yield 2

    values = pool.imap(tasks.square, items())
    got: list[Any] = []
    with contextlib.suppress(StopIteration, glasspool.TaskCancelled):
        while True:
            got.append(values.next(5))
    assert answered.wait(5)
    if what in ("join", "drain"):
        assert isinstance(said[0], glasspool.GlasspoolError)
        assert "iterable" in str(said[0])
    else:
        assert not isinstance(said[0], BaseException), said
    if what != "terminate":
        assert got == [1, 4]


def test_a_sequence_that_joins_the_pool(pool: glasspool.Pool) -> None:
    """``map`` draws in the caller, which cannot wait for the end of its own call."""

    class Joins:
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[int]:
            yield 1
            pool.close()
            pool.join()

    with pytest.raises(glasspool.GlasspoolError, match="iterable"):
        pool.map(tasks.square, Joins(), 1)
    with ends_soon():
        pool.join()


def test_an_iterable_that_waits_for_its_own_values(pool: glasspool.Pool) -> None:
    """What it has yielded it may have; what it has not yet yielded is an error at once."""
    box: list[Any] = []
    known, refused = threading.Event(), threading.Event()
    said: list[Any] = []

    def items() -> Iterator[int]:
        known.wait(LIMIT_S)
        yield 3
        said.append(box[0].next(5))
        try:
            box[0].next()
        except glasspool.GlasspoolError as error:
            said.append(error)
        refused.set()
        yield 4

    box.append(pool.imap(tasks.square, items()))
    known.set()
    assert refused.wait(LIMIT_S)
    assert box[0].next(5) == 16
    assert said[0] == 9
    assert "yield" in str(said[1])


@pytest.mark.parametrize("how", ["imap", "imap_unordered"])
def test_an_iterable_that_raises_in_the_middle(pool: glasspool.Pool, how: str) -> None:
    """What was drawn has its values; then comes the error; others never hear of it."""

    def items(error: BaseException) -> Iterator[int]:
        yield 1
        yield 2
        raise error

    for error, seen in ((LookupError("mine"), LookupError), (SystemExit(3), glasspool.TaskExit)):
        values = getattr(pool, how)(tasks.square, items(error))
        got: list[Any] = []
        with contextlib.suppress(StopIteration):
            while True:
                try:
                    got.append(values.next(5))
                except (LookupError, glasspool.TaskExit) as raised:
                    got.append(type(raised))
        if how == "imap":
            assert got == [1, 4, seen]
        assert sorted(map(str, got)) == sorted(map(str, [1, 4, seen]))
        with pytest.raises(type(error)):
            pool.map(tasks.square, items(error))
    assert pool.map(tasks.square, range(10)) == SQUARES


def test_an_iterable_that_blocks_for_ever(pool: glasspool.Pool) -> None:
    """Others go on; ``terminate`` does not wait for it, and who waits for its values is told."""
    gate = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        gate.wait(LIMIT_S)

    values = pool.imap(tasks.square, items())
    assert values.next(5) == 1
    with pytest.raises(multiprocessing.TimeoutError):
        values.next(0.05)
    assert pool.map(tasks.square, range(10)) == SQUARES
    with ends_soon():
        pool.terminate()
        pool.join()
    with pytest.raises(glasspool.TaskCancelled):
        values.next(1)
    gate.set()
