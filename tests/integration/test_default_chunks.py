"""Default chunks: nothing waits behind a long item but what is in its chunk; all else as with any chunks."""

from __future__ import annotations

import collections
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import chunk_tasks as tasks
import pytest

import glasspool
from gates import Gate
from glasspool.chunking import GuidedMapResult
from glasspool.ledger import OPEN
from pools import LIMIT_S, MakePool, wait_until

LENGTHS = (0, 1, 7, 8, 9, 50, 1000, 40_000)


class InBackground:
    """A synchronous call in a thread of the test's own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self.value: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.value = self._call()
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


class Numbers:
    """A sequence of the user's own."""

    def __len__(self) -> int:
        return 300

    def __iter__(self) -> Iterator[int]:
        return iter(range(300))


def job_of(pool: glasspool.Pool) -> GuidedMapResult[Any]:
    """Return the one job of a pool, when it has begun."""
    wait_until(lambda: len(pool._cache) == 1, "the map has begun")
    (job,) = pool._cache.values()
    assert isinstance(job, GuidedMapResult)
    return job


def wait_for_all_but_one(job: GuidedMapResult[Any], length: int) -> None:
    """Wait until all items are in chunks, and all chunks but one have ended."""

    def is_so() -> bool:
        made = [task for task in list(job._tasks) if task is not None]
        open_ones = [task for task in made if task.ended_as == OPEN]
        return sum(task.items for task in made) == length and len(open_ones) == 1

    wait_until(is_so, "all chunks but one have ended")


@pytest.mark.parametrize("kind", [list, tuple, range, set, frozenset, collections.deque, iter])
def test_all_values_in_order(make_forked: MakePool, kind: Any) -> None:
    """Whatever the items are in, however many there are, with and without waiting."""
    pool = make_forked(2)
    for length in LENGTHS:
        expected = [-n for n in range(length)]

        def items(length: int = length) -> Any:
            return range(length) if kind is range else kind(range(length))

        assert pool.map(tasks.negative, items()) == expected
        assert pool.map_async(tasks.negative, items()).get(LIMIT_S) == expected


def test_other_sequences(make_forked: MakePool) -> None:
    """Texts, bytes, a dictionary's keys, and a sequence of the user's own."""
    pool = make_forked(2)
    for items in (
        "x" * 50 + "yz",
        bytes(range(200)),
        bytearray(range(100)),
        dict.fromkeys("abcdefghijkl"),
    ):
        assert pool.map(tasks.as_is, items) == list(items)
    assert pool.map(tasks.negative, Numbers()) == [-n for n in range(300)]  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_several_arguments(leak_check: None, method: str) -> None:
    """``starmap``, with single items and with many, under each start method."""
    with glasspool.Pool(2, context=multiprocessing.get_context(method)) as pool:
        for length in (9, 100, 3000):
            pairs = [(n, 1) for n in range(length)]
            expected = [n + 1 for n in range(length)]
            assert pool.starmap(tasks.add, pairs) == expected
            assert pool.starmap_async(tasks.add, pairs).get(LIMIT_S) == expected
    pool.join()


@pytest.mark.parametrize("workers", [2, 3])
def test_nothing_waits_behind_an_item_but_its_own_chunk(
    make_forked: MakePool, forked_gate: Gate, workers: int
) -> None:
    """One item waits for ever: all chunks but its own end, in a call that waits and in one that does not."""
    pool = make_forked(workers, **forked_gate.arguments)
    waiting = InBackground(lambda: pool.map(tasks.wait_at_three, range(600)))
    forked_gate.wait_for_tasks()
    wait_for_all_but_one(job_of(pool), 600)
    forked_gate.open()
    waiting.join()
    assert waiting.value == list(range(600))


def test_nor_in_a_call_that_does_not_wait(make_forked: MakePool, forked_gate: Gate) -> None:
    """``map_async``: the same."""
    pool = make_forked(2, **forked_gate.arguments)
    job = pool.map_async(tasks.wait_at_three, range(600))
    assert isinstance(job, GuidedMapResult)
    forked_gate.wait_for_tasks()
    wait_for_all_but_one(job, 600)
    assert not job.ready()
    forked_gate.open()
    assert job.get(LIMIT_S) == list(range(600))


def test_a_list_may_change_when_the_call_has_returned(
    make_forked: MakePool, forked_gate: Gate
) -> None:
    """``map_async`` has taken its items before it returns."""
    pool = make_forked(1, **forked_gate.arguments)
    blocker = pool.apply_async(tasks.wait_always, (0,))
    items = list(range(3000))
    result = pool.map_async(tasks.negative, items)
    items.clear()
    forked_gate.open()
    assert result.get(LIMIT_S) == [-n for n in range(3000)]
    assert blocker.get(LIMIT_S) == 0


def test_what_is_left_counts_down_to_zero(make_forked: MakePool, forked_gate: Gate) -> None:
    """``_number_left`` begins with stock's number of chunks and is 0 exactly at the end."""
    pool = make_forked(2, **forked_gate.arguments)
    result = pool.map_async(tasks.wait_at_three, range(400))
    forked_gate.wait_for_tasks()
    assert 0 < result._number_left <= 8
    wait_until(lambda: result._number_left == 1, "one is left")
    assert not result.ready()
    forked_gate.open()
    result.wait(LIMIT_S)
    assert result._number_left == 0
    assert sum(task.items for task in result.info.tasks) == result.info.items == 400


def test_the_error_of_an_item(make_forked: MakePool) -> None:
    """It is raised when all have run; a callback has it, too."""
    pool = make_forked(2)
    for call in (pool.map, lambda *args: pool.map_async(*args).get(LIMIT_S)):
        with pytest.raises(LookupError, match="seven"):
            call(tasks.fail_at_seven, range(500))
    told: list[BaseException] = []
    result = pool.map_async(tasks.fail_at_seven, range(500), error_callback=told.append)
    result.wait(LIMIT_S)
    assert not result.successful()
    assert isinstance(told[0], LookupError)
    assert result._number_left == 0


def test_a_value_that_cannot_be_rebuilt(make_forked: MakePool) -> None:
    """The caller meets it while it puts the values together; the call fails, the pool goes on."""
    pool = make_forked(2)
    with pytest.raises(glasspool.SerializationError):
        pool.map(tasks.unbuildable, range(1000))
    with pytest.raises(glasspool.SerializationError):
        pool.map_async(tasks.unbuildable, range(1000)).get(LIMIT_S)
    assert pool.map(tasks.negative, range(100)) == [-n for n in range(100)]


def test_an_item_that_cannot_be_pickled(make_forked: MakePool) -> None:
    """Its error comes from the call, and the others run."""
    pool = make_forked(2)
    items = [threading.Lock() if n == 33 else n for n in range(100)]
    with pytest.raises(TypeError, match="pickle"):
        pool.map(tasks.as_is, items)
    wait_until(lambda: not pool._cache, "all has ended")


def test_a_worker_that_dies(make_forked: MakePool) -> None:
    """It costs its chunk, or with ``retries`` nothing."""
    pool = make_forked(2)
    with pytest.raises(glasspool.WorkerDied):
        pool.map(tasks.die_once, range(300))
    assert pool.map(tasks.die_once, range(300), retries=1) == list(range(300))


def test_callables_with_state_have_stocks_chunks(make_forked: MakePool) -> None:
    """They are rebuilt for each chunk, which may be dear: not more often than in the standard library."""
    pool = make_forked(2)
    result = pool.map_async(tasks.Stateful(), range(80))
    assert result.get(LIMIT_S) == list(range(1, 11)) * 8
    assert [task.items for task in result.info.tasks] == [10] * 8


def test_a_worker_that_serves_a_number_of_tasks_has_stocks_chunks(make_forked: MakePool) -> None:
    """With ``maxtasksperchild`` a chunk costs a part of a process."""
    pool = make_forked(2, maxtasksperchild=4)
    result = pool.map_async(tasks.as_is, range(80))
    result.wait(LIMIT_S)
    assert [task.items for task in result.info.tasks] == [10] * 8


def test_others_do_not_overtake(make_forked: MakePool, forked_gate: Gate) -> None:
    """While others' tasks wait, too, a map gets in line with all it has."""
    pool = make_forked(1, **forked_gate.arguments)
    blocker = pool.apply_async(tasks.wait_always, (0,))
    forked_gate.wait_for_tasks()
    others = [pool.apply_async(tasks.as_is, (n,)) for n in range(300)]
    wait_until(lambda: pool.stats()["waiting"] == 300, "the others wait")
    waiting = InBackground(lambda: pool.map(tasks.negative, range(2000)))

    def is_made() -> bool:
        jobs = [job for job in pool._cache.values() if isinstance(job, GuidedMapResult)]
        return bool(jobs) and sum(t.items for t in jobs[0]._tasks if t is not None) == 2000

    wait_until(is_made, "all is in line")
    forked_gate.open()
    waiting.join()
    assert waiting.value == [-n for n in range(2000)]
    assert [other.get(LIMIT_S) for other in others] == list(range(300))
    assert blocker.get(LIMIT_S) == 0


def test_others_that_wait_unseen_count_too(make_forked: MakePool, forked_gate: Gate) -> None:
    """Tasks that have been handed in, and that the pool's thread has not come to yet, are in line as well."""
    pool = make_forked(1, **forked_gate.arguments)
    blocker = pool.apply_async(tasks.wait_always, (0,))
    forked_gate.wait_for_tasks()
    goes_on = threading.Event()
    pool._engine.collector.mailbox.put(lambda: goes_on.wait(LIMIT_S))
    others = [pool.apply_async(tasks.as_is, (n,)) for n in range(300)]
    waiting = InBackground(lambda: pool.map(tasks.negative, range(2000)))

    def is_made() -> bool:
        jobs = [job for job in pool._cache.values() if isinstance(job, GuidedMapResult)]
        return bool(jobs) and sum(t.items for t in jobs[0]._tasks if t is not None) == 2000

    try:
        wait_until(is_made, "all is in line")
    finally:
        goes_on.set()
        forked_gate.open()
    waiting.join()
    assert waiting.value == [-n for n in range(2000)]
    assert [other.get(LIMIT_S) for other in others] == list(range(300))
    assert blocker.get(LIMIT_S) == 0


def test_drain_gives_back_what_was_not_begun(make_forked: MakePool, forked_gate: Gate) -> None:
    """All items of a call that waits have run or are given back, also those that were in no chunk yet."""
    pool = make_forked(2, **forked_gate.arguments)
    waiting = InBackground(lambda: pool.map(tasks.wait_always, range(900)))
    forked_gate.wait_for_tasks(2)
    job = job_of(pool)
    drained = InBackground(pool.drain)
    wait_until(lambda: pool._engine.collector.draining, "the pool is being drained")
    forked_gate.open()
    drained.join()
    waiting.join()
    assert isinstance(waiting.error, glasspool.TaskCancelled)
    assert drained.error is None
    given_back = [args[0] for undone in drained.value for _, args, _ in undone.calls()]
    began = [(task.index, task.items) for task in job._tasks if task is not None and task.begun_ns]
    assert len(given_back) == len(set(given_back))
    assert len(given_back) + sum(items for _, items in began) == 900


def test_cancel_ends_all(make_forked: MakePool, forked_gate: Gate) -> None:
    """``cancel`` of a map whose chunks wait and run."""
    pool = make_forked(2, **forked_gate.arguments)
    result = pool.map_async(tasks.wait_always, range(500))
    forked_gate.wait_for_tasks(2)
    assert result.cancel()
    with pytest.raises(glasspool.TaskCancelled):
        result.get(LIMIT_S)
    forked_gate.open()
    wait_until(lambda: not pool._cache, "all has ended")
    assert result._number_left == 0


def test_terminate_ends_a_call_that_waits(make_forked: MakePool, forked_gate: Gate) -> None:
    """Its caller, who waits to make more chunks, has ``TaskCancelled``."""
    pool = make_forked(2, **forked_gate.arguments)
    waiting = InBackground(lambda: pool.map(tasks.wait_always, range(900)))
    forked_gate.wait_for_tasks(2)
    pool.terminate()
    waiting.join()
    assert isinstance(waiting.error, glasspool.TaskCancelled)


def test_a_signal_handler_may_join_in_the_middle_of_a_map(
    make_forked: MakePool, forked_gate: Gate
) -> None:
    """The thread that makes the chunks is the one that waits in the handler: the rest is made there."""
    pool = make_forked(2, **forked_gate.arguments)
    joined: list[bool] = []

    def close_and_join(*_: object) -> None:
        pool.close()
        forked_gate.open()
        pool.join()
        joined.append(True)

    def send() -> None:
        forked_gate.wait_for_tasks(2)
        wait_until(lambda: bool(pool._engine.callers), "the caller waits")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, close_and_join)
    sender = threading.Thread(target=send)
    try:
        sender.start()
        assert pool.map(tasks.wait_always, range(900)) == list(range(900))
    finally:
        sender.join(LIMIT_S)
        signal.signal(signal.SIGUSR1, before)
    assert joined


def test_two_threads_ask_for_the_same_values(make_forked: MakePool) -> None:
    """Each puts them together, or has what the other has put together."""
    pool = make_forked(2)
    for _ in range(20):
        result = pool.map_async(tasks.negative, range(2000))
        result.wait(LIMIT_S)
        asking = [InBackground(result.get) for _ in range(3)]
        for one in asking:
            one.join()
            assert one.value == [-n for n in range(2000)]
