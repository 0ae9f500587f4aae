"""A watch tells what a program's pools do, each finished task once, and what became of them at the end."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import watched
from glasspool.engines.local import scoreboard
from glasspool.observe.records import TaskRecord
from glasspool.observe.watch import NOTHING_RUNS, View, Watch
from pools import MakePool, wait_until

LIMIT_S = 60


def double(item: int) -> int:
    return 2 * item


def fail(item: int) -> int:
    raise ValueError(item)


@pytest.fixture
def start() -> Iterator[watched.Start]:
    """Start programs; they end with the test."""
    yield from watched.programs()


@pytest.fixture
def follow() -> Iterator[type[Watch]]:
    """Make watches; they are closed with the test."""
    made: list[Watch] = []

    def make(*args: object, **kwds: object) -> Watch:
        made.append(Watch(*args, **kwds))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def pool_of_two(make_forked: MakePool):
    """Return a pool of two workers that have started."""
    pool = make_forked(2, name="followed")
    pool.map(double, range(2), chunksize=1)
    return pool


def taken(watch: Watch, count: int) -> tuple[list[TaskRecord], int]:
    """Drain a watch until so many tasks were read or are counted as lost."""
    records: list[TaskRecord] = []
    lost = 0

    def enough() -> bool:
        nonlocal lost
        more, missed = watch.drain()
        records.extend(more)
        lost += missed
        return len(records) + lost >= count

    wait_until(enough, f"{count} tasks in the rings")
    return records, lost


@pytest.mark.timeout(LIMIT_S)
def test_each_task_is_told_once(pool_of_two, follow) -> None:
    """What ended since the last reading is told by the next one, oldest first, and never again."""
    watch = follow(os.getpid())
    watch.drain()  # what the rings still held
    pool_of_two.map(double, range(40), chunksize=1)
    with pytest.raises(ValueError):
        pool_of_two.apply(fail, (1,))
    records, lost = taken(watch, 41)
    assert lost == 0
    assert Counter(record.status for record in records) == {"done": 40, "failed": 1}
    assert Counter(record.function for record in records) == {
        "test_watch.double": 40,
        "test_watch.fail": 1,
    }
    assert {record.pool for record in records} == {"followed"}
    workers = {w.pid: w.slot for w in pool_of_two.inspect().workers}
    for record in records:
        assert workers[record.pid] == record.slot
        assert record.begun_ns <= record.ended_ns
    assert watch.drain() == ((), 0)


@pytest.mark.timeout(LIMIT_S)
def test_what_is_overwritten_is_counted(pool_of_two, follow) -> None:
    """Tasks that ended and cannot be read any more are counted: read and lost together are all.

    Or more, where a worker was slow and another one got what it had not begun.
    """
    watch = follow(os.getpid())
    watch.drain()
    pool_of_two.map(double, range(10_000), chunksize=1)
    records, lost = taken(watch, 10_000)
    assert 10_000 <= len(records) + lost < 20_000
    assert 0 < len(records) <= 2 * scoreboard.RING
    assert lost
    ids = [record.task for record in records]
    assert len(set(ids)) == len(ids)


@pytest.mark.timeout(LIMIT_S)
def test_a_reading_can_be_limited(pool_of_two, follow) -> None:
    """With a limit, each reading brings the newest of each worker, and the others count as lost."""
    watch = follow(os.getpid(), most=10)
    watch.drain()
    pool_of_two.map(double, range(200), chunksize=1)
    records, lost = taken(watch, 200)
    assert len(records) + lost == 200
    assert len(records) <= 20
    newest = {record.pid: record for record in records}
    for pid, record in newest.items():
        assert record.ended_ns == max(r.ended_ns for r in records if r.pid == pid)


@pytest.mark.timeout(LIMIT_S)
def test_nothing_is_lost_or_told_twice_while_workers_run(pool_of_two, follow) -> None:
    """Read as fast as can be while the rings go round: every task is read once, or counted.

    Too many may be counted where a ring was overwritten: those that another worker got instead.
    """
    watch = follow(os.getpid())
    watch.drain()
    done = threading.Event()
    told: list[TaskRecord] = []
    lost = 0

    def work() -> None:
        for _ in range(4):
            pool_of_two.map(double, range(5000), chunksize=1)
        done.set()

    thread = threading.Thread(target=work, name="work")
    thread.start()
    while not done.is_set():
        more, missed = watch.drain()
        told += more
        lost += missed
    thread.join(LIMIT_S)
    more, missed = taken(watch, 20_000 - len(told) - lost)
    told += more
    lost += missed
    assert 20_000 <= len(told) + lost < 40_000
    assert len({record.task for record in told}) == len(told) <= 20_000
    assert {(record.function, record.status) for record in told} == {("test_watch.double", "done")}


@pytest.mark.timeout(LIMIT_S)
def test_tasks_of_replaced_workers_are_told_or_counted(make_forked: MakePool, follow) -> None:
    """A worker that came and went between two readings takes no task with it uncounted."""
    pool = make_forked(2, maxtasksperchild=5, name="changing")
    pool.map(double, range(10), chunksize=1)
    watch = follow(os.getpid())
    watch.look()
    pool.map(double, range(200), chunksize=1)
    seen = lost = 0

    def all_are_told() -> bool:
        nonlocal seen, lost
        view = watch.look()
        seen += len(view.records)
        lost += view.lost
        return seen + lost >= 200

    wait_until(all_are_told, "200 tasks read or counted as lost")
    view = watch.look()
    assert seen + lost + len(view.records) + view.lost == 200


@pytest.mark.timeout(LIMIT_S)
def test_pace(pool_of_two, follow) -> None:
    """From the second view on there is a pace: tasks per second, and the part of time at work."""
    watch = follow(os.getpid())
    first = watch.look()
    assert first.paces["followed"].done_per_s is None
    pool_of_two.map(double, range(100), chunksize=1)

    def has_pace() -> bool:
        return bool(watch.look().paces["followed"].done_per_s)

    wait_until(has_pace, "a pace")
    pace = watch.look().paces["followed"]
    assert pace.done_per_s > 0
    assert pace.failed_per_s == 0
    assert pace.left_s == 0
    assert 0 <= pace.busy_share <= 1


@pytest.mark.timeout(LIMIT_S)
def test_a_worker_leads_to_its_program(start, follow) -> None:
    """The number of a worker is as good as that of the program whose pool it serves."""
    program = start()
    worker = program.hold()
    view = follow(worker).look()
    assert view.problem is None
    assert view.snapshot.pools[0].pid == program.pid


@pytest.mark.timeout(LIMIT_S)
def test_the_past_stays(start, follow) -> None:
    """When a program ends, even by SIGKILL, its last picture stays, and its last records are told."""
    program = start()
    watch = follow(program.pid)
    assert not watch.look().past
    program.do("short 7")
    os.killpg(program.pid, signal.SIGKILL)
    program.process.wait(LIMIT_S)
    view = watch.look()
    assert (view.past, view.problem) == (True, "gone")
    assert str(program.pid) in view.text
    assert [pool.name for pool in view.snapshot.pools] == ["watched"]
    assert len(view.records) == 7
    again = watch.look()
    assert again.past
    assert again.snapshot == view.snapshot
    assert again.records == ()


@pytest.mark.timeout(LIMIT_S)
def test_pools_come_and_go(start, follow) -> None:
    """A pool that is made while somebody watches is followed; after the last one's end the past stays."""
    program = start()
    watch = follow(program.pid)
    watch.look()
    program.do("another late")
    assert {pool.name for pool in watch.look().snapshot.pools} == {"watched", "late"}
    program.do("short 3")
    program.do("end")
    view = watch.look()
    assert [pool.name for pool in view.snapshot.pools] == ["late"]
    assert len(view.records) == 3
    program.process.stdin.close()
    program.process.wait(LIMIT_S)
    view = watch.look()
    assert view.past
    assert [pool.name for pool in view.snapshot.pools] == ["late"]


@pytest.mark.timeout(LIMIT_S)
def test_a_program_without_pool_any_more(start, follow) -> None:
    """A program that goes on without a pool is told as such, with its last pool as past."""
    program = start()
    watch = follow(program.pid)
    watch.look()
    program.do("end")
    for _ in range(2):  # looked at from outside once, then not each time
        view = watch.look()
        assert (view.past, view.problem) == (True, "no-pool")
        assert [pool.name for pool in view.snapshot.pools] == ["watched"]
    program.do("another new")
    view = watch.look()
    assert (view.past, view.problem) == (False, None)
    assert [pool.name for pool in view.snapshot.pools] == ["new"]


@pytest.mark.timeout(LIMIT_S)
def test_all_programs(start, follow) -> None:
    """Without a number all programs are followed, and no two pools of theirs have one name."""
    watch = follow()
    nothing = watch.look()
    assert (nothing.snapshot.pools, nothing.past) == ((), False)
    assert NOTHING_RUNS in nothing.text
    first, second = start(), start()
    view = watch.look()
    by_pid = {pool.pid: pool for pool in view.snapshot.pools}
    names = {pid: pool.name for pid, pool in by_pid.items()}
    assert set(names) == {first.pid, second.pid}
    assert sorted(names.values())[0] == "watched"
    assert len(set(names.values())) == 2
    assert set(view.paces) == set(names.values())
    for pid, pool in by_pid.items():
        assert {thread.pool for thread in pool.threads} - {None} == {names[pid]}
    second.do("short 5")
    records, _ = taken(watch, 5)
    assert {record.pool for record in records} == {names[second.pid]}
    first.end()
    view = watch.look()
    assert {pool.name for pool in view.snapshot.pools} == {names[second.pid]}
    second.end()
    view = watch.look()
    assert view.past
    assert {pool.name for pool in view.snapshot.pools} == {names[second.pid]}


@pytest.mark.timeout(LIMIT_S)
def test_files_that_are_no_scoreboards(start, follow, glasspool_dir: Path) -> None:
    """Garbage beside a scoreboard, of any kind of file, is told and does no harm."""
    program = start()
    garbage = glasspool_dir / f"garbage.{program.pid}.board"
    pipe = glasspool_dir / f"pipe.{program.pid}.board"
    garbage.write_bytes(os.urandom(50_000))
    os.mkfifo(pipe)
    try:
        for watch in (follow(program.pid), follow()):
            view = watch.look()
            assert view.problem is None
            assert [pool.name for pool in view.snapshot.pools] == ["watched"]
            assert f"{garbage}: not a scoreboard" in view.text
            assert f"{pipe}: not a regular file" in view.text
    finally:
        garbage.unlink()
        pipe.unlink()
    assert follow(program.pid).look().text == ""


@pytest.mark.timeout(LIMIT_S)
def test_a_scoreboard_whose_records_are_garbage(start, follow, glasspool_dir: Path) -> None:
    """Behind a header as it should be anything may stand: what makes no sense is told to nobody."""
    program = start()
    program.do("short 3")
    (whole,) = glasspool_dir.glob(f"*.{program.pid}.board")
    head = whole.read_bytes()[: scoreboard.RECORDS_AT]
    size = whole.stat().st_size - len(head)
    for number, noise in enumerate((b"\xff" * size, random.Random(6).randbytes(size))):
        damaged = glasspool_dir / f"damaged-{number}.{program.pid}.board"
        damaged.write_bytes(head + noise)
        try:
            watch = follow(program.pid, most=50)
            for _ in range(3):
                view = watch.look()
                assert "watched" in [pool.name for pool in view.snapshot.pools]
                assert all(r.function.endswith("short") for r in view.records)
                assert [r for r in view.records if r.ended_ns > view.now_ns + 1e9] == []
            json.dumps([r._asdict() for r in view.records])
        finally:
            damaged.unlink()


@pytest.mark.timeout(LIMIT_S)
def test_no_such_process(follow) -> None:
    """A process that does not exist is told as such; there is nothing to be seen."""
    view = follow(2**22 + 1).look()
    assert view == View(None, view.taken_at, False, "gone", view.text, now_ns=view.now_ns)
    assert "no such process" in view.text


@pytest.mark.timeout(LIMIT_S)
def test_a_death_is_news(start, follow) -> None:
    """That a worker died is seen in the rings, so that nobody needs to look all the time."""
    program = start()
    watch = follow(program.pid)
    watch.look()
    watch.drain()
    watch.look()
    assert not watch.has_news
    worker = program.hold()
    program.do(f"kill {worker}")

    def is_news() -> bool:
        watch.drain()
        return watch.has_news

    wait_until(is_news, "a death among the news")
    assert [death.pid for death in watch.look().snapshot.pools[0].deaths] == [worker]


@pytest.mark.timeout(LIMIT_S)
def test_pools_of_other_libraries(start, follow) -> None:
    """A program with a stock pool is followed from outside: a picture, and no records."""
    program = start("stock_pool", "fork", "busy")
    while program.answer() != "task 8":
        pass
    view = follow(program.pid).look()
    assert view.problem is None
    (pool,) = view.snapshot.pools
    assert pool.kind == "multiprocessing.Pool"
    assert len(pool.workers) == 2
    assert view.records == ()
    assert view.paces[pool.name].done_per_s is None
