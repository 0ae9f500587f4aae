"""``glasspool why``: each way to go wrong is named, on real programs, and nothing that only looks like it.

The programs are in ``tests/scenes/why``; those that begin with ``fine_`` have nothing wrong. Several run
side by side, as most of the time of each is waiting; those that compute run alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SCENES = Path(__file__).parent.parent / "scenes" / "why"
READY_S = 40
LOOK_S = 5.0

FAULTS = {
    "task_lost": 10,
    "lock_dead": 11,
    "queue_lock_dead": 11,
    "idle_killed": 12,
    "fork_lock": 13,
    "handler_dead_result": 14,
    "handler_dead_callback": 14,
    "handler_dead_tasks": 14,
    "iterable": 15,
    "callback": 16,
    "initializer_fails": 17,
    "initializer_hangs": 18,
    "nested_threads": 19,
    "nested_executor": 19,
    "nested_inherited": 19,
    "pipe_full": 20,
    "join_before_drain": 20,
    "gil_sleep": 21,
    "stopped": 22,
    "traced": 22,
    "workers_fail spawn": 24,
    "task_hopeless": 25,
    "executor_broken": 26,
}
"""The scene, with its arguments, and the exit code that ``why`` gives for it."""

HEAVY = {"gil_parent": 21, "gil_worker": 21, "oversubscribed": 23}
"""The same of those that take all processors there are."""

MORE = {
    "lock_of_tasks_dead": 11,
    "fork_lock_print": 13,
    "nested_executor_inherited": 19,
    "pipe_full_subprocess": 20,
    "executor_without_workers": 26,
    "task_lost_map": 10,
    "task_lost_exit": 10,
    "task_lost_busy": 10,
    "task_lost_thread": 10,
    "idle_killed fork 1": 12,
    "fork_lock_logging": 13,
    "handler_dead_exit": 14,
    "iterable fork sleep": 15,
    "callback fork sleep": 16,
    "callback_nested": 16,
    "initializer_hangs fork sleep": 18,
    "nested_threads fork sleep": 19,
    "stopped fork all": 22,
    "workers_fail forkserver": 24,
}
NOT_FORKED = (
    "task_lost", "lock_dead", "queue_lock_dead", "idle_killed", "handler_dead_result",
    "handler_dead_callback", "handler_dead_tasks", "iterable", "callback", "initializer_fails",
    "initializer_hangs", "join_before_drain", "gil_sleep", "stopped", "traced", "task_hopeless",
    "executor_broken",
)  # fmt: skip
"""Faults that do not need a fork."""

FINE = (
    "fine_long_sleep", "fine_slow_iterable", "fine_slow_callback", "fine_large_results",
    "fine_recycled", "fine_recycled_idle", "fine_paused_reader", "fine_idle", "fine_subprocess_task",
    "fine_network_task", "fine_live_lock", "fine_idle_blas", "fine_manager", "fine_executor_long",
    "fine_threads_long", "fine_threads_over_processes", "fine_lock_contention", "fine_close_join",
    "fine_forking_task", "fine_queue_ahead", "fine_slow_consumer", "fine_executor_idle",
)  # fmt: skip
FINE_HEAVY = (
    "fine_long_compute", "fine_long_initializer", "fine_parent_computes", "fine_heavy_fork",
    "fine_many_short", "fine_starting spawn",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What the command said of one scene."""

    scene: str
    code: int
    told: dict[str, Any]
    complaint: str

    def __str__(self) -> str:
        looked = f"{self.told.get('looked_s')} s, {self.told.get('sights')} sights"
        return f"{self.scene}: {self.code} {self.told.get('sentence')} ({looked}) {self.complaint}"


@contextlib.contextmanager
def running(scene: str) -> Iterator[int]:
    """Run a scene until it stands, and end all of its processes afterwards."""
    name, *arguments = scene.split()
    program = subprocess.Popen(
        [sys.executable, SCENES / f"{name}.py", *(arguments or ["fork"])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert program.stdout is not None
    try:
        ready, _, _ = select.select([program.stdout], [], [], READY_S)
        assert ready, scene
        assert os.read(program.stdout.fileno(), 100).startswith(b"ready"), scene
        yield program.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.stdout.close()
        program.wait()


def ask(pid: int, scene: str = "", *options: str) -> Answer:
    """Ask the command why a program hangs."""
    told = subprocess.run(
        [sys.executable, "-m", "glasspool", "why", str(pid), "--json", *options],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Answer(scene, told.returncode, json.loads(told.stdout or "{}"), told.stderr)


def judged(scene: str) -> Answer:
    """Run a scene and ask of it."""
    with running(scene) as pid:
        return ask(pid, scene)


def all_judged(scenes: Sequence[str], side_by_side: int = 4) -> list[Answer]:
    """Run several scenes, some at a time."""
    with ThreadPoolExecutor(side_by_side) as runners:
        return list(runners.map(judged, scenes))


def check(expected: dict[str, int], answers: Sequence[Answer]) -> None:
    """Check the codes and what belongs to a verdict."""
    wrong = [str(answer) for answer in answers if answer.code != expected[answer.scene]]
    assert not wrong, "\n".join(wrong)
    for answer in answers:
        told = answer.told
        assert told["code"] == answer.code
        assert told["looked_s"] < LOOK_S, answer
        if answer.code:
            assert told["evidence"], answer
            assert told["remedy"], answer
            assert told["verdict"] == told["findings"][0]["verdict"]


def parts(scenes: Sequence[str], size: int) -> list[list[str]]:
    """Cut the scenes into rows that fit into the time of one test."""
    return [list(scenes[at : at + size]) for at in range(0, len(scenes), size)]


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("scenes", parts(list(FAULTS), 8), ids=lambda scenes: scenes[0])
def test_each_fault_is_named(scenes: list[str]):
    """A program that goes wrong in a known way is told so within five seconds, by sentence and exit code."""
    check(FAULTS, all_judged(scenes))


@pytest.mark.parametrize("scene", list(HEAVY))
def test_each_fault_that_takes_the_processors_is_named(scene: str):
    """So is one that leaves the processors no time."""
    check(HEAVY, [judged(scene)])


@pytest.mark.one_python
@pytest.mark.parametrize("scenes", parts(FINE, 8), ids=lambda scenes: scenes[0])
def test_what_only_looks_wrong_is_fine(scenes: list[str]):
    """A program that is only slow, busy, idle or waiting has nothing wrong with it."""
    check(dict.fromkeys(scenes, 0), all_judged(scenes))


@pytest.mark.one_python
@pytest.mark.parametrize("scene", FINE_HEAVY)
def test_what_only_computes_is_fine(scene: str):
    """So has one that computes for long."""
    check({scene: 0}, [judged(scene)])


@pytest.mark.whole_matrix
@pytest.mark.parametrize("scenes", parts(list(MORE), 4), ids=lambda scenes: scenes[0])
def test_variants_of_faults_are_named(scenes: list[str]):
    """The same fault is named where it comes about in another way."""
    check(MORE, all_judged(scenes, 2))


@pytest.mark.whole_matrix
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("scenes", parts(NOT_FORKED, 4), ids=lambda scenes: scenes[0])
def test_faults_are_named_for_each_start_method(scenes: list[str], method: str):
    """What can happen without a fork is named there as well."""
    expected = {f"{scene} {method}": FAULTS[scene] for scene in scenes}
    check(expected, all_judged(list(expected), 2))


@pytest.mark.whole_matrix
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("scenes", parts(FINE, 4), ids=lambda scenes: scenes[0])
def test_what_only_looks_wrong_is_fine_for_each_start_method(scenes: list[str], method: str):
    """And nothing is made up."""
    expected = {f"{scene} {method}": 0 for scene in scenes}
    check(expected, all_judged(list(expected), 2))


def test_the_graph_names_the_root():
    """The graph leads from the caller to the pipe or lock, and its root is the cause of the verdict."""
    with running("idle_killed") as pid:
        graph = ask(pid).told["graph"]
    kinds = {node["kind"] for node in graph["nodes"]}
    assert {"thread", "lock", "process"} <= kinds
    assert {edge["kind"] for edge in graph["edges"]} == {"waits for", "held by"}
    assert "process:dead" in graph["roots"]


def test_a_worker_leads_to_its_program():
    """The number of a worker will do: the judgement is on its program."""
    with running("task_lost") as pid:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        answer = ask(int(children[0]))
    assert (answer.code, answer.told["pid"]) == (10, pid)


def test_the_text_says_sentence_evidence_and_remedy():
    """Without --json the sentence comes first, then what it rests on, then what to do."""
    with running("task_hopeless") as pid:
        told = subprocess.run(
            [sys.executable, "-m", "glasspool", "why", str(pid)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert told.returncode == 25
    lines = told.stdout.splitlines()
    assert "nothing will bring" in lines[0]
    assert lines.index("evidence:") < lines.index("what to do:")


def test_a_program_that_has_ended():
    """There is nothing to say of a process that is not there: exit code 3, one line."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    answer = ask(gone.pid)
    assert answer.code == 3
    assert len(answer.complaint.splitlines()) == 1


def test_a_program_that_is_not_python():
    """A program of another language is told as such: exit code 4."""
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            assert ask(other.pid).code == 4
        finally:
            other.kill()


def test_a_program_without_a_pool():
    """Of a Python program without a pool it is said that there is none: exit code 5."""
    code = "import time; print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as plain:
        try:
            assert plain.stdout is not None
            plain.stdout.readline()
            assert ask(plain.pid).code == 5
        finally:
            plain.kill()


def test_explain_in_the_same_process():
    """A program may ask of itself: the same findings, from within."""
    code = (
        "import sys; sys.argv = ['task_lost', 'fork']; sys.path.insert(0, sys.orig_argv[-1])\n"
        "import stage\n"
        "from glasspool.cli.why import why_text\n"
        "from glasspool.observe.why.looking import explain\n"
        "pool = stage.context().Pool(2)\n"
        "pool.apply_async(stage.die)\n"
        "pool.map(stage.touch, range(30))\n"
        "print(why_text(explain()))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(SCENES)], capture_output=True, text=True, timeout=60
    )
    assert "task-lost (exit code 10)" in told.stdout, told


_BLIND = """
import sys
from glasspool.observe import pyspy
pyspy.program = lambda: None
from glasspool.cli import main
sys.exit(main(["why", *sys.argv[1:]]))
"""


def test_without_stacks_it_says_so():
    """Where no stack can be read it cannot tell, says how it could, and what the kernel says: exit code 6."""
    with running("task_hopeless") as pid:
        told = subprocess.run(
            [sys.executable, "-c", _BLIND, str(pid)], capture_output=True, text=True, timeout=60
        )
    assert told.returncode == 6
    assert "cannot tell" in told.stderr
    assert "pip install" in told.stderr
    assert "sleeping in futex" in told.stdout


def test_without_stacks_a_stopped_program_is_named():
    """That a process is stopped the kernel tells alone."""
    with running("stopped") as pid:
        told = subprocess.run(
            [sys.executable, "-c", _BLIND, str(pid), "--json"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert told.returncode == 22
    assert json.loads(told.stdout)["verdict"] == "stopped"
