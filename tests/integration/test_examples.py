"""The example programs, run as a reader would: what they print is what is promised, and true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glasspool.snapshot import HANDLER_ROLES

pytestmark = pytest.mark.one_python

LIMIT_S = 60
EXAMPLES = Path(__file__).parents[2] / "examples"

_IDENT = re.compile(r"started \d+")
"""What a thread's repr has that is another in each run."""


def run(*words: str) -> str:
    """Run Python with some words; return what it printed. Its errors must be none."""
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if "glasspool" not in words:
        assert done.stderr == ""
    return done.stdout


def plain(name: str, *words: str) -> str:
    """Run an example as it is."""
    return run(str(EXAMPLES / name), *words)


def replaced(name: str, *words: str) -> str:
    """Run an example on glasspool."""
    return run("-m", "glasspool", "run", str(EXAMPLES / name), *words)


def lines(text: str) -> list[str]:
    """Sort the lines, as the order of workers is free, without what differs in each run."""
    return sorted(_IDENT.sub("started N", text).splitlines())


@pytest.mark.parametrize("name", ["task_thread.py", "initializer_thread.py"])
def test_the_same_lines_on_both_pools(name):
    """For tasks and initializers an unchanged program sees no difference."""
    on_stock = plain(name)
    assert "MainThread" in on_stock
    assert lines(replaced(name)) == lines(on_stock)


def test_the_initializer_runs_once_in_each_worker():
    """One line for each worker."""
    shown = replaced("initializer_thread.py").splitlines()
    assert sorted(shown) == [
        f"MainThread of ForkPoolWorker-{n}" for n in sorted(range(1, len(shown) + 1), key=str)
    ]
    assert shown


def test_the_parent_s_threads_are_named():
    """The nameless three of the stock pool become three duties, each told once."""
    assert [line.split()[0] for line in plain("parent_threads.py").splitlines()] == [
        "MainThread",
        "Thread-1",
        "Thread-2",
        "Thread-3",
    ]
    shown = replaced("parent_threads.py")
    for word in ("MainThread", *HANDLER_ROLES):
        assert shown.count(word) == 1
    assert "Thread-" not in shown
    assert len(shown.splitlines()) <= 4


def test_the_glasspool_way_to_ask_for_the_task_s_thread():
    """The value, the slot, and the process and thread that ran each of the four tasks."""
    shown = plain("task_thread_glasspool.py").splitlines()
    for number in range(4):
        said, account = shown[2 * number : 2 * number + 2]
        assert re.fullmatch(
            rf"{number} squared is {number * number}, says slot [01] of glasspool-1", said
        )
        assert re.fullmatch(r" +pid \d+, MainThread \(its main thread\), \d\.\d{6} s", account)
    assert len(shown) == 8


def test_the_glasspool_way_to_ask_for_the_initializer_s_thread():
    """For each worker the function, its state, and if it is done: by whom, when, how long."""
    begun = time.strftime("%H:%M:%S")
    shown = plain("initializer_thread_glasspool.py")
    ended = time.strftime("%H:%M:%S")
    slots = re.findall(
        r"^slot (\d+), pid \d+: prepare is (done|running|none)$", shown, re.MULTILINE
    )
    assert [int(slot) for slot, _ in slots] == list(range(len(slots)))
    done = re.findall(
        r"^ +by MainThread \(the main thread\) at (\d\d:\d\d:\d\d), took 0\.\d{6} s$",
        shown,
        re.MULTILINE,
    )
    assert len(done) == [state for _, state in slots].count("done") >= 1
    if begun <= ended:  # not over midnight
        assert all(begun <= clock <= ended for clock in done)


def test_the_glasspool_way_to_ask_for_the_parent_s_threads():
    """Every thread of every process, with its roles: each handler's once, four workers."""
    rows = [re.split(r" {2,}", line) for line in plain("parent_threads_glasspool.py").splitlines()]
    roles = [role for row in rows for role in row[-1].split(", ")]
    for role in ("main", *HANDLER_ROLES):
        assert roles.count(role) == 1
    assert roles.count("task") == 4


def ended_badly(*words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with some words; it must end, with an error."""
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.returncode == 1
    return done


def test_a_killed_worker_on_the_stock_pool():
    """It waits for the dead worker's task as long as it may."""
    assert "TimeoutError" in ended_badly(str(EXAMPLES / "killed.py"), "0.5").stderr


def test_a_killed_worker_on_ours():
    """It ends at once, with the death certificate; the other nine tasks have their results."""
    begun = time.monotonic()
    said = ended_badly("-m", "glasspool", "run", str(EXAMPLES / "killed.py")).stderr
    assert time.monotonic() - begun < 10
    assert "WorkerDied: worker" in said
    assert "was killed by SIGKILL while it ran task" in said
    assert "done 9" in said


def test_the_glasspool_way_to_lose_a_worker():
    """The task is tried again, and succeeds; where it never does, the error says how often."""
    squares, attempts, certificate = plain("killed_glasspool.py").splitlines()
    assert squares == str([i * i for i in range(10)])
    assert attempts == f"attempts: {[1] * 7 + [2] + [1] * 2}"
    assert certificate.startswith("2 attempts; ")


def test_the_word_count(tmp_path):
    """The real job counts right, on both pools and with any number of workers."""
    (tmp_path / "one.txt").write_text("alpha beta alpha. Gamma? x 12 alpha-beta\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "two.txt").write_text("Beta, ALPHA; größe")
    (tmp_path / "other.md").write_text("alpha " * 100)
    words = (str(tmp_path), "--pattern", "*.txt")
    table = [
        ["word", "count", "share"],
        ["alpha", "4", "44.44%"],
        ["beta", "3", "33.33%"],
        ["gamma", "1", "11.11%"],
        ["größe", "1", "11.11%"],
    ]
    for shown in (
        plain("wordcount.py", *words),
        replaced("wordcount.py", *words),
        replaced("wordcount.py", *words, "--processes", "1"),
    ):
        rows = shown.splitlines()
        assert sorted(row.split() for row in rows[:5]) == sorted(table)
        assert rows[6] == "9 words, 4 different, in 2 files"


def test_the_word_count_of_the_standard_library():
    """Its default is real work: the same table and totals on both pools."""

    def counted(text: str) -> list[str]:
        return text.splitlines()[:-1]  # but for the time that it took

    shown = counted(plain("wordcount.py"))
    assert re.search(r"[\d,]+ words, [\d,]+ different, in [\d,]+ files", "\n".join(shown))
    # Words of the same number of occurrences may change places.
    assert sorted(counted(replaced("wordcount.py"))) == sorted(shown)


def test_the_tour_ends_in_time():
    """``glasspool tour`` is done within 20 s."""
    begun = time.monotonic()
    shown = run("-m", "glasspool", "tour")
    assert time.monotonic() - begun < 20
    assert "5. Which thread runs my callback" in shown
