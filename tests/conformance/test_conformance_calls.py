"""Every way to submit work: what it returns, in which order, and what it says to bad input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from multiprocessing.pool import MaybeEncodingError, Pool, RemoteTraceback
from typing import Any

import pytest
from conformance_kinds import PoolMaker
from conformance_tasks import (
    Oops,
    Unpicklable,
    add,
    as_bytes,
    double,
    echo,
    fail,
    fail_at_three,
    make_unpicklable,
    same,
    square,
)

LIMIT_S = 30

MAPPINGS = ("map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered")
LAZY = ("imap", "imap_unordered")
EAGER = tuple(name for name in MAPPINGS if name not in LAZY)

mappings = pytest.mark.parametrize("method", MAPPINGS)


def submit(
    pool: Pool,
    method: str,
    function: Callable[..., Any],
    items: Any,
    chunksize: int | None = None,
) -> list[Any]:
    """Call one of the six mapping methods, and return its results as a list."""
    if method.startswith("starmap") and isinstance(items, Iterable):
        items = [(x,) for x in items] if hasattr(items, "__len__") else ((x,) for x in items)
    chunk = {} if chunksize is None else {"chunksize": chunksize}
    answer = getattr(pool, method)(function, items, **chunk)
    if method.endswith("_async"):
        answer = answer.get(LIMIT_S)
    results = list(answer)
    return sorted(results) if method == "imap_unordered" else results


def numbers_then_error(count: int) -> Iterator[int]:
    """Yield some numbers, then raise."""
    yield from range(count)
    raise Oops(count, "iterable")


class SizedButBroken:
    """An iterable that knows its length and raises midway."""

    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Iterator[int]:
        return numbers_then_error(4)


def test_apply(shared_pool: Pool) -> None:
    """``apply`` returns what the function returns."""
    assert shared_pool.apply(add, (1, 2)) == 3


def test_apply_keywords(shared_pool: Pool) -> None:
    """``apply`` passes positional and keyword arguments."""
    assert shared_pool.apply(echo, (1, 2), {"a": 3}) == ((1, 2), {"a": 3})


def test_apply_without_arguments(shared_pool: Pool) -> None:
    """``apply`` calls with nothing where nothing is given."""
    assert shared_pool.apply(echo) == ((), {})


def test_apply_accepts_any_iterable_of_arguments(shared_pool: Pool) -> None:
    """The arguments may be a list."""
    assert shared_pool.apply(add, [1, 2]) == 3


def test_apply_async(shared_pool: Pool) -> None:
    """``apply_async`` returns a result whose ``get`` gives what the function returns."""
    result = shared_pool.apply_async(add, (1,), {"y": 5})
    assert result.get(LIMIT_S) == 6
    assert result.get() == 6, "a result can be read again"


def test_many_apply_async(shared_pool: Pool) -> None:
    """Each of many results belongs to its own call."""
    results = [shared_pool.apply_async(square, (i,)) for i in range(500)]
    assert [r.get(LIMIT_S) for r in results] == [i * i for i in range(500)]


@mappings
@pytest.mark.parametrize("chunksize", [None, 1, 3, 100])
def test_mapping(shared_pool: Pool, method: str, chunksize: int | None) -> None:
    """Every mapping method gives one result for each item, in order, at any chunk size."""
    assert submit(shared_pool, method, square, range(10), chunksize) == [i * i for i in range(10)]


@mappings
@pytest.mark.parametrize("chunksize", [None, 1, 3, 100])
def test_mapping_a_generator(shared_pool: Pool, method: str, chunksize: int | None) -> None:
    """An iterable needs no length."""
    items = (i for i in range(10))
    assert submit(shared_pool, method, square, items, chunksize) == [i * i for i in range(10)]


@mappings
@pytest.mark.parametrize("chunksize", [None, 1, 3])
@pytest.mark.parametrize("make_empty", [list, lambda: iter(())], ids=["list", "iterator"])
def test_mapping_nothing(
    shared_pool: Pool, method: str, chunksize: int | None, make_empty: Callable[[], Any]
) -> None:
    """Nothing in, nothing out, at once."""
    assert submit(shared_pool, method, square, make_empty(), chunksize) == []


@pytest.mark.parametrize("method", ["map", "map_async", "starmap", "starmap_async", "imap"])
@pytest.mark.parametrize("kind_of_items", [dict, set, str])
def test_mapping_other_iterables(
    shared_pool: Pool, method: str, kind_of_items: type[Iterable[str]]
) -> None:
    """A dict gives its keys, a set its members, a string its characters."""
    items: Any = dict.fromkeys("abc") if kind_of_items is dict else kind_of_items("abc")
    assert submit(shared_pool, method, same, items) == list(items)


@mappings
def test_chunksize_none_is_the_default_where_it_is_allowed(shared_pool: Pool, method: str) -> None:
    """``chunksize=None`` means "choose" for the eager methods, and is refused by the lazy ones."""
    items = [(i,) for i in range(5)] if method.startswith("starmap") else list(range(5))
    call = getattr(shared_pool, method)
    if method in LAZY:
        with pytest.raises(TypeError):
            call(square, items, chunksize=None)
    else:
        answer = call(square, items, chunksize=None)
        assert list(answer.get(LIMIT_S) if method.endswith("_async") else answer) == [
            i * i for i in range(5)
        ]


@pytest.mark.parametrize("method", LAZY)
@pytest.mark.parametrize("chunksize", [0, -1])
def test_lazy_chunksize_below_one(shared_pool: Pool, method: str, chunksize: int) -> None:
    """The lazy methods refuse a chunk size below 1 at once, and say what was given."""
    with pytest.raises(ValueError, match=rf"Chunksize must be 1\+, not {chunksize}"):
        getattr(shared_pool, method)(square, [1], chunksize)


@pytest.mark.parametrize("method", EAGER)
def test_eager_not_iterable(shared_pool: Pool, method: str) -> None:
    """The eager methods refuse at once what cannot be iterated."""
    with pytest.raises(TypeError, match="not iterable"):
        getattr(shared_pool, method)(square, 5)
    assert shared_pool.apply(square, (2,)) == 4


@pytest.mark.parametrize("method", LAZY)
@pytest.mark.parametrize("chunksize", [1, 3])
def test_lazy_not_iterable(shared_pool: Pool, method: str, chunksize: int) -> None:
    """The lazy methods refuse what cannot be iterated, at the first result at the latest."""
    with pytest.raises(TypeError, match="not iterable"):
        next(iter(getattr(shared_pool, method)(square, 5, chunksize)))
    assert shared_pool.apply(square, (2,)) == 4


@pytest.mark.parametrize("method", ["starmap", "starmap_async"])
def test_starmap_spreads_each_item(shared_pool: Pool, method: str) -> None:
    """``starmap`` calls with the members of each item as arguments."""
    answer = getattr(shared_pool, method)(add, [(1, 2), (3,), [4, 5]])
    assert (answer if method == "starmap" else answer.get(LIMIT_S)) == [3, 13, 9]


def test_starmap_item_that_cannot_be_spread(shared_pool: Pool) -> None:
    """An item of ``starmap`` that is no sequence is the error of the whole map."""
    with pytest.raises(TypeError):
        shared_pool.starmap(add, [(1, 2), 3], 1)
    assert shared_pool.starmap(add, [(1, 2)]) == [3]


def test_map_iterable_that_raises(shared_pool: Pool) -> None:
    """``map`` draws an iterable without length in the caller, where its error is raised."""
    with pytest.raises(Oops, match="iterable"):
        shared_pool.map(square, numbers_then_error(3))
    assert shared_pool.map(square, [2]) == [4]


def test_map_sized_iterable_that_raises(make_ours: PoolMaker) -> None:
    """Ours raises the error of an iterable that knows its length too; the stock pool hangs."""
    pool = make_ours(2)
    with pytest.raises(Oops, match="iterable"):
        pool.map_async(square, SizedButBroken(), 1).get(LIMIT_S)
    assert pool.map(square, [2]) == [4]


@pytest.mark.parametrize("chunksize", [1, 2])
def test_imap_iterable_that_raises(shared_pool: Pool, chunksize: int) -> None:
    """``imap`` gives the results before the iterable's error, then the error, then the end."""
    results = shared_pool.imap(square, numbers_then_error(4), chunksize)
    assert [next(results) for _ in range(4)] == [0, 1, 4, 9]
    with pytest.raises(Oops, match="iterable"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_imap_unordered_iterable_that_raises(shared_pool: Pool) -> None:
    """``imap_unordered`` gives the iterable's error as one of its results."""
    results = shared_pool.imap_unordered(square, numbers_then_error(3))
    seen = []
    for _ in range(4):
        try:
            seen.append(next(results))
        except Oops:
            seen.append(-1)
    assert sorted(seen) == [-1, 0, 1, 4]


def test_imap_keeps_order(shared_pool: Pool) -> None:
    """``imap`` gives results in the order of the items, however many there are."""
    assert list(shared_pool.imap(square, range(2000), 7)) == [i * i for i in range(2000)]


@pytest.mark.parametrize(
    "call",
    [
        lambda pool: pool.apply(fail, (7, "seven")),
        lambda pool: pool.apply_async(fail, (7,), {"word": "seven"}).get(LIMIT_S),
        lambda pool: pool.starmap(fail, [(7, "seven")]),
    ],
    ids=["apply", "apply_async", "starmap"],
)
def test_exception_arrives_as_it_was(shared_pool: Pool, call: Callable[[Pool], Any]) -> None:
    """An exception keeps type and arguments; its cause is the worker's traceback as text."""
    with pytest.raises(Oops) as caught:
        call(shared_pool)
    assert type(caught.value) is Oops
    assert caught.value.args == (7, "seven")
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    text = str(caught.value.__cause__)
    assert "Traceback (most recent call last)" in text
    assert "raise Oops(number, word)" in text
    assert "in fail" in text


@mappings
@pytest.mark.parametrize("chunksize", [1, 3])
def test_exception_of_one_item(shared_pool: Pool, method: str, chunksize: int) -> None:
    """The error of one item is raised by every mapping method, and the pool goes on."""
    with pytest.raises(Oops) as caught:
        submit(shared_pool, method, fail_at_three, range(10), chunksize)
    assert caught.value.args == (3, "word")
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert shared_pool.map(square, range(5)) == [0, 1, 4, 9, 16]


def test_imap_goes_on_after_the_error_of_an_item(shared_pool: Pool) -> None:
    """The error of one item takes that item's place among the results of ``imap``."""
    results = shared_pool.imap(fail_at_three, range(5))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Oops):
        next(results)
    assert list(results) == [4]


@mappings
def test_result_that_cannot_be_pickled(shared_pool: Pool, method: str) -> None:
    """A result that cannot be pickled is a ``MaybeEncodingError``, and the pool goes on."""
    with pytest.raises(MaybeEncodingError):
        shared_pool.apply(make_unpicklable)
    with pytest.raises(MaybeEncodingError):
        submit(shared_pool, method, returns_unpicklable, [1, 2], 1)
    assert shared_pool.apply(square, (3,)) == 9


def returns_unpicklable(_: object) -> Unpicklable:
    """Return what cannot be sent back, whatever is given."""
    return make_unpicklable()


def test_argument_that_cannot_be_pickled(shared_pool: Pool) -> None:
    """An argument that cannot be pickled is an error at ``get``, and the pool goes on."""
    result = shared_pool.apply_async(same, (Unpicklable(),))
    with pytest.raises((TypeError, MaybeEncodingError), match="Unpicklable"):
        result.get(LIMIT_S)
    assert shared_pool.apply(square, (3,)) == 9


@pytest.mark.parametrize("method", MAPPINGS)
def test_item_that_cannot_be_pickled(shared_pool: Pool, method: str) -> None:
    """So is an item of a mapping."""
    with pytest.raises((TypeError, MaybeEncodingError), match="Unpicklable"):
        submit(shared_pool, method, same, [1, Unpicklable(), 3], 1)
    assert shared_pool.apply(square, (3,)) == 9


def test_large_bytes(shared_pool: Pool) -> None:
    """Arguments and results may be larger than any pipe's buffer."""
    block = bytes(range(256)) * 20_000
    assert shared_pool.apply(double, (block,)) == block + block


def test_many_large_items(shared_pool: Pool) -> None:
    """Many large items at once arrive whole and in order."""
    blocks = [bytes([i]) * 1_000_000 for i in range(16)]
    assert shared_pool.map(same, blocks, 1) == blocks
    assert shared_pool.map(as_bytes, map(bytearray, blocks), 3) == blocks


def test_large_arrays(shared_pool: Pool) -> None:
    """Arrays travel, and what arrives can be written to."""
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(600_000, dtype=float).reshape(600, 1000)
    doubled = shared_pool.apply(double, (array,))
    assert (doubled == 2 * array).all()
    doubled[0, 0] = -1
    assert array[0, 0] == 0


def test_many_numbers(shared_pool: Pool) -> None:
    """100,000 numbers are no matter."""
    assert sum(shared_pool.map(square, range(100_000))) == sum(i * i for i in range(100_000))
