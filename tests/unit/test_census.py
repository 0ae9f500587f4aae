"""Which programs may have a pool: chosen from what the operating system says, workers left out."""

from __future__ import annotations

import pytest

from glasspool.observe import census
from glasspool.observe.procfs import OsProcess

PYTHON = "/usr/bin/python3"


def process(pid, ppid, *cmdline):
    return OsProcess(pid, "python3", tuple(cmdline), ppid, "S", 1, 0.0, 0, 0.0, 1000)


TRACKER = (PYTHON, "-c", "from multiprocessing.resource_tracker import main;main(4)")
SERVER = (PYTHON, "-c", "from multiprocessing.forkserver import main; main(8, 9, [])")
SPAWNED = (PYTHON, "-c", "from multiprocessing.spawn import spawn_main", "--multiprocessing-fork")
LOKY = (PYTHON, "-m", "joblib.externals.loky.backend.popen_loky_posix", "--pipe", "9")


@pytest.fixture
def machine(monkeypatch):
    """Let the machine have these processes, all of them Python, with so many threads each."""

    def have(*processes, threads=1):
        seen = {one.pid: one for one in processes}
        monkeypatch.setattr(census, "_processes", lambda everyone: seen)
        monkeypatch.setattr(census, "is_python", lambda one: True)
        monkeypatch.setattr(census, "thread_count", lambda pid: threads)
        return [(p.process.pid, p.children) for p in census.programs()]

    return have


@pytest.mark.parametrize(
    ("parts", "workers"),
    [
        ([process(2, 1, PYTHON, "x.py"), process(3, 1, PYTHON, "x.py")], 2),
        ([process(2, 1, *TRACKER), process(3, 1, *SPAWNED), process(4, 1, *SPAWNED)], 2),
        ([process(2, 1, *TRACKER), process(3, 1, *LOKY)], 1),
        # A fork server's children have its command line.
        ([process(2, 1, *TRACKER), process(3, 1, *SERVER), process(4, 3, *SERVER)], 2),
    ],
)
def test_workers_count_for_their_program(machine, parts, workers):
    """Forked, spawned, from a fork server or loky's: they are no programs of their own."""
    assert machine(process(1, 0, PYTHON, "x.py"), *parts) == [(1, workers)]


def test_a_program_that_another_one_runs_is_its_own(machine):
    """A test runner that starts a script is not its pool's parent, and has none itself."""
    runner, script = process(1, 0, PYTHON, "-m", "pytest"), process(2, 1, PYTHON, "x.py")
    assert machine(runner, script, process(3, 2, PYTHON, "x.py")) == [(2, 1)]


def test_a_tracker_makes_no_pool(machine):
    """A program that only shares memory has a resource tracker, too."""
    assert machine(process(1, 0, PYTHON, "x.py"), process(2, 1, *TRACKER)) == []


def test_threads_make_a_candidate(machine):
    """A pool of threads has no children."""
    assert machine(process(1, 0, PYTHON, "x.py"), threads=3) == [(1, 0)]


def test_orphans_are_nobodys_workers(machine):
    """Workers whose program has ended are told of no other one."""
    assert machine(process(3, 1, *SPAWNED), process(4, 1, *LOKY)) == []
