"""What ``faulthandler`` wrote is read back."""

from __future__ import annotations

import faulthandler
import tempfile
import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from glasspool.engines.local import traces
from glasspool.snapshot import Frame

FATAL = """Fatal Python error: Segmentation fault

Thread 0x00007f2199fff6c0 (most recent call first):
  File "/lib/threading.py", line 320 in wait
  File "/home/me/a, line 3 in b.py", line 7 in f
  ...

Current thread 0x00007f219b0bb740 [python3] (most recent call first):
  File "/lib/ctypes/__init__.py", line 519 in string_at
  File ???, line ??? in <lambda>
  <truncated rest of calls>

Thread 0x00007f2199fff6c1 (most recent call first):
  <no Python frame>

Current thread's C stack trace (most recent call first):
  Binary file "/usr/bin/python3", at _Py_DumpStack+0x44 [0x5c]

Extension modules: numpy._core._multiarray_umath (total: 1)
"""


def test_a_fault_is_read() -> None:
    """Its reason, each thread, the one that faulted, and its stack, outermost call first."""
    (trace,) = traces.parse(FATAL)
    assert trace.reason == "Segmentation fault"
    assert [thread.current for thread in trace.threads] == [False, True, False]
    assert trace.threads[0].stack == (
        Frame("/home/me/a, line 3 in b.py", 7, "f"),
        Frame("/lib/threading.py", 320, "wait"),
    )
    assert trace.stack_of(0x7F2199FFF6C0) == trace.threads[1].stack
    assert trace.threads[1].stack == (
        Frame("?", 0, "<lambda>"),
        Frame("/lib/ctypes/__init__.py", 519, "string_at"),
    )


def test_several_traces_are_told_apart() -> None:
    """Dumps that were asked for come before the fault, and the same thread begins the next one."""
    dump = 'Thread 0x01 (most recent call first):\n  File "a.py", line 1 in f\n'
    found = traces.parse(dump + dump + FATAL)
    assert [trace.reason for trace in found] == [None, None, "Segmentation fault"]
    assert found[1].stack_of(1) == (Frame("a.py", 1, "f"),)
    assert found[1].stack_of(99) == (Frame("a.py", 1, "f"),)
    assert traces.Trace(None, ()).stack_of(1) is None


def test_a_true_dump_is_read() -> None:
    """What this interpreter writes: every thread, and this function in its place."""
    waits, done = threading.Event(), threading.Event()

    def stand() -> None:
        waits.set()
        done.wait(60)

    thread = threading.Thread(target=stand)
    thread.start()
    waits.wait(60)
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        done.set()
        thread.join()
        file.seek(0)
        (trace,) = traces.parse(file.read().decode())
    stacks = {told.ident: told.stack for told in trace.threads}
    assert "stand" in [frame.function for frame in stacks[thread.ident or 0]]
    own = trace.stack_of()
    assert own is not None
    assert own[-1] == Frame(__file__, own[-1].line, "test_a_true_dump_is_read")


def test_our_own_frames_are_cut() -> None:
    """The stack of a task begins with the user's code; what a fork inherited is not in it."""
    inherited = (Frame("script.py", 1, "<module>"), Frame("/x/glasspool/pool.py", 2, "__init__"))
    ours = tuple(
        Frame("/x/glasspool/engines/local/worker.py", n, name)
        for n, name in enumerate(("main", "serve", "_run"))
    )
    theirs = (Frame("script.py", 9, "work"), Frame("/x/glasspool/pool.py", 3, "map"))
    assert traces.of_task((*inherited, *ours, *theirs)) == theirs
    assert traces.of_task((*inherited, *ours)) == ours
    assert traces.of_task(theirs) == theirs


@given(st.text() | st.lists(st.sampled_from(FATAL.splitlines())).map("\n".join))
def test_any_text_is_taken(text: str) -> None:
    """A torn or foreign text gives what can be read of it, and no error."""
    for trace in traces.parse(text):
        assert trace.threads or trace.reason is not None
        stack: Any = trace.stack_of()
        assert stack is None or all(type(frame) is Frame for frame in stack)
