"""``glasspool run --hang-after``: a hanging program is ended, and says why; any other is untouched."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.one_python

LIMIT_S = 60.0
NOT_FOR_LONG = "3"
"""Seconds without progress: more than a slow start of the interpreter takes."""


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    """See to it that no process of a test's own session outlives it."""
    mine = psutil.Process().children(recursive=True)
    yield
    left = [p for p in psutil.Process().children(recursive=True) if p not in mine]
    _, alive = psutil.wait_procs(left, timeout=5)
    assert not alive


def write(folder: Path, source: str) -> Path:
    """Write a program that notes the pids of its processes in the file ``pids``."""
    path = folder / "program.py"
    head = """\
        import multiprocessing, os, signal, sys, threading, time
        def note():
            with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "pids"), "a") as f:
                f.write(f"{os.getpid()}\\n")
        """
    path.write_text(textwrap.dedent(head) + textwrap.dedent(source))
    return path


def start(folder: Path, *words: object, **kwds: object) -> subprocess.Popen[str]:
    """Start the command in a session of its own."""
    command = [sys.executable, "-m", "glasspool", "run", *map(str, words)]
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command,
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        **kwds,
    )


def run(folder: Path, *words: object) -> tuple[int, str, str]:
    """Run the command to its end."""
    with start(folder, *words) as process:
        output, errors = process.communicate(timeout=LIMIT_S)
    return process.returncode, output, errors


def alive_of(folder: Path) -> list[psutil.Process]:
    """Return those of the processes that noted themselves which have not ended by now."""
    pids = [int(line) for line in (folder / "pids").read_text().split()]
    assert pids
    left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


TASK = """
        def f(x):
            note()
            if x == 3:
                threading.Event().wait()
        if __name__ == "__main__":
            note()
            print("begun", flush=True)
            with multiprocessing.get_context(METHOD).Pool(2) as pool:
                pool.map(f, range(6), 1)
        """

HANGS = {
    "task": (
        TASK.replace("METHOD", "'fork'"),
        ("has run task ", "(f) for ", "waits in Event.wait", "_Job._await"),
    ),
    "no pool": (
        """
        note()
        print("begun", flush=True)
        def stuck():
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        stuck()
        """,
        (
            "the main thread of process",
            "waits for the lock `lock` at",
            "in stuck: `lock.acquire()`",
        ),
    ),
    "C call that lets nobody in": (
        """
        def f(x):
            note()
        if __name__ == "__main__":
            note()
            print("begun", flush=True)
            pool = multiprocessing.Pool(2)
            pool.map(f, range(6), 1)
            def in_c():
                sum(range(1 << 62))  # no C sleep: the signal that asks for stacks would end it
            in_c()
        """,
        (
            "the main thread of process",
            "in in_c: `sum(range(1 << 62))  # no C sleep: the signal that asks for stacks would end it`",
        ),
    ),
    "signals ignored": (
        """
        def f(x):
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
            note()
            while True: pass
        if __name__ == "__main__":
            note()
            print("begun", flush=True)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            with multiprocessing.Pool(1) as pool:
                pool.apply(f, (1,))
        """,
        ("has run task 1 (f)", "of a processor"),
    ),
    "exit function": (
        """
        import atexit
        note()
        print("begun", flush=True)
        @atexit.register
        def at_exit():
            threading.Event().wait()
        """,
        ("the main thread of process", "at_exit"),
    ),
    "spawn": (
        TASK.replace("METHOD", "'spawn'"),
        ("has run task ", "waits in Event.wait"),
    ),
    "forkserver": (
        TASK.replace("METHOD", "'forkserver'"),
        ("has run task ", "waits in Event.wait"),
    ),
    "nested pool": (
        """
        def inner(x):
            note()
            threading.Event().wait()
        def outer(x):
            note()
            with multiprocessing.Pool(1) as pool:
                return pool.map(inner, [x])
        if __name__ == "__main__":
            print("begun", flush=True)
            with multiprocessing.Pool(1) as pool:
                pool.map(outer, [1])
        """,
        ("(outer) for", "(inner) for"),
    ),
}


WORK = """
        if __name__ == "__main__":
            note()
            print("begun", flush=True)
            with multiprocessing.Pool(2) as pool:
                pool.map(time.sleep, [0.4] * 20, 1)
            print("done")
        """


@dataclass
class Ended:
    """A program that has been ended, by the time when the command left."""

    folder: Path
    code: int
    output: str
    errors: str
    left: list[psutil.Process]


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> dict[str, Ended]:
    """Let all of them hang at the same time, which costs little more than one."""
    sources = {name: source for name, (source, _) in HANGS.items()}
    sources["work that gets on"] = WORK
    folders = {name: tmp_path_factory.mktemp("hang") for name in sources}
    words = ("--hang-after", NOT_FOR_LONG, "--json", "report.json")
    running = {}
    for name, source in sources.items():
        program = write(folders[name], source)
        target = ("-m", "program") if name == "no pool" else (program,)
        running[name] = start(folders[name], *words, *target)
    found = {}
    for name, process in running.items():
        output, errors = process.communicate(timeout=LIMIT_S)
        left = alive_of(folders[name])
        found[name] = Ended(folders[name], process.returncode, output, errors, left)
    return found


@pytest.mark.parametrize("name", HANGS)
def test_a_program_that_hangs_is_told_of_and_ended(ended, name):
    """However it hangs: the reason, the place, exit code 124, and no process left."""
    outcome = ended[name]
    assert outcome.code == 124, outcome.errors
    assert outcome.output == "begun\n"
    for words in HANGS[name][1]:
        assert words in outcome.errors
    assert "PROCESS / THREAD" in outcome.errors
    assert not outcome.left


def test_the_report_has_the_reason(ended):
    """``--json`` writes it for programs, with the pools as they were."""
    report = json.loads((ended["task"].folder / "report.json").read_text())
    assert report["exitcode"] == 124
    assert "has run task " in report["reason"]
    assert report["pools"][0]["start_method"] == "fork"
    assert [f["kind"] for f in report["hang"]["findings"]] == ["task"]
    assert report["hang"]["snapshot"]["pools"][0]["tasks"]


def test_work_that_gets_on_is_no_hang(ended):
    """Tasks that end keep a program alive that runs longer than the limit."""
    outcome = ended["work that gets on"]
    assert (outcome.code, outcome.output) == (0, "begun\ndone\n"), outcome.errors


UNTOUCHED = {
    "exit code": "print('out'); print('err', file=sys.stderr); sys.exit(7)",
    "signal": "sys.stdout.write('x'); sys.stdout.flush(); os.kill(os.getpid(), signal.SIGKILL)",
    "interrupt": "raise KeyboardInterrupt",
    "pool": (
        "def f(x): return x * x\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.Pool(2) as pool:\n"
        "        print(pool.map(f, range(10)))\n"
    ),
    "descriptors": "print(os.open(__file__, os.O_RDONLY), sys.stdin.read())",
    "signals": (
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(signal.SIGCHLD))"
    ),
}


@pytest.mark.parametrize("source", UNTOUCHED.values(), ids=UNTOUCHED.keys())
def test_a_program_that_ends_in_time_is_untouched(tmp_path, source):
    """Same output, same exit code or signal as without the option."""
    program = write(tmp_path, source)
    with start(tmp_path, "--quiet", "--hang-after", "60", program) as watched:
        plain = run(tmp_path, "--quiet", program)
        output, errors = watched.communicate(timeout=LIMIT_S)
    assert (watched.returncode, output, errors) == plain


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_program(tmp_path, number):
    """What is sent to the command is the program's; the command leaves as the program does."""
    source = """
        def handler(number, frame):
            sys.exit(40 + number)
        signal.signal(signal.SIGTERM, handler)
        signal.signal(signal.SIGINT, handler)
        print("ready", flush=True)
        time.sleep(1000)
        """
    with start(tmp_path, "--quiet", "--hang-after", "60", write(tmp_path, source)) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(LIMIT_S) == 40 + number


def test_the_program_dies_with_the_command(tmp_path):
    """SIGKILL of the command, which nobody can forward, ends the program within 2 s."""
    source = "note()\nprint('ready', flush=True)\ntime.sleep(1000)"
    with start(tmp_path, "--hang-after", "60", write(tmp_path, source)) as process:
        assert process.stdout.readline() == "ready\n"
        [pid] = map(int, (tmp_path / "pids").read_text().split())
        program = os.pidfd_open(pid)
        process.kill()
        assert select.select([program], [], [], 2)[0]
        os.close(program)


@pytest.mark.parametrize("word", ["0", "-1", "nan", "soon"])
def test_a_bad_limit_is_bad_usage(tmp_path, word):
    """Told before anything runs, with exit code 2."""
    code, _, errors = run(tmp_path, "--hang-after", word, write(tmp_path, "print('ran')"))
    assert code == 2
    assert "give seconds" in errors
