"""Timelines of real pools: recorded by the program, by ``run --trace``, and from outside by ``trace PID``."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glasspool import cli
from glasspool.tracing import TraceWarning
from perfetto_reading import Read, read
from pools import MakePool, wait_until

LIMIT_S = 60

PROGRAM = """
import os, signal, sys, time, glasspool

def work(n):
    return n * n

def wait(seconds):
    time.sleep(seconds)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    with glasspool.Pool(2, name="watched") as pool:
        pool.map(work, range(40), chunksize=1)
        long = pool.apply_async(wait, (60,))
        while not pool.stats()["running"]:
            pass
        print("ready", flush=True)
        for line in sys.stdin:
            if line == "die\\n":
                try:
                    pool.apply(die)
                except glasspool.WorkerDied as error:
                    print(error.certificate.pid, flush=True)
            elif line == "work\\n":
                print(len(pool.map(work, range(30), chunksize=1)), flush=True)
            elif line == "end\\n":
                break
"""

SCRIPT = """
import multiprocessing, os, signal, sys
import glasspool

def work(n):
    return n + 1

def die():
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        pool.apply_async(work, (1,), callback=print).get()
        print(pool.map(work, range(6), chunksize=2))
    with multiprocessing.Pool(1) as pool:
        try:
            pool.apply(die)
        except glasspool.WorkerDied:
            print("died")
    sys.exit(3)
"""


STOCK = """
import multiprocessing, sys
with multiprocessing.get_context("fork").Pool(1) as pool:
    pool.apply(abs, (-1,))
    print("ready", flush=True)
    sys.stdin.read()
"""


class _Program:
    """A program with a pool that does what it is told."""

    def __init__(self, path: Path) -> None:
        path.write_text(PROGRAM)
        self._process = subprocess.Popen(
            [sys.executable, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def do(self, what: str) -> str:
        """Have it do something, and return what it says of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline() if what != "end" else ""

    def end(self) -> None:
        """End it in an orderly way."""
        if self._process.poll() is None:
            self.do("end")
        self._process.communicate(timeout=LIMIT_S)


@pytest.fixture
def program(leak_check: None, tmp_path: Path) -> Iterator[_Program]:
    """A program with a pool: 40 tasks have been done, one runs on."""
    started = _Program(tmp_path / "program.py")
    yield started
    started.end()


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "glasspool", *words]


def _glasspool(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*words),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
    )


def _tasks(found: Read, name: str) -> list[int]:
    return [one.told["task"] for one in found.named(name) if one.category == "task"]


# The program itself ---------------------------------------------------------------------------------


def test_a_pool_writes_what_it_did(make_forked: MakePool, tmp_path: Path) -> None:
    """Every task of the recording is in it once, with its arguments, and its arrow reaches the result."""
    path = tmp_path / "out.perfetto-trace"
    pool = make_forked(2, name="traced")
    pool.map(abs, range(5), chunksize=1)  # before it: not in it
    with pool.trace(path) as trace:
        assert "recording" in repr(trace)
        assert pool.map(abs, range(-20, 0), chunksize=1)[0] == 20
        pool.apply_async(divmod, (7, 3), callback=repr).get()
        with pytest.raises(ZeroDivisionError):
            pool.apply(divmod, (7, 0))
    found = read(path.read_bytes())
    assert "written" in repr(trace)
    assert len(set(_tasks(found, "abs"))) == 20
    (failed,) = found.named("divmod (failed)")
    assert failed.told["arguments"] == "(7, 0)"
    assert found.lost == 0
    # Each arrow ends exactly once, and where the task ran on the way.
    ends = [flow for one in found.slices for flow in one.last_flows]
    runs = [flow for one in found.slices if one.category == "task" for flow in one.flows]
    assert sorted(ends) == sorted(runs)
    assert len(ends) == len(set(ends)) == 22
    assert {one.process for one in found.slices if one.category == "task"} <= {
        f"slot {slot} {process.name}" for slot, process in enumerate(pool._pool)
    }
    assert any(one.name.startswith("callback") for one in found.slices)


def test_a_path_that_cannot_be_written_is_told_at_once(
    make_forked: MakePool, tmp_path: Path
) -> None:
    """Not when the recording is over and all is lost; and the pool goes on as if nobody had asked."""
    pool = make_forked(1)
    with pytest.raises(IsADirectoryError):
        pool.trace(tmp_path)
    with pytest.raises(FileNotFoundError):
        pool.trace(tmp_path / "missing" / "out")
    assert pool.apply(abs, (-1,)) == 1


@pytest.mark.parametrize("how", ["join", "terminate"])
def test_a_trace_that_nobody_stops_is_written_with_the_end(
    make_forked: MakePool, tmp_path: Path, how: str
) -> None:
    """Whoever waits for the end of the pool finds the file complete; stopping it later changes nothing."""
    path = tmp_path / "out"
    pool = make_forked(1)
    trace = pool.trace(path)
    pool.apply(abs, (-1,))
    if how == "join":
        pool.close()
        pool.join()
    else:
        pool.terminate()
    written = path.read_bytes()
    assert len(_tasks(read(written), "abs")) == 1
    trace.stop()
    assert path.read_bytes() == written


def test_two_traces_of_one_pool(make_forked: MakePool, tmp_path: Path) -> None:
    """Each has what happened while it was recorded."""
    pool = make_forked(1)
    first = pool.trace(tmp_path / "first")
    pool.apply(abs, (-1,))
    second = pool.trace(tmp_path / "second")
    pool.apply(abs, (-2,))
    first.stop()
    pool.apply(abs, (-3,))
    second.stop()
    assert len(_tasks(read((tmp_path / "first").read_bytes()), "abs")) == 2
    assert len(_tasks(read((tmp_path / "second").read_bytes()), "abs")) == 2


def test_a_full_disk_is_told_to_who_stops_it(make_forked: MakePool) -> None:
    """The error is raised by ``stop``; where the pool ends it, it is a warning."""
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    pool = make_forked(1)
    with pytest.raises(OSError, match="No space left"):
        with pool.trace("/dev/full"):
            pool.apply(abs, (-1,))
    pool.trace("/dev/full")
    with pytest.warns(TraceWarning, match="could not be written to /dev/full"):
        pool.terminate()


def test_a_program_that_ends_has_written(tmp_path: Path) -> None:
    """With the pool left open, the file is written as the interpreter exits; a fork writes nothing."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, glasspool\n"
        "if __name__ == '__main__':\n"
        "    pool = glasspool.Pool(1)\n"
        "    trace = pool.trace('out')\n"
        "    pool.apply(abs, (-1,))\n"
        "    if os.fork() == 0:\n"
        "        trace.stop()\n"
        "        raise SystemExit\n"
        "    os.wait()\n"
        "    assert not os.path.getsize('out')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        cwd=tmp_path,
        timeout=LIMIT_S,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(_tasks(read((tmp_path / "out").read_bytes()), "abs")) == 1


# glasspool run --trace ------------------------------------------------------------------------------


def test_run_writes_all_pools_of_a_program(tmp_path: Path) -> None:
    """One file, with each pool and each death; the program's output and exit code are its own."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = _glasspool("run", "-q", "--trace", "out", "script.py", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout == "2\n[1, 2, 3, 4, 5, 6]\ndied\n"
    assert "wrote 5 tasks of " in done.stderr
    assert " of 2 pools over " in done.stderr
    assert f"to {tmp_path}/out (" in done.stderr
    assert "https://ui.perfetto.dev" in done.stderr
    found = read((tmp_path / "out").read_bytes())
    assert len(_tasks(found, "work")) == 4  # an apply, and three chunks
    assert len(_tasks(found, "die (lost)")) == 1
    assert len(found.named("was killed by SIGKILL")) == 1
    assert {o.name for o in found.slices if o.category == "pool"} == {
        "recording of glasspool-1",
        "recording of glasspool-2",
    }


@pytest.mark.parametrize("target", ["missing/out", "."])
def test_run_says_at_once_that_it_cannot_write(
    target: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The program does not run for an hour before that is found."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "--trace", target, "script.py"]) == 2
    assert f"glasspool: cannot write {target}: " in capsys.readouterr().err


def test_run_tells_of_a_program_without_a_pool(tmp_path: Path) -> None:
    """There is nothing to draw, and no empty file that would not open."""
    (tmp_path / "script.py").write_text("print('ran')")
    done = _glasspool("run", "-q", "--trace", "out", "script.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert "the program made no pool" in done.stderr
    assert not (tmp_path / "out").exists()


# glasspool trace PID --------------------------------------------------------------------------------


def test_what_a_running_pool_remembers(
    program: _Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The tasks that ended, and the one that runs, without an end; at once, into a file of its name."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["trace", str(program.pid)]) == 0
    name = f"glasspool-{program.pid}.perfetto-trace"
    said = capsys.readouterr().out
    assert said.startswith("wrote 40 tasks of 2 workers over ")
    assert f"to {name} (" in said
    found = read((tmp_path / name).read_bytes())
    assert len(set(_tasks(found, "work"))) == 40
    (running,) = found.named("wait")
    assert (running.end, running.told["arguments"]) == (None, "(60)")
    assert {one.track.partition(" (")[0] for one in found.named("work")} <= {"slot 0", "slot 1"}
    # Redacted, and with nothing where nothing can be written.
    assert cli.main(["trace", str(program.pid), "--redact", "-o", "redacted"]) == 0
    (running,) = read((tmp_path / "redacted").read_bytes()).named("wait")
    assert "arguments" not in running.told
    assert cli.main(["trace", str(program.pid), "-o", "missing/out"]) == 2
    assert "glasspool: cannot write missing/out: no such file" in capsys.readouterr().err


def test_it_goes_through_a_pipe_but_not_to_a_terminal(program: _Program) -> None:
    """In a pipe the trace is alone, Ctrl-C ends it, what is said goes to stderr; terminals are refused."""
    words = _command("trace", str(program.pid), "-o", "-", "--seconds", "600")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, **pipes) as recording:  # type: ignore[call-overload]
        _until_waiting(recording.pid)
        recording.send_signal(signal.SIGINT)
        out, err = recording.communicate(timeout=LIMIT_S)
    assert recording.returncode == 0, err
    assert err.startswith(b"wrote 40 tasks")
    assert len(_tasks(read(out), "work")) == 40
    ours, theirs = pty.openpty()
    try:
        refused = subprocess.run(
            words, stdout=theirs, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False, text=True
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert refused.returncode == 2
    assert "binary to the terminal" in refused.stderr


def test_what_ends_while_it_records(program: _Program, tmp_path: Path) -> None:
    """Until Ctrl-C: the tasks that ended meanwhile, or how many of them could not be read, and the death."""
    told, found = _recorded(program, tmp_path, lambda recording: _die_and_stop(program, recording))
    assert not told["ended"]
    names = ("work", "die", "die (lost)")
    assert told["tasks"] == sum(len(_tasks(found, name)) for name in names)
    assert told["lost"] == found.lost
    # What the killed worker had done may be overwritten by its replacement before it was read.
    assert told["tasks"] + told["lost"] >= 70
    (death,) = found.named("was killed by SIGKILL")
    assert "was killed by SIGKILL while it ran task" in death.told["certificate"]


def _die_and_stop(program: _Program, recording: subprocess.Popen[str]) -> None:
    assert program.do("work") == "30\n"
    assert int(program.do("die"))
    recording.send_signal(signal.SIGINT)


def test_a_program_that_ends_ends_the_recording(program: _Program, tmp_path: Path) -> None:
    """What there is is written, and it is said that the program ended."""
    told, found = _recorded(program, tmp_path, lambda recording: program.end())
    assert told["ended"]
    assert told["tasks"] == len(_tasks(found, "work")) == 40
    assert "ended while it was recorded" in found.named("recording of watched")[0].told["note 2"]


def _recorded(
    program: _Program, folder: Path, happens: Callable[[subprocess.Popen[str]], None]
) -> tuple[dict[str, Any], Read]:
    """Record a program while something happens to it."""
    words = _command("trace", str(program.pid), "-o", "out", "--seconds", "60", "--json")
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as recording:
        # The command opens its file when it has read what was there.
        wait_until((folder / "out").exists, "the recording begins")
        happens(recording)
        told = json.loads(recording.communicate(timeout=LIMIT_S)[0])
    assert recording.returncode == 0
    return told, read((folder / "out").read_bytes())


@pytest.mark.parametrize("kind", ["gone", "stock"])
def test_what_cannot_be_traced_is_told(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No process, no pool of ours: one line, the exit code of the other commands, and no file."""
    monkeypatch.chdir(tmp_path)
    code = "" if kind == "gone" else STOCK
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        if kind == "gone":
            other.wait(LIMIT_S)
        else:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
        assert cli.main(["trace", str(other.pid)]) == (3 if kind == "gone" else 5)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    expected = "no such process" if kind == "gone" else "which remembers nothing of its tasks"
    assert expected in said.err
    assert not list(tmp_path.iterdir())


def _until_waiting(pid: int) -> None:
    """Wait until the command waits for the next moment to read, which Ctrl-C may interrupt."""
    stat = Path(f"/proc/{pid}/wchan")
    wait_until(lambda: "futex" in stat.read_text(), "the recording waits")
