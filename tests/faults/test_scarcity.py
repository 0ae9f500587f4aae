"""Scarcity, caused for real: the pool says clearly what it lacks, or works in a poorer way and says so.

Each program below runs in a process of its own, under limits of its own; a test gives its rule. What a
program prints is told when it fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

LIMIT_S = 60.0
HERE = Path(__file__).parent
UID = 50_000 + os.getpid() % 10_000
"""A user who has no process but ours, so that a limit of processes can be exact.

Not that of another run of the tests beside this one.
"""

START = """
import contextlib, errno, faulthandler, gc, os, resource, signal, sys, threading, time, warnings
import multiprocessing
import psutil
import scarce_tasks as tasks
import glasspool

def context(method="fork"):
    return multiprocessing.get_context(method)

def until(is_so, what, limit_s=20.0):
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)

def notes(pool):
    (seen,) = pool.inspect().pools
    return " ".join(seen.notes)

def works(pool, size):
    assert pool.map(tasks.square, range(50), 1) == [i * i for i in range(50)]
    until(lambda: pool.stats()["idle"] == size, f"{size} workers at rest: {pool.stats()}")

def held():
    gc.collect()
    files = [name for _, _, names in os.walk(os.environ["GLASSPOOL_DIR"]) for name in names]
    children = psutil.Process().children()
    descriptors = len(os.listdir("/proc/self/fd"))
    return descriptors, threading.active_count(), files, len(children)

def nothing_more_than(before):
    until(lambda: held() == before, f"given back: {held()} {before}", 5)

def fill_descriptors():
    '''Open descriptors until there are no more; return them.'''
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    return taken

def limit(what, soft):
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (soft, hard))

def error_of(result):
    try:
        result.get(20)
    except Exception as error:
        return error
    raise AssertionError("no error")
"""

WATCH = "    faulthandler.dump_traceback_later(40, exit=True)\n"


def run(tmp_path: Path, program: str, *args: str, mounts: str = "", uid: int | None = None) -> str:
    """Run a program of the test's; return what it printed.

    Args:
        tmp_path: For the program and its files.
        program: Its text, after ``START``.
        args: For the program.
        mounts: Commands of the shell to be run before, in a mount namespace of its own.
        uid: The user that it becomes.
    """
    file = tmp_path / "program.py"
    body = textwrap.indent(textwrap.dedent(program), "    ")
    file.write_text(f"{START}\nif __name__ == '__main__':\n{WATCH}{body}\n    print('end')\n")
    (tmp_path / "gp").mkdir()
    if uid is not None:
        os.chown(tmp_path / "gp", uid, uid)
    env = dict(os.environ, GLASSPOOL_DIR=str(tmp_path / "gp"), PYTHONDONTWRITEBYTECODE="1")
    env["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent.parent / "src")])
    command = [sys.executable, str(file), *args]
    if uid is not None:
        # It may read everything, as the interpreter may lie in root's home.
        caps = "-all,+dac_read_search"
        user = ["--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
        command = ["setpriv", *user, "--inh-caps", caps, "--ambient-caps", caps, *command]
    if mounts:
        script = f'set -e\n{textwrap.dedent(mounts)}\nexec "$@"'
        command = ["unshare", "-m", "sh", "-c", script, "sh", *command]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=tmp_path
    )
    told = f"exit code {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
    assert done.returncode == 0, told
    assert done.stdout.endswith("end\n"), told
    if "forkserver" not in args:  # the fork server itself says what it met
        assert "Traceback" not in done.stderr, told
    return done.stdout


def _may_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return tried.returncode == 0


needs_mounts = pytest.mark.skipif(not _may_unshare(), reason="needs a mount namespace of its own")
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs to become another user"
)


# Descriptors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "step"), [("fork", 1), ("spawn", 7), ("forkserver", 9)])
def test_few_descriptors_at_construction(tmp_path: Path, method: str, step: int) -> None:
    """With any limit the pool works, or its constructor raises a clear error and leaves nothing."""
    run(
        tmp_path,
        """
        method, step = sys.argv[1], int(sys.argv[2])
        with glasspool.Pool(2, context=context(method)) as pool:  # loads all modules
            works(pool, 2)
        pool.join()
        before = held()
        worked = refused = 0
        for more in range(0, 200, step):
            limit(resource.RLIMIT_NOFILE, before[0] + more)
            try:
                pool = glasspool.Pool(2, context=context(method))
            except OSError as error:
                refused += 1
                assert error.errno in (errno.EMFILE, errno.EAGAIN), repr(error)
                if error.errno == errno.EMFILE:
                    assert "ulimit -n" in str(error) and "needs about" in str(error), error
                del error
            else:
                worked += 1
                assert pool.map(tasks.square, range(9)) == [i * i for i in range(9)]
                pool.terminate()
                pool.join()
                del pool
            nothing_more_than(before)
            if worked > (3 if method == "fork" else 0):
                break
        assert refused and worked, (refused, worked)
        """,
        method,
        str(step),
    )


def test_descriptors_run_out_later(tmp_path: Path) -> None:
    """A large value costs its own task; a replacement is tried again, and the pool gets its size."""
    run(
        tmp_path,
        """
        big = 1 << 20
        limit(resource.RLIMIT_NOFILE, 64)
        pool = glasspool.Pool(2, context=context())
        works(pool, 2)
        taken = fill_descriptors()
        for call in (pool.apply_async, lambda *a: pool.map_async(a[0], [a[1][0]], 1)):
            error = error_of(call(len, (bytes(big),)))
            assert isinstance(error, OSError) and error.errno == errno.EMFILE, repr(error)
            error = error_of(call(bytes, (big,)))
            assert isinstance(error, OSError) and "ulimit -n" in str(error), repr(error)
            error = error_of(call(tasks.raise_large, (big,)))
            assert isinstance(error, OSError), repr(error)
        try:
            pool.apply(bytes, (big,))
        except OSError as error:
            assert "ulimit -n" in str(error), error
        works(pool, 2)
        pids = set(pool.map(tasks.pid, range(20), 1))
        while taken:
            os.close(taken.pop())
        # What the dead worker had would do for the next one; and these are in use for good.
        limit(resource.RLIMIT_NOFILE, 8)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            os.kill(pool._pool[0].pid, signal.SIGKILL)
            until(lambda: "tried 4 times" in str(pool._engine.shortage.notes), "a note")
        assert pool.map(tasks.square, range(50), 1) == [i * i for i in range(50)]
        limit(resource.RLIMIT_NOFILE, 64)
        assert "Too many open files" in notes(pool), notes(pool)
        assert "cannot be started" in str(warned[0].message), warned
        assert len(warned) == 1, warned
        works(pool, 2)
        assert pool.apply(len, (bytes(big),)) == big == len(pool.apply(bytes, (big,)))
        assert notes(pool) == "", notes(pool)
        pool.close()
        pool.join()
        """,
    )


def test_a_task_takes_all_descriptors_of_its_worker(tmp_path: Path) -> None:
    """Large values cannot travel to it or from it; each is the error of its task, and no death."""
    run(
        tmp_path,
        """
        import functools
        big = bytes(1 << 20)
        limit(resource.RLIMIT_NOFILE, 64)
        pool = glasspool.Pool(1, context=context())
        pool.apply(tasks.take_descriptors)
        for _ in range(2):
            error = error_of(pool.apply_async(len, (big,)))
            assert isinstance(error, glasspool.SerializationError), repr(error)
            assert "ulimit -n" in str(error), error
            error = error_of(pool.apply_async(bytes, (1 << 20,)))
            assert isinstance(error, glasspool.SerializationError), repr(error)
            assert "Too many open files" in str(error), error
            error = error_of(pool.apply_async(tasks.raise_large, (1 << 20,)))
            assert "did not arrive" in str(error), error
            error = error_of(pool.map_async(functools.partial(tasks.first, big), [1]))
            assert "ulimit -n" in str(error), error
            try:
                pool.apply(len, (big,))
            except glasspool.SerializationError as error:
                assert "ulimit -n" in str(error), error
        assert pool.apply(tasks.square, (3,)) == 9
        pool.apply(tasks.give_descriptors)
        assert pool.apply(len, (big,)) == len(big) == len(pool.apply(bytes, (1 << 20,)))
        assert pool.map(functools.partial(tasks.first, big), [1]) == [len(big)]
        assert pool.stats()["deaths"] == 0
        pool.close()
        pool.join()
        """,
    )


# Processes and threads ------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_few_processes_at_construction(tmp_path: Path, method: str) -> None:
    """With any limit the pool works, or its constructor raises a clear error and leaves nothing."""
    run(
        tmp_path,
        """
        method = sys.argv[1]
        if method != "fork":
            with glasspool.Pool(1, context=context(method)) as pool:
                works(pool, 1)
            pool.join()
        before = held()
        refused = worked = 0
        for more in range(1, 14) if method == "fork" else (1, 3, 5, 12):
            limit(resource.RLIMIT_NPROC, more)
            try:
                pool = glasspool.Pool(2, context=context(method))
            except OSError as error:
                refused += 1
                assert error.errno == errno.EAGAIN and "ulimit -u" in str(error), repr(error)
                del error
            else:
                worked += 1
                assert pool.map(tasks.square, range(9)) == [i * i for i in range(9)]
                pool.terminate()
                pool.join()
                del pool
            if method == "fork":
                nothing_more_than(before)
        assert refused and worked, (refused, worked)
        """,
        method,
        uid=UID,
    )


@needs_root
def test_no_process_for_a_replacement(tmp_path: Path) -> None:
    """It is tried again with growing pauses, the others work on, ``inspect()`` and one warning say so."""
    run(
        tmp_path,
        """
        pool = glasspool.Pool(2, context=context())
        works(pool, 2)
        template = pool._engine.handler.starter.template.pid
        old = resource.prlimit(template, resource.RLIMIT_NPROC)
        resource.prlimit(template, resource.RLIMIT_NPROC, (1, old[1]))
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            os.kill(pool._pool[0].pid, signal.SIGKILL)
            until(lambda: "tried 4 times" in notes(pool), "a note")
        assert "worker " in notes(pool) and "temporarily unavailable" in notes(pool), notes(pool)
        assert [w.category for w in warned] == [RuntimeWarning], warned
        assert pool.map(tasks.square, range(50), 1) == [i * i for i in range(50)]
        assert pool.stats()["workers"] == 1
        resource.prlimit(template, resource.RLIMIT_NPROC, old)
        works(pool, 2)
        assert notes(pool) == "", notes(pool)
        pool.close()
        pool.join()
        """,
        uid=UID,
    )


@needs_root
def test_no_thread_for_a_callback_or_an_iterable(tmp_path: Path) -> None:
    """The call that needs the thread ends with an error; all others, and later ones, do not."""
    run(
        tmp_path,
        """
        old = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        pool = glasspool.Pool(2, context=context())
        works(pool, 2)
        limit(resource.RLIMIT_NPROC, 1)
        seen = []
        for error in (
            error_of(pool.apply_async(tasks.square, (3,), callback=seen.append)),
            error_of(pool.map_async(tasks.square, [3], callback=seen.append)),
        ):
            assert isinstance(error, glasspool.GlasspoolError), repr(error)
            assert "callback" in str(error) and "ulimit -u" in str(error), error
        try:
            pool.imap(tasks.square, range(3)).next(20)
            raise AssertionError("no error")
        except glasspool.GlasspoolError as error:
            assert "iterable" in str(error) and "ulimit -u" in str(error), error
        assert not seen
        works(pool, 2)
        limit(resource.RLIMIT_NPROC, old)
        assert pool.apply_async(tasks.square, (3,), callback=seen.append).get(20) == 9
        assert seen == [9]
        assert list(pool.imap(tasks.square, range(3))) == [0, 1, 4]
        pool.close()
        pool.join()
        """,
        uid=UID,
    )


@needs_root
def test_a_second_pool_finds_no_room(tmp_path: Path) -> None:
    """The first one, whose threads stood aside for the fork, works on, if there is room for them."""
    run(
        tmp_path,
        """
        first = glasspool.Pool(2, context=context())
        works(first, 2)
        before = held()
        refused = 0
        for most in range(7, 13):  # us, a template, two workers, two threads, and faulthandler's
            limit(resource.RLIMIT_NPROC, most)
            try:
                second = glasspool.Pool(2, context=context())
            except OSError as error:
                refused += 1
                assert "ulimit -u" in str(error), error
                del error
            else:
                second.terminate()
                second.join()
                del second
            works(first, 2)
            nothing_more_than(before)
        assert refused == 5, refused
        limit(resource.RLIMIT_NPROC, 1)
        waiting = first.apply_async(time.sleep, (60,))
        try:
            glasspool.Pool(2, context=context())
            raise AssertionError("no error")
        except OSError as error:
            assert "ulimit -u" in str(error), error
        assert "could not be started again" in str(error_of(waiting))
        try:
            first.map(tasks.square, range(3))
            raise AssertionError("no error")
        except glasspool.GlasspoolError as error:
            assert "has ended" in str(error)
            assert "could not be started again" in str(error.__cause__)
        first.close()
        first.join()
        """,
        uid=UID,
    )


@needs_root
def test_no_process_for_a_new_template(tmp_path: Path) -> None:
    """It is tried again like a worker; what is submitted meanwhile waits, and runs."""
    run(
        tmp_path,
        """
        warnings.simplefilter("ignore")
        old = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        pool = glasspool.Pool(2, context=context())
        works(pool, 2)
        limit(resource.RLIMIT_NPROC, 1)
        os.kill(pool._engine.handler.starter.template.pid, signal.SIGKILL)
        result = pool.apply_async(tasks.square, (3,))
        until(lambda: "tried 3 times" in notes(pool), "a note")
        assert "a new template process cannot be started" in notes(pool), notes(pool)
        limit(resource.RLIMIT_NPROC, old)
        result.wait(20)
        works(pool, 2)
        assert notes(pool) == "", notes(pool)
        pool.close()
        pool.join()
        """,
        uid=UID,
    )


# Room for shared memory ------------------------------------------------------------------------------

READ_ONLY = """
    for place in /dev/shm /tmp /var/tmp; do
        mount --bind $place $place
        mount -o remount,bind,ro $place
    done
"""

NO_MEMFD = """
    forbid_memfd = tasks.forbid_memfd_create
    forbid_memfd(errno.{error})
    try:
        os.memfd_create("x")
        raise AssertionError("it is not forbidden")
    except OSError as error:
        assert error.errno == errno.{error}
"""

BIG_VALUES = """
    big = 1 << 20
    assert pool.apply(len, (bytes(big),)) == big == len(pool.apply(bytes, (big,)))
"""


@needs_mounts
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_no_room_for_the_scoreboard(tmp_path: Path, method: str) -> None:
    """It is made in another folder, and ``inspect()`` says so."""
    run(
        tmp_path,
        """
        pool = glasspool.Pool(2, context=context(sys.argv[1]))
        works(pool, 2)
        home = os.environ["GLASSPOOL_DIR"]
        assert f"{home}: No space left on device" in notes(pool), notes(pool)
        assert os.path.dirname(pool._engine.board.file) in notes(pool)
        assert pool._engine.board.file not in os.listdir(home)
        file = pool._engine.board.file
        pool.close()
        pool.join()
        assert not os.path.exists(file)
        """,
        method,
        mounts=f"mount -t tmpfs -o size=16k none {tmp_path}/gp",
    )


@needs_mounts
def test_nothing_is_writable(tmp_path: Path) -> None:
    """Under fork the pool works, with large values, and says that it cannot be seen from outside."""
    run(
        tmp_path,
        """
        try:
            multiprocessing.Lock()
            raise AssertionError("there are semaphores")
        except OSError:
            pass
        pool = glasspool.Pool(2, context=context())
        works(pool, 2)
        big = 1 << 20
        assert pool.apply(len, (bytes(big),)) == big == len(pool.apply(bytes, (big,)))
        assert "cannot be seen from outside" in notes(pool), notes(pool)
        assert "Read-only file system" in notes(pool), notes(pool)
        os.kill(pool._pool[0].pid, signal.SIGKILL)
        works(pool, 2)
        pool.close()
        pool.join()
        try:
            glasspool.Pool(2, context=context("spawn"))
            raise AssertionError("no error")
        except OSError as error:
            assert "scoreboard" in str(error) and "Read-only" in str(error), error
        """,
        mounts=READ_ONLY,
    )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_no_semaphores(tmp_path: Path, method: str) -> None:
    """None is used: where ``multiprocessing`` has none at all, the pool works."""
    run(
        tmp_path,
        """
        sys.modules["multiprocessing.synchronize"] = None
        try:
            multiprocessing.Lock()
            raise AssertionError("there are semaphores")
        except ImportError:
            pass
        pool = glasspool.Pool(2, context=context(sys.argv[1]))
        works(pool, 2)
        assert sum(pool.imap_unordered(tasks.square, range(10), 3)) == 285
        os.kill(pool._pool[0].pid, signal.SIGKILL)
        works(pool, 2)
        pool.close()
        pool.join()
        """,
        method,
    )


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_no_memory_files(tmp_path: Path, error: str) -> None:
    """Where ``memfd_create`` is missing or forbidden, large values travel through a temporary file."""
    run(
        tmp_path,
        textwrap.dedent(NO_MEMFD.format(error=error))
        + textwrap.dedent(
            """
        pool = glasspool.Pool(2, context=context())
        works(pool, 2)
        """
        )
        + textwrap.dedent(BIG_VALUES)
        + "pool.close()\npool.join()\n",
    )


@needs_mounts
def test_shared_memory_is_full(tmp_path: Path) -> None:
    """What has no room is the error of its task, in either direction; never a SIGBUS."""
    run(
        tmp_path,
        textwrap.dedent(NO_MEMFD.format(error="ENOSYS"))
        + textwrap.dedent(
            """
        pool = glasspool.Pool(2, context=context())
        works(pool, 2)
        with open("/dev/shm/filler", "wb", buffering=0) as filler:
            with contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(65536))
            for _ in range(3):
                error = error_of(pool.apply_async(len, (bytes(1 << 20),)))
                assert isinstance(error, OSError) and error.errno == errno.ENOSPC, repr(error)
                error = error_of(pool.apply_async(bytes, (1 << 20,)))
                assert isinstance(error, glasspool.SerializationError), repr(error)
                assert "No space left" in str(error), error
                error = error_of(pool.apply_async(tasks.raise_large, (1 << 20,)))
                assert "did not arrive" in str(error), error
            try:
                glasspool.Pool(2, context=context())
                raise AssertionError("no error")
            except OSError as error:
                assert error.errno == errno.ENOSPC, repr(error)
                assert "GLASSPOOL_DIR" in str(error), error
        os.unlink("/dev/shm/filler")
        works(pool, 2)
        """
        )
        + textwrap.dedent(BIG_VALUES)
        + "assert pool.stats()['deaths'] == 0\npool.close()\npool.join()\n",
        mounts="mount -t tmpfs -o size=4m none /dev/shm",
    )


def test_files_may_not_be_large(tmp_path: Path) -> None:
    """A limit on the size of files is the error of a large value, or of the constructor."""
    run(
        tmp_path,
        """
        pool = glasspool.Pool(2, context=context())
        limit(resource.RLIMIT_FSIZE, 65536)
        for _ in range(2):
            error = error_of(pool.apply_async(len, (bytes(1 << 20),)))
            assert isinstance(error, OSError) and error.errno == errno.EFBIG, repr(error)
        works(pool, 2)
        assert len(pool.apply(bytes, (1 << 20,))) == 1 << 20  # the workers have no such limit
        before = held()
        try:
            glasspool.Pool(2, context=context())
            raise AssertionError("no error")
        except OSError as error:
            assert error.errno == errno.EFBIG and "ulimit -f" in str(error), repr(error)
        works(pool, 2)
        nothing_more_than(before)
        pool.close()
        pool.join()
        """,
    )


# Folders ---------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_no_folder_of_ones_own(tmp_path: Path, method: str) -> None:
    """A user without a home, whose chosen folder is not to be had, gets a pool in another folder."""
    run(
        tmp_path,
        """
        os.environ.update(GLASSPOOL_DIR="/nowhere/pools", HOME="/nowhere")
        os.environ["XDG_RUNTIME_DIR"] = "/root"
        pool = glasspool.Pool(2, context=context(sys.argv[1]))
        works(pool, 2)
        assert "/nowhere/pools: Permission denied" in notes(pool), notes(pool)
        assert str(os.getuid()) in os.path.dirname(pool._engine.board.file)
        folder = os.path.dirname(pool._engine.board.file)
        pool.close()
        pool.join()
        os.rmdir(folder)
        """,
        method,
        uid=UID,
    )


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    """The pool works without the socket, and says so; its scoreboard is read from outside."""
    run(
        tmp_path,
        """
        import json, subprocess
        os.environ["GLASSPOOL_DIR"] = os.path.join(os.environ["GLASSPOOL_DIR"], "x" * 120)
        pool = glasspool.Pool(2, context=context(), name="far")
        works(pool, 2)
        assert "answers no questions from outside" in notes(pool), notes(pool)
        assert "too long" in notes(pool), notes(pool)
        command = [sys.executable, "-m", "glasspool", "ps", str(os.getpid()), "--json"]
        told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        (seen,) = told["pools"]
        assert seen["name"] == "far" and len(seen["processes"]) == 4, seen
        pool.close()
        pool.join()
        """,
    )
