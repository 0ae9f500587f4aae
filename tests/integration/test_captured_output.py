"""Captured output: what each task writes, from Python and below, also if it fails, dies or still runs."""

from __future__ import annotations

import os
from typing import Any

import log_tasks as tasks
import pytest

import glasspool
from gates import Gate
from glasspool.engines.local.capturing import MOST_BYTES, ROOM_BYTES, TAIL_BYTES
from pools import MakePool, wait_until

LIMIT_S = 30


def written(number: int) -> str:
    """Return what ``write_in_all_ways`` writes to its standard output."""
    return f"print {number}\nprintf {number}\necho\nwrite\nunfinished"


def test_each_task_has_its_own_output(make: MakePool) -> None:
    """By apply and map, whatever wrote it."""
    pool = make(2, capture_output=True)
    one = pool.apply_async(tasks.write_in_all_ways, (1,))
    assert one.get(LIMIT_S) == 1
    assert (one.info.stdout, one.info.stderr) == (written(1), "error 1\n")
    chunks = pool.map_async(tasks.write_in_all_ways, range(4), 2)
    chunks.get(LIMIT_S)
    assert [task.stdout for task in chunks.info.tasks] == [
        written(0) + written(1),
        written(2) + written(3),
    ]
    assert [task.stderr for task in chunks.info.tasks] == [
        "error 0\nerror 1\n",
        "error 2\nerror 3\n",
    ]
    silent = pool.apply_async(os.getpid)
    silent.get(LIMIT_S)
    assert (silent.info.stdout, silent.info.stderr) == ("", "")


def test_what_is_printed_outside_of_tasks_goes_where_it_went(
    make_forked: MakePool, capfd: Any
) -> None:
    """That of the initializer; that of tasks does not."""
    pool = make_forked(2, tasks.announce, capture_output=True)
    pool.map(tasks.write_in_all_ways, range(4))
    pool.close()
    pool.join()
    shown = capfd.readouterr()
    assert shown.out == "from the initializer\n" * 2
    assert shown.err == ""


def test_a_task_that_fails_has_its_output(make: MakePool) -> None:
    """One that raises, one that runs out of time, one whose worker dies: up to the last word."""
    pool = make(1, capture_output=True)
    raised = pool.apply_async(tasks.print_and_raise)
    with pytest.raises(ValueError, match="as it should"):
        raised.get(LIMIT_S)
    assert raised.info.stdout == "before it raised\n"
    late = pool.apply_async(tasks.print_and_hang, timeout=0.3)
    with pytest.raises(glasspool.TaskTimeout):
        late.get(LIMIT_S)
    assert late.info.stdout == "before it hung\n"
    died = pool.apply_async(tasks.print_and_die)
    with pytest.raises(glasspool.WorkerDied) as caught:
        died.get(LIMIT_S)
    assert (died.info.stdout, died.info.stderr) == ("before it died\n", "from C\n")
    assert caught.value.certificate is not None
    assert caught.value.certificate.last_output == ("before it died",)
    after = pool.apply_async(tasks.buffered_printf)
    after.get(LIMIT_S)
    assert after.info.stdout == "still in C's buffer"


def test_the_output_of_a_running_task_can_be_read(make: MakePool, gate: Gate) -> None:
    """Its info and a picture of the pool hold what it has written so far."""
    pool = make(1, capture_output=True, **gate.arguments)
    result = pool.apply_async(tasks.print_and_wait)
    gate.wait_for_tasks()
    assert result.info.stdout == "live\n"
    assert [task.stdout for task in pool.inspect().tasks] == ["live\n"]
    gate.open()
    result.get(LIMIT_S)
    assert result.info.stdout == "live\nafter\n"


def test_the_end_of_much_output_is_kept(make_forked: MakePool) -> None:
    """It says how much is missing, and gives the memory back before the next task."""
    pool = make_forked(1, capture_output=True)
    size = 4 * ROOM_BYTES // 1000 * 1000
    result = pool.apply_async(tasks.print_much, (size,))
    result.get(LIMIT_S)
    text = result.info.stdout
    assert text is not None
    head, _, tail = text.partition("\n")
    assert head == f"[... {size + 4 - TAIL_BYTES:,} bytes ...]"
    assert len(tail) == TAIL_BYTES
    assert tail.endswith("x\nend\n")
    outputs = pool._engine.outputs
    assert outputs is not None
    assert os.fstat(outputs.file.fd).st_blocks * 512 > size
    again = pool.apply_async(tasks.print_much, (1000,))
    again.get(LIMIT_S)
    assert again.info.stdout == "x" * 999 + "\nend\n"
    assert os.fstat(outputs.file.fd).st_blocks * 512 < ROOM_BYTES


def test_a_task_that_goes_on_writing_takes_a_bounded_amount_of_memory(
    make_forked: MakePool, forked_gate: Gate
) -> None:
    """What it wrote long ago is given back while it runs; the end is there, and all is counted."""
    pool = make_forked(1, capture_output=True, **forked_gate.arguments)
    size = 3 * MOST_BYTES // 1000 * 1000
    result = pool.apply_async(tasks.print_much, (size, True))
    forked_gate.wait_for_tasks()
    outputs = pool._engine.outputs
    assert outputs is not None
    file = outputs.file.fd
    most = MOST_BYTES + ROOM_BYTES
    wait_until(lambda: os.fstat(file).st_blocks * 512 < most, "memory is given back")
    live = result.info.stdout
    forked_gate.open()
    result.get(LIMIT_S)
    assert live == result.info.stdout
    assert live is not None
    assert live.startswith(f"[... {size + 4 - TAIL_BYTES:,} bytes ...]\n")
    assert live.endswith("x\nend\n")


def test_a_pool_does_not_capture_unasked(make_forked: MakePool, capfd: Any) -> None:
    """What is printed appears where it did, and the fields are None."""
    pool = make_forked(1)
    result = pool.apply_async(tasks.announce)
    result.get(LIMIT_S)
    assert (result.info.stdout, result.info.stderr) == (None, None)
    assert capfd.readouterr().out == "from the initializer\n"


def test_output_of_several_lanes_cannot_be_told_apart() -> None:
    """The two options exclude each other, and the error says why."""
    with pytest.raises(ValueError, match="one standard output"):
        glasspool.Pool(1, threads=2, capture_output=True)
