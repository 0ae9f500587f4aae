"""Native threads of real programs: whose they are, and whether there are too many of them."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from glasspool.observe import native, procfs, sight, thread_starts

SCENES = Path(__file__).parent.parent / "scenes"

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(
        not thread_starts.is_known_layout(), reason="another C library or processor"
    ),
]


@contextmanager
def scene(name: str, *arguments: str, **variables: str) -> Iterator[list[int]]:
    """Run a scene, give the numbers that it prints, and end it."""
    program = subprocess.Popen(
        [sys.executable, str(SCENES / name), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
    )
    try:
        assert program.stdout is not None
        said = program.stdout.readline().split()
        assert said[:1] == ["ready"]
        yield [int(word) for word in said[1:]]
    finally:
        program.communicate(timeout=30)


def two_sights(pid: int, between_s: float = 0.4) -> tuple[sight.Sight, sight.Sight]:
    """Look twice, the second time with stacks."""
    earlier = sight.take(pid, stacks=False)
    threading.Event().wait(between_s)  # a time to measure over
    return earlier, sight.take(pid)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="OpenBLAS starts no thread on one processor")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_that_share_the_processors_with_openblas_are_told(method: str) -> None:
    """The library, how many of its threads compute, the variable that limits them, and the limit."""
    with scene("blas_pool.py", method, "busy", OPENBLAS_NUM_THREADS="8") as (pid, *workers):
        earlier, now = two_sights(pid)
        owners = native.owners_of(now)
        processors = native.processors_of(pid)
    told = native.oversubscription(now, processors, owners=owners, earlier=earlier)
    assert told is not None
    assert told.library == "OpenBLAS"
    assert told.variable == "OPENBLAS_NUM_THREADS"
    assert told.workers == len(workers) == 4
    assert told.native >= 4
    assert told.threads >= told.native + 4
    assert told.limit == max(1, processors // 4)
    assert f"OPENBLAS_NUM_THREADS={told.limit}" in told.remedy
    natives = {t.os.tid for p in now.processes for t in p.threads if t.python is None}
    assert set(owners) == natives - {p.pid for p in now.processes}


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="OpenBLAS starts no thread on one processor")
def test_threads_that_are_at_rest_are_no_finding() -> None:
    """A pool whose workers have nothing to do has its OpenBLAS threads, and that is all right."""
    with scene("blas_pool.py", "fork", "idle", OPENBLAS_NUM_THREADS="8") as (pid, *_):
        first, now = two_sights(pid)
        owners = native.owners_of(now)
    assert "OpenBLAS" in owners.values()
    assert native.oversubscription(now, 2, owners=owners, earlier=first) is None
    assert native.oversubscription(first, 2, owners=owners) is None


def test_one_thread_a_worker_is_no_finding() -> None:
    """Four workers that compute on their own are what the program asked for."""
    with scene("blas_pool.py", "fork", "busy", OPENBLAS_NUM_THREADS="1") as (pid, *_):
        earlier, now = two_sights(pid)
        assert native.owners_of(now) == {}
    assert native.oversubscription(now, 2, earlier=earlier) is None


def test_each_thread_is_told_from_where_it_began() -> None:
    """With two libraries loaded the kernel's names say nothing, and the first function all."""
    library = ctypes.util.find_library("gomp")
    if library is None:
        pytest.skip("no libgomp on this machine")
    with scene("gomp_threads.py", library) as (pid,):
        tids = procfs.thread_ids(pid)
        told = native.origins(pid, tids)
        loaded = {one.name for one in native.libraries(pid)}
    assert sorted(origin.library for origin in told.values()) == [
        "CPython",
        "libgomp (OpenMP)",
        "libgomp (OpenMP)",
        "libgomp (OpenMP)",
    ]
    assert {origin.source for origin in told.values()} == {"os"}
    assert set(told) == set(tids) - {pid}
    assert loaded == {"libgomp (OpenMP)"}


OURS = """
import glasspool, json, numpy, signal
signal.alarm(60)
def multiply(_):
    matrix = numpy.ones((400, 400))
    return float((matrix @ matrix)[0, 0])
with glasspool.Pool(1) as pool:
    assert pool.apply(multiply, (1,)) == multiply(1) == 400.0
    told = [t for t in pool.inspect(stacks=True).threads if not t.python]
    print(json.dumps([(t.process, t.library) for t in told]))
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="OpenBLAS starts no thread on one processor")
def test_a_pool_of_ours_tells_whose_its_native_threads_are() -> None:
    """With stacks, in the program and in its workers."""
    done = subprocess.run(
        [sys.executable, "-c", OURS],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "2"},
    )
    told = json.loads(done.stdout)
    assert {library for _, library in told} == {"OpenBLAS"}, done.stderr
    assert len({process for process, _ in told}) == 2


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-p", "-f", "true"], capture_output=True, check=False).returncode,
    reason="needs a namespace of processes of its own",
)
def test_threads_in_a_container_have_other_numbers_there() -> None:
    """From the machine they are told by the machine's numbers."""
    code = (
        "import os, signal, sys, threading; signal.alarm(60)\n"
        "threading.Thread(target=threading.Event().wait, args=(50,), daemon=True).start()\n"
        "print('ready', os.getpid(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        ["unshare", "-p", "-f", sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready 1\n"
        [pid] = procfs.children(program.pid)
        tids = procfs.thread_ids(pid)
        told = native.owners(pid, tids)
        program.communicate(timeout=30)
    assert told == {tid: "CPython" for tid in tids if tid != pid}
    assert len(told) == 1


CPP = """
#include <thread>
#include <semaphore.h>
static sem_t never;
extern "C" void begin() { sem_init(&never, 0, 0); std::thread([] { sem_wait(&never); }).detach(); }
"""


def test_a_thread_of_the_cpp_library_belongs_to_who_made_it(tmp_path: Path) -> None:
    """``std::thread`` begins in libstdc++ for everybody: what it carries tells whose it is."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    source, library = tmp_path / "own.cpp", tmp_path / "libown_threads.so"
    source.write_text(CPP)
    command = [compiler, "-std=c++14", "-shared", "-fPIC", "-pthread", "-o", library, source]
    subprocess.run(command, check=True, timeout=60)
    code = (
        "import ctypes, signal, sys; signal.alarm(60)\n"
        "ctypes.CDLL(sys.argv[1]).begin(); print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, library], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        told = native.owners(program.pid, procfs.thread_ids(program.pid))
        program.communicate(timeout=30)
    assert list(told.values()) == ["libown_threads.so"]


def test_a_process_that_has_ended_has_no_threads() -> None:
    """Nothing is raised for it."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as program:
        program.wait(30)
    assert native.owners(program.pid, [program.pid, program.pid + 1]) == {}
    assert native.libraries(program.pid) == ()
    assert native.processors_of(program.pid) >= 1


def test_the_own_libraries_are_told_from_inside() -> None:
    """threadpoolctl knows version, threads and architecture of what is loaded here."""
    pytest.importorskip("threadpoolctl")
    code = (
        "import numpy\nfrom glasspool.observe import native\n"
        "[one] = [p for p in native.pools_inside() if p.api == 'blas']\n"
        "print(one.library, one.threads, one.variable, bool(one.version), bool(one.architecture))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.stdout == "OpenBLAS 1 OPENBLAS_NUM_THREADS True True\n", done.stderr


def test_without_threadpoolctl_the_error_has_the_install_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An extra that is missing says how to get it."""
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with pytest.raises(ImportError, match=r"pip install glasspool\[attach\]"):
        native.pools_inside()
