"""Seeds: results that draw random numbers do not depend on who runs them, and workers do not repeat
each other."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seed_tasks as tasks

import glasspool
from pools import LIMIT_S, MakePool


def outcomes(make: MakePool, workers: int, chunksize: int | None, seed: int = 7) -> list[Any]:
    """Return what the same calls give in a pool of some size."""
    pool = make(workers, seed=seed, initializer=tasks.draw_as_initializer)
    return [
        pool.map(tasks.draw, range(7), chunksize),
        pool.starmap(tasks.draw_two, [(i, i) for i in range(7)], chunksize),
        list(pool.imap(tasks.draw, iter(range(5)), chunksize or 1)),
        sorted(pool.imap_unordered(tasks.draw, range(5), chunksize or 1)),
        pool.apply(tasks.draw),
        pool.apply_async(tasks.draw_two, (1,), {"second": 2}).get(LIMIT_S),
        pool.map(lambda item: tasks.draw(item), range(3)),
        pool.map(tasks.drawn_by_initializer, range(3), chunksize),
    ]


def test_results_do_not_depend_on_workers_or_chunks(make: MakePool) -> None:
    """With a seed, each item draws the same whoever runs it, in whatever chunk."""
    first = outcomes(make, 1, None)
    assert outcomes(make, 3, 1) == first
    assert outcomes(make, 2, 4) == first


@pytest.mark.parametrize("start_method", ["fork"], indirect=True, scope="session")
def test_what_differs_draws_differently(make: MakePool) -> None:
    """Items, calls, seeds and the two generators have numbers of their own."""
    values = [pair for row in outcomes(make, 2, 2)[:1] for pair in row]
    again = make(2, seed=7)
    other = make(2, seed=8)
    rows = [again.map(tasks.draw, range(7)), again.map(tasks.draw, range(7))]
    rows.append(other.map(tasks.draw, range(7)))
    assert rows[0] == values
    numbers = [number for row in rows for pair in row for number in pair]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("start_method", ["fork"], indirect=True, scope="session")
def test_an_item_that_is_retried_draws_the_same_again(make: MakePool, tmp_path: Path) -> None:
    """A retry begins with the same seed."""
    pool = make(1, seed=3, retries=1)
    value = pool.apply(tasks.draw_at_second_try, (str(tmp_path),))
    assert repr(value) == (tmp_path / "tried").read_text()


@pytest.mark.parametrize("start_method", ["fork"], indirect=True, scope="session")
def test_views_and_drain_know_the_users_function_and_arguments(make: MakePool) -> None:
    """What is added for a seed is not seen."""
    pool = make(1, seed=3)
    result = pool.map_async(tasks.draw, [4], chunksize=1)
    result.get(LIMIT_S)
    assert result.info.function == "seed_tasks.draw"
    gate = pool.apply_async(tasks.draw)
    gate.get(LIMIT_S)
    pool._engine.collector.draining = True  # nothing begins from here on
    pool.starmap_async(tasks.draw_two, [(1, 2)], chunksize=1)
    pool.map_async(tasks.draw, [5, 6], chunksize=2)
    undone = pool.drain(LIMIT_S)
    assert [one.calls() for one in undone] == [
        [(tasks.draw_two, (1, 2), {})],
        [(tasks.draw, (5,), {}), (tasks.draw, (6,), {})],
    ]


def test_workers_do_not_repeat_each_other(make: MakePool) -> None:
    """Without a seed workers, and those who follow them, draw different numbers, whatever they inherit."""
    np.random.seed(1)
    state = np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    pool = make(2, maxtasksperchild=1)
    told = pool.map(tasks.draw_both, range(4), chunksize=1)
    assert len({pid for pid, *_ in told}) == 4
    assert len({one for _, one, _ in told}) == len({one for *_, one in told}) == 4
    assert np.random.get_state()[1].tolist() == state  # type: ignore[union-attr]


def test_a_seed_and_lanes_do_not_go_together() -> None:
    """One generator for all threads of a worker cannot give each item its own numbers."""
    with pytest.raises(ValueError, match="seed needs threads=1"):
        glasspool.Pool(1, seed=1, threads=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_executor_has_seeds(workers: int) -> None:
    """Each submitted call, and each item of a chunk, has numbers of its own, whoever runs it."""
    context = multiprocessing.get_context("fork")
    with glasspool.Executor(workers, mp_context=context, seed=3) as executor:
        numbers = [*executor.map(tasks.draw_two, range(6), chunksize=3)]
        numbers += [executor.submit(tasks.draw_two, 1).result(LIMIT_S) for _ in range(2)]
    assert len(set(numbers)) == 8
    assert [round(number, 6) for number in numbers[:2]] == EXECUTORS


EXECUTORS = [0.324362, 0.860102]
