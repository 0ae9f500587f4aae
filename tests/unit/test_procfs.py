"""What the operating system says of threads and processes, against what Python knows."""

import contextlib
import os
import signal
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


@linux_only
def test_how_full_a_pipe_is():
    """`pipe_bytes` tells from either end what is held, and leaves it where it is."""
    ours, theirs = os.pipe()
    try:
        os.write(theirs, b"x" * 1000)
        for end in (ours, theirs):
            told = procfs.pipe_bytes(os.getpid(), end)
            assert told is not None
            assert (told.held_bytes, told.full, told.has_reader) == (1000, False, True)
            assert told.capacity_bytes >= 4096
        assert os.read(ours, 2000) == b"x" * 1000
        os.set_blocking(theirs, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(theirs, b"x" * 4096)
        told = procfs.pipe_bytes(os.getpid(), ours)
        assert told is not None
        assert told.full
    finally:
        os.close(ours)
    told = procfs.pipe_bytes(os.getpid(), theirs)
    assert told is not None
    assert not told.has_reader
    os.close(theirs)


@linux_only
def test_to_ask_a_pipe_changes_nothing_for_its_users():
    """A reader still learns of the end of a pipe that was asked about, a writer of its last reader's end."""
    ours, theirs = os.pipe()
    for _ in range(100):
        procfs.pipe_bytes(os.getpid(), ours)
    os.close(theirs)
    procfs.pipe_bytes(os.getpid(), ours)
    assert os.read(ours, 1) == b""
    os.close(ours)
    ours, theirs = os.pipe()
    procfs.pipe_bytes(os.getpid(), theirs)
    os.close(ours)
    procfs.pipe_bytes(os.getpid(), theirs)
    with pytest.raises(BrokenPipeError):
        os.write(theirs, b"x")
    os.close(theirs)


@linux_only
def test_only_pipes_without_a_name_are_asked(tmp_path):
    """Files, FIFOs with a name and what is gone give None, and are not opened."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    named = os.open(path, os.O_RDWR)
    with open(tmp_path / "file", "w") as file:
        assert procfs.pipe_bytes(os.getpid(), file.fileno()) is None
    assert procfs.pipe_bytes(os.getpid(), named) is None
    os.close(named)
    assert procfs.pipe_bytes(os.getpid(), named) is None


@linux_only
def test_who_holds_which_end_of_a_pipe():
    """`pipe_ends` tells readers and writers apart, in all processes that are asked about."""
    ours, theirs = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=ours, pass_fds=())
    try:
        number = os.fstat(ours).st_ino
        ends = procfs.pipe_ends([os.getpid(), child.pid])[number]
        assert set(ends.readers) == {(os.getpid(), ours), (child.pid, 0)}
        assert ends.writers == ((os.getpid(), theirs),)
    finally:
        os.write(theirs, b"\n")
        child.wait()
        os.close(ours)
        os.close(theirs)


@linux_only
def test_rights_and_signals_of_a_process_are_told():
    """`status` agrees with what Python knows of this process."""
    told = procfs.status(os.getpid())
    assert told is not None
    assert told.uids[:3] == os.getresuid()
    assert told.gids[:3] == os.getresgid()
    assert told.tracer is None
    assert bool(told.caught >> (signal.SIGINT - 1) & 1) == procfs.catches(
        os.getpid(), signal.SIGINT
    )
    assert procfs.status(2**22 + 1) is None


@linux_only
def test_the_version_of_an_interpreter_is_told():
    """By its program or its library; other programs have none."""
    assert procfs.python_version(os.getpid()) == "{}.{}".format(*sys.version_info[:2])
    child = subprocess.Popen(["sleep", "50"])
    try:
        assert procfs.python_version(child.pid) is None
    finally:
        child.kill()
        child.wait()
    assert procfs.python_version(child.pid) is None


@linux_only
def test_a_thread_that_rests_keeps_its_mark(waiting_thread):
    """`resting` has the same mark as long as a thread does not run; one that runs has none."""
    tid = waiting_thread.native_id
    before: dict[int, tuple[int, int]] = {}
    deadline = time.monotonic() + 10
    # It may sleep first for the interpreter lock, which we hold, and only then for its event.
    while tid not in before or procfs.resting(os.getpid()).get(tid) != before[tid]:
        assert time.monotonic() < deadline, "the thread does not come to rest"
        before = procfs.resting(os.getpid())
        time.sleep(0)
    assert threading.get_native_id() not in before
