"""Pure: which libraries have threads, and whether too many of them were at work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from glasspool.observe import native, pyspy
from glasspool.observe.procfs import OsProcess, OsThread
from glasspool.observe.sight import SeenProcess, SeenThread, Sight


def thread(tid: int, pid: int, state: str = "S", share: float | None = 0.0) -> SeenThread:
    """Return a thread as it was seen."""
    return SeenThread(OsThread(pid, tid, "python", state, 1.0, tid), cpu_share=share)


def process(pid: int, ppid: int, *threads: SeenThread) -> SeenProcess:
    """Return a process as it was seen."""
    told = OsProcess(pid, "python", ("python",), ppid, "S", pid, 0.0, 0, 1.0, 0)
    return SeenProcess(told, threads)


def worker(pid: int, natives: int, *, state: str = "R", share: float = 0.25) -> SeenProcess:
    """Return a worker that computes with so many native threads, numbered after it."""
    helpers = [thread(pid + n + 1, pid, state, share) for n in range(natives)]
    return process(pid, 1, thread(pid, pid, state, share), *helpers)


def seen(*processes: SeenProcess) -> Sight:
    """Return a sight of a program and its workers."""
    return Sight(1, (process(1, 0, thread(1, 1)), *processes), 100.0, 0.02, True)


def openblas(sight: Sight) -> dict[int, str]:
    """Say that all threads but main threads are OpenBLAS's."""
    threads = [t.os for p in sight.processes for t in p.threads]
    return {one.tid: "OpenBLAS" for one in threads if one.tid != one.pid}


def judged(sight: Sight, processors: int, **options: int) -> native.Oversubscription | None:
    """Judge a sight with OpenBLAS's threads."""
    return native.oversubscription(sight, processors, owners=openblas(sight), **options)


def test_workers_times_threads_above_the_processors() -> None:
    """The numbers, the library, the variable and the limit are told."""
    told = judged(seen(worker(10, 3), worker(20, 3)), 2)
    assert told == native.Oversubscription(8, 6, 2, 2, "OpenBLAS", "OPENBLAS_NUM_THREADS", 1)
    assert told.sentence == (
        "8 threads compete for 2 processors: 2 processes of the program and 6 OpenBLAS threads in them"
    )


@pytest.mark.parametrize(
    ("processors", "workers", "limit"), [(2, None, 1), (2, 4, 1), (4, 2, 2), (3, 1, 3)]
)
def test_the_limit_shares_the_processors_out(
    processors: int, workers: int | None, limit: int
) -> None:
    """Nobody gets less than one thread."""
    sight = seen(worker(10, 7), worker(20, 7))
    told = native.oversubscription(sight, processors, owners=openblas(sight), workers=workers)
    assert told is not None
    assert told.limit == limit


def test_one_process_on_its_processors_is_no_finding() -> None:
    """A library that takes each processor once is what it is for."""
    assert judged(seen(worker(10, 3)), 4) is None


def test_a_quota_below_the_processors_is_found_with_one_process_too() -> None:
    """The library counts the machine's processors, the container has one."""
    told = judged(seen(worker(10, 7)), 1)
    assert told is not None
    assert told.limit == 1


def test_threads_at_rest_do_not_count() -> None:
    """Threads that sleep harm nobody, however many there are."""
    assert judged(seen(worker(10, 60, state="S", share=0.0)), 2) is None


def test_little_work_is_no_competition() -> None:
    """Where the processors have time left, nobody waits for them."""
    sight = seen(*(worker(n, 3, state="S", share=0.05) for n in range(10, 50, 10)))
    assert judged(sight, 4) is None


def test_threads_that_look_out_for_work_are_not_at_work() -> None:
    """OpenBLAS's threads stay awake for a while after a call: the thread that called decides."""
    helpers = [thread(10 + n, 10, "R", 0.5) for n in range(1, 9)]
    assert judged(seen(process(10, 1, thread(10, 10), *helpers)), 2) is None


def test_workers_without_native_threads_are_no_finding() -> None:
    """More workers than processors are the program's choice."""
    assert judged(seen(*(worker(n, 0) for n in range(10, 90, 10))), 2) is None


def test_an_earlier_sight_gives_the_shares() -> None:
    """What was used in between counts, of a thread that is the same one."""
    now = seen(worker(10, 7, state="S", share=0.0))

    def used(one: SeenProcess, cpu_s: float) -> SeenProcess:
        threads = (replace(t, os=replace(t.os, cpu_s=cpu_s)) for t in one.threads)
        return replace(one, threads=tuple(threads))

    busy = replace(now, processes=tuple(used(p, 1.2) for p in now.processes), taken_at=101.0)
    told = native.oversubscription(busy, 2, owners=openblas(now), earlier=now)
    assert told is not None
    assert told.threads == 8
    idle = replace(now, taken_at=101.0)
    assert native.oversubscription(idle, 2, owners=openblas(now), earlier=now) is None


def test_unknown_libraries_are_said_to_be_unknown() -> None:
    """Where only stacks tell that threads are native, no library and no single variable is named."""
    python = pyspy.OutsideThread(10, "MainThread", 1, True, (), ())
    one = worker(10, 7)
    known = tuple(replace(t, python=python if t.os.tid == 10 else None) for t in one.threads)
    one = replace(one, threads=known, dump=pyspy.Dump(threads=(python,)))
    told = native.oversubscription(seen(one), 2)
    assert told is not None
    assert (told.library, told.variable) == (None, None)
    assert "native threads" in told.sentence
    assert "OMP_NUM_THREADS" in told.remedy


def test_threads_of_python_are_not_native() -> None:
    """Where stacks are missing, a thread that began in the interpreter is Python's."""
    sight = seen(worker(10, 7))
    owners = dict.fromkeys(openblas(sight), "CPython")
    assert native.oversubscription(sight, 2, owners=owners) is None


@pytest.mark.parametrize(
    ("file", "name", "variable"),
    [
        ("numpy.libs/libscipy_openblas64_-32a4b2a6.so", "OpenBLAS", "OPENBLAS_NUM_THREADS"),
        ("/usr/lib/x86_64-linux-gnu/libopenblasp-r0.3.21.so", "OpenBLAS", "OPENBLAS_NUM_THREADS"),
        ("/opt/lib/libmkl_rt.so.2", "MKL", "MKL_NUM_THREADS"),
        ("/opt/lib/libblis.so.4", "BLIS", "BLIS_NUM_THREADS"),
        ("torch/lib/libgomp-98b21ff3.so.1", "libgomp (OpenMP)", "OMP_NUM_THREADS"),
        ("/opt/lib/libiomp5.so", "libiomp5 (OpenMP)", "OMP_NUM_THREADS"),
        ("/usr/lib/llvm-14/lib/libomp.so.5", "libomp (OpenMP)", "OMP_NUM_THREADS"),
        ("/opt/lib/libtbb.so.12", "TBB", None),
        ("pyarrow/libarrow.so.1700", "Arrow", "OMP_NUM_THREADS"),
        ("polars/polars.abi3.so", "Polars", "POLARS_MAX_THREADS"),
        (
            "numba/np/ufunc/workqueue.cpython-311-x86_64-linux-gnu.so",
            "Numba",
            "NUMBA_NUM_THREADS",
        ),
        (
            "/x/numexpr/interpreter.cpython-311-x86_64-linux-gnu.so",
            "numexpr",
            "NUMEXPR_NUM_THREADS",
        ),
        ("/usr/lib/libpython3.13.so.1.0", "CPython", None),
        ("/usr/bin/python3.12", "CPython", None),
        ("/usr/bin/python", "CPython", None),
    ],
)
def test_libraries_by_their_files(file: str, name: str, variable: str | None) -> None:
    """The file's name tells the library, the library its variable."""
    found = native.known_library(file)
    assert found == native.Library(name, variable, file)
    assert native.variable_of(name) == variable


@pytest.mark.parametrize("file", ["libc.so.6", "libcompression.so", "pythonlike.so", "array.so"])
def test_other_files_are_not_known(file: str) -> None:
    """A library that is not in the table keeps its file's name."""
    assert native.known_library(file) is None
