"""``glasspool.install()``: the standard library's names lead to glasspool, and back."""

from __future__ import annotations

import concurrent.futures.process
import importlib
import multiprocessing
import multiprocessing.dummy
import multiprocessing.managers
import multiprocessing.pool
import os
import pickle
import subprocess
import sys
from abc import ABC
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

import glasspool
from glasspool import replacement

STOCK = multiprocessing.pool.Pool
STOCK_THREADS = multiprocessing.pool.ThreadPool
INITS = {
    cls: cls.__init__
    for cls in (STOCK, multiprocessing.pool.ThreadPool, ThreadPoolExecutor, ProcessPoolExecutor)
}


@pytest.fixture(autouse=True)
def all_is_given_back():
    """After each test every name and every method is the standard library's own again."""
    yield
    assert multiprocessing.pool.Pool is STOCK
    assert multiprocessing.pool.ThreadPool is STOCK_THREADS
    assert concurrent.futures.ProcessPoolExecutor is ProcessPoolExecutor
    assert concurrent.futures.process.ProcessPoolExecutor is ProcessPoolExecutor
    assert {cls: cls.__init__ for cls in INITS} == INITS
    registry = multiprocessing.managers.SyncManager._registry
    assert registry["Pool"][0] is STOCK


@pytest.mark.parametrize(
    "make",
    [
        lambda: multiprocessing.Pool(1),
        lambda: multiprocessing.pool.Pool(1),
        lambda: multiprocessing.get_context("fork").Pool(1),
        lambda: multiprocessing.get_context("spawn").Pool(processes=1),
    ],
    ids=["Pool", "pool.Pool", "fork", "spawn"],
)
def test_every_name_makes_ours(make):
    """All of the standard library's names make a pool of ours while installed, and stock after."""
    with glasspool.install():
        with make() as pool:
            assert isinstance(pool, glasspool.Pool)
            assert pool.apply(abs, (-3,)) == 3
            assert pool.inspect().pools[0].made_at.startswith(__file__)
            pool.close()
            pool.join()
    with make() as pool:
        assert not isinstance(pool, glasspool.Pool)
        pool.close()
        pool.join()


def test_installs_are_counted():
    """Nested installs end with the outermost; more uninstalls than installs do nothing."""
    with glasspool.install():
        glasspool.install()
        glasspool.uninstall()
        assert multiprocessing.pool.Pool is replacement.Pool
    assert multiprocessing.pool.Pool is STOCK
    glasspool.uninstall()
    glasspool.install()
    glasspool.uninstall()
    assert multiprocessing.pool.Pool is STOCK


def test_one_install_is_taken_back_once():
    """Leaving the context after an explicit uninstall does not take back somebody else's."""
    with glasspool.install():
        inner = glasspool.install()
        inner.uninstall()
        inner.uninstall()
        with inner:
            pass
        assert multiprocessing.pool.Pool is replacement.Pool


def test_the_environment_switches_it_off(monkeypatch):
    """GLASSPOOL=0: nothing is replaced, and the value says why."""
    monkeypatch.setenv("GLASSPOOL", "0")
    with glasspool.install() as installed:
        assert not installed
        assert "GLASSPOOL=0" in installed.reason
        assert multiprocessing.pool.Pool is STOCK


def test_the_size_is_the_standard_librarys():
    """A pool without a size gets as many workers as stock gives it."""
    with glasspool.install():
        with multiprocessing.Pool() as ours:
            size = ours._processes
            ours.close()
            ours.join()
    with multiprocessing.Pool() as stock:
        assert stock._processes == size
        stock.close()
        stock.join()


@pytest.mark.parametrize(
    "make",
    [
        lambda: multiprocessing.pool.ThreadPool(2),
        lambda: multiprocessing.dummy.Pool(2),
        lambda: importlib.import_module("multiprocessing.pool").ThreadPool(processes=2),
    ],
    ids=["ThreadPool", "dummy.Pool", "module"],
)
def test_every_name_makes_our_pool_of_threads(make):
    """The names of ``ThreadPool`` make ours while installed, which is one of the stock class, too."""
    with glasspool.install() as installed:
        with make() as pool:
            assert isinstance(pool, glasspool.ThreadPool)
            assert isinstance(pool, STOCK_THREADS)
            assert isinstance(pool, multiprocessing.pool.ThreadPool)
            assert pool.map(lambda x: -x, [1, 2]) == [-1, -2]
            assert pool.inspect().pools[0].made_at.startswith(__file__)
            pool.close()
            pool.join()
        assert installed.left_alone == ()
    with make() as pool:
        assert not isinstance(pool, glasspool.Pool)
        pool.close()
        pool.join()


@pytest.mark.parametrize(
    "find",
    [
        lambda: concurrent.futures.ProcessPoolExecutor,
        lambda: concurrent.futures.process.ProcessPoolExecutor,
        lambda: importlib.import_module("concurrent.futures").ProcessPoolExecutor,
    ],
    ids=["futures", "futures.process", "module"],
)
def test_every_name_makes_our_executor(find):
    """The names of ``ProcessPoolExecutor`` make ours while installed, also below a class of the program's."""
    with glasspool.install() as installed:

        class Own(find()):
            def twice(self, function, item):
                return [self.submit(function, item).result(30)] * 2

        with Own(1) as executor:
            assert isinstance(executor, glasspool.Executor)
            assert isinstance(executor, ProcessPoolExecutor)
            assert executor.twice(abs, -1) == [1, 1]
        assert installed.left_alone == ()
    assert find() is ProcessPoolExecutor


def test_an_executor_without_a_size_has_the_standard_librarys():
    """The default size is the one that the program would have without us."""
    with glasspool.install():
        ours = concurrent.futures.ProcessPoolExecutor()
    stock = ProcessPoolExecutor()
    assert ours._max_workers == stock._max_workers
    ours.shutdown()
    stock.shutdown()


def test_isinstance_both_ways():
    """What was made before counts as one of the class that the name leads to while installed."""
    stock = ProcessPoolExecutor(1)
    with STOCK_THREADS(1) as threads, glasspool.install():
        assert isinstance(stock, concurrent.futures.ProcessPoolExecutor)
        assert isinstance(threads, multiprocessing.pool.ThreadPool)
        assert not isinstance(threads, concurrent.futures.ProcessPoolExecutor)
        threads.close()
        threads.join()
    stock.shutdown()


def test_executors_of_threads_and_old_names_are_noted():
    """What stays as it is works, and the list says where it was made."""
    with glasspool.install() as installed:
        with STOCK_THREADS(2) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
            assert list(pool.imap(abs, [-1, -2], 2)) == [1, 2]
            assert isinstance(pool, multiprocessing.pool.Pool)
            assert not isinstance(pool, glasspool.Pool)
            pool.close()
            pool.join()
        with ThreadPoolExecutor(1) as executor:
            assert executor.submit(abs, -1).result(30) == 1
        with ProcessPoolExecutor(1) as executor:
            assert executor.submit(abs, -1).result(30) == 1
        kinds = [item.kind.rpartition(".")[2] for item in installed.left_alone]
        assert kinds == ["ThreadPool", "ThreadPoolExecutor", "ProcessPoolExecutor"]
        assert all(item.made_at.startswith(__file__) for item in installed.left_alone)


_MULTIPROCESS = """
import glasspool
glasspool.install()
import sys
assert "multiprocess" not in sys.modules
import multiprocess, multiprocess.pool
def check(pool):
    with pool:
        assert isinstance(pool, glasspool.Pool) and isinstance(pool, multiprocess.pool.Pool), pool
        assert pool.map(lambda x: x + 1, [1, 2]) == [2, 3]
        pool.close()
        pool.join()
if __name__ == "__main__":
    check(multiprocess.Pool(1))
    check(multiprocess.pool.Pool(1))
    check(multiprocess.get_context("fork").Pool(1))
    with multiprocess.pool.ThreadPool(1) as pool:
        assert pool.map(abs, [-1]) == [1]
    glasspool.uninstall()
    assert not issubclass(multiprocess.pool.Pool, glasspool.Pool)
    assert not any(type(finder).__module__ == "glasspool.imports" for finder in sys.meta_path)
"""


def test_the_pool_of_multiprocess_imported_later():
    """Its names make pools of ours, which call what only dill could pickle; and are given back."""
    pytest.importorskip("multiprocess")
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _MULTIPROCESS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_class_taken_earlier_still_works_and_is_noted():
    """Code that imported the stock class before the install keeps it, and the list says so."""
    with glasspool.install() as installed:
        with STOCK(1) as pool:
            assert pool.map(abs, [-1], 1) == [1]
            assert isinstance(pool, multiprocessing.pool.Pool)
            pool.close()
            pool.join()
        (noted,) = installed.left_alone
    assert "before" in noted.reason


def test_a_stock_pool_made_before_lives_through_it():
    """The handler threads of an earlier stock pool find their functions through the same name."""
    with STOCK(1, maxtasksperchild=1) as pool:
        with glasspool.install():
            assert pool.map(abs, [-1, -2, -3], 1) == [1, 2, 3]
        assert pool.map(abs, [-4, -5], 1) == [4, 5]
        pool.close()
        pool.join()


def test_subclasses_made_meanwhile_are_ours():
    """A program's own pool class, also beside a base class with a metaclass, works."""
    with glasspool.install():

        class Own(multiprocessing.pool.Pool, ABC):
            def twice(self, function, items):
                return self.map(function, items) * 2

    with Own(1) as pool:
        assert pool.twice(abs, [-1]) == [1, 1]
        assert isinstance(pool, glasspool.Pool)
        pool.close()
        pool.join()


def test_our_own_class_can_be_pickled():
    """The class that the name leads to is found again by name, also where nothing is installed."""
    with glasspool.install():
        assert pickle.loads(pickle.dumps(multiprocessing.pool.Pool)) is replacement.Pool


# The manager's server has threads of its own, and the pool says so where it forks.
@pytest.mark.filterwarnings("ignore::glasspool.ForkWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_managers_pool_works(method):
    """A manager can be started, and its pools are used, while installed."""
    with glasspool.install():
        with multiprocessing.get_context(method).Manager() as manager:
            pool = manager.Pool(1)
            assert pool.apply(abs, (-1,)) == 1
            assert pool.map(abs, [-1, -2]) == [1, 2]
            pool.close()
            pool.join()


def test_wrong_arguments_are_refused_as_in_stock():
    """The replaced class takes the standard library's arguments only, with its errors."""
    with glasspool.install() as installed:
        with pytest.raises(ValueError, match="process"):
            multiprocessing.Pool(0)
        with pytest.raises(TypeError):
            multiprocessing.Pool(1, initializer=3)
        with pytest.raises(TypeError):
            multiprocessing.pool.Pool(1, name="x")
        assert installed.left_alone == ()


def test_importing_costs_no_replacement():
    """Importing glasspool alone leaves every name as it is."""
    code = (
        "import multiprocessing.pool as m; stock = m.Pool; import glasspool, glasspool.replacement;"
        "raise SystemExit(0 if m.Pool is stock else 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, timeout=60, check=False)
    assert done.returncode == 0
