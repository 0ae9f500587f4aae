"""Initializers that fail or hang, and finalizers: every caller is told, within bounds, and why."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import life_slow_import
import life_tasks as tasks
import pytest

import glasspool

LIMIT_S = 30.0
MakePool = Callable[..., "glasspool.Pool"]


@pytest.mark.parametrize("how", ["sys.exit", "kill", "rebuild"])
def test_an_initializer_that_fails(make_forked: MakePool, tmp_path: Path, how: str) -> None:
    """After few starts every caller is told, with the cause; so are later ones; the pool ends."""
    check_that_it_fails(make_forked, tmp_path, how)


@pytest.mark.parametrize("how", ["raise", "os._exit"])
def test_an_initializer_that_fails_with_each_start_method(
    make: MakePool, tmp_path: Path, how: str
) -> None:
    """As above."""
    check_that_it_fails(make, tmp_path, how)


def check_that_it_fails(make: MakePool, tmp_path: Path, how: str) -> None:
    """Check that a pool whose initializer fails tells everybody so, and ends."""
    path = tmp_path / "starts"
    begun = time.monotonic()
    pool = make(2, tasks.fail_by, (str(path), how))
    waiting = pool.apply_async(tasks.square, (2,))
    job = pool.map_async(tasks.square, range(10))
    for result in (waiting, job):
        with pytest.raises(glasspool.InitializerFailed, match="fail_by") as caught:
            result.get(LIMIT_S)  # type: ignore[attr-defined]
    assert time.monotonic() - begun < 5
    assert len(tasks.notes(path)) <= 6
    cause = caught.value.__cause__
    if how in ("os._exit", "kill"):
        assert isinstance(cause, glasspool.WorkerDied)
        assert cause.certificate.cause in str(caught.value)
    else:
        kinds = {"raise": LookupError, "sys.exit": SystemExit}
        assert isinstance(cause, kinds.get(how, glasspool.SerializationError))
        assert "in fail_by" in str(caught.value)
    begun = time.monotonic()
    with pytest.raises(glasspool.InitializerFailed):
        pool.apply(tasks.square, (3,))
    with pytest.raises(glasspool.InitializerFailed):
        next(pool.imap(tasks.square, [1]))
    assert time.monotonic() - begun < 1
    pool.close()
    pool.join()


def test_an_initializer_that_fails_at_first(make_forked: MakePool, tmp_path: Path) -> None:
    """Four workers that all fail at once are no reason to give up: the next ones do."""
    pool = make_forked(4, tasks.fail_at_first, (str(tmp_path / "starts"), 5))
    assert pool.map(tasks.square, range(20), 1) == [i * i for i in range(20)]


@pytest.mark.parametrize("where", ["python", "c"])
def test_an_initializer_that_hangs(make_forked: MakePool, tmp_path: Path, where: str) -> None:
    """It is killed after ``start_timeout``; the error says where it hung."""
    path = tmp_path / "starts"
    initializer = tasks.hang_in_initializer if where == "python" else tasks.hang_in_c
    pool = make_forked(1, initializer, (str(path),), start_timeout=0.2)
    with pytest.raises(glasspool.InitializerFailed, match="start_timeout") as caught:
        pool.apply(tasks.square, (2,))
    assert isinstance(caught.value.__cause__, TimeoutError)
    said = str(caught.value)
    assert ("in hang_in_initializer" if where == "python" else "inside a C call") in said
    assert len(tasks.notes(path)) == 3
    pool.terminate()
    pool.join()


def test_an_import_that_hangs(leak_check: None) -> None:
    """A spawned worker that hangs before it runs anything of ours is killed as well."""
    with glasspool.Pool(
        1,
        life_slow_import.initializer,
        context=multiprocessing.get_context("spawn"),
        start_timeout=0.5,
    ) as pool:
        with pytest.raises(glasspool.InitializerFailed, match="start_timeout"):
            pool.apply(tasks.square, (2,))
    pool.join()


def test_one_initializer_hangs(make_forked: MakePool, tmp_path: Path) -> None:
    """The others work meanwhile, and its replacement joins them."""
    pool = make_forked(2, tasks.hang_in_one, (str(tmp_path / "first"),), start_timeout=1.0)
    assert pool.map(tasks.square, range(20), 1) == [i * i for i in range(20)]
    wait_until_idle(pool, 2)


def wait_until_idle(pool: glasspool.Pool, count: int) -> None:
    """Look again and again until so many workers are ready and at rest: nothing tells of it."""
    deadline = time.monotonic() + LIMIT_S
    while pool.stats()["idle"] < count:
        assert time.monotonic() < deadline, pool.inspect()
        time.sleep(0.01)


def finalized(path: Path) -> list[int]:
    """Return the pids of the workers that ran the finalizer, once each and in the main thread."""
    pids = [pid for word, pid in tasks.notes(path) if word == "finalizer"]
    assert len(pids) == len(set(pids))
    assert not [word for word, _ in tasks.notes(path) if word == "elsewhere"]
    return sorted(pids)


@pytest.mark.parametrize("end", ["close", "terminate", "with", "drain", "recycle"])
def test_the_finalizer_runs_on_every_orderly_exit(
    make: MakePool,
    start_method: str,
    tmp_path: Path,
    end: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Once in each worker, before the exit functions that were registered there; then a flush."""
    path = tmp_path / "notes"
    limit = 1 if end == "recycle" else None
    pool = make(2, finalizer=tasks.Finalizer(path), maxtasksperchild=limit)
    pids = sorted({pool.apply(tasks.register_exit, (str(path),)) for _ in range(3)})
    if end == "with":
        with pool:
            pass
    elif end != "recycle":
        getattr(pool, end)()
    if end == "recycle":
        pool.close()
    pool.join()
    assert set(pids) <= set(finalized(path))
    words = [(pid, word) for word, pid in tasks.notes(path) if pid in pids]
    for pid in pids:
        mine = [word for other, word in words if other == pid]
        assert mine[0] == "finalizer"
        assert set(mine[1:]) == {"atexit", "finalize"}
    if start_method != "forkserver":  # its output is that of the fork server, started before
        assert "written and not flushed" in capfd.readouterr().out


@pytest.mark.parametrize("then", ["raise", "exit"])
def test_a_finalizer_that_raises(
    make_forked: MakePool, tmp_path: Path, then: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is told on standard error, and stops nothing: exit functions run, the exit code is 0."""
    path = tmp_path / "notes"
    pool = make_forked(1, finalizer=tasks.Finalizer(path, then))
    pool.apply(tasks.register_exit, (str(path),))
    worker = pool._pool[0]
    pool.close()
    pool.join()
    assert [word for word, _ in tasks.notes(path)] == ["finalizer", "atexit", "finalize"]
    assert worker.exitcode == 0
    said = capfd.readouterr().err
    assert "The finalizer life_tasks.Finalizer of" in said
    assert ("LookupError: the finalizer's own" if then == "raise" else "SystemExit: 3") in said


def test_a_finalizer_that_hangs(make_forked: MakePool, tmp_path: Path) -> None:
    """``terminate`` does not wait for it longer than two seconds."""
    path = tmp_path / "notes"
    pool = make_forked(2, finalizer=tasks.Finalizer(path, "hang"))
    wait_until_idle(pool, 2)
    begun = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - begun < 2
    assert len(finalized(path)) == 2


def test_a_worker_that_dies_is_not_finalized(make_forked: MakePool, tmp_path: Path) -> None:
    """Nor one whose initializer failed: there is nothing to be undone."""
    path = tmp_path / "notes"
    starts = str(tmp_path / "starts")
    pool = make_forked(1, tasks.fail_by, (starts, "raise"), finalizer=tasks.Finalizer(path))
    with pytest.raises(glasspool.InitializerFailed):
        pool.apply(tasks.square, (2,))
    pool.terminate()
    pool.join()
    assert tasks.notes(path) == []


def test_a_finalizer_must_be_callable() -> None:
    """It is checked where the pool is made."""
    with pytest.raises(TypeError, match="finalizer"):
        glasspool.Pool(1, finalizer=5)  # type: ignore[arg-type]
