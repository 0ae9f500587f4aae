"""Progress of real pools: what is counted, where it is shown, and that it never hurts the job."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import progress_tasks as tasks
import pyte
import pytest

import glasspool
from gates import Gate
from pools import MakePool, wait_until

LIMIT_S = 60.0


class Bar:
    """A bar such as tqdm's, that notes what it is told."""

    def __init__(self, total: int | None = None) -> None:
        self.total = total
        self.told: list[int] = []
        self.postfix: dict[str, int] = {}
        self.refreshed = self.closed = 0
        self.threads: set[str] = set()

    @property
    def n(self) -> int:
        """How many it was told of."""
        return sum(self.told)

    def update(self, n: int = 1) -> None:
        """Take note of more."""
        self.told.append(n)
        self.threads.add(threading.current_thread().name)

    def set_postfix(self, values: dict[str, int], refresh: bool = True) -> None:
        """Take note of words behind the bar."""
        self.postfix = dict(values)

    def refresh(self) -> None:
        """Be drawn anew."""
        self.refreshed += 1

    def close(self) -> None:
        """Be done with."""
        self.closed += 1


class Lines:
    """What has been written to standard error, which is no terminal."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._read = ""

    def getvalue(self) -> str:
        """Return all of it."""
        self._read += self._capsys.readouterr().err
        return self._read


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Return what is written to standard error."""
    return Lines(capsys)


# What is counted ---------------------------------------------------------------------------------


def call(pool: glasspool.Pool, how: str, func: Any, count: int, **keywords: Any) -> list[Any]:
    """Call the function for so many numbers, in one of the ways that there are."""
    method = getattr(pool, how)
    items: Any = [(i,) for i in range(count)] if "star" in how else range(count)
    result = method(func, items, **keywords)
    if how.endswith("_async"):
        result = result.get(LIMIT_S)
    return sorted(result)


WAYS = ("map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered")


@pytest.mark.parametrize("how", WAYS)
def test_every_mapping_call_counts_its_items(make_forked: MakePool, how: str) -> None:
    """Items and not chunks, whatever the call; the last state is there when it returns."""
    pool = make_forked(2)
    for keywords in ({}, {"chunksize": 7}):
        bar = Bar()
        assert call(pool, how, tasks.echo, 100, progress=bar, **keywords) == list(range(100))
        assert (bar.n, bar.total, bar.closed) == (100, 100, 0)
        assert bar.refreshed == 1
        assert bar.threads == {f"{pool.name} progress"}


def test_a_bar_that_is_made_for_the_call_is_closed(make: MakePool) -> None:
    """The class of a bar will do; who made it closes it. With each start method."""
    made: list[Bar] = []

    def make_bar(total: int | None) -> Bar:
        made.append(Bar(total))
        return made[-1]

    assert len(make(2).map(tasks.echo, range(30), progress=make_bar)) == 30
    assert [(bar.n, bar.total, bar.closed) for bar in made] == [(30, 30, 1)]


def test_tqdm_itself_shows_it() -> None:
    """Its class, or an object of it. In a program: tqdm keeps a thread and a semaphore for itself."""
    pytest.importorskip("tqdm")
    command = [sys.executable, str(Path(tasks.__file__)), "with_tqdm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert "50/50" in done.stderr
    assert re.search(r"mine: 100%.* 100/100 .*failed=7", done.stderr)


def test_a_generator_has_a_length_when_it_ends(make_forked: MakePool) -> None:
    """Until then the bar has none."""
    bar = Bar()
    iterator = make_forked(2).imap(tasks.echo, (i for i in range(40)), 3, progress=bar)
    assert bar.total is None
    assert list(iterator) == list(range(40))
    assert bar.n == 40


def test_failures_are_counted_and_the_job_goes_on(make_forked: MakePool) -> None:
    """A map raises its first error when all have ended; an imap goes on after each."""
    pool, bar = make_forked(2), Bar()
    with pytest.raises(ValueError):
        pool.map(tasks.raise_if, range(70), chunksize=1, progress=bar)
    assert (bar.n, bar.postfix) == (70, {"failed": 10})
    bar = Bar()
    iterator = pool.imap_unordered(tasks.raise_if, iter(range(70)), progress=bar)
    got = 0
    while True:
        try:
            next(iterator)
        except ValueError:
            continue
        except StopIteration:
            break
        got += 1
    assert (got, bar.n, bar.postfix) == (60, 70, {"failed": 10})


def test_of_a_chunk_that_fails_the_rest_was_not_run(make_forked: MakePool) -> None:
    """Items 0 to 2 are done, 3 has failed, 4 to 9 were never called; so for each start of ten."""
    pool, bar = make_forked(2), Bar()
    with pytest.raises(ValueError):
        pool.map(tasks.raise_if, range(10), chunksize=10, progress=bar)
    assert (bar.n, bar.postfix) == (10, {"failed": 1, "not run": 6})


def test_the_lost_are_counted(make_forked: MakePool) -> None:
    """An item whose worker is killed; those of its chunk are lost with it."""
    pool, bar = make_forked(2), Bar()
    with pytest.raises(glasspool.WorkerDied):
        pool.map(tasks.die_if, range(20), chunksize=1, progress=bar)
    assert (bar.n, bar.postfix) == (20, {"lost": 1})


def test_what_is_tried_anew_counts_once(make_forked: MakePool) -> None:
    """However often it began."""
    pool, bar = make_forked(2), Bar()
    with pytest.raises(ValueError):
        pool.map(tasks.raise_if, range(7), progress=bar, retries=2, retry_on=ValueError)
    assert (bar.n, bar.postfix) == (7, {"failed": 1})


def test_the_cancelled_are_counted(make_forked: MakePool, forked_gate: Gate) -> None:
    """Those that had not begun, and those that are interrupted."""
    pool = make_forked(2, **forked_gate.arguments)
    bar = Bar()
    result = pool.map_async(tasks.wait_at, range(10), 1, progress=bar)
    forked_gate.wait_for_tasks(2)
    result.cancel()
    with pytest.raises(glasspool.TaskCancelled):
        result.get(LIMIT_S)
    assert (bar.n, bar.postfix) == (10, {"cancelled": 10})


def test_a_closed_pool_shows_what_it_still_does(make_forked: MakePool) -> None:
    """An imap that nobody reads runs on; join waits for the last words."""
    pool, bar = make_forked(2), Bar()
    pool.imap(tasks.echo, iter(range(30)), progress=bar)
    pool.close()
    pool.join()
    assert (bar.n, bar.refreshed) == (30, 1)


def test_a_terminated_pool_says_what_it_left(make_forked: MakePool, forked_gate: Gate) -> None:
    """What had not ended is cancelled."""
    pool, bar = make_forked(2, **forked_gate.arguments), Bar()
    pool.map_async(tasks.wait_at, range(10), 1, progress=bar)
    forked_gate.wait_for_tasks(2)
    pool.terminate()
    assert (bar.n, bar.postfix) == (10, {"cancelled": 10})


# Lines of text ------------------------------------------------------------------------------------


def test_without_a_terminal_there_is_a_last_line(make_forked: MakePool, lines: Lines) -> None:
    """It has the function's name, or the description, and no escape codes."""
    pool = make_forked(2)
    pool.map(tasks.echo, range(1000), progress=True)
    with pytest.raises(ValueError):
        pool.map(tasks.raise_if, range(7), chunksize=1, progress="the \x1bodd ones")
    first, second = lines.getvalue().splitlines()
    assert re.fullmatch(
        r"progress_tasks\.echo: 100 % \(1,000/1,000\), [\d,]+/s, in \d\.\d s", first
    )
    assert second.startswith("the ?odd ones: 100 % (7/7), 1 failed, ")


def test_a_long_job_has_lines_between(
    make_forked: MakePool, forked_gate: Gate, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what runs, and what a task says of itself; an item that is a quarter done counts so."""
    from glasspool.engines.local import running
    from glasspool.views import progress_displays

    monkeypatch.setattr(running, "WORTH_NAMING_NS", 0)
    monkeypatch.setattr(progress_displays, "LINE_EVERY_S", 0.1)
    monkeypatch.setattr(progress_displays.LinesDisplay, "every_s", 0.05)
    pool = make_forked(1, **forked_gate.arguments)
    result = pool.map_async(tasks.tell_and_wait, range(1), progress=True)
    forked_gate.wait_for_tasks()
    wait_until(lambda: "25 %, progress_tasks.tell_and_wait(0)" in lines.getvalue(), "a line", 20)
    forked_gate.open()
    assert result.get(LIMIT_S) == [0]
    assert "25 % (0/1), 1 running" in lines.getvalue()


def test_an_unchanged_program_shows_its_maps() -> None:
    """With ``glasspool run --progress``; not what its tasks map in pools of their own."""
    command = [sys.executable, "-m", "glasspool", "run", "--quiet", "--progress"]
    command += [str(Path(tasks.__file__)), "stock"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    shown = [line.partition(" (")[0] for line in done.stderr.splitlines()]
    assert shown == ["echo: 100 %", "echo: 100 %", "nested: 100 %"]


def test_what_is_no_progress_is_an_error(make_forked: MakePool) -> None:
    """At once, and nothing is called."""
    pool = make_forked(1)
    for wrong in (3, 4.5, []):
        with pytest.raises(TypeError, match="progress must be"):
            pool.map(tasks.echo, range(3), progress=wrong)
    assert pool.map(tasks.echo, [], progress=False) == []
    assert pool.stats()["done"] == 0


# The job comes first ------------------------------------------------------------------------------


class Broken(Bar):
    """A bar that breaks."""

    def update(self, n: int = 1) -> None:
        """Raise."""
        raise RuntimeError("no more ink")


@pytest.mark.parametrize("bar", [Broken(), Broken, lambda total: None, lambda total: 1 / 0])
def test_a_display_that_raises_is_told_once(make_forked: MakePool, bar: Any) -> None:
    """As a warning at the call's own line; the job has its result."""
    pool = make_forked(2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert pool.map(tasks.echo, range(100), 1, progress=bar) == list(range(100))
    [warning] = caught
    assert warning.category is glasspool.ProgressWarning
    assert warning.filename == __file__
    assert "the job goes on" in str(warning.message)


def test_a_display_that_blocks_keeps_nobody_for_long(
    make_forked: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the job waits for its last words for a limited time."""
    from glasspool.engines.local import showing

    monkeypatch.setattr(showing, "SHOWN_LIMIT_S", 0.2)
    monkeypatch.setattr(showing, "JOIN_LIMIT_S", 0.2)
    held = threading.Event()
    bar = Bar()
    bar.update = lambda n=1: held.wait(LIMIT_S)  # type: ignore[method-assign,assignment]
    pool = make_forked(2)
    try:
        assert pool.map(tasks.echo, range(10), progress=bar) == list(range(10))
        pool.terminate()
    finally:
        held.set()


def test_a_caller_that_is_interrupted_leaves_an_honest_line(
    make_forked: MakePool, forked_gate: Gate, lines: Lines
) -> None:
    """The call ends with what interrupted it, which the last line names."""

    def items() -> Iterator[int]:
        yield 0
        raise KeyboardInterrupt

    pool = make_forked(1)
    with pytest.raises(KeyboardInterrupt):
        pool.map(tasks.echo, Sized(items), progress="cut")
    assert "cut: " in lines.getvalue()
    assert "interrupted" in lines.getvalue()


class Sized:
    """An iterable that says how long it is."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Any:
        return self._items()


# The thread ---------------------------------------------------------------------------------------


def test_there_is_one_thread_while_there_is_something_to_show(
    make_forked: MakePool, forked_gate: Gate
) -> None:
    """With its role in the roster; none before, and none after."""
    pool = make_forked(2, **forked_gate.arguments)
    name = f"{pool.name} progress"
    assert name not in {thread.name for thread in threading.enumerate()}
    results = [pool.map_async(tasks.wait_at, range(1), progress=Bar()) for _ in range(2)]
    forked_gate.wait_for_tasks(2)
    [thread] = [thread for thread in pool.threads() if thread.name == name]
    assert thread.roles == ("progress",)
    forked_gate.open()
    for result in results:
        assert result.get(LIMIT_S) == [0]
    wait_until(
        lambda: name not in {thread.name for thread in threading.enumerate()}, "the thread's end"
    )


def test_the_thread_stands_aside_for_a_fork(make_forked: MakePool, forked_gate: Gate) -> None:
    """Another pool is made while a job is shown: no ForkWarning, and the bar goes on."""
    pool, bar = make_forked(2, **forked_gate.arguments), Bar()
    result = pool.map_async(tasks.wait_at, range(5), 1, progress=bar)
    forked_gate.wait_for_tasks(2)
    for _ in range(5):
        assert make_forked(1).map(tasks.echo, range(3), progress=Bar()) == [0, 1, 2]
    forked_gate.open()
    assert result.get(LIMIT_S) == list(range(5))
    assert bar.n == 5


def test_the_cost_is_small(make_forked: MakePool) -> None:
    """100,000 items: counted right, and not in many steps."""
    pool, bar = make_forked(2), Bar()
    begun = time.monotonic()
    assert len(pool.map(tasks.echo, range(100_000), progress=bar)) == 100_000
    took_s = time.monotonic() - begun
    assert bar.n == 100_000
    assert len(bar.told) <= took_s / 0.1 + 2


# In a terminal ------------------------------------------------------------------------------------


class Terminal:
    """A terminal of 80 by 24, in which a program runs; ``screen`` is what one would see."""

    def __init__(self, job: str, columns: int = 80, **environ: str) -> None:
        self.screen = pyte.HistoryScreen(columns, 24, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(tasks.__file__)), job],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**clean, "TERM": "xterm-256color", **environ},
        )
        os.close(theirs)

    def run(self) -> None:
        """Read until the program has ended."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            ready, _, _ = select.select([self._fd], [], [], 1.0)
            if not ready:
                continue
            try:
                read = os.read(self._fd, 65536)
            except OSError:  # nobody has the other end any more
                break
            self.raw += read
            self._stream.feed(read)
        os.close(self._fd)
        self.process.wait(LIMIT_S)

    def lines(self) -> list[str]:
        """Return all lines that were ever left standing."""
        history = [
            "".join(line[x].data for x in range(self.screen.columns))
            for line in self.screen.history.top
        ]
        return [line.rstrip() for line in [*history, *self.screen.display] if line.strip()]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_two_jobs_share_the_terminal_with_all_who_print(unbuffered: str) -> None:
    """Each line of main, of workers, of logging stands whole; below them the bars, in the end one each."""
    terminal = Terminal("two_jobs", PYTHONUNBUFFERED=unbuffered)
    terminal.run()
    lines = terminal.lines()
    printed = ["main line 0", "logged line 1", "main line 2", "after both"]
    for job in range(2):
        del job
        for value in range(0, 60, 10):
            printed += [f"worker line {value}", f"worker error {value}"]
    bars = [line for line in lines if "━" in line]
    assert sorted(line for line in lines if line not in bars) == sorted(printed)
    assert len(bars) == 2
    for bar, label in zip(sorted(bars), ("first job [bold]", "second job"), strict=True):
        assert bar.startswith(label)
        assert re.search(r"100 %  60/60  \d+/s  in \d\.\d s$", bar)
    assert lines[-1] == "after both"
    assert b"\x1b[?25l" not in terminal.raw  # the cursor is never hidden


def test_after_ctrl_c_the_terminal_is_in_order() -> None:
    """The bar ends with why, whole; what the program prints next stands below it."""
    terminal = Terminal("interrupted", NO_COLOR="1")
    terminal.run()
    *_, bar, last = terminal.lines()
    assert bar.startswith("cut short")
    assert bar.endswith("interrupted")
    assert last == "was interrupted"
    assert terminal.screen.cursor.x == 0
    assert not re.search(rb"\x1b\[[0-9;]*m", terminal.raw)  # NO_COLOR: no colours, but a bar


def test_a_dumb_terminal_has_lines() -> None:
    """No escape codes at all."""
    terminal = Terminal("interrupted", TERM="dumb")
    terminal.run()
    assert b"\x1b" not in terminal.raw
    assert "cut short: 0 % (0/4), 4 cancelled, in " in "\n".join(terminal.lines())
