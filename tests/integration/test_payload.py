"""Large values: their memory is used again, never while somebody views it, and copied once per job."""

from __future__ import annotations

import functools
import multiprocessing
import os
import socket
import warnings
from collections.abc import Iterator
from multiprocessing import resource_sharer
from pathlib import Path
from typing import Any

import numpy as np
import payload_tasks as tasks
import psutil
import pytest

import glasspool
from glasspool.batching import AHEAD_BYTES
from glasspool.engines.local import segments
from pools import LIMIT_S, wait_until

FORK = multiprocessing.get_context("fork")
SIZE = 1_000_000


@pytest.fixture
def pool(leak_check: None) -> Iterator[glasspool.Pool]:
    """Return a pool of one, so that each task has the memory of the one before."""
    made = glasspool.Pool(1, context=FORK)
    yield made
    made.terminate()
    made.join()


def array_of(value: int, size: int = SIZE) -> Any:
    """Return an array of equal bytes."""
    return np.full(size, value, "u1")


def call(pool: glasspool.Pool, function: Any, *args: Any) -> Any:
    """Call and wait, with a limit."""
    return pool.apply_async(function, args).get(LIMIT_S)


def test_arguments_lie_in_memory_that_was_used_before(ctx: Any) -> None:
    """Fifty calls with arrays of similar size need two segments at most, by each way to call."""
    with glasspool.Pool(1, context=ctx) as pool:
        places = set()
        for number in range(50):
            size = SIZE + number * 1000
            array = array_of(number, size)
            way = pool.apply if number % 2 else functools.partial(call, pool)
            place, total = way(tasks.spoil, (array,)) if number % 2 else way(tasks.spoil, array)
            assert total == number * size
            assert int(array[0]) == number
            places.add(place)
        assert len(places) <= 2
        assert 0 not in places


def test_results_lie_in_memory_that_was_used_before(ctx: Any) -> None:
    """Fifty results that are dropped one after the other need few segments."""
    with glasspool.Pool(1, context=ctx) as pool:
        places = set()
        for number in range(50):
            result = pool.apply(tasks.full, (number, SIZE))
            place, total = tasks.spoil(result)
            assert total == number * SIZE
            places.add(place)
        assert len(places) <= 4
        assert 0 not in places


def test_what_a_task_keeps_is_never_written_to(pool: glasspool.Pool) -> None:
    """An array that a task keeps, unread, has its contents after many further calls."""
    place = call(pool, tasks.keep, array_of(1))
    for number in range(2, 12):
        other, total = call(pool, tasks.place_and_sum, array_of(number))
        assert (other != place, total) == (True, number * SIZE)
    assert call(pool, tasks.kept_sums) == [SIZE]
    call(pool, tasks.drop)


def test_what_a_thread_of_a_task_keeps_is_never_written_to(pool: glasspool.Pool) -> None:
    """Nor what only a thread holds."""
    place = call(pool, tasks.keep_in_thread, array_of(1))
    assert all(call(pool, tasks.place_and_sum, array_of(2))[0] != place for _ in range(5))


def test_results_that_are_kept_are_never_written_to(pool: glasspool.Pool) -> None:
    """Results that the caller keeps, unread, have their contents when many others have come."""
    kept = [call(pool, tasks.full, number, SIZE) for number in range(8)]
    unread = [pool.apply_async(tasks.full, (number, SIZE)) for number in range(8)]
    for number in range(8):
        assert int(call(pool, tasks.full, number, SIZE)[-1]) == number
    part = kept[0][10:20]
    del kept[0]
    for number in range(8):
        assert int(call(pool, tasks.full, number, SIZE)[-1]) == number
    assert part.tolist() == [0] * 10
    assert [int(array.sum()) for array in kept] == [number * SIZE for number in range(1, 8)]
    sums = [int(result.get(LIMIT_S).sum()) for result in unread]
    assert sums == [number * SIZE for number in range(8)]


def test_a_result_may_be_what_came_as_argument(pool: glasspool.Pool) -> None:
    """The result is a copy; the memory of the argument is used again all the same."""
    given = [array_of(number) for number in range(6)]
    results = [call(pool, tasks.back, array) for array in given]
    for array in results:
        array += 100
    assert [int(array[7]) for array in given] == list(range(6))
    assert [int(array[7]) for array in results] == list(range(100, 106))


def test_a_task_that_raises_gives_its_memory_back(pool: glasspool.Pool) -> None:
    """The traceback, which had the arguments, is gone when the error has been told."""
    for _ in range(5):
        with pytest.raises(LookupError):
            call(pool, tasks.refuse, array_of(1))
    places = {call(pool, tasks.place_and_sum, array_of(number))[0] for number in range(5)}
    assert len(places) == 1


def test_what_a_fork_of_a_task_has_is_never_written_to(
    pool: glasspool.Pool, tmp_path: Path
) -> None:
    """A process that a task forked has its view for as long as it lives, and the pool knows that."""
    start, answer = tmp_path / "start", tmp_path / "answer"
    os.mkfifo(start)
    place = call(pool, tasks.fork_a_reader, array_of(1), str(start), str(answer))
    for number in range(2, 8):
        assert call(pool, tasks.place_and_sum, array_of(number))[0] != place
    start.write_text("now")
    wait_until(lambda: answer.exists() and answer.read_text() != "", "the fork answers")
    assert answer.read_text() == str(SIZE)


def test_what_a_fork_of_the_caller_has_is_never_written_to(pool: glasspool.Pool) -> None:
    """A result that was there at a fork of the user's keeps its contents in the child."""
    result = call(pool, tasks.full, 1, SIZE)
    place = tasks.inode(result)
    go, ready = os.pipe()
    answer, tell = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
        pid = os.fork()
    if not pid:
        os.close(ready)
        os.read(go, 1)  # woken by the parent, or by its end
        os.write(tell, str(int(result.sum())).encode())
        os._exit(0)
    del result
    assert all(tasks.inode(call(pool, tasks.full, 9, SIZE)) != place for _ in range(6))
    os.write(ready, b"!")
    assert os.read(answer, 100) == str(SIZE).encode()
    os.waitpid(pid, 0)
    for fd in (go, ready, answer, tell):
        os.close(fd)


def test_a_fork_begins_with_no_memory_of_its_parents(pool: glasspool.Pool) -> None:
    """In a child the segments that the parent has in reserve are not the child's to write to."""
    call(pool, tasks.length, array_of(1))
    assert len(segments.kept._shelf) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
        pid = os.fork()
    if not pid:
        os._exit(10 + len(segments.kept._shelf) + 2 * segments.kept.is_on)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 10


def test_a_killed_workers_memory_is_not_used_again(pool: glasspool.Pool, tmp_path: Path) -> None:
    """Nobody can say who else views what a dead worker had; the next ones have other memory."""
    for number in range(3):
        path = tmp_path / str(number)
        with pytest.raises(glasspool.WorkerDied):
            call(pool, tasks.die, array_of(number), str(path))
        place = int(path.read_text())
        for value in range(3):
            assert call(pool, tasks.spoil, array_of(value)) != (place, value * SIZE)
            assert int(call(pool, tasks.full, value, SIZE).sum()) == value * SIZE


def test_few_segments_are_kept(pool: glasspool.Pool) -> None:
    """After many arrays at the same time only some segments stay, and none with the pool."""
    results = [pool.apply_async(tasks.full, (i, SIZE + 1000 * i)) for i in range(20)]
    kept = pool.map(tasks.back, [result.get(LIMIT_S) for result in results], chunksize=1)
    assert [int(array[0]) for array in kept] == list(range(20))
    assert len(segments.kept._shelf) <= segments.MOST_IDLE
    pool.close()
    pool.join()
    assert len(segments.kept._shelf) == 0


def test_all_workers_have_work_however_large_it_is(tmp_path: Path) -> None:
    """Two tasks with more than what may be ahead run at the same time: each waits for the other."""
    start = tmp_path / "start"
    os.mkfifo(start)
    size = AHEAD_BYTES + 1
    with glasspool.Pool(2, context=FORK) as pool:
        items = [(np.zeros(size, "u1"), str(start), way) for way in ("r", "w")]
        result = pool.starmap_async(tasks.meet, items, chunksize=1)
        assert result.get(LIMIT_S) == [size, size]


def test_arrays_of_a_list_count_as_being_ahead(pool: glasspool.Pool) -> None:
    """Only so many different arrays are copied before their tasks have begun."""
    items = [np.zeros(AHEAD_BYTES // 4, "u1") for _ in range(3)] * 5
    weights: list[int] = []
    submit = pool._engine.submit_all
    pool._engine.submit_all = lambda group: (  # type: ignore[method-assign]
        weights.extend(task.weight for task in group),
        submit(group),
    )[1]
    pool.map(tasks.length, items, chunksize=1)
    assert sum(weights) // (AHEAD_BYTES // 4) == 3


@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_object_that_recurs_in_a_list_is_copied_once(
    pool: glasspool.Pool, chunksize: int
) -> None:
    """All tasks map one segment, also beside others' own; each has a view that it may write to."""
    big, other = array_of(1), array_of(2)
    items = [(big, i) if i % 2 else (big, other, i) for i in range(12)]
    told = pool.starmap(tasks.spoil, items, chunksize)
    assert len({place for place, _ in told}) == 1
    if chunksize == 1:  # else the items of a chunk share their arrays, as in the standard library
        assert {total for _, total in told} == {SIZE}
    assert (int(big.sum()), int(other.sum())) == (SIZE, 2 * SIZE)
    told = pool.map(tasks.spoil, [big] * 12, 1)
    assert {total for _, total in told} == {SIZE}
    assert len({place for place, _ in told}) == 1


def test_recurring_arrays_may_lie_by_columns(pool: glasspool.Pool) -> None:
    """An array that is lent to pickle through a passing view of it is known again."""
    big = np.asfortranarray(np.ones((1000, 1000), "u1"))
    places = {place for place, _ in pool.map(tasks.place_and_sum, [big] * 6, 1)}
    assert len(places) == 1


def test_what_is_drawn_from_an_iterator_is_copied_each_time(pool: glasspool.Pool) -> None:
    """A generator may give the same array again with another content."""
    memory = array_of(0)

    def values() -> Iterator[Any]:
        for number in range(10):
            memory[:] = number
            yield memory

    told = [total for _, total in pool.imap(tasks.place_and_sum, values())]
    assert told == [number * SIZE for number in range(10)]


def test_objects_that_lend_the_same_memory_are_told_apart(pool: glasspool.Pool) -> None:
    """What recurs must be an object of the list, and not only memory that its code reuses."""
    told = pool.map(tasks.place_and_sum, [tasks.Scratch(value) for value in range(6)], 1)
    assert [total for _, total in told] == [600_000 * value for value in range(6)]


def test_what_a_callable_carries_is_new_for_each_task(pool: glasspool.Pool) -> None:
    """Its array is mapped once more for each task, from the same memory; nobody's writing shows."""
    big = array_of(1)
    told = pool.map(functools.partial(tasks.spoil, big), range(12), chunksize=1)
    assert {total for _, total in told} == {SIZE}
    assert len({place for place, _ in told}) == 1
    assert int(big.sum()) == SIZE


def test_large_bytes_and_texts_arrive(pool: glasspool.Pool) -> None:
    """What pickle does not set apart is written piece by piece, and arrives whole."""
    for value in (b"x" * SIZE, "y" * SIZE, bytearray(b"z" * SIZE), [b"a" * SIZE, "b" * SIZE]):
        assert call(pool, tasks.back, value) == value


@pytest.mark.whole_matrix
def test_values_of_more_than_4_gib() -> None:
    """As argument, as result; one at a time, in about 15 GB of memory."""
    size = (1 << 32) + 300_000_000
    if psutil.virtual_memory().available < 4 * size:
        pytest.skip("there is not enough memory")
    with glasspool.Pool(1, context=FORK) as pool:
        array = np.zeros(size, "u1")
        array[0], array[-1] = 1, 2
        assert pool.apply(tasks.ends, (array,)) == (1, 2, size)
        del array
        assert tasks.ends(pool.apply(tasks.full, (7, size))) == (7, 7, size)


def test_closures_hold_what_multiprocessing_can_pass(pool):
    """By value, too, its reducers hold: a lambda that has a socket is called with that socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pool.apply(lambda: theirs.sendall(b"here"))
        assert ours.recv(10) == b"here"
    resource_sharer.stop(LIMIT_S)  # its thread would stay
