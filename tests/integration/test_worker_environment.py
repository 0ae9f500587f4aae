"""The environment of workers: variables for each slot, and how many native threads they may use."""

from __future__ import annotations

import ctypes.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import environment_tasks as tasks
import numpy
import pytest

from glasspool.engines.local import native_limits
from glasspool.engines.local.environment import Environment
from glasspool.options import PoolOptions
from glasspool.processors import usable_processors
from pools import wait_until

LIMIT_S = 30.0

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def nothing_is_said(monkeypatch):
    """Begin without variables that limit native threads."""
    for name in native_limits.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_each_slot_has_its_variables_before_anything_is_imported(make, start_method):
    """Imports, initializer and tasks find what is the slot's, also in a replacement and a new slot."""
    before = dict(os.environ)
    pool = make(1, tasks.prepare, env=tasks.of_slot)
    at_import = None if start_method == "fork" else "slot 0"  # loaded by the parent, under fork
    told = ("slot 0", at_import, ["slot 0"])
    assert pool.apply(tasks.look) == told
    (first,) = pool._pool
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: [one.pid for one in pool._pool if one.pid != first.pid], "a replacement")
    assert pool.apply_async(tasks.look).get(LIMIT_S) == told
    pool.resize(2)
    found = {pool.apply_async(tasks.look).get(LIMIT_S)[0] for _ in range(20)}
    wait_until(lambda: pool.stats()["idle"] == 2, "both workers")
    results = [pool.apply_async(tasks.multiply, (0.05,)) for _ in range(2)]
    results += [pool.apply_async(tasks.look) for _ in range(40)]
    found |= {one.get(LIMIT_S)[0] for one in results[2:]}
    assert found <= {"slot 0", "slot 1"}
    assert dict(os.environ) == before


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_main_module_finds_them(method, tmp_path):
    """The program itself is imported anew in a worker, and reads its environment then."""
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, os, sys\n"
        "sys.path.insert(0, 'nowhere')\n"
        "FOUND = os.environ.get('GP_X'), os.environ.get('OMP_NUM_THREADS')\n"
        "os.environ['GP_X'] = 'changed'\n"
        "def tell(): return FOUND, os.environ['GP_X'], multiprocessing.current_process().name\n"
        "if __name__ == '__main__':\n"
        "    import glasspool\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        "    pool = glasspool.Pool(1, context=context, native_threads=3, env={'GP_X': 'x'})\n"
        "    print(*pool.apply(tell), FOUND)\n"
        "    pool.close(); pool.join()\n"
    )
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    name = "SpawnPoolWorker-1" if method == "spawn" else "ForkServerPoolWorker-1"
    assert done.stdout.split("\n")[0] == f"('x', '3') changed {name} (None, None)"
    assert done.stderr == ""


@pytest.mark.parametrize("env", [lambda slot: {"A": 1}, lambda slot: None, lambda slot: {"A=": ""}])
def test_what_is_no_environment_is_an_error_of_the_constructor(make_forked, env):
    """Where the user made the mistake, with the slot."""
    with pytest.raises((TypeError, ValueError)) as caught:
        make_forked(2, env=env)
    assert caught.value.__notes__ == ["That is what env gave for slot 0."]


def test_an_environment_that_no_message_holds_is_refused(make_forked):
    """It travels to the template in one."""
    with pytest.raises(ValueError, match="too large"):
        make_forked(1, env={"A": "ä" * 60_000})
    pool = make_forked(1, env={"A": "ä" * 49_000})
    assert len(pool.apply(tasks.variables, (("A",),))["A"]) == 49_000


def test_the_users_function_raises_where_it_is_called(make_forked):
    """In the constructor, and in resize for the slots that are new."""

    def env(slot: int) -> dict[str, str]:
        return {"A": ("zero", "one")[slot]}

    pool = make_forked(2, env=env)
    with pytest.raises(IndexError):
        pool.resize(3)
    assert pool.apply(tasks.variables, (("A",),)) in ({"A": "zero"}, {"A": "one"})


def limits(size: int = 2, **told: object) -> dict[str, str]:
    """Return the variables that a pool would give its first worker."""
    return dict(Environment(PoolOptions(**told), size).of(0, size))  # type: ignore[arg-type]


def test_by_default_all_workers_have_as_many_threads_as_there_are_processors(monkeypatch):
    """Each gets its share, one at least; in a worker what is shared is what that one may use."""
    monkeypatch.setattr("glasspool.engines.local.environment.allowed_processors", lambda: 8)
    monkeypatch.setattr("glasspool.engines.local.environment._quota", lambda: 5.5)
    assert limits(2) == dict.fromkeys(native_limits.variables_here(), "3")
    assert limits(4)["OMP_NUM_THREADS"] == "1"
    assert limits(40)["OMP_NUM_THREADS"] == "1"
    assert limits(1, threads=3)["OMP_NUM_THREADS"] == "2"
    monkeypatch.setattr(native_limits, "given", 2)
    assert limits(1)["OMP_NUM_THREADS"] == "2"


def test_what_the_user_has_set_himself_wins_over_the_default(monkeypatch):
    """A library that follows the general variable is left alone, too; an explicit number wins over both."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert set(limits()) == {"VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS"} & set(limits())
    assert limits(native_threads=3)["OMP_NUM_THREADS"] == "3"
    given = limits(native_threads=3, env={"OMP_NUM_THREADS": "4"})
    assert (given["OMP_NUM_THREADS"], given["MKL_NUM_THREADS"]) == ("4", "3")
    assert limits(native_threads=None) == {}
    assert limits(native_threads=None, env={"A": "b"}) == {"A": "b"}


@pytest.mark.skipif(usable_processors() < 2, reason="OpenBLAS has no threads on one processor")
def test_matrices_in_all_workers_use_no_more_threads_than_processors(make, gate):
    """Each worker's main thread and no other computes; the roster says so, and what each may use."""
    assert numpy.ones(1).sum() == 1  # loaded here: workers that are forked have it
    count = usable_processors()
    pool = make(count, **gate.arguments)
    results = [pool.apply_async(tasks.multiply_then_wait, (0.1,)) for _ in range(count)]
    gate.wait_for_tasks(count)
    seen = pool.inspect()
    gate.open()
    assert [dict(one.native_threads or {}) for one in seen.workers] == [{"openblas": 1}] * count
    computing = [one for worker in seen.workers for one in worker.threads if not one.python]
    assert [one for one in computing if (one.cpu_s or 0) > 0.02] == []
    assert "native threads per worker: openblas 1" in " ".join(str(seen).split())
    for one in results:
        one.get(LIMIT_S)


@pytest.mark.skipif(usable_processors() < 2, reason="OpenBLAS has no threads on one processor")
@pytest.mark.parametrize(
    ("told", "task"),
    [(2, tasks.multiply_then_wait), (None, tasks.multiply_then_wait), (1, tasks.lift_the_limit)],
)
def test_more_threads_are_seen_as_more(make_forked, forked_gate, told, task):
    """Where they are wanted, where nothing limits them, and where a task lifts the limit."""
    pool = make_forked(1, native_threads=told, **forked_gate.arguments)
    result = pool.apply_async(task, () if task is tasks.lift_the_limit else (0.1,))
    forked_gate.wait_for_tasks()
    (worker,) = pool.inspect().workers
    forked_gate.open()
    result.get(LIMIT_S)
    assert (worker.native_threads or {}).get("openblas", 0) >= 2
    assert [one for one in worker.threads if one.roles == ("native",)]


def test_without_threadpoolctl_the_pool_says_what_it_could_not_limit(make_forked, monkeypatch):
    """And that it is not known how many threads there may be."""
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    monkeypatch.setattr(native_limits, "_modules", 0)
    monkeypatch.setattr(native_limits, "_loaded", None)
    pool = make_forked(1)
    assert pool.apply(tasks.variables, (("OMP_NUM_THREADS",),)) != {}
    seen = pool.inspect()
    assert "pip install glasspool[attach]" in " ".join(seen.pools[0].notes)
    assert seen.workers[0].native_threads is None


def test_the_parent_stays_as_it_is(make_forked):
    """Neither its environment nor its libraries are limited for its workers' sake."""
    import threadpoolctl

    before = dict(os.environ), threadpoolctl.threadpool_info()
    pool = make_forked(2, native_threads=1, env={"GP_SLOT": "x"})
    assert pool.apply(tasks.look)[0] == "x"
    assert (dict(os.environ), threadpoolctl.threadpool_info()) == before


def test_a_program_without_such_libraries_loads_nothing_for_them():
    """It pays for a look at the names of its modules."""
    code = (
        "import sys, glasspool\n"
        "with glasspool.Pool(1) as pool: pool.apply(abs, (1,))\n"
        "assert 'threadpoolctl' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    folder = Path(__file__).parent
    subprocess.run([sys.executable, "-c", code], cwd=folder, timeout=LIMIT_S, check=True)


@pytest.mark.skipif(usable_processors() < 2, reason="OpenMP has no threads on one processor")
@pytest.mark.parametrize("used", [True, False])
def test_openmp_does_not_hang_in_a_fork_of_a_program_that_has_used_it(used, tmp_path):
    """It has one thread there, and the pool says why; with no threads before, it has what it was given."""
    library = ctypes.util.find_library("gomp")
    if library is None:
        pytest.skip("no libgomp on this machine")
    program = tmp_path / "program.py"
    program.write_text(
        "import ctypes, glasspool, numpy, sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        f"library = ctypes.CDLL({library!r})\n"
        "nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)\n"
        "def compute():\n"
        "    library.GOMP_parallel(nothing, None, 0, 0)\n"
        "    return library.omp_get_max_threads()\n"
        f"if {used}: library.GOMP_parallel(nothing, None, 2, 0)\n"
        "with glasspool.Pool(1, native_threads=2) as pool:\n"
        "    print(pool.apply_async(compute).get(20), 'libgomp' in str(pool.inspect().pools[0].notes))\n"
    )
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    assert done.stdout.split() == (["1", "True"] if used else ["2", "False"])
