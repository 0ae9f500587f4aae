"""Results, iterators and pools in tasks of an event loop: asyncio, uvloop, anyio, trio."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import awaiting_tasks as tasks
import pytest
import trio
import uvloop

import glasspool
from gates import Gate
from glasspool import awaiting
from pools import MakePool, maker, wait_until

ROOT = Path(__file__).parents[2]
LIMIT_S = 20.0
LOOPS = {"asyncio": None, "uvloop": uvloop.new_event_loop}
EACH_LOOP = ["asyncio", pytest.param("uvloop", marks=pytest.mark.one_python)]
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(asyncio.sleep(0))  # libuv opens a pipe for its first loop, and keeps it for ever

Run = Callable[[Any], Any]


@pytest.fixture(params=EACH_LOOP)
def run(request: pytest.FixtureRequest) -> Run:
    """Return what runs a coroutine on each kind of loop in turn."""
    return lambda coroutine: run_on(LOOPS[request.param], coroutine)


def run_on(factory: Any, coroutine: Any) -> Any:
    """Run a coroutine on a loop of its own, not for ever."""

    async def limited() -> Any:
        async with asyncio.timeout(LIMIT_S):
            return await coroutine

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(limited())


@pytest.fixture
def make(ledger_check: None) -> Iterator[MakePool]:
    """Return a callable that makes pools by fork: how a worker starts is nothing to a loop."""
    yield from maker(multiprocessing.get_context("fork"))


@pytest.fixture
def gate(leak_check: None) -> Iterator[Gate]:
    """Return what tasks wait for."""
    made = Gate(multiprocessing.get_context("fork"))
    yield made
    made.drop()


async def begun(gate: Gate, count: int = 1) -> None:
    """Wait until so many more tasks are at the gate, while the loop runs."""
    await asyncio.get_running_loop().run_in_executor(None, gate.wait_for_tasks, count)


def state_of(result: Any) -> str:
    """Return how a task is, once it has ended."""
    wait_until(result.ready, "the task has ended")
    return str(result.info.state)


def test_results_are_awaitable(make, run):
    """A result is what asyncio takes: alone, gathered, in a group, as completed, with a time limit."""
    pool = make(2)

    async def wait_for(result: Any) -> Any:
        return await result

    async def go() -> None:
        assert await pool.apply_async(tasks.double, (1,)) == 2
        assert await pool.map_async(tasks.double, range(50)) == [2 * n for n in range(50)]
        assert await pool.starmap_async(tasks.double, [(1,), (2,)]) == [2, 4]
        assert await pool.map_async(tasks.double, []) == []
        calls = [pool.apply_async(tasks.double, (n,)) for n in range(20)]
        assert await asyncio.gather(*calls) == [2 * n for n in range(20)]
        assert await asyncio.wait_for(pool.apply_async(tasks.double, (3,)), LIMIT_S) == 6
        assert await asyncio.ensure_future(pool.apply_async(tasks.double, (4,))) == 8
        async with asyncio.TaskGroup() as group:
            one = group.create_task(wait_for(pool.apply_async(tasks.double, (5,))))
        assert one.result() == 10
        rest = [pool.apply_async(tasks.double, (n,)) for n in range(5)]
        assert {await one for one in asyncio.as_completed(rest)} == {0, 2, 4, 6, 8}

    run(go())


def test_errors_are_raised(make, run):
    """What the task raised arrives as from get(), with the worker's traceback as its cause."""
    pool = make(1)

    async def go() -> None:
        with pytest.raises(LookupError, match="number 7") as caught:
            await pool.apply_async(tasks.fail, (7,))
        assert "awaiting_tasks.py" in str(caught.value.__cause__)
        with pytest.raises(LookupError, match="number 1"):
            await pool.map_async(tasks.fail_if_odd, range(4), 1)
        with pytest.raises(glasspool.WorkerDied):
            await pool.apply_async(os._exit, (3,))
        with pytest.raises(glasspool.TaskTimeout):
            await pool.apply_async(tasks.resist, (600,), timeout=0.05)

    pool_gate = Gate(multiprocessing.get_context("fork"))
    pool.terminate()
    pool = make(1, **pool_gate.arguments)
    run(go())
    pool_gate.drop()


def test_a_result_that_is_there_takes_no_turn_of_the_loop(make):
    """Awaiting a result that has ended goes on at once, in whatever loop, and as often as one likes."""
    result = make(1).apply_async(tasks.double, (1,))
    result.wait(LIMIT_S)
    steps = result.__await__()
    with pytest.raises(StopIteration) as ended:
        next(steps)
    assert ended.value.value == 2
    assert run_on(None, asyncio.wait_for(result, LIMIT_S)) == 2


def test_cancelling_the_task_cancels_the_work(make, gate, run):
    """What runs is interrupted and its worker is free; what waits never begins."""
    pool = make(1, **gate.arguments)

    async def go() -> None:
        running = pool.apply_async(tasks.at_gate, (1,))
        waiting = pool.apply_async(tasks.at_gate, (2,))
        both = [asyncio.ensure_future(running), asyncio.ensure_future(waiting)]
        await begun(gate)
        for one in both:
            one.cancel()
        ends = await asyncio.gather(*both, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends)
        assert await pool.apply_async(tasks.double, (4,)) == 8
        assert not gate.started.acquire(block=False)
        assert (state_of(running), state_of(waiting)) == ("cancelled", "cancelled")

    run(go())


def test_a_time_limit_cancels_the_work(make, gate, run):
    """wait_for and timeout raise asyncio's TimeoutError, not the pool's, and the worker is free."""
    pool = make(1, **gate.arguments)

    async def go() -> None:
        with pytest.raises(TimeoutError) as caught:
            await asyncio.wait_for(pool.apply_async(tasks.at_gate, (1,)), 0.02)
        assert not isinstance(caught.value, glasspool.TaskTimeout)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await pool.map_async(tasks.at_gate, range(8))
        assert await pool.apply_async(tasks.double, (4,)) == 8

    run(go())


def test_the_last_who_gives_up_cancels(make, gate, run):
    """Of two tasks that await the same result one may leave; a thread that waits in get() counts."""
    pool = make(1, **gate.arguments)

    async def go() -> None:
        result = pool.apply_async(tasks.at_gate, (1,))
        first, second = asyncio.ensure_future(result), asyncio.ensure_future(result)
        await begun(gate)
        first.cancel()
        await asyncio.wait([first])
        assert not result.ready()
        second.cancel()
        await asyncio.wait([second])
        assert state_of(result) == "cancelled"

        result = pool.apply_async(tasks.at_gate, (2,))
        beside = asyncio.get_running_loop().run_in_executor(None, result.get, LIMIT_S)
        await begun(gate)
        wait_until(lambda: bool(result._waiters), "the thread waits")
        task = asyncio.ensure_future(result)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        gate.open()
        assert await beside == 2
        shielded = asyncio.shield(pool.apply_async(tasks.at_gate, (3,)))
        assert await shielded == 3

    run(go())


def test_a_result_that_somebody_else_cancels(make, gate):
    """Whoever awaits it gets TaskCancelled: he himself has not been cancelled."""
    pool = make(1, **gate.arguments)

    async def go() -> None:
        result = pool.apply_async(tasks.at_gate, (1,))
        task = asyncio.ensure_future(result)
        await begun(gate)
        result.cancel()
        with pytest.raises(glasspool.TaskCancelled):
            await task
        other = asyncio.ensure_future(pool.apply_async(tasks.at_gate, (1,)))
        await begun(gate)
        await asyncio.to_thread(pool.terminate)
        with pytest.raises(glasspool.TaskCancelled):
            await other

    run_on(None, go())


def test_two_loops_await_one_result(make, gate):
    """Each loop, in its own thread, is told."""
    pool = make(1, **gate.arguments)
    result = pool.apply_async(tasks.at_gate, (5,))
    got: list[int] = []
    threads = [
        threading.Thread(
            target=lambda f=factory: got.append(run_on(f, asyncio.wait_for(result, LIMIT_S)))
        )
        for factory in LOOPS.values()
    ]
    for thread in threads:
        thread.start()
    gate.wait_for_tasks()
    wait_until(lambda: len(result._waiters or ()) == 2, "both wait")
    gate.open()
    for thread in threads:
        thread.join(LIMIT_S)
    assert got == [5, 5]


@pytest.mark.parametrize("kind", EACH_LOOP)
def test_a_loop_that_is_closed_before_the_result_comes(make, gate, kind, monkeypatch):
    """No thread of the pool minds, and the result can still be had."""
    errors: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    pool = make(1, **gate.arguments)
    result = pool.apply_async(tasks.at_gate, (6,))
    loop = (LOOPS[kind] or asyncio.new_event_loop)()
    task = loop.create_task(asyncio.wait_for(result, LIMIT_S))
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    loop.close()
    gate.open()
    assert result.get(LIMIT_S) == 6
    assert pool.apply(tasks.double, (1,)) == 2
    assert not errors
    assert not task.done()
    task._log_destroy_pending = False
    with contextlib.suppress(RuntimeError):  # 3.11's wait_for calls the loop that is closed
        task.get_coro().close()


def test_a_task_that_is_dropped_cancels_its_work(make, gate):
    """When the loop has ended early and the task is collected, nobody waits any more."""
    pool = make(1, **gate.arguments)
    result = pool.apply_async(tasks.at_gate, (6,))

    async def wait_for_it() -> None:
        await result

    coroutine = wait_for_it()

    async def go() -> None:
        coroutine.send(None)

    run_on(None, go())
    coroutine.close()
    assert state_of(result) == "cancelled"
    assert not result._waiters


def test_wake_ups_are_shared(make):
    """A loop that is busy while many results come is called once for all of them."""
    pool = make(1)
    calls: list[Any] = []

    class Counting(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *args: Any, **kwds: Any) -> Any:
            calls.append((threading.current_thread().name, args))
            return super().call_soon_threadsafe(*args, **kwds)

    async def go() -> None:
        waiting = [asyncio.ensure_future(pool.apply_async(tasks.double, (n,))) for n in range(300)]
        await asyncio.sleep(0)
        pool.apply(tasks.double, (0,))  # the loop is busy
        calls.clear()
        last = pool.apply_async(tasks.double, (1,))
        last.wait(LIMIT_S)
        assert await asyncio.gather(*waiting) == [2 * n for n in range(300)]
        assert len(calls) < 30

    run_on(Counting, go())


def test_a_loop_of_unknown_make_is_called_on_the_callback_thread(make, gate):
    """What a user has written into call_soon_threadsafe may block, and never stops the pool."""
    pool = make(1, **gate.arguments)
    names: set[str] = set()

    class Own(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *args: Any, **kwds: Any) -> Any:
            names.add(threading.current_thread().name)
            return super().call_soon_threadsafe(*args, **kwds)

    async def go() -> None:
        task = asyncio.ensure_future(pool.apply_async(tasks.at_gate, (1,)))
        gate.wait_for_tasks()
        await asyncio.sleep(0)
        gate.open()
        assert await task == 1

    run_on(Own, go())
    assert names == {f"{pool.name} callback"}


def test_callbacks_come_first(make, run):
    """A result is there after its callback has returned; a callback cannot wait for its own result."""
    pool = make(1)
    seen: list[Any] = []

    def note(value: int) -> None:
        seen.append(value)
        try:
            asyncio.run(asyncio.wait_for(result, LIMIT_S))
        except glasspool.GlasspoolError as error:
            seen.append(str(error))

    holder: list[Any] = []

    async def go() -> None:
        nonlocal result
        holder.append(pool.apply_async(tasks.double, (1,), callback=note))
        result = holder[0]
        assert await result == 2
        assert seen[0] == 2
        assert "a callback waits" in seen[1]

    result: Any = None
    run(go())


def test_nothing_is_kept(make, gate):
    """Neither an awaited result, nor a failed one, nor a cancelled one needs the garbage collector."""
    pool = make(1, **gate.arguments)

    async def go() -> None:
        await pool.apply_async(tasks.double, (1,))
        for _ in range(5):
            with contextlib.suppress(LookupError):
                await pool.apply_async(tasks.fail, (1,))
        task = asyncio.ensure_future(pool.apply_async(tasks.at_gate, (1,)))
        await begun(gate)
        task.cancel()
        await asyncio.wait([task])
        del task
        await pool.apply_async(tasks.double, (1,))

    gc.collect()
    gc.disable()
    try:
        run_on(None, go())
        # For 0.1 s the pool looks whether a task that was interrupted resists.
        wait_until(
            lambda: not any(isinstance(one, glasspool.AsyncResult) for one in gc.get_objects()),
            "no result is left",
        )
    finally:
        gc.enable()
    loops = len(awaiting._mailboxes)
    gc.collect()
    assert len(awaiting._mailboxes) <= loops


def test_leaving_a_pool_lets_the_loop_run(make, gate, run):
    """async with terminates the pool, also if the task is cancelled meanwhile; the loop goes on."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async def block(pool: glasspool.Pool) -> None:
        async with pool:
            pool.apply_async(tasks.resist, (600,))
            await begun(gate)

    async def go() -> None:
        nonlocal ticks
        beside = asyncio.create_task(tick())
        pool = make(1, **gate.arguments)
        leaving = asyncio.create_task(block(pool))
        wait_until_left = asyncio.create_task(asyncio.wait([leaving]))
        while pool._state == "RUN":
            await asyncio.sleep(0.005)
        before = ticks
        leaving.cancel()  # while it waits for the workers, which take 0.4 s
        await wait_until_left
        assert pool._engine.done.is_set()
        assert leaving.cancelled()
        assert ticks > before + 5
        beside.cancel()

    run(go())


def test_a_pool_is_joined(make, run):
    """ajoin() waits for the workers and for callbacks, and is refused while the pool runs."""
    pool = make(1)
    seen: list[int] = []

    async def go() -> None:
        with pytest.raises(ValueError, match="still running"):
            await pool.ajoin()
        for number in range(5):
            pool.apply_async(tasks.double, (number,), callback=seen.append)
        pool.close()
        await pool.ajoin()
        assert seen == [0, 2, 4, 6, 8]
        assert pool._engine.done.is_set()
        with pytest.raises(ValueError, match="not running"):
            async with pool:
                pass

    run(go())


def test_async_for(make, run):
    """imap gives its values in order, imap_unordered all; an item's error is raised and does not end it."""
    pool = make(2)

    async def go() -> None:
        assert [v async for v in pool.imap(tasks.double, range(200))] == [2 * n for n in range(200)]
        assert [v async for v in pool.imap(tasks.double, range(50), 7)] == [
            2 * n for n in range(50)
        ]
        got = {v async for v in pool.imap_unordered(tasks.double, iter(range(50)))}
        assert got == {2 * n for n in range(50)}
        assert [v async for v in pool.imap(tasks.double, [])] == []
        values = pool.imap(tasks.fail_if_odd, range(4))
        got_all = []
        for _ in range(4):
            try:
                got_all.append(await anext(values))
            except LookupError as error:
                got_all.append(str(error))
        assert got_all == [0, "number 1", 2, "number 3"]
        with pytest.raises(StopAsyncIteration):
            await anext(values)

    run(go())


def test_async_for_draws_no_further_than_it_reads(make, run):
    """The bound of imap holds; the loop goes on while values come faster than they are read."""
    pool = make(1)
    drawn: list[int] = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            drawn.append(number)
            yield number
            number += 1

    async def go() -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(count())
        read = 0
        async for _ in pool.imap(tasks.double, endless(), buffersize=10):
            read += 1
            assert len(drawn) <= read + 12
            if read == 500:
                break
        assert turns >= 500 // awaiting.YIELD_EVERY
        beside.cancel()

    run(go())


def test_leaving_async_for_cancels_the_rest(make, gate, run):
    """By break or by the task's end: what runs is interrupted, an endless iterable is drawn no more."""
    pool = make(2, **gate.arguments)

    async def read() -> None:
        async for _ in pool.imap(tasks.at_gate, iter(int, 1)):
            pass

    async def go() -> None:
        async for value in pool.imap_unordered(tasks.double, iter(int, 1)):
            assert value == 0
            break
        task = asyncio.create_task(read())
        await begun(gate, 2)
        task.cancel()
        await asyncio.wait([task])
        assert await pool.apply_async(tasks.double, (2,)) == 4
        async with contextlib.aclosing(pool.imap(tasks.at_gate, range(9))):
            await begun(gate, 2)
        assert await pool.apply_async(tasks.double, (3,)) == 6
        wait_until(lambda: not pool._cache, "no job is left")

    run(go())


def test_a_value_that_takes_too_long_may_be_asked_for_again(make, gate, run):
    """A time limit for one value leaves the iterator as it was, like next(timeout)."""
    pool = make(1, **gate.arguments)

    async def go() -> None:
        values = pool.imap(tasks.at_gate, [1, 2])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(values), 0.02)
        assert not values._job._latches
        gate.open()
        assert [value async for value in values] == [1, 2]

    run(go())


def test_trio(make, gate):
    """On trio: values, errors, cancel scopes, async for, and a pool that is left in a cancelled scope."""
    pool = make(1, **gate.arguments)

    async def go() -> None:
        assert await pool.apply_async(tasks.double, (1,)) == 2
        with pytest.raises(LookupError):
            await pool.apply_async(tasks.fail, (1,))
        result = pool.apply_async(tasks.at_gate, (1,))
        with trio.move_on_after(0.02) as scope:
            await result
        assert scope.cancelled_caught
        assert state_of(result) == "cancelled"
        assert [v async for v in pool.imap(tasks.double, range(100))] == [2 * n for n in range(100)]
        with trio.CancelScope() as scope:
            async with pool:
                scope.cancel()
                await pool.apply_async(tasks.at_gate, (1,))
        assert scope.cancelled_caught
        assert pool._engine.done.is_set()
        await pool.ajoin()

    async def limited() -> None:
        with trio.fail_after(LIMIT_S):
            await go()

    trio.run(limited)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio(make, gate, backend):
    """On anyio: a task group that ends early cancels the work, a scope too; a pool is left in it."""
    pool = make(2, **gate.arguments)

    async def wait_for(result: Any) -> None:
        await result

    async def go() -> None:
        with anyio.fail_after(LIMIT_S):
            results = [pool.apply_async(tasks.at_gate, (n,)) for n in range(4)]
            async with anyio.create_task_group() as group:
                for result in results:
                    group.start_soon(wait_for, result)
                for _ in range(2):  # not in a thread: trio keeps that for a while
                    while not gate.started.acquire(block=False):
                        await anyio.sleep(0.002)
                group.cancel_scope.cancel()
            assert {state_of(result) for result in results} == {"cancelled"}
            assert await pool.apply_async(tasks.double, (1,)) == 2
            with anyio.CancelScope() as scope:
                async with pool:
                    scope.cancel()
                    await anyio.sleep(1)
            assert pool._engine.done.is_set()

    anyio.run(go, backend=backend)


def test_no_loop_no_waiting(make, gate):
    """Without a loop the error is asyncio's, and the work goes on."""
    pool = make(1, **gate.arguments)
    result = pool.apply_async(tasks.at_gate, (1,))
    with pytest.raises(RuntimeError, match="no running event loop"):
        result.__await__().send(None)
    gate.open()
    assert result.get(LIMIT_S) == 1


@pytest.mark.one_python
def test_workers_are_free_after_many_cancellations(tmp_path: Path) -> None:
    """Half of the awaited tasks are cancelled while they run: workers are free at once, nothing is left.

    The full size with GLASSPOOL_AWAITED=10000; then the longest time counts, too.
    """
    size = int(os.environ.get("GLASSPOOL_AWAITED", "400"))
    done = subprocess.run(
        [sys.executable, "-m", "bench.awaited", "--tasks", str(size), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    told = json.loads(done.stdout)
    assert not any(told["left"].values()), told
    for way in (told["one_by_one"], told["at_once"]):
        assert way["as_expected"], told
        assert way["free_median_ms"] < 250, told
        assert size < 10_000 or way["free_max_ms"] < 250, told
