"""``ps`` and ``stack`` on real programs of other libraries, from another process, as users run them."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCENES = Path(__file__).parent.parent / "scenes"
AS_USER = str(SCENES / "as_user.py")
LIMIT_S = 60
NOBODY = 60_000 + os.getpid() % 5_000

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/task"), reason="compares with what Linux lists"
)
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


class Scene:
    """A program in a session of its own, which ends with the test."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=env,
        )
        self.pid = self._process.pid

    def said(self, *words: str) -> None:
        """Wait until the program has printed all of these lines, in any order."""
        missing = set(words)
        while missing:
            line = self._process.stdout.readline()
            assert line, f"the program ended without {missing}"
            missing.discard(line.strip())

    def end(self) -> None:
        """Kill the program with all that it started; its session is its own."""
        if self._process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(LIMIT_S)
        self._process.stdout.close()


@pytest.fixture
def scene() -> Iterator[Callable[..., Scene]]:
    """Start scenes; they end with the test."""
    started: list[Scene] = []

    def start(name: str, *words: str, user: str | None = None) -> Scene:
        changed = [sys.executable, AS_USER, user] if user is not None else []
        started.append(Scene([*changed, sys.executable, str(SCENES / f"{name}.py"), *words]))
        return started[-1]

    yield start
    for one in started:
        one.end()


def glasspool(*words: str, user: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as users do, as another user if asked for."""
    changed = [sys.executable, AS_USER, user] if user is not None else []
    return subprocess.run(
        [*changed, sys.executable, "-m", "glasspool", *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
    )


def listed_by_linux(pid: int) -> set[tuple[int, int]]:
    """Return the (pid, tid) pairs of a process and its descendants, as the kernel lists them."""
    pairs, waiting = set(), [pid]
    while waiting:
        one = waiting.pop()
        for tid in map(int, os.listdir(f"/proc/{one}/task")):
            pairs.add((one, tid))
            with open(f"/proc/{one}/task/{tid}/children") as children:
                waiting.extend(map(int, children.read().split()))
    return pairs


def in_picture(told: dict) -> set[tuple[int, int]]:
    """Return the (pid, tid) pairs of a picture."""
    return {
        (process["pid"], thread["native_id"])
        for pool in told["pools"]
        for process in pool["processes"]
        for thread in process["threads"]
    }


def roles_of(told: dict) -> list[str]:
    """Return the roles of processes and threads, those of workers as often as there are workers."""
    (pool,) = told["pools"]
    return sorted(
        f"{process['role']}: {'+'.join(thread['roles'])}"
        for process in pool["processes"]
        for thread in process["threads"]
    )


PARENT = [
    "parent: main",
    "parent: result-handler",
    "parent: task-handler",
    "parent: worker-handler",
]
HELPERS = {
    "fork": [],
    "spawn": ["resource-tracker: resource-tracker"],
    "forkserver": ["fork-server: fork-server", "resource-tracker: resource-tracker"],
}


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("how", [[], ["--quick"]])
def test_exactly_what_the_system_lists_each_with_its_role(scene, method, how):
    """Of a stock pool: every process and native thread, none else, with stacks and without."""
    running = scene("stock_pool", method, "busy")
    running.said("ready", "task 7", "task 8")
    expected = listed_by_linux(running.pid)
    done = glasspool("ps", str(running.pid), "--json", *how)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert in_picture(told) == expected == listed_by_linux(running.pid)
    roles = [role.replace("initializer+", "") for role in roles_of(told)]
    assert roles == sorted([*PARENT, *HELPERS[method], *["worker: task"] * 2])
    sources = {
        thread["evidence"]["source"]
        for process in told["pools"][0]["processes"]
        for thread in process["threads"]
        if "task" in thread["roles"]
    }
    assert sources == {"inferred" if how else "py-spy"}


def test_a_program_with_a_pool_of_ours_tells_of_its_others_too(scene, tmp_path, monkeypatch):
    """All pools of the program are in one picture, by its own word: no thread is missing or told twice."""
    # The scene is killed in the end, and leaves its scoreboard to the next pool of that folder.
    monkeypatch.setenv("GLASSPOOL_DIR", str(tmp_path))
    running = scene("beside_ours", "fork")
    running.said("ready", "task 1", "task 2", "task 3")
    told = json.loads(glasspool("ps", str(running.pid), "--json").stdout)
    kinds = ["glasspool.Pool", "concurrent.futures.ThreadPoolExecutor", "multiprocessing.Pool"]
    assert [pool["kind"] for pool in told["pools"]] == kinds
    assert in_picture(told) == listed_by_linux(running.pid)
    whose = {
        (thread["pool"], *thread["roles"])
        for thread in told["pools"][0]["processes"][0]["threads"]
        if thread["pool"] is not None
    }
    assert whose == {
        ("ours", "worker-handler"),
        ("ours", "task-handler", "result-handler"),
        ("executor-1", "task"),
        ("pool-1", "worker-handler"),
        ("pool-1", "task-handler"),
        ("pool-1", "result-handler"),
    }


def test_the_tree_is_drawn_for_people(scene):
    """Kind, roles, states and the current item of each worker stand in the table; no stacks unasked."""
    running = scene("stock_pool", "forkserver", "busy")
    running.said("ready", "task 7", "task 8")
    done = glasspool("ps", str(running.pid), COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    words = " ".join(done.stdout.split())
    for told in ("multiprocessing.Pool", "2 workers", "fork-server", "resource-tracker", "job 1"):
        assert told in words
    assert "(7" in words
    assert "staging.py:" not in words
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "staging.py:" in glasspool("ps", str(running.pid), "--stacks").stdout


def test_arguments_are_left_out_on_request(scene):
    """``--redact`` keeps what a task was given out of tables and JSON."""
    running = scene("stock_pool", "fork", "busy")
    running.said("ready", "task 7", "task 8")
    for words in (["ps"], ["ps", "--json"], ["stack"], ["stack", "--json"]):
        done = glasspool(*words, str(running.pid), "--redact")
        assert done.returncode == 0
        assert "(7" not in done.stdout
        assert "job" in done.stdout


def test_idle_workers_share_an_entry(scene):
    """Workers in the same state with the same threads are one entry with a count."""
    running = scene("process_executor", "spawn", "idle")
    running.said("ready")
    done = glasspool("ps", str(running.pid))
    assert "concurrent.futures.ProcessPoolExecutor" in done.stdout
    assert done.stdout.count("waiting for work") <= 2
    assert "(2 ×)" in done.stdout or "holds the queue" in done.stdout


def test_stack_joins_caller_feeder_worker_and_task(scene):
    """One picture, then each stack with who read it, how old it is and whether it is whole."""
    running = scene("stock_pool", "fork", "iterable")
    running.said("iterating")
    done = glasspool("stack", str(running.pid), COLUMNS="100")
    assert (done.returncode, done.stderr) == (0, "")
    picture, _, tree = done.stdout.partition("PROCESS / THREAD")
    words = " ".join(picture.split())
    assert "running your iterable" in words
    assert "in items_that_stop at" in words
    assert "2 workers waiting for work" in words or words.count("1 worker waiting for work") == 2
    assert "(read by py-spy," in tree
    assert "staging.py" in tree
    for process in json.loads(glasspool("stack", str(running.pid), "--json").stdout)["pools"][0][
        "processes"
    ]:
        for thread in process["threads"]:
            # What a fork inherited from its parent is cut away.
            functions = [frame["function"] for frame in thread["stack"] or ()]
            assert process["role"] != "worker" or "main" not in functions


def test_the_job_that_a_caller_waits_for_is_named(scene):
    """The same number as that of the items which the workers run for it."""
    running = scene("stock_pool", "spawn", "map")
    running.said("task 100")
    words = " ".join(glasspool("stack", str(running.pid)).stdout.split())
    assert "waiting in Pool.map() for job 0, called by main at" in words
    assert "job 0, " in words.partition("↓ tasks")[2]


def test_calls_of_c_code_are_added_on_request(scene):
    """``--native`` shows in which C function a task is; the pause that it costs is told."""
    running = scene("stock_pool", "fork", "busy")
    running.said("ready", "task 7", "task 8")
    done = glasspool("stack", str(running.pid), "--native", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    workers = [p for p in json.loads(done.stdout)["pools"][0]["processes"] if p["role"] == "worker"]
    for worker in workers:
        (thread,) = worker["threads"]
        assert any(frame["line"] == 0 and "sleep" in frame["function"] for frame in thread["stack"])
        assert thread["evidence"]["paused_s"] > 0


def test_the_callers_wait_is_told(scene):
    """A thread that waits for a future is the caller, and where it called is said."""
    running = scene("thread_executor")
    running.said("ready", "task 1", "task 2")
    words = " ".join(glasspool("stack", str(running.pid)).stdout.split())
    assert "caller MainThread" in words
    assert "called by main at" in words
    assert words.count("running work, at") == 2


def listed(*words: str, **env: str) -> dict[int, dict]:
    """Return what the list tells, by process."""
    done = glasspool("ps", "--json", *words, **env)
    assert (done.returncode, done.stderr) == (0, "")
    return {item["pid"]: item for item in json.loads(done.stdout)["pools"]}


def test_the_list_has_programs_of_every_kind_and_no_worker(scene):
    """Each with its kind and how many of its workers are busy; workers and helpers are no programs."""
    scenes = {
        "multiprocessing.Pool": scene("stock_pool", "forkserver", "busy"),
        "concurrent.futures.ProcessPoolExecutor": scene("process_executor", "fork", "idle"),
        "concurrent.futures.ThreadPoolExecutor": scene("thread_executor"),
        "multiprocessing.pool.ThreadPool": scene("thread_pool"),
    }
    words = (["ready", "task 7", "task 8"], ["ready"], *[["ready", "task 1", "task 2"]] * 2)
    for (_, running), awaited in zip(scenes.items(), words, strict=True):
        running.said(*awaited)
    told = listed()
    for kind, running in scenes.items():
        entry = told[running.pid]
        assert (entry["kind"], entry["size"]) == (kind, 2)
        expected = (0, 2) if kind.endswith("ProcessPoolExecutor") else (2, 0)
        assert (entry["busy"], entry["idle"]) == expected
        assert entry["evidence"]["source"] == "py-spy"
    programs = {one.pid for one in scenes.values()}
    parts = {pid for one in programs for pid, _ in listed_by_linux(one)} - programs
    assert not parts & told.keys()
    rows = {line.split()[0] for line in glasspool("ps").stdout.splitlines()}
    assert {str(pid) for pid in programs} <= rows
    assert not {str(pid) for pid in parts} & rows


def test_a_pool_inside_a_pools_worker_is_listed_by_itself(scene):
    """Each with its own workers only."""
    running = scene("nested_pools", "fork")
    running.said("task 1", "task 2")
    told = {
        pid: item for pid, item in listed().items() if pid in dict(listed_by_linux(running.pid))
    }
    assert sorted((t["kind"], t["size"], t["busy"], t["idle"]) for t in told.values()) == [
        ("concurrent.futures.ProcessPoolExecutor", 1, 1, 0),
        ("multiprocessing.Pool", 2, 2, 0),
    ]


def test_a_quick_list_says_that_it_guesses(scene):
    """Without stacks a pool is told by its process tree, as inferred, and nothing is counted."""
    running = scene("stock_pool", "spawn", "busy")
    running.said("ready", "task 7", "task 8")
    entry = listed("--quick")[running.pid]
    assert (entry["evidence"]["source"], entry["size"]) == ("inferred", 2)
    assert (entry["busy"], entry["idle"]) == (None, None)
    assert "?: inferred" in glasspool("ps", "--quick").stdout


# What cannot be done -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["ps", "stack"])
def test_no_such_process(command):
    """Exit code 3, one line, nothing on stdout."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(LIMIT_S)
    done = glasspool(command, str(ended.pid))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"glasspool: no such process: {ended.pid}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["ps", "stack"])
def test_not_python(command):
    """Exit code 4, one line that names the program, and what the operating system tells."""
    cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        done = glasspool(command, str(cat.pid))
        assert done.returncode == 4
        assert "cat" in done.stderr
        assert done.stderr.count("\n") == 1
        assert str(cat.pid) in done.stdout
        told = json.loads(glasspool(command, str(cat.pid), "--json").stdout)
        assert in_picture(told) == {(cat.pid, cat.pid)}
        assert told["problem"]["code"] == 4
    finally:
        cat.communicate(timeout=LIMIT_S)


def test_no_pool():
    """Exit code 5 for a Python program without a pool, and its threads all the same."""
    program = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        program.stdout.readline()
        done = glasspool("ps", str(program.pid))
        assert done.returncode == 5
        assert done.stderr.startswith("glasspool: ")
        assert "no pool" in done.stderr
        assert done.stderr.count("\n") == 1
        assert "MainThread" in done.stdout
    finally:
        program.communicate(b"\n", timeout=LIMIT_S)


def test_a_version_that_cannot_be_read(scene, monkeypatch, capsys):
    """Exit code 7, the reader's word on it in one line, and what the operating system tells."""
    from glasspool.cli import main
    from glasspool.observe import pyspy

    def unreadable(pids, *_, **__):
        return {
            pid: pyspy.Dump(note="Python 3.99 is not known", refusal="unreadable") for pid in pids
        }

    monkeypatch.setattr(pyspy, "dump", unreadable)
    running = scene("stock_pool", "fork", "busy")
    running.said("ready", "task 7", "task 8")
    assert main(["ps", str(running.pid), "--json"]) == 7
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "Python 3.99" in err
    assert in_picture(json.loads(out)) == listed_by_linux(running.pid)
    assert json.loads(out)["problem"]["name"] == "unreadable"


def _is_told_in_part(done: subprocess.CompletedProcess[str], pid: int) -> None:
    """Check a look that the system did not permit: processes, threads, roles as inferred, the remedy."""
    assert done.returncode == 6
    assert done.stderr.startswith("glasspool: ")
    assert done.stderr.count("\n") == 1
    assert any(remedy in done.stderr for remedy in ("CAP_SYS_PTRACE", "sudo", "same user", "root"))
    told = json.loads(done.stdout)
    assert in_picture(told) == listed_by_linux(pid)
    assert [role for role in roles_of(told) if role.startswith("worker")] == ["worker: task"] * 2
    assert "parent: main" in roles_of(told)
    assert told["problem"]["code"] == 6
    assert all(t["stack"] is None for p in told["pools"][0]["processes"] for t in p["threads"])


@only_root
@pytest.mark.parametrize("user", [str(NOBODY), "root"], ids=["nobody", "root"])
def test_without_the_right_to_trace(scene, user):
    """An ordinary user on a program of root, and root in a container: what is visible, and the remedy."""
    running = scene("stock_pool", "fork", "busy")
    running.said("ready", "task 7", "task 8")
    done = glasspool("ps", str(running.pid), "--json", user=user, GLASSPOOL_DIR="/nowhere")
    _is_told_in_part(done, running.pid)
    done = glasspool("stack", str(running.pid), user=user, GLASSPOOL_DIR="/nowhere")
    assert done.returncode == 6
    assert str(running.pid) in done.stdout
    assert "Traceback" not in done.stderr


@only_root
def test_a_program_of_ones_own_that_protects_itself(scene):
    """The same user, but the program cannot be dumped: as above."""
    running = scene("protected_pool", user=str(NOBODY))
    running.said("ready")
    done = glasspool("ps", str(running.pid), "--json", user=str(NOBODY), GLASSPOOL_DIR="/nowhere")
    _is_told_in_part(done, running.pid)


@only_root
def test_the_list_of_another_user(scene):
    """An ordinary user lists their own programs only, and with ``--all`` those of others as inferred."""
    running = scene("stock_pool", "fork", "busy")
    running.said("ready", "task 7", "task 8")
    for words, is_told in ((["ps", "--json"], False), (["ps", "--json", "--all"], True)):
        done = glasspool(*words, user=str(NOBODY), GLASSPOOL_DIR="/nowhere")
        assert (done.returncode, done.stderr) == (0, "")
        found = {item["pid"] for item in json.loads(done.stdout)["pools"]}
        assert (running.pid in found) == is_told


DYING = """
import multiprocessing, os, signal, sys
def end(n): return n
if __name__ == "__main__":
    signal.alarm(60)
    with multiprocessing.Pool(2, maxtasksperchild=1) as pool:
        for number, _ in enumerate(pool.imap_unordered(end, range(10**9))):
            if number == 4:
                print("ready", flush=True)
"""


@pytest.mark.parametrize("chance", range(6))
def test_what_ends_meanwhile_leaves_a_part_of_the_picture(tmp_path, chance, capsys):
    """Workers come and go, and the program itself is killed: a picture, or exit code 3; no traceback."""
    from glasspool.cli import main

    path = tmp_path / "dying.py"
    path.write_text(DYING)
    running = Scene([sys.executable, str(path)])
    try:
        running.said("ready")
        assert main(["ps", str(running.pid), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["pools"]
        # Somewhere in the next look, which takes some 50 ms.
        killer = threading.Timer(random.Random(chance).random() * 0.08, running.end)
        killer.start()
        try:
            codes = {main(["ps", str(running.pid), "--json"]) for _ in range(3)}
        finally:
            killer.join(LIMIT_S)
        assert codes <= {0, 3, 5}
        assert main(["stack", str(running.pid)]) == 3
        assert "Traceback" not in capsys.readouterr().err
    finally:
        running.end()


# Terminals and foreign names ---------------------------------------------------------------------

EVIL = """
import ctypes, multiprocessing, signal, sys, time
def \u0435vil(n):
    print("task", flush=True)
    time.sleep(60)
if __name__ == "__main__":
    signal.alarm(60)
    ctypes.CDLL(None).prctl(15, b"\\x1b[31m\\xff\\n)", 0, 0, 0)
    pool = multiprocessing.Pool(1)
    pool.apply_async(\u0435vil, ("\\x1b[2J\\n\\x9b31m",))
    time.sleep(60)
"""


def test_foreign_names_are_made_safe(tmp_path):
    """Control characters, line ends and bytes that are no text, in names, arguments and commands."""
    path = tmp_path / "e\nv\x1b[2Jil.py"
    path.write_text(EVIL)
    running = Scene([sys.executable, str(path), b"\xff\xfe\x1b[7m"])
    try:
        running.said("task")
        for words in (["ps"], ["ps", str(running.pid)], ["stack", str(running.pid)]):
            done = glasspool(*words)
            assert (done.returncode, done.stderr) == (0, "")
            assert all(line.isprintable() for line in done.stdout.splitlines())
            json.loads(glasspool(*words, "--json").stdout)
        assert glasspool("ps", str(running.pid), PYTHONIOENCODING="ascii").returncode == 0
    finally:
        running.end()


def test_a_terminal_gets_colours_unless_it_objects(scene):
    """Escape codes only on a terminal, none with NO_COLOR; lines keep to COLUMNS."""
    running = scene("thread_pool")
    running.said("ready", "task 1", "task 2")
    for env, has_codes in (({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False)):
        text = on_terminal(["ps", str(running.pid)], {**env, "COLUMNS": "90"})
        assert ("\x1b[" in text) == has_codes
        assert "task-handler" in text
    assert max(map(len, text.splitlines())) <= 90


def on_terminal(words: list[str], env: dict[str, str]) -> str:
    """Run the command on a terminal of its own, and return what it wrote."""
    ours, theirs = pty.openpty()
    clean = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    command = [sys.executable, "-m", "glasspool", *words]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env={**clean, **env})
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 1 << 16):
            parts.append(part)
    except OSError:
        pass  # Linux tells so that the last writer has gone
    os.close(ours)
    assert process.wait(LIMIT_S) == 0
    return b"".join(parts).decode()


@pytest.mark.parametrize("words", [["ps"], ["ps", "PID"], ["stack", "PID", "--json"]])
def test_a_reader_that_leaves_is_no_error(scene, words):
    """As with ``| head -0``: no word, exit code 0."""
    running = scene("thread_pool")
    running.said("ready", "task 1", "task 2")
    reader, writer = os.pipe()
    os.close(reader)
    command = [str(running.pid) if word == "PID" else word for word in words]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "glasspool", *command],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_watching_a_foreign_program_ends_with_it(scene):
    """Pictures follow each other; the program's end is the good end of watching it."""
    running = scene("thread_pool")
    running.said("ready", "task 1", "task 2")
    watch = subprocess.Popen(
        [sys.executable, "-m", "glasspool", "stack", str(running.pid), "--watch", "0.05"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = 0
    for line in watch.stdout:
        seen += "multiprocessing.pool.ThreadPool" in line
        if seen == 2:
            running.end()
    _, errors = watch.communicate(timeout=LIMIT_S)
    assert seen >= 2
    assert watch.returncode == 0
    assert errors.count("\n") <= 1
