"""Logs: records of workers reach the handlers of the program, all of them, in order, and stop nothing."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import log_tasks as tasks
import pytest

import glasspool
from glasspool.engines.local import forwarding, logs
from glasspool.latch import Latch
from pools import MakePool, wait_until

LIMIT_S = 30


class Kept(logging.Handler):
    """Keeps the records of the tests' loggers, and the thread that handled each."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.threads: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)
        self.threads.add(threading.current_thread().name)

    def messages(self) -> list[str]:
        """Return the texts of all records."""
        return [record.getMessage() for record in self.records]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Return a handler of the program, on a logger that takes all."""
    handler = Kept()
    logger = logging.getLogger(tasks.NAME)
    level, logger.propagate = logger.level, False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = True


def end(pool: glasspool.Pool) -> None:
    """Close a pool, and wait for its end."""
    pool.close()
    pool.join()


def test_records_come_with_what_was_there_and_by_whom(make: MakePool, kept: Kept) -> None:
    """From the initializer to the exit functions, from threads, with exceptions and attributes."""
    pool = make(2, tasks.begin, finalizer=tasks.end)
    calls = pool.map(tasks.log_all_kinds, range(6), 1)
    end(pool)
    own = [record for record in kept.records if record.name == "gptest.part"]
    assert kept.threads == {f"{pool.name} logs"}
    assert all(record.pool == pool.name for record in own)  # type: ignore[attr-defined]
    by_process: dict[int | None, list[logging.LogRecord]] = defaultdict(list)
    for record in own:
        by_process[record.process].append(record)
    for records in by_process.values():
        texts = [record.getMessage() for record in records]
        assert texts[0] == "initializer"
        assert texts[-2:] == ["finalizer", "exit function"]
        assert "PoolWorker-" in (records[0].processName or "")
    for number, (pid, slot, task) in enumerate(calls):
        mine = [record for record in by_process[pid] if record.task == task]  # type: ignore[attr-defined]
        assert [record.getMessage() for record in mine] == [
            f"number {number} of many",
            "failed",
            "in a thread",
        ]
        assert {record.slot for record in mine} == {slot}  # type: ignore[attr-defined]
        assert mine[2].threadName == "helper"
        check_exception(mine[1])


def check_exception(record: logging.LogRecord) -> None:
    """Check a record that was logged with an exception and with attributes."""
    told = vars(record)
    assert record.exc_info is None
    assert "KeyError: 'lost'" in logging.Formatter().format(record)
    assert told["thing"].value == int(told["thing"].value)
    assert (told["odd"], told["plain"]) == ("<stubborn>", 7)
    assert record.funcName == "log_all_kinds"


def test_a_worker_with_a_handler_of_its_own_logs_by_itself(
    make: MakePool, kept: Kept, tmp_path: Path
) -> None:
    """What the initializer arranges holds: each record is in the file once, and as it would be."""
    file = tmp_path / "log"
    pool = make(2, tasks.own_handler, (str(file),))
    pool.map(tasks.burst, [50, 50], 1)
    end(pool)
    assert sorted(map(int, file.read_text().split())) == sorted([*range(50)] * 2)
    assert kept.records == []  # under fork the worker's copy of the handler had them, as with stock


def test_the_parents_levels_hold_and_workers_may_lower_them(make: MakePool, kept: Kept) -> None:
    """A level that is set in the program decides everywhere; one that an initializer sets counts, too."""
    logging.getLogger("gptest.part").setLevel(logging.WARNING)
    try:
        pool = make(1)
        pool.apply(tasks.burst, (3,))
        end(pool)
        assert kept.records == []
        pool = make(1, tasks.lower_level)
        pool.apply(tasks.burst, (3,))
        end(pool)
        assert kept.messages() == ["0", "1", "2"]
    finally:
        logging.getLogger("gptest.part").setLevel(logging.NOTSET)


def test_a_killed_worker_loses_no_record(make: MakePool, kept: Kept) -> None:
    """What it had logged arrives, and the last hundred are on its certificate."""
    pool = make(1)
    with pytest.raises(glasspool.WorkerDied) as caught:
        pool.apply(tasks.burst_and_die, (150,))
    certificate = caught.value.certificate
    assert certificate is not None
    assert list(certificate.last_log) == [f"INFO gptest.part: {n}" for n in range(50, 150)]
    assert "149" in str(caught.value)
    end(pool)
    assert kept.messages() == [str(n) for n in range(150)]


def test_a_burst_arrives_in_order(make_forked: MakePool, kept: Kept) -> None:
    """Ten thousand records of two workers: none lost, none out of order, and join waits for them."""
    pool = make_forked(2)
    pool.map(tasks.burst, [2500] * 4, 1)
    end(pool)
    assert len(kept.records) == 10_000
    for _, records in itertools.groupby(
        sorted(kept.records, key=lambda r: r.task),  # type: ignore[attr-defined]
        key=lambda r: r.task,  # type: ignore[attr-defined]
    ):
        assert [record.getMessage() for record in records] == [str(n) for n in range(2500)]


class Blocks(Kept):
    """A handler that does not get on before it may."""

    def __init__(self) -> None:
        super().__init__()
        self.blocked = Latch()
        self.may_go_on = Latch()

    def emit(self, record: logging.LogRecord) -> None:
        """Wait."""
        self.blocked.set()
        assert self.may_go_on.wait(LIMIT_S)
        super().emit(record)


@pytest.fixture
def blocks() -> Iterator[Blocks]:
    """Return a handler that blocks."""
    handler = Blocks()
    logger = logging.getLogger(tasks.NAME)
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield handler
    handler.may_go_on.set()
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_a_handler_that_blocks_stops_nothing(make_forked: MakePool, blocks: Blocks) -> None:
    """Tasks, callbacks and terminate go on beside it; a second pool can be made."""
    pool = make_forked(2)
    pool.apply(tasks.burst, (3,))
    assert blocks.blocked.wait(LIMIT_S)
    called = Latch()
    pool.apply_async(os.getpid, callback=lambda value: called.set()).get(LIMIT_S)
    assert called.wait(LIMIT_S)
    [thread] = [thread for thread in pool.threads() if thread.roles == ("logs",)]
    assert thread.name == f"{pool.name} logs"
    assert "handling a log record" in str(thread.state)
    pool.terminate()  # waits for the handler, for a second
    assert pool._engine.done.is_set()
    blocks.may_go_on.set()
    pool.join()
    assert blocks.messages() == ["0", "1", "2"]


def test_a_handler_that_does_not_get_on_costs_a_bounded_amount_of_memory(
    make_forked: MakePool, blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent takes so much, then the worker waits once, and goes on; what was lost is told."""
    monkeypatch.setattr(logs, "MOST_BYTES", 200_000)
    monkeypatch.setattr(forwarding, "PATIENCE_S", 0.1)
    told = Kept()
    logging.getLogger("glasspool").addHandler(told)
    pool = make_forked(1)
    count = 3000
    pool.apply(tasks.burst, (count,))
    waiting = pool._engine.logs
    assert waiting._taken_bytes - waiting._handled_bytes < 300_000
    blocks.may_go_on.set()
    wait_until(lambda: not waiting._held_up, "the records are read again")
    pool.apply(tasks.burst, (1,))
    end(pool)
    logging.getLogger("glasspool").removeHandler(told)
    [lost] = [vars(record) for record in told.records if vars(record)["event"] == "logs.lost"]
    assert len(blocks.records) + lost["count"] == count + 1
    assert blocks.messages() == [*map(str, range(len(blocks.records) - 1)), "0"]


def test_a_slow_handler_loses_nothing(
    make_forked: MakePool, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent stops reading and goes on many times; every record arrives."""
    monkeypatch.setattr(logs, "MOST_BYTES", 20_000)
    pool = make_forked(2)
    pool.map(tasks.burst, [1500, 1500], 1)
    end(pool)
    assert len(kept.records) == 3000


class Raises(Kept):
    """A handler that raises at each second record."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, or raise."""
        super().emit(record)
        if len(self.records) % 2:
            raise ZeroDivisionError("in the handler")


def test_a_handler_that_raises_stops_nothing(
    make_forked: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each error is told as one of a thread, and the other records arrive."""
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_type))
    handler, logger = Raises(), logging.getLogger("gptest.part")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    pool = make_forked(1)
    pool.apply(tasks.burst, (4,))
    end(pool)
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    assert handler.messages() == ["0", "1", "2", "3"]
    assert reported == [ZeroDivisionError] * 2


def test_long_and_odd_records(make_forked: MakePool, kept: Kept, capfd: Any) -> None:
    """A megabyte arrives whole, far more is cut; forks, signal handlers and inner pools log, too."""
    pool = make_forked(1)
    pool.apply(tasks.log_long, (1_000_000,))
    pool.apply(tasks.log_long, (forwarding.MOST_BYTES + 10,))
    pool.apply(tasks.log_wrong)
    assert pool.apply(tasks.log_in_a_fork) == 0
    pool.apply(tasks.log_in_a_signal_handler)
    pool.apply(tasks.inner_burst, (2,))
    pool.apply(tasks.warn_by_module)
    end(pool)
    texts = kept.messages()
    assert texts[0] == "x" * 1_000_000
    assert texts[1].startswith("x" * (1 << 20) + " [... 15,728,6".replace(",", ""))
    assert [text for text in texts if text.isdigit()] == [*map(str, range(100)), "0", "1"]
    assert texts.count("in a handler") == 10
    assert "in a fork" not in texts
    inner = [vars(r) for r in kept.records if vars(r)["pool"] != pool.name]
    assert len(inner) == 2
    assert capfd.readouterr().err.count("--- Logging error ---") == 1


def test_a_pool_that_is_made_amid_records(make_forked: MakePool, kept: Kept) -> None:
    """The thread of the logs stands aside for the fork, without a warning, and nothing is lost."""
    first = make_forked(1)
    result = first.apply_async(tasks.burst, (3000,))
    wait_until(lambda: bool(kept.records), "records arrive")
    for _ in range(3):
        end(make_forked(1))
    result.get(LIMIT_S)
    end(first)
    assert len(kept.records) == 3000


def test_without_forwarding_everything_is_as_it_was(make_forked: MakePool, kept: Kept) -> None:
    """With forward_logs=False workers have what a fork leaves them, and the pool has no socket."""
    pool = make_forked(1, forward_logs=False)
    pool.apply(tasks.burst, (3,))
    assert pool._engine.logs.fd == -1
    end(pool)
    assert kept.records == []


PROGRAM = """
import multiprocessing, sys
import glasspool

def quiet(number):
    return "logging" in sys.modules

def first(number):
    import logging
    logging.getLogger("late").addHandler(logging.NullHandler())
    logging.getLogger("late").warning("silent")
    logging.getLogger("loud").warning("last resort %d", number)
    logging.warning("basic")
    logging.getLogger("loud").warning("after basic")

def configured():
    import logging
    logging.basicConfig(format="own %(message)s", stream=sys.stderr)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with glasspool.Pool(1, context=context) as pool:
        assert not pool.apply(quiet, (1,)), "a worker imported logging"
        assert "logging" not in sys.modules, "the parent imported logging"
        pool.apply(first, (2,))
        pool.close()
        pool.join()
    sys.stderr.write("--\\n")
    with glasspool.Pool(1, configured, context=context) as pool:
        pool.apply(first, (3,))
"""


@pytest.mark.one_python
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_program_that_configures_nothing(tmp_path: Path, method: str) -> None:
    """Nobody imports logging before the program does; what is printed is what would be, once."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, str(script), method],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    plain, _, own = ran.stderr.partition("--\n")
    assert plain.splitlines() == ["last resort 2", "WARNING:root:basic", "WARNING:loud:after basic"]
    assert own.splitlines() == ["own silent", "own last resort 3", "own basic", "own after basic"]
