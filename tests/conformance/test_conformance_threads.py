"""The programs of this folder on pools of threads: the standard library's ``ThreadPool``, and ours.

Left out is what needs a process: pickling, copies of arguments, exit codes, what a fork inherits.
"""

from __future__ import annotations

import multiprocessing.dummy
import multiprocessing.pool
from collections.abc import Iterator
from typing import Any

import conformance_tasks
import pytest
from conformance_kinds import PoolMaker
from test_conformance_attributes import (  # noqa: F401
    test_cache_is_empty_after_work,
    test_is_a_pool,
    test_submitting_from_many_threads,
)
from test_conformance_calls import (  # noqa: F401
    test_apply,
    test_apply_accepts_any_iterable_of_arguments,
    test_apply_async,
    test_apply_keywords,
    test_apply_without_arguments,
    test_chunksize_none_is_the_default_where_it_is_allowed,
    test_eager_not_iterable,
    test_imap_goes_on_after_the_error_of_an_item,
    test_imap_iterable_that_raises,
    test_imap_keeps_order,
    test_imap_unordered_iterable_that_raises,
    test_lazy_chunksize_below_one,
    test_lazy_not_iterable,
    test_many_apply_async,
    test_many_numbers,
    test_map_iterable_that_raises,
    test_map_sized_iterable_that_raises,
    test_mapping,
    test_mapping_a_generator,
    test_mapping_nothing,
    test_mapping_other_iterables,
    test_starmap_item_that_cannot_be_spread,
    test_starmap_spreads_each_item,
)
from test_conformance_lifecycle import (  # noqa: F401
    forget,
    test_cannot_be_pickled,
    test_close_and_join_an_idle_pool,
    test_context_manager_needs_a_running_pool,
    test_context_manager_returns_the_pool,
    test_default_size,
    test_ending_twice,
    test_initializer_not_callable,
    test_join_before_close,
    test_size_below_one,
    test_submit_after_the_end,
    test_terminate_an_idle_pool,
    test_workers_are_gone_after_join,
)
from test_conformance_places import (  # noqa: F401
    test_ended_by_another_thread,
    test_made_off_the_main_thread,
    test_outlives_the_thread_that_made_it,
    test_two_pools_at_once,
)
from test_conformance_results import (  # noqa: F401
    gated,
    test_callback,
    test_callback_may_submit,
    test_callbacks_in_order_of_completion,
    test_chunked_iterator_next_times_out,
    test_error_callback,
    test_failing_map_ends_with_its_last_chunk,
    test_get_times_out_then_succeeds,
    test_imap_gives_first_results_before_the_last_item_is_drawn,
    test_imap_unordered_does_not_wait_for_the_slowest,
    test_iterator_next_times_out,
    test_iterator_protocol,
    test_iterator_read_after_join,
    test_join_waits_for_callbacks,
    test_map_callback,
    test_map_error_callback,
    test_map_get_times_out_then_succeeds,
    test_number_left,
    test_results_read_after_join,
    test_starmap_callback,
    test_successful,
    test_unread_iterator_runs_everything,
    test_unread_results_do_no_harm,
    test_wait_and_ready,
)

import glasspool

pytestmark = pytest.mark.one_python  # test_thread_pool.py runs on each

CLASSES = {"stock": multiprocessing.pool.ThreadPool, "glasspool": glasspool.ThreadPool}


class ThreadPoolMaker(PoolMaker):
    """Makes pools of threads of one kind, which know no context."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.pool_class = CLASSES[kind]

    def __call__(self, *args: Any, **kwds: Any) -> multiprocessing.pool.Pool:
        kwds.pop("context", None)
        pool: multiprocessing.pool.Pool = self.pool_class(*args, **kwds)
        self._made.append(pool)
        return pool

    pool_class: Any


@pytest.fixture
def ctx() -> Any:
    """Return the events, locks and barriers of threads, under the names of those of processes."""
    return multiprocessing.dummy


@pytest.fixture
def make_pool(kind: str, leak_check: None) -> Iterator[PoolMaker]:
    """Return a callable that makes pools of the kind under test."""
    maker = ThreadPoolMaker(kind)
    yield maker
    maker.end()
    conformance_tasks.shared = None


@pytest.fixture
def make_ours(leak_check: None) -> Iterator[PoolMaker]:
    """Return a callable that makes pools of ours."""
    maker = ThreadPoolMaker("glasspool")
    yield maker
    maker.end()
    conformance_tasks.shared = None


@pytest.fixture(scope="module")
def shared_pool(kind: str) -> Iterator[multiprocessing.pool.Pool]:
    """Return a pool of two threads that the tests of this module share."""
    pool = CLASSES[kind](2)
    yield pool
    pool.terminate()
    pool.join()


def test_forgotten_while_it_runs(make_pool: PoolMaker) -> None:
    """A pool of threads that is forgotten while it runs gives a ResourceWarning, too."""
    held: list[Any] = [make_pool.pool_class(1)]
    assert held[0].apply(conformance_tasks.square, (2,)) == 4
    with pytest.warns(ResourceWarning, match="unclosed running"):
        forget(held)


def test_lambdas_locks_and_identity(shared_pool: multiprocessing.pool.Pool) -> None:
    """Nothing is pickled: functions, arguments and results are the very objects."""
    thing = multiprocessing.dummy.Lock()
    assert shared_pool.apply(lambda x: x, (thing,)) is thing
    assert shared_pool.map(lambda x: x, [thing, thing])[1] is thing
    assert next(shared_pool.imap(lambda x: x, [thing])) is thing
    assert shared_pool.starmap(lambda x, y: y, [(1, thing)])[0] is thing


def test_an_exception_arrives_as_the_very_object(shared_pool: multiprocessing.pool.Pool) -> None:
    """What a task raises is not copied, and says where it was raised."""
    error = conformance_tasks.Oops(1, "word")

    def fail() -> None:
        raise error

    with pytest.raises(conformance_tasks.Oops) as caught:
        shared_pool.apply(fail)
    assert caught.value is error
    assert caught.traceback[-1].name == "fail"


def test_terminate_does_not_wait_for_what_runs(make_pool: PoolMaker) -> None:
    """``terminate`` returns while a task runs, which goes on to its end; ``join`` waits for it."""
    entered, gate, ended = (multiprocessing.dummy.Event() for _ in range(3))

    def task() -> None:
        entered.set()
        gate.wait(30)
        ended.set()

    with make_pool(1) as pool:
        pool.apply_async(task)
        assert entered.wait(30)
    assert not ended.is_set()
    gate.set()
    pool.join()
    assert ended.is_set()


def test_initializer_runs_in_each_thread(make_pool: PoolMaker) -> None:
    """The initializer runs in each thread, before any task there."""
    local = multiprocessing.dummy.threading.local()
    barrier = multiprocessing.dummy.Barrier(2)

    def prepare(word: str) -> None:
        local.word = word

    def task(_: int) -> str:
        barrier.wait(30)
        return str(local.word)

    assert make_pool(2, prepare, ("ready",)).map(task, range(2), 1) == ["ready", "ready"]
