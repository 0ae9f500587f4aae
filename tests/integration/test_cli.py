"""The command: help, bad usage, and other people's pools seen from another terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LIMIT_S = 60

POOL = """
import sys, glasspool
def prepare(): pass
def wait(seconds):
    import time
    time.sleep(seconds)
if __name__ == "__main__":
    with glasspool.Pool(2, prepare, context=None, name="watched") as pool:
        pool.apply(abs, (-1,))
        result = pool.apply_async(wait, (60,))
        while not pool.stats()["running"]:
            pass
        print("ready", flush=True)
        sys.stdin.readline()
"""


def _glasspool(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "glasspool", *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
        **options,
    )


class _Program:
    """A program with a pool that waits until it is told to end."""

    def __init__(self, path: Path, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(path), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        assert self._process.stdout.readline() == "ready\n"

    def end(self) -> None:
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.communicate("\n", timeout=LIMIT_S)


@pytest.fixture
def program(tmp_path):
    """Start programs that end with the test."""
    started = []

    def start(source: str, *words: str) -> _Program:
        path = tmp_path / "program.py"
        path.write_text(source)
        started.append(_Program(path, *words))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["ps", "-h"], ["stack", "-h"], ["tour", "-h"], ["-h"]]
)
def test_help_teaches_and_fits(words):
    """Help comes on stdout, has an example or a list, and fits 80 columns."""
    done = _glasspool(*words, env={**os.environ, "COLUMNS": "80"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: glasspool" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["ps", "--help"]])
def test_help_imports_little(words):
    """Help loads no library for tables, processes or numbers."""
    code = (
        "import sys; from glasspool.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('rich', 'psutil', 'numpy', 'asyncio', 'concurrent.futures.process')"
        " if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rnu"], "did you mean 'run'?"),
        (["xyzzy"], "run, ps, stack, why, top, serve, trace, doctor, tour"),
        (["--what"], "glasspool --help"),
        (["ps", "abc"], "no process number"),
        (["ps", "0"], "no process number"),
        (["ps", "-5"], "-5"),
        (["stack"], "PID"),
        (["ps", "1", "--watch", "0"], "between"),
    ],
)
def test_bad_usage_is_told(words, told):
    """Exit code 2, the reason on stderr, no traceback."""
    done = _glasspool(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_version():
    """The version is printed."""
    import glasspool

    assert _glasspool("--version").stdout == f"glasspool {glasspool.__version__}\n"


def test_no_command_prints_the_help_as_an_error():
    """Nothing to do is bad usage."""
    done = _glasspool()
    assert (done.returncode, done.stdout) == (2, "")
    assert "commands:" in done.stderr


def test_no_such_process():
    """One line and exit code 3."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(LIMIT_S)
    done = _glasspool("ps", str(ended.pid))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"glasspool: no such process: {ended.pid}")


def test_a_pool_is_listed_and_shown(program):
    """``ps`` lists it; ``ps PID`` shows every process and thread; JSON has the same."""
    pid = program(POOL).pid
    listed = _glasspool("ps").stdout
    assert "watched" in listed
    assert str(pid) in listed
    shown = _glasspool("ps", str(pid))
    assert (shown.returncode, shown.stderr) == (0, "")
    for word in ("worker-handler", "task-handler", "result-handler", "MainThread", "wait"):
        assert word in shown.stdout
    assert "\x1b" not in shown.stdout
    (pool,) = json.loads(_glasspool("ps", str(pid), "--json").stdout)["pools"]
    assert (pool["name"], pool["pid"], pool["kind"]) == ("watched", pid, "glasspool.Pool")
    workers = [p for p in pool["processes"] if p["role"] == "worker"]
    assert sorted(w["state"] for w in workers) == ["busy", "idle"]
    (entry,) = [
        p for p in json.loads(_glasspool("ps", "--json").stdout)["pools"] if p["pid"] == pid
    ]
    assert (entry["busy"], entry["idle"], entry["size"]) == (1, 1, 2)


def test_stacks_of_a_pool(program):
    """``stack PID`` and ``ps PID --stacks`` show where the task is."""
    pid = str(program(POOL).pid)
    for words in (["stack", pid], ["ps", pid, "--stacks"]):
        assert "program.py" in _glasspool(*words).stdout


def test_a_stopped_program_is_read_from_outside(program):
    """A program that hangs is shown within its limit, and the output says how."""
    running = program(POOL)
    os.kill(running.pid, signal.SIGSTOP)
    begun = time.monotonic()
    done = _glasspool("ps", str(running.pid), "--json")
    assert time.monotonic() - begun < 10
    (pool,) = json.loads(done.stdout)["pools"]
    assert "did not answer" in pool["notes"][0]
    roles = {role for p in pool["processes"] for t in p["threads"] for role in t["roles"]}
    assert {"main", "worker-handler", "task-handler", "result-handler", "task"} <= roles
    assert [t["function"].rpartition(".")[2] for t in pool["tasks"]] == ["wait"]


def test_foreign_files_are_told_and_skipped(tmp_path):
    """A damaged file is a line in the list, never a traceback."""
    (tmp_path / "x.board").write_bytes(b"nonsense")
    done = _glasspool("ps", env={**os.environ, "GLASSPOOL_DIR": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")
    assert "x.board: too short" in done.stdout


def test_watching_ends_quietly(program):
    """``--watch`` repeats, and Ctrl-C ends it without a word."""
    pid = program(POOL).pid
    watch = subprocess.Popen(
        [sys.executable, "-m", "glasspool", "ps", str(pid), "--watch", "0.05", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = 0
    for line in watch.stdout:
        seen += line == "}\n"
        if seen == 3:
            break
    watch.send_signal(signal.SIGINT)
    _, errors = watch.communicate(timeout=LIMIT_S)
    assert (watch.returncode, errors) == (0, "")


def test_watching_ends_with_the_program(program):
    """A program that ends while it is watched ends the watching, well."""
    running = program(POOL)
    watch = subprocess.Popen(
        [sys.executable, "-m", "glasspool", "ps", str(running.pid), "--watch", "0.05"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watch.stdout.readline()
    running.end()
    _, errors = watch.communicate(timeout=LIMIT_S)
    assert watch.returncode == 0
    assert "no such process" in errors


def test_the_reader_of_the_output_may_leave(program):
    """``glasspool ps PID | head -1`` says nothing of a broken pipe."""
    pid = program(POOL).pid
    command = f'"{sys.executable}" -m glasspool ps {pid} --stacks | head -1'
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    assert done.stderr == ""


def test_the_tour_answers_all_five_questions():
    """Both parts are really run: the names are this interpreter's and ours."""
    begun = time.monotonic()
    done = _glasspool("tour", env={**os.environ, "COLUMNS": "80"})
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - begun < 20
    for question in range(1, 6):
        assert done.stdout.count(f"\n{question}. ") == 2
    for name in ("(_handle_workers)", "(_handle_tasks)", "(_handle_results)"):
        assert name in done.stdout
    for role in ("worker-handler", "task-handler", "result-handler", "callback", "iterable"):
        assert role in done.stdout
