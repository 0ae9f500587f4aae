"""joblib, and scikit-learn with it, on our pools: as on loky."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
import warnings

import joblib
import joblib_tasks as tasks
import numpy
import pytest
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import BrokenProcessPool

import glasspool
from glasspool import joblib_pools, registry
from glasspool.engines.local import segments
from glasspool.errors import TaskTimeout, WorkerDied
from glasspool.extras import MissingExtra
from pools import wait_until

LIMIT_S = 30.0

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def registered(ledger_check):
    """Know the backend, and wait for the ends of the pools of each test."""
    glasspool.register_joblib()
    yield
    engines = registry.live_engines()
    # What was cancelled refers to its call until it has ended.
    wait_until(lambda: gc.collect() >= 0 and not pools(), "the end of the contexts")
    for engine in engines:
        assert engine.done.wait(LIMIT_S)


@pytest.fixture
def two():
    """Run what the test calls on two workers."""
    with parallel_config(backend="glasspool", n_jobs=2):
        yield


def pools() -> list[glasspool.Pool]:
    """Return the pools that are there for joblib."""
    return [one.pool for one in joblib_pools._pools if one.pool._state == "RUN"]


def test_calls_give_their_values_in_order(two):
    """However they are batched; in the workers of one pool, which stay for the next call."""
    assert Parallel()(delayed(tasks.square)(i) for i in range(500)) == [i * i for i in range(500)]
    (pool,) = pools()
    workers = {one.pid for one in pool._pool}
    assert set(Parallel()(delayed(tasks.pid)(i) for i in range(50))) <= workers
    assert pools() == [pool]
    assert pool.name.startswith("joblib")
    assert __file__ in pool._engine.made_at


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_start_methods(method):
    """As the pool's argument says; functions travel by value."""
    with parallel_config(backend="glasspool", n_jobs=2, context=method, name="other"):
        assert Parallel()(delayed(lambda x: x + 1)(i) for i in range(3)) == [1, 2, 3]
        (pool,) = pools()
        assert (pool._engine.start_method, pool.name) == (method, "other")


def test_what_is_defined_after_the_workers_began_travels_by_value(two):
    """Lambdas, closures, and functions and classes of the main module."""
    Parallel()(delayed(tasks.square)(i) for i in range(2))
    main = sys.modules["__main__"]
    names: dict[str, object] = {"__name__": "__main__"}
    exec("class Box:\n    x = 3\ndef unpack(box): return box.x", names)
    vars(main).update(Box=names["Box"], unpack=names["unpack"])
    try:
        assert Parallel()(delayed(names["unpack"])(names["Box"]()) for _ in range(3)) == [3, 3, 3]
    finally:
        del main.Box, main.unpack
    offset = 5
    assert Parallel()(delayed(lambda x: x + offset)(i) for i in range(2)) == [5, 6]


def test_errors_arrive_as_what_they_are(two):
    """With their traceback in the worker; SystemExit too, as with loky. The pool stays."""
    with pytest.raises(KeyError, match="three") as caught:
        Parallel()(delayed(tasks.refuse)(i) for i in range(10))
    assert "in refuse" in str(caught.value.__cause__)
    with pytest.raises(SystemExit) as ended:
        Parallel()(delayed(tasks.leave)(i) for i in range(3))
    assert ended.value.code == 5
    before = pools()
    assert Parallel()(delayed(tasks.square)(i) for i in range(3)) == [0, 1, 4]
    assert pools() == before


def test_a_killed_worker_is_told_and_the_next_call_works(two):
    """With its certificate, and as what joblib's users catch."""
    with pytest.raises(WorkerDied, match="exited with code 7") as caught:
        Parallel()(delayed(tasks.end_for)(i) for i in range(10))
    assert isinstance(caught.value, BrokenProcessPool)
    assert caught.value.certificate.task.function == "joblib_tasks.end_for"
    assert Parallel()(delayed(tasks.square)(i) for i in range(3)) == [0, 1, 4]


def test_an_error_cancels_the_rest(two, tmp_path):
    """What waits is not begun."""
    with pytest.raises(ValueError, match="the first"):
        Parallel(pre_dispatch="all", batch_size=1)(
            delayed(tasks.note)(tmp_path, i) for i in range(40)
        )
    Parallel()(delayed(tasks.square)(i) for i in range(2))
    assert len(list(tmp_path.iterdir())) < 8


def test_generators(two):
    """In order and as results come; one that is dropped takes its calls along."""
    calls = [delayed(tasks.square)(i) for i in range(30)]
    squares = [i * i for i in range(30)]
    assert list(Parallel(return_as="generator")(calls)) == squares
    assert sorted(Parallel(return_as="generator_unordered")(calls)) == squares
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joblib says that results are not used
        generator = Parallel(return_as="generator")(delayed(time.sleep)(0.05) for _ in range(100))
        next(generator)
        (pool,) = pools()
        del generator
        gc.collect()
        wait_until(lambda: not pool._engine.has_work(), "the end of what was dropped")
    assert pool.stats()["cancelled"] > 0


def test_two_generators_at_a_time(two):
    """On one backend: the end of one does not end the other."""
    one = Parallel(return_as="generator")(delayed(tasks.square)(i) for i in range(40))
    assert next(one) == 0
    other = Parallel(return_as="generator")(delayed(tasks.square)(i) for i in range(40))
    assert list(other) == [i * i for i in range(40)]
    assert list(one) == [i * i for i in range(1, 40)]


def test_time_limits(two):
    """joblib's own ends the call; the pool's ends a task."""
    begun = time.monotonic()
    with pytest.raises(joblib.parallel.TimeoutError):
        Parallel(timeout=0.1)(delayed(time.sleep)(20) for _ in range(3))
    with parallel_config(backend="glasspool", n_jobs=2, timeout=0.1), pytest.raises(TaskTimeout):
        Parallel()(delayed(time.sleep)(20) for _ in range(3))
    assert time.monotonic() - begun < 10


def test_how_many_workers():
    """As joblib counts them; with one, joblib calls everything itself."""
    backend = glasspool.joblib_backend.GlasspoolBackend()
    assert backend.effective_n_jobs(None) == 1
    assert backend.effective_n_jobs(-1) == joblib.cpu_count()
    assert backend.effective_n_jobs(-1000) == 1
    with pytest.raises(ValueError, match="n_jobs == 0"):
        backend.effective_n_jobs(0)
    with parallel_config(backend="glasspool"):
        assert Parallel(n_jobs=1)(delayed(tasks.pid)(i) for i in range(2)) == [os.getpid()] * 2
        assert pools() == []
        assert Parallel(n_jobs=3)(delayed(tasks.square)(i) for i in range(2)) == [0, 1]
        assert [pool._processes for pool in pools()] == [3]
        assert Parallel(n_jobs=2)(delayed(tasks.square)(i) for i in range(2)) == [0, 1]
        assert [pool._processes for pool in pools()] == [2]


def test_nested_calls(two):
    """The first level below runs in threads; who names our backend gets processes, for the task's time."""
    assert Parallel()(delayed(tasks.nested)(i) for i in range(2)) == [
        ("ThreadingBackend", [0, 1, 4]),
        ("ThreadingBackend", [1, 4, 9]),
    ]
    assert Parallel()(delayed(tasks.nested_processes)(i) for i in range(2)) == [
        ([0, 1, 4], 1),
        ([1, 4, 9], 1),
    ]


def test_native_threads_are_limited_as_with_loky(two, monkeypatch):
    """To the worker's share of the processors, or to what joblib was told."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("ENABLE_IPC", raising=False)
    share = str(max(1, joblib.cpu_count() // 2))
    assert Parallel()(delayed(tasks.variables)(i) for i in range(2)) == [(share, "1")] * 2
    with parallel_config(backend="glasspool", n_jobs=2, inner_max_num_threads=3):
        assert Parallel()(delayed(tasks.variables)(i) for i in range(2)) == [("3", "1")] * 2


def test_a_large_array_is_copied_once_for_a_call(two, monkeypatch):
    """It lies in shared memory for all tasks of the call; joblib's own words for that are taken, too."""
    array = numpy.arange(200_000.0)
    written = []
    write = segments.Hold.write

    def noted_write(self, parts, end):
        written.append(end)
        return write(self, parts, end)

    monkeypatch.setattr(segments.Hold, "write", noted_write)
    call = Parallel(batch_size=1, max_nbytes="10K", mmap_mode="r", temp_folder="/nowhere")
    assert call(delayed(tasks.corner)(array, i) for i in range(20)) == list(range(20))
    assert sum(one >= array.nbytes for one in written) == 1
    array[:] = -1
    assert call(delayed(tasks.corner)(array, i) for i in range(3)) == [-1, -1, -1]


def test_views_show_the_functions(two):
    """And not what joblib wraps them in."""
    assert set(Parallel()(delayed(tasks.where)() for _ in range(2))) == {"joblib_tasks.where"}
    generator = Parallel(return_as="generator")(delayed(time.sleep)(20) for _ in range(2))
    wait_until(lambda: len(glasspool.inspect().tasks) == 2, "both calls")
    seen = {task.function for task in glasspool.inspect().tasks}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joblib says that results are not used
        del generator
        gc.collect()
    assert seen == {"time.sleep"}


def test_an_argument_that_no_pool_has_is_refused():
    """Where it is given; so is the number of workers, which joblib has a word for."""
    for keyword in ("bogus", "processes"):
        with pytest.raises(TypeError, match=f"'{keyword}' is none"):
            parallel_config(backend="glasspool", **{keyword: 1})


def test_without_joblib_there_is_the_line_that_installs_it(monkeypatch):
    """And nothing else has happened."""
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(MissingExtra, match=r"pip install 'glasspool\[joblib\]'"):
        glasspool.register_joblib()


def test_a_program_that_names_the_backend_in_each_call(tmp_path):
    """One pool serves all of its calls, and ends with the program, which says nothing."""
    program = tmp_path / "program.py"
    program.write_text(
        "import glasspool, os\n"
        "from joblib import Parallel, delayed\n"
        "glasspool.register_joblib()\n"
        "pids = set()\n"
        "for _ in range(3):\n"
        "    pids |= set(Parallel(n_jobs=2, backend='glasspool')(\n"
        "        delayed(lambda i: os.getpid())(i) for i in range(9)))\n"
        "print(len(pids) <= 2, os.getpid() in pids)\n"
        "for pid in pids: print(pid)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", program],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    told, *pids = done.stdout.splitlines()
    assert (told, done.stderr) == ("True False", "")
    for pid in pids:
        wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), "the end of a worker")


@pytest.mark.one_python
def test_scikit_learn_has_the_same_results_as_on_loky():
    """A grid search, a forest, a cross-validation, with classes of the program's own and its settings."""
    import sklearn
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.svm import SVC
    from sklearn.utils.parallel import Parallel as SklearnParallel
    from sklearn.utils.parallel import delayed as sklearn_delayed

    class Mine(SVC):
        """An estimator that exists in this process only."""

    data, target = make_classification(n_samples=120, n_features=8, random_state=0)

    def results() -> tuple[object, ...]:
        search = GridSearchCV(Mine(), {"C": [0.1, 1, 10]}, cv=3, n_jobs=2).fit(data, target)
        forest = RandomForestClassifier(n_estimators=10, random_state=7, n_jobs=2)
        return (
            search.best_params_,
            search.cv_results_["mean_test_score"].tolist(),
            forest.fit(data, target).predict_proba(data).tolist(),
            cross_val_score(Mine(), data, target, cv=3, n_jobs=2).tolist(),
        )

    with parallel_config(backend="glasspool"):
        ours = results()
        with sklearn.config_context(assume_finite=True):
            calls = (sklearn_delayed(tasks.finite)() for _ in range(2))
            assert SklearnParallel(n_jobs=2)(calls) == [True, True]
    program = (
        "import sys, cloudpickle, joblib\n"
        "results = cloudpickle.load(sys.stdin.buffer)\n"
        "with joblib.parallel_config(backend='loky'): found = results()\n"
        "sys.stdout.buffer.write(cloudpickle.dumps(found))\n"
    )
    import cloudpickle

    done = subprocess.run(
        [sys.executable, "-c", program],
        input=cloudpickle.dumps(results),
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    assert cloudpickle.loads(done.stdout) == ours
