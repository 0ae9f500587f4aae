"""Stacks as ``faulthandler`` writes them, read back."""

from __future__ import annotations

import faulthandler
import sys
import threading

from glasspool.cli import hang


def test_a_real_dump_is_read_back(tmp_path):
    """Threads in their order, the main thread last; frames outermost first, with file and line."""
    stop = threading.Event()
    begun = threading.Event()

    def wait_here() -> None:
        begun.set()
        stop.wait()

    thread = threading.Thread(target=wait_here)
    thread.start()
    begun.wait()
    with open(tmp_path / "dump", "w+") as file:
        faulthandler.dump_traceback(file=file, all_threads=True)
        line = sys._getframe().f_lineno - 1
        file.seek(0)
        stacks = hang.parsed(file.read())
    stop.set()
    thread.join()
    (ident, first), (_, last) = stacks[0], stacks[-1]
    assert int(ident, 16) == thread.ident
    assert "wait_here" in [frame.function for frame in first]
    assert (last[-1].file, last[-1].line) == (__file__, line)
    assert last[-1].function == "test_a_real_dump_is_read_back"


def test_anything_else_is_no_stack():
    """An empty answer, and lines that are none of ours, give nothing."""
    assert hang.parsed("") == []
    assert hang.parsed('  File "x", line 1 in f\nhello\n') == []
    [(_, stack)] = hang.parsed(
        "Thread 0x01 [name] (most recent call first):\n  <no Python frame>\n"
    )
    assert stack == ()
