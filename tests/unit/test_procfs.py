"""What the operating system says of threads and processes, against what Python knows."""

import os
import subprocess
import sys
import threading
import time

import pytest

from glasspool.observe import procfs

linux_only = pytest.mark.skipif(not procfs.HAS_PROC, reason="needs /proc")


@pytest.fixture
def waiting_thread():
    """Give a thread that waits for an event, and end it afterwards."""
    begun, event = threading.Event(), threading.Event()

    def wait():
        begun.set()
        event.wait()

    thread = threading.Thread(target=wait, name="waiting")
    thread.start()
    begun.wait()
    yield thread
    event.set()
    thread.join()


@pytest.fixture(params=[True, False], ids=["proc", "psutil"])
def either_way(request, monkeypatch):
    """Ask /proc, then psutil: both must tell the same."""
    if request.param and not procfs.HAS_PROC:
        pytest.skip("needs /proc")
    monkeypatch.setattr(procfs, "HAS_PROC", request.param)
    return request.param


def test_every_thread_of_this_process_is_listed(waiting_thread, either_way):
    """`thread_ids` holds the native id of each Python thread."""
    ids = procfs.thread_ids(os.getpid())
    assert {t.native_id for t in threading.enumerate()} <= set(ids)
    assert list(ids) == sorted(ids)


def test_a_process_is_told(either_way):
    """`process` knows parent, start, memory, command line and user of this process."""
    told = procfs.process(os.getpid())
    assert told is not None
    assert told.ppid == os.getppid()
    assert told.rss_bytes > 1_000_000
    assert told.cmdline
    assert told.started_at == pytest.approx(time.time(), abs=24 * 3600)
    assert told.started_at <= time.time()
    assert told.start_ticks == procfs.start_ticks(os.getpid())
    assert told.uid == os.getuid()
    assert procfs.boot_id() == procfs.boot_id()


def test_what_has_ended_is_none_and_nothing_raises(either_way):
    """A process that has ended has no threads, no children and no start."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert procfs.process(child.pid) is None
    assert procfs.thread(child.pid, child.pid) is None
    assert procfs.thread(os.getpid(), child.pid) is None
    assert procfs.thread_ids(child.pid) == ()
    assert procfs.children(child.pid) == ()
    assert procfs.start_ticks(child.pid) is None


def test_children_are_listed(either_way):
    """`children` lists a child that lives, and no longer once it is reaped."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in procfs.children(os.getpid())
    finally:
        child.communicate(b"\n")
    assert child.pid not in procfs.children(os.getpid())


def test_children_are_found_without_the_kernels_list():
    """Where the kernel keeps no list of children, all processes are searched."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        if procfs.HAS_PROC:
            assert child.pid in set(procfs._searched_children(os.getpid()))
    finally:
        child.communicate(b"\n")


@linux_only
def test_the_processor_time_of_a_thread_grows():
    """`cpu_s` is the time of the thread itself, not of the process."""
    before = procfs.thread(os.getpid(), threading.get_native_id())
    began = time.thread_time()
    while time.thread_time() - began < 0.05:
        pass
    after = procfs.thread(os.getpid(), threading.get_native_id())
    assert before is not None
    assert after is not None
    assert after.cpu_s - before.cpu_s >= 0.03
    assert procfs.state_words(after) == "running"


@linux_only
def test_a_thread_gets_a_name_of_at_most_15_bytes(waiting_thread):
    """`name_thread` cuts at 15 bytes, and never within a letter."""
    procfs.name_thread(waiting_thread.native_id, "gläserner-poooöl")
    told = procfs.thread(os.getpid(), waiting_thread.native_id)
    assert told is not None
    assert told.name == "gläserner-pooo"


def test_naming_what_cannot_be_named_does_nothing():
    """A thread that has ended, or of another process, is left alone without an error."""
    procfs.name_thread(2**22 + 1, "nobody")
    procfs.name_thread(1, "init", pid=os.getppid())


@pytest.mark.parametrize(
    ("state", "wchan", "words"),
    [
        ("R", None, "running"),
        ("S", "futex_do_wait", "sleeping in futex"),
        ("S", "anon_pipe_read", "sleeping in pipe read"),
        ("S", "poll_schedule_timeout.constprop.0", "sleeping in poll"),
        ("S", "some_new_function", "sleeping in some_new_function"),
        ("S", None, "sleeping"),
        ("D", "folio_wait_bit_common", "waiting on disk"),
        ("T", None, "stopped"),
        ("t", None, "stopped by a debugger"),
        ("Z", None, "ended"),
        ("?", None, "unknown (this system does not tell)"),
        ("Q", None, "in kernel state Q"),
    ],
)
def test_states_in_words(state, wchan, words):
    """The kernel's letter and the function that a thread sleeps in make a phrase."""
    assert procfs.state_words(procfs.OsThread(1, 1, "x", state, 0.0, 0, wchan)) == words


@linux_only
def test_a_name_with_brackets_and_blanks_does_not_confuse(waiting_thread):
    """A thread's name may look like the fields that follow it."""
    procfs.name_thread(waiting_thread.native_id, "a) R 1 (b) S 2")
    told = procfs.thread(os.getpid(), waiting_thread.native_id)
    assert told is not None
    assert told.name == "a) R 1 (b) S 2"
    assert told.state in "RS"
